//! The process's command line as others see it, in `ps` and `/proc/PID/cmdline`.

use std::sync::OnceLock;

/// Overwrites the process's command line, as `ps` and `/proc/PID/cmdline` show it, with `text` (cut
/// at the room that the old one took), so that a process which stays forked shows its own role and
/// none of its parent's arguments. Does nothing where /proc/self/stat does not tell the place.
pub fn set(text: &str) {
    let Some((start, end)) = place() else {
        return;
    };
    let room = end - start;
    let bytes = text.as_bytes();
    let take = bytes.len().min(room.saturating_sub(1));
    // SAFETY: the kernel put the argument strings of this very process image at start..end of its
    // stack mapping and reports them in /proc/self/stat (fields 48 and 49); that memory stays mapped
    // and writable for the process's life. Rust's `std::env::args` copies out of it and holds no
    // reference into it, and the process is single-threaded here.
    unsafe {
        let place = start as *mut u8;
        std::ptr::write_bytes(place, 0, room);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, take);
    }
}

/// Finds out where the command line is. It stays there, in forked children too: a process that has
/// many of them asks once, ahead.
pub fn find() {
    let _ = place();
}

fn place() -> Option<(usize, usize)> {
    static PLACE: OnceLock<Option<(usize, usize)>> = OnceLock::new();
    *PLACE.get_or_init(look)
}

fn look() -> Option<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the command's closing parenthesis field 3 comes first: 48 and 49 are 45 and 46 on.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(45);
    let start: usize = fields.next()?.parse().ok()?;
    let end: usize = fields.next()?.parse().ok()?;
    (start != 0 && end > start).then_some((start, end))
}
