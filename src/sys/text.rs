//! The program's own code, as memory.

use rustix::mm::{Advice, madvise};

unsafe extern "C" {
    // Set by the linker: where the program begins, and where its code ends (end(3)).
    static __executable_start: u8;
    static etext: u8;
}

/// Lets go of the pages of the program's code and constants. The kernel maps 64 KiB around every
/// page that is touched, so a process that has been busy has most of the program mapped, and is
/// charged its share; what is needed again comes back from the page cache by a minor fault.
pub fn forget() {
    let start = &raw const __executable_start;
    let length = (&raw const etext).addr() - start.addr();
    let whole_pages = length & !(rustix::param::page_size() - 1);
    // SAFETY: the linker puts headers, constants and code between the two, all mapped read-only
    // from the executable's file and never relocated (what is, lies after the code), so every page
    // comes back with what it held.
    let forgotten = unsafe { madvise(start.cast_mut().cast(), whole_pages, Advice::LinuxDontNeed) };
    // A page that stays costs memory, nothing else.
    let _ = forgotten;
}

#[cfg(test)]
mod tests {
    /// How much of this program is mapped, in KiB.
    fn resident() -> u64 {
        let program = std::env::current_exe().expect("a path");
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let mut ours = false;
        let mut sum = 0;
        for line in maps.lines() {
            match line.strip_prefix("Rss:") {
                Some(size) if ours => {
                    let size = size.trim().trim_end_matches(" kB");
                    sum += size.parse::<u64>().expect("a number");
                }
                None if line.contains('/') => {
                    ours = line.ends_with(program.to_str().expect("text"));
                }
                None if line.contains('-') => ours = false,
                _ => {}
            }
        }
        sum
    }

    #[test]
    fn comes_back() {
        // The other tests' threads have pages mapped meanwhile.
        let mut attempts = std::iter::repeat_with(|| {
            let before = resident();
            super::forget();
            resident() < before
        });
        assert!(attempts.by_ref().take(1000).any(|is_less| is_less));
        assert_eq!(format!("{:?}", [1, 2].map(|n| n * 2)), "[2, 4]");
    }
}
