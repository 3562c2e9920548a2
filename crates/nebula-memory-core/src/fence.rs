//! A fence of which one side pays nothing.
//!
//! Two threads that each store to one place and then load from the other's need a full fence on
//! both sides, so that at least one sees the other's store. Where one of the two is rare, the
//! system can run the fence on every core on its behalf ([`heavy`]), and the frequent side needs
//! only to keep the compiler from reordering ([`light`]): `membarrier` on Linux (4.14 and later),
//! `FlushProcessWriteBuffers` on Windows. Elsewhere there is no such thing ([`is_available`] says
//! so), and the caller needs another way.

use crate::sync::atomic::Ordering::SeqCst;

/// The frequent side. Means nothing unless the rare side's [`heavy`] returned `true`.
#[inline(always)]
pub fn light() {
    #[cfg(nebula_loom)]
    crate::sync::atomic::fence(SeqCst);
    #[cfg(not(nebula_loom))]
    std::sync::atomic::compiler_fence(SeqCst);
}

/// The rare side: as if every thread of the process had run a full fence now. Takes some
/// microseconds.
///
/// `false` if the system would not do it; then nothing is ordered.
#[must_use]
pub fn heavy() -> bool {
    crate::sync::atomic::fence(SeqCst);
    let done = imp::heavy();
    crate::sync::atomic::fence(SeqCst);
    done
}

/// Whether [`heavy`] can be expected to work in this process.
#[must_use]
pub fn is_available() -> bool {
    imp::is_available()
}

#[cfg(all(any(target_os = "linux", target_os = "android"), not(any(miri, nebula_loom))))]
mod imp {
    use std::sync::OnceLock;

    /// From the kernel's `linux/membarrier.h`.
    const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: the call takes numbers only, touches no memory of ours, and answers what it does
        // not know with an error.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    pub(super) fn is_available() -> bool {
        static REGISTERED: OnceLock<bool> = OnceLock::new();
        *REGISTERED.get_or_init(|| membarrier(REGISTER_PRIVATE_EXPEDITED))
    }

    pub(super) fn heavy() -> bool {
        // A forked child may have to register anew.
        membarrier(PRIVATE_EXPEDITED)
            || (membarrier(REGISTER_PRIVATE_EXPEDITED) && membarrier(PRIVATE_EXPEDITED))
    }
}

#[cfg(all(windows, not(any(miri, nebula_loom))))]
mod imp {
    pub(super) fn is_available() -> bool {
        true
    }

    pub(super) fn heavy() -> bool {
        // SAFETY: the call has no arguments and no preconditions.
        unsafe { windows_sys::Win32::System::Threading::FlushProcessWriteBuffers() };
        true
    }
}

/// The model checker sees a fence on both sides.
#[cfg(nebula_loom)]
mod imp {
    pub(super) fn is_available() -> bool {
        true
    }

    pub(super) fn heavy() -> bool {
        true
    }
}

#[cfg(all(
    any(miri, not(any(target_os = "linux", target_os = "android", windows))),
    not(nebula_loom)
))]
mod imp {
    pub(super) fn is_available() -> bool {
        false
    }

    pub(super) fn heavy() -> bool {
        false
    }
}

#[cfg(all(test, not(nebula_loom)))]
mod tests {
    use std::sync::atomic::{
        AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    };

    use super::{heavy, is_available, light};

    #[test]
    fn it_works_where_it_says_so() {
        if is_available() {
            assert!(heavy());
        } else {
            assert!(!heavy());
            println!("skipped: this system has no asymmetric fence");
        }
    }

    const ROUNDS: usize = 200_000;

    #[test]
    fn at_least_one_side_sees_the_other() {
        if !is_available() {
            println!("skipped: this system has no asymmetric fence");
            return;
        }
        let (frequent, rare) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let seen: Vec<AtomicUsize> = (0..=ROUNDS).map(|_| AtomicUsize::new(0)).collect();
        std::thread::scope(|s| {
            // Each side announces a round and notes the other's latest one.
            s.spawn(|| {
                for (round, seen) in seen.iter().enumerate() {
                    frequent.store(round, Release);
                    light();
                    seen.store(rare.load(Relaxed), Relaxed);
                }
            });
            s.spawn(|| {
                let mut round = 0;
                while frequent.load(Acquire) < ROUNDS {
                    round += 1;
                    rare.store(round, Relaxed);
                    assert!(heavy());
                    let other = frequent.load(Acquire);
                    // The other side's next round was not to be seen here, so it has to see this
                    // one. It can be checked once it is over.
                    while other + 1 < ROUNDS && frequent.load(Acquire) < other + 2 {
                        std::thread::yield_now();
                    }
                    if other + 1 < ROUNDS {
                        assert!(seen[other + 1].load(Relaxed) >= round, "round {round}");
                    }
                }
            });
        });
    }
}
