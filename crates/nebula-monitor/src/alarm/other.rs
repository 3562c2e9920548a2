//! Platforms without notifications that we know how to wait for.

use std::{path::Path, time::Duration};

use super::{Alarms, Rung};

#[derive(Debug)]
pub(crate) enum Bell {}

impl Bell {
    pub(crate) fn new() -> Option<Self> {
        None
    }

    pub(crate) fn ring(&self) {
        match *self {}
    }

    pub(crate) fn silence(&self) {
        match *self {}
    }

    pub(crate) fn wait(&self, _alarms: &Alarms, _left: Duration) -> Option<Rung> {
        match *self {}
    }
}

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

#[derive(Debug)]
pub(crate) enum UsageThresholds {}

impl UsageThresholds {
    pub(crate) fn set<'p>(
        _thresholds: impl Iterator<Item = (i32, &'p Path, u64)>,
    ) -> Result<(Self, usize, Option<String>), String> {
        Err("only Linux has them".to_owned())
    }
}

#[derive(Debug)]
pub(crate) enum LowMemory {}

impl LowMemory {
    pub(crate) fn set() -> Result<Self, String> {
        Err("only Windows tells".to_owned())
    }
}
