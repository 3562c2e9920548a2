//! A monitor on its own thread.

mod common;

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use common::{Dial, LONG, Show, Spare, Told, config, within_time};
use nebula_memory_core::ReclaimRegistry;
use nebula_monitor::{
    MemoryMonitor, MonitorBuilder, MonitorHandle, MonitoringConfig, PressureAction, PressureEvent,
    PressureLevel::*, SourceStatus,
};

/// Checks by itself only every hour while calm, so that a test decides when it looks.
fn rare() -> MonitoringConfig {
    MonitoringConfig { interval: Duration::from_secs(3600), ..config() }
}

fn frequent() -> MonitoringConfig {
    let millisecond = Duration::from_millis(1);
    MonitoringConfig { interval: millisecond, fast_interval: millisecond, ..config() }
}

fn builder(config: MonitoringConfig, dial: &Arc<Dial>) -> MonitorBuilder {
    let dial = Arc::clone(dial);
    MemoryMonitor::builder(config).without_system().source(dial)
}

fn sending() -> (PressureAction, mpsc::Receiver<PressureEvent>) {
    let (send, receive) = mpsc::channel();
    // Nobody listens any more at the end of some tests.
    (PressureAction::notify(move |event| drop(send.send(event.clone()))), receive)
}

#[test]
fn it_notices_by_itself() {
    let dial = Dial::at(100);
    let (send, events) = sending();
    let spare = Spare::new(1000);
    let registry = ReclaimRegistry::new();
    registry.register("spare", 0, spare.weak()).detach();
    let handle = builder(frequent(), &dial)
        .on(High, PressureAction::reclaim(&registry))
        .on(High, send)
        .build()
        .unwrap()
        .spawn()
        .unwrap();
    dial.set(800);
    let event = events.recv_timeout(LONG).unwrap();
    assert_eq!((event.from, event.to, event.given()), (Normal, High, 201));
    assert_eq!(handle.status().level(), High);
    dial.set(100);
    assert_eq!(events.recv_timeout(LONG).unwrap().to, Normal);
    assert_eq!(handle.status().stats().bytes_given, 201);
}

#[test]
fn dropping_the_handle_does_not_wait_for_the_interval() {
    within_time(|| {
        let dial = Dial::at(100);
        drop(builder(rare(), &dial).build().unwrap().spawn().unwrap());
        // Also with an interval beyond the range of the clock.
        let config = MonitoringConfig { interval: Duration::MAX, ..config() };
        drop(builder(config, &dial).build().unwrap().spawn().unwrap());
        assert_eq!(Arc::strong_count(&dial), 1, "the thread has ended and dropped everything");
    });
}

#[test]
fn a_wake_checks_at_once() {
    let dial = Dial::at(100);
    let (send, events) = sending();
    let handle = builder(rare(), &dial).on(Elevated, send).build().unwrap().spawn().unwrap();
    dial.set(600);
    handle.wake();
    assert_eq!(events.recv_timeout(LONG).unwrap().to, Elevated);
}

/// While there is something of the system's to wait for, the thread waits in another way.
#[test]
fn a_monitor_of_this_machine_is_woken_and_stopped_just_as_well() {
    within_time(|| {
        let dial = Dial::at(100);
        let (send, events) = sending();
        // Others on this machine may stall.
        let config = MonitoringConfig { window: Duration::from_secs(3600), ..rare() };
        let (elevated_stall, high_stall, critical_stall) = (1.0, 1.0, 1.0);
        let config = MonitoringConfig { elevated_stall, high_stall, critical_stall, ..config };
        let source = Arc::clone(&dial);
        let builder = MemoryMonitor::builder(config).source(source).on(Elevated, send);
        let handle = builder.build().unwrap().spawn().unwrap();
        let status = handle.status();
        while status.sources().iter().any(|report| report.status == SourceStatus::Idle) {
            std::thread::yield_now();
        }
        for report in status.sources() {
            println!("{report}");
        }
        if cfg!(windows) {
            let low = status.sources().into_iter().find(|report| report.name.starts_with("low-"));
            assert_eq!(low.unwrap().status, SourceStatus::Watched);
        }
        for (used, level) in [(600, Elevated), (100, Normal), (600, Elevated)] {
            dial.set(used);
            handle.wake();
            assert_eq!(events.recv_timeout(LONG).unwrap().to, level);
        }
        drop(handle);
        assert_eq!(Arc::strong_count(&dial), 1, "the thread has ended and dropped everything");
    });
}

#[test]
fn above_normal_it_checks_at_the_fast_interval() {
    let dial = Dial::at(600);
    let (send, events) = sending();
    let _handle = builder(rare(), &dial).on(Elevated, send).build().unwrap().spawn().unwrap();
    assert_eq!(events.recv_timeout(LONG).unwrap().to, Elevated);
    dial.set(100);
    // The slow interval is an hour.
    assert_eq!(events.recv_timeout(LONG).unwrap().to, Normal);
}

#[test]
fn stopping_hands_the_monitor_back() {
    within_time(|| {
        let dial = Dial::at(750);
        let told = Arc::new(Told::default());
        let throttle = PressureAction::throttle(told.clone(), 5);
        let (send, events) = sending();
        let handle = builder(rare(), &dial)
            .on(High, throttle)
            .on(High, send)
            .build()
            .unwrap()
            .spawn()
            .unwrap();
        events.recv_timeout(LONG).unwrap();
        let mut monitor = handle.stop().unwrap();
        assert_eq!(told.take(), [Some(5)], "still in force");
        dial.set(100);
        assert_eq!(monitor.check().unwrap().unwrap().to, Normal);
        assert_eq!(told.take(), [None]);
        dial.set(950);
        monitor.check().unwrap();
        assert_eq!(told.take(), [Some(5)]);
        drop(monitor.spawn().unwrap());
        assert_eq!(told.take(), [None], "the end of the thread is the end of the monitor");
    });
}

#[test]
fn panics_and_failures_do_not_end_the_thread() {
    let dial = Dial::new("dial", Show::Panic);
    let (send, events) = sending();
    let handle = builder(frequent(), &dial)
        .on(High, PressureAction::notify(|_| panic!("a callback that panics")))
        .on(High, send)
        .build()
        .unwrap()
        .spawn()
        .unwrap();
    for _ in 0..3 {
        dial.set(800);
        assert_eq!(events.recv_timeout(LONG).unwrap().to, High);
        dial.set(0);
        assert_eq!(events.recv_timeout(LONG).unwrap().to, Normal);
        dial.show(Show::Failure);
    }
    let monitor = handle.stop().expect("it has not panicked");
    assert_eq!(monitor.status().stats().panics, 6);
}

#[test]
fn a_callback_may_drop_the_handle() {
    within_time(|| {
        let dial = Dial::at(100);
        let slot: Arc<Mutex<Option<MonitorHandle>>> = Arc::default();
        let own = Arc::clone(&slot);
        let (send, events) = sending();
        let (done, ended) = mpsc::channel::<()>();
        let drop_it = PressureAction::notify(move |_| {
            let _until_the_thread_ends = &done;
            drop(own.lock().unwrap().take());
        });
        let monitor = builder(frequent(), &dial).on(High, drop_it).on(High, send).build().unwrap();
        *slot.lock().unwrap() = Some(monitor.spawn().unwrap());
        dial.set(800);
        events.recv_timeout(LONG).unwrap();
        // The callback, and with it the sender, is dropped when the thread has ended.
        assert_eq!(ended.recv_timeout(LONG), Err(mpsc::RecvTimeoutError::Disconnected));
    });
}
