//! Every order in which a few tasks that ask for one key can be polled and dropped, with computations
//! that end in every way: the flight is handed to the first in line, no wake-up is lost, one computes
//! at a time, errors reach exactly those who wait, and no computation is left on the books.

mod common;

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use common::tasks::Task;
use nebula_cache::{AsyncCache, CacheConfig, ComputeError};
use nebula_testing::{InjectedPanic, catch};

const KEY: u64 = 1;

/// How a computation ends, after so many polls that find it pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Value,
    Error,
    Panic,
}

type Script = (usize, End);

/// What one poll or drop does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Poll(usize),
    Drop(usize),
}

/// A computation: it is woken at once as long as it is pending. No two of them are under way at once.
struct Computing {
    task: usize,
    script: Script,
    under_way: Rc<Cell<Option<usize>>>,
}

impl Future for Computing {
    type Output = Result<u64, usize>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (task, (left, end)) = (self.task, self.script);
        match self.under_way.get() {
            None => self.under_way.set(Some(task)),
            Some(other) => assert_eq!(other, task, "two compute at once"),
        }
        if left > 0 {
            self.script.0 -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match end {
            End::Value => Poll::Ready(Ok(task as u64)),
            End::Error => Poll::Ready(Err(task)),
            End::Panic => std::panic::resume_unwind(Box::new(InjectedPanic)),
        }
    }
}

impl Drop for Computing {
    fn drop(&mut self) {
        if self.under_way.get() == Some(self.task) {
            self.under_way.set(None);
        }
    }
}

type Output = Result<u64, ComputeError<Arc<usize>>>;

/// What is expected of the cache.
#[derive(Default)]
struct Model {
    /// Whoever leads is in front; behind it, those who wait, in the order in which they came.
    line: Vec<usize>,
    /// Polls that the leader's computation finds pending.
    left: usize,
    cached: Option<u64>,
    /// What waiting tasks were told already.
    told: [Option<Result<u64, usize>>; 3],
    computes: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Pending,
    Ready(Result<u64, usize>),
    Panic,
}

impl Model {
    fn poll(&mut self, task: usize, scripts: &[Script]) -> Expected {
        if let Some(told) = self.told[task] {
            return Expected::Ready(told);
        }
        if !self.line.contains(&task) {
            if let Some(value) = self.cached {
                return Expected::Ready(Ok(value));
            }
            self.line.push(task);
        }
        if self.line[0] != task {
            return Expected::Pending;
        }
        if self.left == usize::MAX {
            self.left = scripts[task].0;
            self.computes += 1;
        }
        if self.left > 0 {
            self.left -= 1;
            return Expected::Pending;
        }
        self.left = usize::MAX;
        let outcome = match scripts[task].1 {
            End::Panic => {
                self.line.remove(0);
                return Expected::Panic;
            }
            End::Value => Ok(task as u64),
            End::Error => Err(task),
        };
        self.cached = outcome.ok();
        for waiting in std::mem::take(&mut self.line) {
            self.told[waiting] = Some(outcome);
        }
        Expected::Ready(outcome)
    }

    fn drop(&mut self, task: usize) {
        if self.line.first() == Some(&task) {
            self.left = usize::MAX;
        }
        self.line.retain(|other| *other != task);
    }
}

