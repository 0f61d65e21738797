//! What the clock on the wall shows.

/// Seconds that local time is ahead of UTC at this time; 0 where the C library cannot tell.
pub fn offset(seconds: i64) -> i32 {
    let time: libc::time_t = seconds;
    let mut local = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live variables of the types that localtime_r(3) takes. It reads
    // the environment (TZ), which nothing in this program changes.
    let known = unsafe { !libc::localtime_r(&raw const time, local.as_mut_ptr()).is_null() };
    if !known {
        return 0;
    }
    // SAFETY: it was written by localtime_r, and all zeros is a valid `tm` before that.
    let local = unsafe { local.assume_init() };
    i32::try_from(local.tm_gmtoff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_place_is_a_day_away() {
        assert!(super::offset(1_700_000_000).abs() <= 14 * 3600);
    }
}
