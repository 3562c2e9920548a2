//! What can be done at a level, and the doing of it.

use std::{
    fmt,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::Duration,
};

use nebula_memory_core::{
    Clock, PressureLevel, ReclaimRegistry, ReclaimReport, Throttle, panics::quietly, sync::Arc,
};

use crate::{
    ActionEffect, ActionReport, Blame, Cause, PressureEvent, PressureEvents, PressureMachine, Step,
    machine::{extra_target, held, reclaim_target},
    stream::{EventSender, stream},
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
pub struct PressureAction(Kind);

enum Kind {
    Notify(Box<dyn FnMut(&PressureEvent) + Send>),
    Send(SyncSender<PressureEvent>),
    Stream(EventSender),
    Reclaim(Vec<ReclaimRegistry>),
    Throttle { target: Arc<dyn Throttle>, largest: usize },
    Blame(Box<dyn FnMut(&Blame) + Send>),
}

impl PressureAction {
    /// Calls back at every change of level that crosses this one, upwards or downwards.
    ///
    /// The callback runs on the thread that checks; it should be brief. If it panics, that is
    /// counted and reported, and the monitor goes on.
    #[must_use]
    pub fn notify(callback: impl FnMut(&PressureEvent) + Send + 'static) -> Self {
        Self(Kind::Notify(Box::new(callback)))
    }

    /// As [`notify`](Self::notify), through a channel that holds `capacity` events (one at least).
    /// An event that finds it full, or its receiver gone, is dropped, and reported as
    /// [`Unheard`](ActionEffect::Unheard): the monitor waits for nobody.
    #[must_use]
    pub fn channel(capacity: usize) -> (Self, Receiver<PressureEvent>) {
        let (sender, receiver) = sync_channel(capacity.max(1));
        (Self(Kind::Send(sender)), receiver)
    }

    /// As [`channel`](Self::channel), for asynchronous code; where there is no room, the oldest
    /// event is dropped.
    #[must_use]
    pub fn stream(capacity: usize) -> (Self, PressureEvents) {
        let (sender, events) = stream(capacity);
        (Self(Kind::Stream(sender)), events)
    }

    /// Asks the reclaimers of a registry for as many bytes as are needed to leave the level, when
    /// it is reached and again, after every cool-down, for as long as it holds. The action shares
    /// the registry's list, so what is registered later is asked too.
    #[must_use]
    pub fn reclaim(registry: &ReclaimRegistry) -> Self {
        Self::reclaim_spread([registry.clone()])
    }

    /// As [`reclaim`](Self::reclaim), from several registries (of tenants, for example): the
    /// lowest priority of all first, which is what is idle; and within one priority from each
    /// registry in proportion to what it could give.
    #[must_use]
    pub fn reclaim_spread(registries: impl IntoIterator<Item = ReclaimRegistry>) -> Self {
        Self(Kind::Reclaim(registries.into_iter().collect()))
    }

    /// Refuses single charges above `largest` bytes at `target` for as long as the level holds.
    ///
    /// Where several throttles of one target are in force, the tightest counts. A monitor that is
    /// dropped lifts what it has tightened.
    #[must_use]
    pub fn throttle(target: Arc<dyn Throttle>, largest: usize) -> Self {
        Self(Kind::Throttle { target, largest })
    }

    /// Calls back, when the level is reached from below, with the [suspect](crate::Suspects) that
    /// has grown most: to mark it, to slow it down, or to end it. Nothing happens if none has grown.
    #[must_use]
    pub fn blame(callback: impl FnMut(&Blame) + Send + 'static) -> Self {
        Self(Kind::Blame(Box::new(callback)))
    }
}

impl fmt::Debug for PressureAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Notify(_) => f.debug_struct("Notify").finish_non_exhaustive(),
            Kind::Send(_) => f.debug_struct("Channel").finish_non_exhaustive(),
            Kind::Stream(_) => f.debug_struct("Stream").finish_non_exhaustive(),
            Kind::Reclaim(registries) => f.debug_tuple("Reclaim").field(registries).finish(),
            Kind::Throttle { largest, .. } => {
                f.debug_struct("Throttle").field("largest", largest).finish_non_exhaustive()
            }
            Kind::Blame(_) => f.debug_struct("Blame").finish_non_exhaustive(),
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
                cooled && matches!(action.0, Kind::Reclaim(_))
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
        let mut given: usize = 0;
        for i in 0..self.0.len() {
            let level = self.0[i].0;
            let crossed = step.from.min(step.to) < level && level <= step.from.max(step.to);
            let due = level <= step.to && cooled.has_cooled(level, event.at);
            let largest = self.throttle_in_force(i, step.to);
            let begun = clock.now();
            let effect = match &mut self.0[i].1.0 {
                Kind::Notify(callback) if crossed => {
                    quietly(|| callback(event)).map(|()| ActionEffect::Notified)
                }
                Kind::Send(sender) if crossed => {
                    Some(heard(sender.try_send(event.clone()).is_ok()))
                }
                // A reader's waker is others' code.
                Kind::Stream(sender) if crossed => {
                    quietly(|| sender.send(event.clone())).map(heard)
                }
                Kind::Blame(callback) if crossed && step.from < step.to => {
                    let Some(blame) = &event.blame else { continue };
                    quietly(|| callback(blame)).map(|()| ActionEffect::Blamed)
                }
                Kind::Throttle { target, .. } if crossed => {
                    quietly(|| target.limit_single_charges(largest))
                        .map(|()| ActionEffect::Throttled { largest })
                }
                Kind::Reclaim(registries) if due => {
                    machine.reclaimed(level, event.at);
                    let extra = extra_target(&config, level, step).saturating_sub(given);
                    let wanted = reclaim_target(&config, level, estimate).max(extra);
                    if wanted == 0 {
                        continue;
                    }
                    let urgency = match step.cause {
                        Cause::Usage => held(&config, step.to, estimate),
                        Cause::Growth | Cause::Stalls => step.to,
                    };
                    let report = quietly(|| reclaim(registries, wanted, urgency));
                    let back = report.map_or(0, |report| report.given);
                    given = given.saturating_add(back);
                    estimate.used = estimate.used.saturating_sub(back);
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
        let Kind::Throttle { target: this, .. } = &self.0[i].1.0 else { return None };
        let same = |(level, action): &(PressureLevel, PressureAction)| match &action.0 {
            Kind::Throttle { target, largest }
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
        let lift = |(_, action): &(PressureLevel, PressureAction)| match &action.0 {
            Kind::Throttle { target, .. } => {
                quietly(|| target.limit_single_charges(None)).is_none()
            }
            _ => false,
        };
        in_force.filter(|entry| lift(entry)).count()
    }
}

fn heard(heard: bool) -> ActionEffect {
    if heard { ActionEffect::Notified } else { ActionEffect::Unheard }
}

/// Asks all registries, idle first, and each in proportion to what it could give.
fn reclaim(registries: &[ReclaimRegistry], wanted: usize, urgency: PressureLevel) -> ReclaimReport {
    if let [registry] = registries {
        return registry.reclaim(wanted, urgency);
    }
    let mut report = ReclaimReport::default();
    let mut from = Some(0);
    while let Some(lowest) = from.filter(|_| report.given < wanted) {
        let next = |registry: &ReclaimRegistry| registry.next_priority(lowest);
        let Some(priority) = registries.iter().filter_map(next).min() else { break };
        let estimate = |registry: &ReclaimRegistry| {
            let of_priority = registry.list().into_iter().filter(|(_, of, _)| *of == priority);
            of_priority.fold(0_u128, |sum, (_, _, bytes)| sum + bytes as u128)
        };
        let estimates: Vec<u128> = registries.iter().map(estimate).collect();
        let (total, missing) = (estimates.iter().sum::<u128>(), wanted - report.given);
        let ask = |registry: &ReclaimRegistry, share: usize, report: &mut ReclaimReport| {
            let before = report.given;
            if share > 0 {
                *report = report.plus(registry.reclaim_among(priority..=priority, share, urgency));
            }
            report.given - before >= share
        };
        let mut have_more = Vec::with_capacity(registries.len());
        for (registry, estimate) in registries.iter().zip(estimates) {
            let share = (missing as u128 * estimate).div_ceil(total.max(1));
            let share = usize::try_from(share).unwrap_or(missing);
            if ask(registry, share.min(wanted.saturating_sub(report.given)), &mut report) {
                have_more.push(registry);
            }
        }
        // Some had less than they thought: the rest comes from those who gave their share.
        for registry in have_more {
            ask(registry, wanted.saturating_sub(report.given), &mut report);
        }
        from = priority.checked_add(1);
    }
    report
}
