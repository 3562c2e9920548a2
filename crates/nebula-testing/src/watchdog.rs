//! A limit on the time that a test may take: a deadlock should fail, not hang.

use std::{io::Write, panic::resume_unwind, sync::mpsc, thread, time::Duration};

/// Runs `body` on a thread of its own and returns what it returns; its panic becomes the caller's.
///
/// If it has not ended after `limit`, the whole process is aborted with a message that names the
/// test: a thread that is stuck cannot be stopped in any other way.
///
/// Where programs run many times slower, the environment variable `NEBULA_WATCHDOG_FACTOR`
/// multiplies the limit.
///
/// ```
/// use std::time::Duration;
/// use nebula_testing::watchdog;
/// assert_eq!(watchdog(Duration::from_secs(60), || 6 * 7), 42);
/// ```
///
/// # Panics
/// As `body` does, and if no thread can be started.
pub fn watchdog<R: Send>(limit: Duration, body: impl FnOnce() -> R + Send) -> R {
    // Miri takes its time.
    let limit = limit * if cfg!(miri) { 60 } else { factor() };
    let test = thread::current().name().unwrap_or("a test").to_owned();
    thread::scope(|scope| {
        let (done, ended) = mpsc::channel::<()>();
        let runner = thread::Builder::new().name(test.clone());
        let runner = runner
            .spawn_scoped(scope, move || {
                // Dropped when `body` ends, by returning or by panicking.
                let _done = done;
                body()
            })
            .expect("a thread for the watched test");
        if ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            // Not through `eprintln!`: what the test harness captures is lost in an abort.
            let message = format!("\nwatchdog: `{test}` is not over after {limit:?}; aborting\n");
            let _ = std::io::stderr().write_all(message.as_bytes());
            std::process::abort();
        }
        match runner.join() {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    })
}

/// What multiplies every limit.
///
/// # Panics
/// If `NEBULA_WATCHDOG_FACTOR` is set to something else than a number.
fn factor() -> u32 {
    match std::env::var("NEBULA_WATCHDOG_FACTOR") {
        Ok(text) => text.parse().expect("NEBULA_WATCHDOG_FACTOR is a number"),
        Err(_) => 1,
    }
}
