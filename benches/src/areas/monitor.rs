//! A reading must be cheap enough to be made every millisecond: each source that this machine has,
//! and a check of all of them.

use nebula_monitor::{
    CgroupV1, CgroupV2, MemoryMonitor, MonitoringConfig, PressureSource, SystemMemory,
};
use sysinfo::{MemoryRefreshKind, System};

use crate::{Case, Contender};

/// Every case of this area; a machine without a kind of control group has no case of it.
///
/// # Panics
/// When run, if a source has gone that was there when the cases were listed.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    if CgroupV2::open().is_ok() {
        let setup = || CgroupV2::open().expect("it was there");
        let ours = Contender::each("ours", setup, |group| group.read().is_ok());
        cases.push(Case::new("reading of cgroup v2", ours));
    }
    if CgroupV1::open().is_ok() {
        let setup = || CgroupV1::open().expect("it was there");
        let ours = Contender::each("ours", setup, |group| group.read().is_ok());
        cases.push(Case::new("reading of cgroup v1", ours));
    }
    if SystemMemory::open().is_ok() {
        let setup = || SystemMemory::open().expect("it was there");
        let ours = Contender::each("ours", setup, |memory| memory.read().is_ok());
        let sysinfo = Contender::each("sysinfo", System::new, |system| {
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
            system.total_memory() - system.available_memory()
        });
        cases.push(Case::new("reading of system memory", ours).peer(sysinfo));
    }
    let setup = || MemoryMonitor::new(MonitoringConfig::default()).expect("the defaults are valid");
    let check = Contender::each("ours", setup, |monitor| monitor.check().is_ok());
    cases.push(Case::new("check of all sources", check));
    cases
}
