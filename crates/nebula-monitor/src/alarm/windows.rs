//! Windows: the notification that the system's physical memory runs low, waited for together with an
//! event of our own.
#![allow(unsafe_code, reason = "the system's interface; nothing else in this crate needs it")]

use std::{
    io,
    os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle},
    path::Path,
    ptr,
    time::Duration,
};

use windows_sys::Win32::{
    Foundation::{HANDLE, WAIT_FAILED, WAIT_OBJECT_0},
    System::{
        Memory::{CreateMemoryResourceNotification, LowMemoryResourceNotification},
        Threading::{CreateEventW, ResetEvent, SetEvent, WaitForMultipleObjects},
    },
};

use super::{Alarms, Rung};

/// Takes over a handle that the system has just made for us; null tells that it has not.
fn owned(handle: HANDLE) -> io::Result<OwnedHandle> {
    if handle.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is open, because it was just made, and nobody else has it; events and
    // notifications are closed with `CloseHandle`, which is what the owner does.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// Rung by those who want something of the waiting thread.
#[derive(Debug)]
pub(crate) struct Bell(OwnedHandle);

impl Bell {
    pub(crate) fn new() -> Option<Self> {
        // SAFETY: null attributes and a null name are allowed, and mean the defaults and none; the
        // other arguments are flags. (It stays set until it is reset, and is not set at first.)
        let event = unsafe { CreateEventW(ptr::null(), 1, 0, ptr::null()) };
        owned(event).ok().map(Self)
    }

    pub(crate) fn ring(&self) {
        // SAFETY: the handle is that of an event, and open as long as `self` is there. Failing is
        // not to be expected, and would delay what is wanted, no more.
        unsafe { SetEvent(self.0.as_raw_handle()) };
    }

    pub(crate) fn silence(&self) {
        // SAFETY: as in `ring`.
        unsafe { ResetEvent(self.0.as_raw_handle()) };
    }

    /// Waits for the bell or for `alarms`, for `left` at most; `None` if that cannot be done.
    pub(crate) fn wait(&self, alarms: &Alarms, left: Duration) -> Option<Rung> {
        let bell = self.0.as_raw_handle();
        let low_memory = alarms.low_memory.as_ref().map(|low| low.0.as_raw_handle());
        // Where the alarm is missing, only the first is looked at.
        let all = [bell, low_memory.unwrap_or(bell)];
        let count = if low_memory.is_some() { 2 } else { 1 };
        // Whole milliseconds, rounded up, or a wait for less than one would be no wait.
        let millis = left.as_nanos().div_ceil(1_000_000);
        let millis = u32::try_from(millis).unwrap_or(u32::MAX - 1);
        // SAFETY: `all` has at least `count` entries, which differ from each other and are open for
        // as long as `self` and `alarms` are borrowed.
        let woken = unsafe { WaitForMultipleObjects(count, all.as_ptr(), 0, millis) };
        if woken == WAIT_FAILED {
            return None;
        }
        Some(Rung { level: woken == WAIT_OBJECT_0 + 1, ..Rung::default() })
    }
}

/// Set for as long as the system's memory is low.
#[derive(Debug)]
pub(crate) struct LowMemory(OwnedHandle);

impl LowMemory {
    pub(crate) fn set() -> Result<Self, String> {
        // SAFETY: the call takes a constant, and has no conditions.
        let notification =
            unsafe { CreateMemoryResourceNotification(LowMemoryResourceNotification) };
        owned(notification).map(Self).map_err(|error| error.to_string())
    }
}

/// Linux has them.
#[derive(Debug)]
pub(crate) enum StallTrigger {}

impl StallTrigger {
    pub(crate) fn set(_path: &Path, _share: f64, _window: Duration) -> Result<Self, String> {
        Err("only Linux has them".to_owned())
    }

    pub(crate) fn window(&self) -> Duration {
        match *self {}
    }
}

/// Linux has them.
#[derive(Debug)]
pub(crate) enum UsageThresholds {}

impl UsageThresholds {
    pub(crate) fn set<'p>(
        _thresholds: impl Iterator<Item = (i32, &'p Path, u64)>,
    ) -> Result<(Self, usize, Option<String>), String> {
        Err("only Linux has them".to_owned())
    }
}
