//! What time is measured with.

use std::time::Duration;

/// Measures the processor time of this thread: what it worked, not what it waited while others had
/// the processor. Where the platform does not tell (other than on Linux), wall time.
///
/// Reading it takes a system call, some 200 ns: measure a thousand operations, not one.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(imp::Start);

impl Stopwatch {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self(imp::now())
    }

    /// Time since the start, on the same thread.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        imp::since(self.0)
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::time::Duration;

    use rustix::time::{ClockId, clock_gettime};

    pub(super) type Start = Duration;

    pub(super) fn now() -> Start {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
    }

    pub(super) fn since(start: Start) -> Duration {
        now().saturating_sub(start)
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use std::time::{Duration, Instant};

    pub(super) type Start = Instant;

    pub(super) fn now() -> Start {
        Instant::now()
    }

    pub(super) fn since(start: Start) -> Duration {
        start.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_time() {
        let watch = Stopwatch::start();
        let mut sum = 0_u64;
        for i in 0..100_000 {
            sum = std::hint::black_box(sum.wrapping_add(i));
        }
        assert!(watch.elapsed() > Duration::from_micros(1));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn waiting_takes_none() {
        let watch = Stopwatch::start();
        std::thread::sleep(Duration::from_millis(50));
        assert!(watch.elapsed() < Duration::from_millis(25));
    }
}
