//! A reading must be cheap enough to be made every millisecond: each source that this machine has,
//! and checks as they are made under pressure and in calm.

use std::time::Duration;

use nebula_memory_core::{Clock, sync::Arc};
use nebula_monitor::{
    CgroupV1, CgroupV2, MemoryMonitor, MonitoringConfig, PressureSource, ResidentMemory,
    SystemMemory,
};
use sysinfo::{MemoryRefreshKind, System};

use crate::{Case, Contender};

/// Moves on by an interval with every glance, so that every check reads everything.
struct Hasty(std::sync::atomic::AtomicU64);

impl Clock for Hasty {
    fn now(&self) -> Duration {
        Duration::from_secs(self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }
}

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
        cases.push(Case::new("reading of cgroup v2, with its limits", ours));
        let setup = || {
            let group = CgroupV2::open().expect("it was there");
            group.read().expect("its limits can be read");
            group
        };
        let ours = Contender::each("ours", setup, |group| group.read_usage().is_ok());
        cases.push(Case::new("reading of cgroup v2", ours));
    }
    if CgroupV1::open().is_ok() {
        let setup = || CgroupV1::open().expect("it was there");
        let ours = Contender::each("ours", setup, |group| group.read().is_ok());
        cases.push(Case::new("reading of cgroup v1, with its limits", ours));
        let setup = || {
            let group = CgroupV1::open().expect("it was there");
            group.read().expect("its limits can be read");
            group
        };
        let ours = Contender::each("ours", setup, |group| group.read_usage().is_ok());
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
    if ResidentMemory::open().is_ok() {
        let setup = || ResidentMemory::open().expect("it was there");
        let ours = Contender::each("ours", setup, |resident| resident.bytes().is_ok());
        cases.push(Case::new("reading of resident memory", ours));
    }
    let setup = || MemoryMonitor::new(MonitoringConfig::default()).expect("the defaults are valid");
    let check = Contender::each("ours", setup, |monitor| monitor.check().is_ok());
    cases.push(Case::new("check in between", check));
    let setup = || {
        let clock = Arc::new(Hasty(std::sync::atomic::AtomicU64::new(0)));
        let builder = MemoryMonitor::builder(MonitoringConfig::default()).clock(clock);
        builder.build().expect("the defaults are valid")
    };
    let check = Contender::each("ours", setup, |monitor| monitor.check().is_ok());
    cases.push(Case::new("check of all sources", check));
    cases
}