/// Runs one order of events; returns what could come next, nothing if all tasks are gone.
fn run(scripts: &[Script], steps: &[Step]) -> Vec<Step> {
    let config = CacheConfig::builder().entries(10).shards(1).build().unwrap();
    let cache = AsyncCache::<u64, u64>::new(config).unwrap();
    let under_way = Rc::new(Cell::new(None));
    let errors = RefCell::new(Vec::<Arc<usize>>::new());
    let mut tasks: Vec<Option<Task<'_, Output>>> = Vec::new();
    for (task, &script) in scripts.iter().enumerate() {
        let computing = Computing { task, script, under_way: Rc::clone(&under_way) };
        tasks.push(Some(Task::new(cache.try_get_or_compute(&KEY, computing))));
    }
    let mut model = Model { left: usize::MAX, ..Model::default() };
    // How often each was woken when it was polled last; none that was spawned waits to be woken.
    let mut seen = vec![None; scripts.len()];
    for &step in steps {
        match step {
            Step::Drop(task) => {
                tasks[task] = None;
                model.drop(task);
            }
            Step::Poll(task) => {
                let future = tasks[task].as_mut().unwrap();
                seen[task] = Some(future.rings());
                let expected = model.poll(task, scripts);
                let polled = match catch(|| future.poll()) {
                    Err(_) => Expected::Panic,
                    Ok(Poll::Pending) => Expected::Pending,
                    Ok(Poll::Ready(Ok(value))) => Expected::Ready(Ok(value)),
                    Ok(Poll::Ready(Err(ComputeError::Compute(error)))) => {
                        let mut errors = errors.borrow_mut();
                        let same = errors.iter().find(|other| ***other == *error);
                        assert!(same.is_none_or(|other| Arc::ptr_eq(other, &error)), "not shared");
                        errors.push(Arc::clone(&error));
                        Expected::Ready(Err(*error))
                    }
                    Ok(Poll::Ready(Err(error))) => panic!("{error}"),
                };
                assert_eq!(polled, expected, "{scripts:?} {steps:?}");
                if polled != Expected::Pending {
                    tasks[task] = None;
                }
            }
        }
    }
    let live = || tasks.iter().enumerate().filter_map(|(n, task)| Some((n, task.as_ref()?)));
    let runnable: Vec<usize> = live()
        .filter(|(n, task)| seen[*n].is_none_or(|seen| task.rings() > seen))
        .map(|(n, _)| n)
        .collect();
    let mut next: Vec<Step> = runnable.iter().map(|task| Step::Poll(*task)).collect();
    next.extend(live().map(|(task, _)| Step::Drop(task)));
    assert!(next.is_empty() || !runnable.is_empty(), "a wake-up is lost: {scripts:?} {steps:?}");
    // Nobody is woken for nothing: who waits, and is not in front, sleeps.
    for task in model.line.iter().skip(1) {
        assert!(!runnable.contains(task), "{task} is woken: {scripts:?} {steps:?}");
    }
    if next.is_empty() {
        assert_eq!(cache.validate(), Ok(()), "{scripts:?} {steps:?}");
        assert_eq!(cache.stats().computes, model.computes, "{scripts:?} {steps:?}");
        assert_eq!(cache.peek(&KEY), model.cached, "{scripts:?} {steps:?}");
        assert_eq!(under_way.get(), None);
    }
    next
}

/// Every order, found by trying each continuation of each beginning.
fn explore(scripts: &[Script], steps: &mut Vec<Step>, ends: &mut usize) {
    let next = run(scripts, steps);
    if next.is_empty() {
        *ends += 1;
    }
    for step in next {
        steps.push(step);
        explore(scripts, steps, ends);
        steps.pop();
    }
}

const ENDS: [End; 3] = [End::Value, End::Error, End::Panic];

#[test]
fn two_tasks_in_every_order() {
    let mut orders = 0;
    for first in ENDS {
        for second in ENDS {
            for polls in 0..4 {
                let scripts = [(polls, first), (2, second)];
                explore(&scripts, &mut Vec::new(), &mut orders);
            }
        }
    }
    assert!(orders > 2000, "{orders} orders");
}

#[test]
fn three_tasks_in_every_order() {
    let mut orders = 0;
    for first in ENDS {
        for second in ENDS {
            let scripts = [(1, first), (1, second), (1, End::Value)];
            explore(&scripts, &mut Vec::new(), &mut orders);
        }
    }
    assert!(orders > 2000, "{orders} orders");
}
