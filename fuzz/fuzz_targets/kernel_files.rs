//! What the kernel's files say: whatever they hold, parsers neither panic nor see what is not there.

#![no_main]
#![allow(dead_code, reason = "the file is the monitor's")]
#![allow(unexpected_cfgs, reason = "the monitor's features are not ours")]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/nebula-monitor/src/parse.rs"]
mod parse;

use parse::{Hierarchy, UNLIMITED};

fuzz_target!(|bytes: &[u8]| {
    if let Some(value) = parse::number(bytes) {
        assert_eq!(parse::number(format!(" {value}\n").as_bytes()), Some(value));
        assert!(parse::limit(bytes).is_some_and(|limit| limit == value || limit == UNLIMITED));
        assert!(parse::failures(bytes).is_some_and(|events| events.max == value));
    }
    if parse::meminfo(bytes).is_some() || parse::stalled(bytes).is_some() {
        assert!(parse::number(bytes).is_none(), "that is another file");
    }
    if let Some(events) = parse::events(bytes) {
        assert_eq!(events.since(events), parse::GroupEvents::default());
    }
    if let Some(value) = parse::stat_value(bytes, b"inactive_file") {
        assert!(value.len() < bytes.len() && !value.contains(&b'\n'));
    }
    let _ = parse::resident_pages(bytes);
    for word in [0, 4, 8, bytes.len(), usize::MAX] {
        assert!(parse::page_size(bytes, word).is_none_or(u64::is_power_of_two));
    }

    let text = String::from_utf8_lossy(bytes);
    for hierarchy in [Hierarchy::V1, Hierarchy::V2] {
        let path = parse::cgroup_path(&text, hierarchy);
        assert!(path.is_none_or(|path| path.starts_with('/')));
        for mount in parse::mounts(&text, hierarchy) {
            assert!(mount.point.starts_with("/"));
            // A group is never looked for outside the mount.
            let place = path.and_then(|path| parse::within(path, &mount.root));
            assert!(place.is_none_or(|place| place.is_relative()));
        }
    }
});
