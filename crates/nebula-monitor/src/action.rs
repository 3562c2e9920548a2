//! What can be done at a level, and the doing of it.

use std::{
    fmt,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::Duration,
};

use nebula_memory_core::{
    Clock, PressureLevel, ReclaimRegistry, Throttle, panics::quietly, sync::Arc,
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
    Throttle { target: Arc<dyn Throttle>, wish: Wish },
    Blame(Box<dyn FnMut(&Blame) + Send>),
}

/// What a throttle is told.
#[derive(Clone, Copy, Debug)]
enum Wish {
    /// The largest single charge.
    Largest(usize),
    /// The lowest priority.
    Priority(u8),
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
    /// it is reached and again, after every cool-down, for as long as it holds: the lowest priority
    /// first, which is what is idle, and within one priority each in proportion to what it could
    /// give ([`ReclaimRegistry::reclaim_spread`]). The action shares the registry's list, so what is
    /// registered later is asked too.
    #[must_use]
    pub fn reclaim(registry: &ReclaimRegistry) -> Self {
        Self::reclaim_spread([registry.clone()])
    }

    /// As [`reclaim`](Self::reclaim), from several registries (of tenants, for example) as if they
    /// were one.
    #[must_use]
    pub fn reclaim_spread(registries: impl IntoIterator<Item = ReclaimRegistry>) -> Self {
        Self(Kind::Reclaim(registries.into_iter().collect()))
    }

    /// Refuses single charges above `largest` bytes at `target` for as long as the level holds.
    ///
    /// Where several throttles of one target (clones of one `Arc`) are in force, the tightest
    /// counts. A monitor that is dropped lifts what it has tightened.
    #[must_use]
    pub fn throttle(target: Arc<dyn Throttle>, largest: usize) -> Self {
        Self(Kind::Throttle { target, wish: Wish::Largest(largest) })
    }

    /// Refuses charges of those who have a priority below `least` at `target` (of low-priority
    /// budgets, for example) for as long as the level holds. Everything else is as in
    /// [`throttle`](Self::throttle), beside which it stands.
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    /// use nebula_memory_core::{MemoryError, PressureReading, PressureSource, Throttle};
    /// use nebula_monitor::{MemoryMonitor, MonitoringConfig, PressureAction, PressureLevel};
    ///
    /// #[derive(Default)]
    /// struct Gate(Mutex<Option<u8>>);
    /// impl Throttle for Gate {
    ///     fn limit_single_charges(&self, _largest: Option<usize>) {}
    ///     fn limit_priority(&self, least: Option<u8>) { *self.0.lock().unwrap() = least; }
    /// }
    /// struct Full;
    /// impl PressureSource for Full {
    ///     fn name(&self) -> &str { "full" }
    ///     fn read(&self) -> Result<PressureReading, MemoryError> {
    ///         Ok(PressureReading { used: 100, limit: Some(100) })
    ///     }
    /// }
    ///
    /// let gate = Arc::new(Gate::default());
    /// let mut monitor = MemoryMonitor::builder(MonitoringConfig::default())
    ///     .without_system()
    ///     .source(Arc::new(Full))
    ///     .on(PressureLevel::High, PressureAction::throttle_priority(gate.clone(), 50))
    ///     .build()?;
    /// monitor.check()?;
    /// assert_eq!(*gate.0.lock().unwrap(), Some(50));
    /// drop(monitor);
    /// assert_eq!(*gate.0.lock().unwrap(), None);
    /// # Ok::<(), MemoryError>(())
    /// ```
    #[must_use]
    pub fn throttle_priority(target: Arc<dyn Throttle>, least: u8) -> Self {
        Self(Kind::Throttle { target, wish: Wish::Priority(least) })
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
            Kind::Throttle { wish, .. } => {
                f.debug_struct("Throttle").field("wish", wish).finish_non_exhaustive()
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
            let in_force = self.throttle_in_force(i, step.to);
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
                Kind::Throttle { target, wish } if crossed => {
                    quietly(|| tell(&**target, *wish, in_force))
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
                    let report =
                        quietly(|| ReclaimRegistry::reclaim_spread(registries, wanted, urgency));
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

    /// The tightest wish, at the level `to`, of the kind and for the throttle that action `i` is
    /// about.
    fn throttle_in_force(&self, i: usize, to: PressureLevel) -> Option<Wish> {
        let Kind::Throttle { target: this, wish: kind } = &self.0[i].1.0 else { return None };
        let same = |(level, action): &(PressureLevel, PressureAction)| match &action.0 {
            Kind::Throttle { target, wish }
                if *level <= to && std::ptr::addr_eq(Arc::as_ptr(target), Arc::as_ptr(this)) =>
            {
                Some(*wish)
            }
            _ => None,
        };
        let wishes = self.0.iter().filter_map(same);
        match kind {
            Wish::Largest(_) => {
                let largest =
                    |wish| if let Wish::Largest(bytes) = wish { Some(bytes) } else { None };
                wishes.filter_map(largest).min().map(Wish::Largest)
            }
            Wish::Priority(_) => {
                let least =
                    |wish| if let Wish::Priority(least) = wish { Some(least) } else { None };
                wishes.filter_map(least).max().map(Wish::Priority)
            }
        }
    }

    /// Lifts every throttle that is in force at `level`; returns how many panicked.
    pub(crate) fn lift(&self, level: PressureLevel) -> usize {
        let in_force = self.0.iter().filter(|(of, _)| *of <= level);
        let lift = |(_, action): &(PressureLevel, PressureAction)| match &action.0 {
            Kind::Throttle { target, wish } => quietly(|| tell(&**target, *wish, None)).is_none(),
            _ => false,
        };
        in_force.filter(|entry| lift(entry)).count()
    }
}

/// Tells a throttle what is `in_force`, of the kind of `wish`.
fn tell(target: &dyn Throttle, wish: Wish, in_force: Option<Wish>) -> ActionEffect {
    match (wish, in_force) {
        (_, Some(Wish::Largest(bytes))) => {
            target.limit_single_charges(Some(bytes));
            ActionEffect::Throttled { largest: Some(bytes) }
        }
        (_, Some(Wish::Priority(least))) => {
            target.limit_priority(Some(least));
            ActionEffect::PriorityLimited { least: Some(least) }
        }
        (Wish::Largest(_), None) => {
            target.limit_single_charges(None);
            ActionEffect::Throttled { largest: None }
        }
        (Wish::Priority(_), None) => {
            target.limit_priority(None);
            ActionEffect::PriorityLimited { least: None }
        }
    }
}

fn heard(heard: bool) -> ActionEffect {
    if heard { ActionEffect::Notified } else { ActionEffect::Unheard }
}
