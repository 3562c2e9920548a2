//! What a monitor tells: a change of level, and what was done about it.

use std::{fmt, time::Duration};

use nebula_memory_core::{ByteSize, PressureLevel, PressureReading, ReclaimReport};

use crate::{Blame, Cause};

/// A change of level with the actions that it caused; or, where pressure lasts, another round of
/// reclaiming at the same level.
///
/// There is one event for each change of level.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PressureEvent {
    /// When, on the monitor's clock.
    pub at: Duration,
    /// The level before.
    pub from: PressureLevel,
    /// The level now; the same as before in another round of reclaiming.
    pub to: PressureLevel,
    /// The name of the fullest source.
    pub source: String,
    /// Its reading, before any action.
    pub reading: PressureReading,
    /// Why the level holds.
    pub cause: Cause,
    /// How fast the source grows, in bytes a second, if enough is known to say.
    pub rate: Option<f64>,
    /// When the first source would meet its limit, growing as it does.
    pub exhaustion: Option<Duration>,
    /// The suspect that has grown most, if the level has risen and any has grown.
    pub blame: Option<Blame>,
    /// The source's reading after the actions, if one of them was a reclaim: what the system has
    /// seen of it.
    pub after: Option<PressureReading>,
    /// What was done, in order. A callback sees what was done before it.
    pub actions: Vec<ActionReport>,
}

impl PressureEvent {
    /// Whether the level has changed.
    pub fn is_edge(&self) -> bool {
        self.from != self.to
    }

    /// Whether one of the actions was a reclaim.
    pub(crate) fn has_reclaimed(&self) -> bool {
        let reclaim =
            |action: &ActionReport| matches!(action.effect, ActionEffect::Reclaimed { .. });
        self.actions.iter().any(reclaim)
    }

    /// Whether the level has risen.
    pub fn is_rise(&self) -> bool {
        self.from < self.to
    }

    /// Bytes given back by all actions.
    pub fn given(&self) -> usize {
        let given = |action: &ActionReport| match action.effect {
            ActionEffect::Reclaimed { report, .. } => report.given,
            _ => 0,
        };
        self.actions.iter().map(given).fold(0, usize::saturating_add)
    }
}

impl fmt::Display for PressureEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, source, reading, .. } = self;
        if self.is_edge() {
            write!(f, "memory pressure {from} -> {to}")?;
        } else {
            write!(f, "memory pressure still {to}")?;
        }
        write!(f, ": {source} has {} in use", ByteSize::new(reading.used))?;
        if let Some(limit) = reading.limit {
            write!(f, " of {} ({:.1} %)", ByteSize::new(limit), reading.ratio() * 100.0)?;
        }
        match (self.cause, self.exhaustion) {
            (Cause::Growth, Some(left)) => write!(f, ", full within {left:.1?}")?,
            (Cause::Stalls, _) => f.write_str(", tasks stall")?,
            _ => {}
        }
        if let Some(blame) = &self.blame {
            write!(f, ", {blame}")?;
        }
        for action in &self.actions {
            write!(f, "; {action}")?;
        }
        Ok(())
    }
}

/// One action, and its effect.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ActionReport {
    /// The level that it belongs to.
    pub level: PressureLevel,
    /// What it did.
    pub effect: ActionEffect,
    /// How long it took, on the monitor's clock.
    pub took: Duration,
}

impl fmt::Display for ActionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} in {:?}", self.level, self.effect, self.took)
    }
}

/// The effect of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ActionEffect {
    /// The callback was called, or the event sent.
    Notified,
    /// There was nobody to hear it, or no room.
    Unheard,
    /// The callback was told who has grown most.
    Blamed,
    /// Reclaimers were asked.
    Reclaimed {
        /// Bytes asked for.
        wanted: usize,
        /// What came of it.
        report: ReclaimReport,
    },
    /// A throttle was told the largest single charge that it may allow; `None` lifts it.
    Throttled {
        /// The largest charge, in bytes.
        largest: Option<usize>,
    },
    /// A throttle was told the lowest priority that it may serve; `None` lifts it.
    PriorityLimited {
        /// The lowest priority.
        least: Option<u8>,
    },
    /// It panicked; the monitor went on.
    Panicked,
}

impl fmt::Display for ActionEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Notified => f.write_str("notified"),
            Self::Unheard => f.write_str("not heard"),
            Self::Blamed => f.write_str("blamed"),
            Self::Reclaimed { wanted, report } => {
                let (given, wanted) = (ByteSize::new(report.given), ByteSize::new(*wanted));
                write!(f, "reclaimed {given} of {wanted} from {}", report.asked)
            }
            Self::Throttled { largest: Some(largest) } => {
                write!(f, "throttled to {}", ByteSize::new(*largest))
            }
            Self::Throttled { largest: None } => f.write_str("throttle lifted"),
            Self::PriorityLimited { least: Some(least) } => {
                write!(f, "priorities below {least} refused")
            }
            Self::PriorityLimited { least: None } => f.write_str("all priorities served again"),
            Self::Panicked => f.write_str("panicked"),
        }
    }
}
