//! The machine's clock as of the last tick of the system's timer: it costs a fifth of an `Instant`.

/// Whether there is such a clock. It is late by one tick at most, some milliseconds.
pub(crate) const AVAILABLE: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// Nanoseconds since some time before the process began. Never goes backwards.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[inline]
#[allow(clippy::useless_conversion, reason = "on some systems the fields are narrower")]
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is valid for the write; a clock that the system does not know leaves the
    // time as it is, and every Linux since 2.6.32 knows this one.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    u64::from(seconds).wrapping_mul(1_000_000_000).wrapping_add(u64::from(nanos))
}

/// There is none.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) const fn now() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{AVAILABLE, now};

    #[test]
    fn it_goes_with_the_other_clock() {
        if !AVAILABLE {
            println!("skipped: there is no such clock here");
            return;
        }
        let (before, start) = (now(), Instant::now());
        while now() == before {
            assert!(start.elapsed() < Duration::from_secs(10), "it stands still");
            std::thread::yield_now();
        }
        let passed = Duration::from_nanos(now() - before);
        // It may have been late in the beginning.
        assert!(passed <= start.elapsed() + Duration::from_millis(100), "{passed:?}");
    }
}
