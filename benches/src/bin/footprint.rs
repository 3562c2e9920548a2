//! Weighs what an area makes: the bytes of heap that each contender's things take.
//!
//! `footprint AREA` prints a line for each contender: area, name, unit, contender and bytes,
//! separated by tabs, ours first. A program of its own, because the allocator that counts is in the
//! way where time is measured.

use std::process::ExitCode;

use nebula_benches::{CountingSystem, areas::AREAS};

#[global_allocator]
static HEAP: CountingSystem = CountingSystem::new();

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name] = args.as_slice() else {
        eprintln!("usage: footprint AREA");
        return ExitCode::from(2);
    };
    let Some(area) = AREAS.iter().find(|area| area.name == name) else {
        eprintln!("no area {name}");
        return ExitCode::FAILURE;
    };
    for footprint in (area.footprints)() {
        for maker in footprint.makers() {
            let bytes = (maker.weigh)(&|| HEAP.live());
            println!(
                "{}\t{}\t{}\t{}\t{bytes}",
                area.name, footprint.name, footprint.unit, maker.name
            );
        }
    }
    ExitCode::SUCCESS
}
