//! What can be done at a level, and the doing of it.

use std::{fmt, time::Duration};

use nebula_memory_core::{
    Clock, PressureLevel, ReclaimRegistry, ReclaimReport, Throttle, panics::quietly, sync::Arc,
};

use crate::{
    ActionEffect, ActionReport, PressureEvent, PressureMachine, Step,
    machine::{held, reclaim_target},
};

/// Something to do at a level; see [`MonitorBuilder::on`](crate::MonitorBuilder::on) for when and
/// in which order.
///
/// ```
/// use nebula_memory_core::ReclaimRegistry;
/// use nebula_monitor::PressureAction;
///
/// let registry = ReclaimRegistry::new();
/// let give_back = PressureAction::reclaim(&registry);
/// let tell = PressureAction::notify(|event| eprintln!("{event}"));
/// # let _ = (give_back, tell);
/// ```
#[non_exhaustive]
pub enum PressureAction {
    /// Calls back at every change of level that crosses this one, upwards or downwards.
    ///
    /// The callback runs on the thread that checks; it should be brief. If it panics, that is
    /// counted and reported, and the monitor goes on.
    Notify(Box<dyn FnMut(&PressureEvent) + Send>),
    /// Asks the reclaimers of a registry for as many bytes as are needed to leave the level, when
    /// it is reached and again, after every cool-down, for as long as it holds.
    Reclaim(ReclaimRegistry),
    /// Limits single charges for as long as the level holds.
    ///
    /// Where several throttles of one target are in force, the tightest counts. A monitor that is
    /// dropped lifts what it has tightened.
    Throttle {
        /// What to throttle.
        target: Arc<dyn Throttle>,
        /// The largest single charge, in bytes.
        largest: usize,
    },
}

impl PressureAction {
    /// Calls `callback` when the level is crossed.
    #[must_use]
    pub fn notify(callback: impl FnMut(&PressureEvent) + Send + 'static) -> Self {
        Self::Notify(Box::new(callback))
    }

    /// Reclaims from `registry`; it shares its list, so what is registered later is asked too.
    #[must_use]
    pub fn reclaim(registry: &ReclaimRegistry) -> Self {
        Self::Reclaim(registry.clone())
    }

    /// Refuses single charges above `largest` bytes at `target`.
    #[must_use]
    pub fn throttle(target: Arc<dyn Throttle>, largest: usize) -> Self {
        Self::Throttle { target, largest }
    }
}

impl fmt::Debug for PressureAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Notify(_) => f.debug_struct("Notify").finish_non_exhaustive(),
            Self::Reclaim(registry) => f.debug_tuple("Reclaim").field(registry).finish(),
            Self::Throttle { largest, .. } => {
                f.debug_struct("Throttle").field("largest", largest).finish_non_exhaustive()
            }
        }
    }
}

/// The actions of a monitor: by level, highest first, and in the order of adding within each.
#[derive(Debug, Default)]
pub(crate) struct Actions(Vec<(PressureLevel, PressureAction)>);

impl Actions {
    pub(crate) fn add(&mut self, level: PressureLevel, action: PressureAction) {
        let at = self.0.partition_point(|(other, _)| *other >= level);
        self.0.insert(at, (level, action));
    }

    /// Whether a reclaim would run now.
    pub(crate) fn is_due(&self, machine: &PressureMachine, step: Step, now: Duration) -> bool {
        step.due.is_some()
            && self.0.iter().any(|(level, action)| {
                let cooled = *level <= step.to && machine.has_cooled(*level, now);
                cooled && matches!(action, PressureAction::Reclaim(_))
            })
    }

    /// Does what `step` asks for, and adds to `event` what came of it.
    pub(crate) fn run(
        &mut self,
        machine: &mut PressureMachine,
        step: Step,
        clock: &dyn Clock,
        event: &mut PressureEvent,
    ) {
        // Reclaims of several levels share one distance: what the higher one brought is not asked
        // of the lower one again. The cool-downs are those of the beginning of this round.
        let (config, cooled) = (*machine.config(), machine.clone());
        let mut estimate = event.reading;
        for i in 0..self.0.len() {
            let level = self.0[i].0;
            let crossed = step.from.min(step.to) < level && level <= step.from.max(step.to);
            let due = level <= step.to && cooled.has_cooled(level, event.at);
            let largest = self.throttle_in_force(i, step.to);
            let begun = clock.now();
            let effect = match &mut self.0[i].1 {
                PressureAction::Notify(callback) if crossed => {
                    quietly(|| callback(event)).map(|()| ActionEffect::Notified)
                }
                PressureAction::Throttle { target, .. } if crossed => {
                    quietly(|| target.limit_single_charges(largest))
                        .map(|()| ActionEffect::Throttled { largest })
                }
                PressureAction::Reclaim(registry) if due => {
                    machine.reclaimed(level, event.at);
                    let wanted = reclaim_target(&config, level, estimate);
                    if wanted == 0 {
                        continue;
                    }
                    let report = reclaim(registry, wanted, held(&config, step.to, estimate));
                    estimate.used = estimate.used.saturating_sub(report.map_or(0, |r| r.given));
                    report.map(|report| ActionEffect::Reclaimed { wanted, report })
                }
                _ => continue,
            };
            let effect = effect.unwrap_or(ActionEffect::Panicked);
            let took = clock.now().saturating_sub(begun);
            event.actions.push(ActionReport { level, effect, took });
        }
    }

    /// The tightest limit, at the level `to`, of the throttle that action `i` is about.
    fn throttle_in_force(&self, i: usize, to: PressureLevel) -> Option<usize> {
        let PressureAction::Throttle { target: this, .. } = &self.0[i].1 else { return None };
        let same = |(level, action): &(PressureLevel, PressureAction)| match action {
            PressureAction::Throttle { target, largest }
                if *level <= to && std::ptr::addr_eq(Arc::as_ptr(target), Arc::as_ptr(this)) =>
            {
                Some(*largest)
            }
            _ => None,
        };
        self.0.iter().filter_map(same).min()
    }

    /// Lifts every throttle that is in force at `level`; returns how many panicked.
    pub(crate) fn lift(&self, level: PressureLevel) -> usize {
        let in_force = self.0.iter().filter(|(of, _)| *of <= level);
        let lift = |(_, action): &(PressureLevel, PressureAction)| match action {
            PressureAction::Throttle { target, .. } => {
                quietly(|| target.limit_single_charges(None)).is_none()
            }
            _ => false,
        };
        in_force.filter(|entry| lift(entry)).count()
    }
}

fn reclaim(
    registry: &ReclaimRegistry,
    wanted: usize,
    urgency: PressureLevel,
) -> Option<ReclaimReport> {
    quietly(|| registry.reclaim(wanted, urgency))
}
