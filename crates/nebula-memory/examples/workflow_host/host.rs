//! The host: sets up budgets (or none), runs every tenant's workflow a file at a time, and collects
//! what came of it.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

use nebula_memory::{
    Memory, MemoryConfig, Tenant,
    arena::ArenaConfig,
    budget::{BudgetConfig, MemoryBudget},
    cache::{CacheConfig, ConcurrentComputeCache},
    core::{Account, MemoryError, PressureLevel, Unlimited},
    monitor::{MonitoringConfig, PressureAction},
    pool::{PoolConfig, ThreadSafePool},
};

use crate::{
    input::Input,
    options::Options,
    progress::{Line, Progress},
    report::{CacheReport, Outcome, PoolReport, ProcessReport, Report, TenantReport},
    tenant::{Shared, StepError, Workflow, weigh},
    text::Checksum,
};

/// Without budgets, a rogue workflow is stopped once it keeps this many times what it could have
/// had within them.
const SAFETY_STOP: usize = 2;

/// A rogue workflow works on so many files like everybody else before it goes astray.
const HONEST_FILES: usize = 3;

/// One tenant's part of the run.
struct Job<A: Account + Clone> {
    name: String,
    rogue: bool,
    /// `None` once the workflow has ended.
    workflow: Option<Workflow<A>>,
    budget: Option<MemoryBudget>,
    files: Vec<PathBuf>,
    next: usize,
    line: Line,
    report: TenantReport,
}

/// How the process's memory is divided.
struct Division {
    config: MemoryConfig,
    /// For what tenants share, and for each tenant.
    shared: BudgetConfig,
    tenant: BudgetConfig,
}

impl Division {
    /// A quarter is for what is shared: the cache, and the pool's buffers. The rest is for the
    /// tenants: a third of it is guaranteed to them in equal parts, and each may borrow all that
    /// the others don't need.
    fn of(options: &Options) -> Result<Self, MemoryError> {
        let capacity = options.budget.get();
        let shared = capacity / 4;
        let tenants = capacity - shared;
        let guaranteed = tenants / 3 / usize::from(options.tenants);
        // Room is left beside the cache's entries for its tables and for the buffers.
        let cache = CacheConfig::builder().bytes((shared / 2).max(1).into()).build()?;
        let pool =
            PoolConfig::builder().capacity(options.threads.into()).track_peak(true).build()?;
        let monitoring = MonitoringConfig::builder().thresholds(0.60, 0.75, 0.90).build()?;
        let limits = |capacity: usize, guaranteed: usize| {
            BudgetConfig::builder(capacity.into()).guaranteed(guaranteed.into()).build()
        };
        let config = MemoryConfig::builder()
            .budget(BudgetConfig::builder(capacity.into()).build()?)
            .cache(cache)
            .pool(pool)
            .monitoring(monitoring)
            .build()?;
        Ok(Self { config, shared: limits(shared.max(1), 0)?, tenant: limits(tenants, guaranteed)? })
    }
}

/// Runs everything as `options` say.
pub(crate) fn run(options: &Options, input: &Input) -> Result<Report, MemoryError> {
    let division = Division::of(options)?;
    if options.no_budgets {
        plain(options, input, &division)
    } else {
        budgeted(options, input, &division)
    }
}

/// The same work on the plain heap.
fn plain(options: &Options, input: &Input, division: &Division) -> Result<Report, MemoryError> {
    let cache = ConcurrentComputeCache::builder(division.config.cache.clone());
    let shared = Shared {
        buffers: Arc::new(ThreadSafePool::new(&division.config.pool, Vec::new)?),
        summaries: Arc::new(cache.with_weigher(weigh).with_idle_expiry().build()?),
        _budget: None,
    };
    let accounts = (0..options.tenants).map(|_| (Unlimited, None)).collect();
    work(options, input, division, shared, accounts)
}

/// The work within budgets, with a monitor beside it.
fn budgeted(options: &Options, input: &Input, division: &Division) -> Result<Report, MemoryError> {
    let memory = Memory::new(division.config.clone())?;
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&events);
    let tell = PressureAction::notify(move |event| lock(&log).push(event.to_string()));
    // Notified at every crossing of the lowest level, and of the two above it.
    let monitor = memory.monitor().on(PressureLevel::Elevated, tell).build()?.spawn()?;

    let tenant = memory.tenant("shared", &division.shared)?;
    let shared = Shared {
        buffers: tenant.pool("buffers", || Ok(Vec::new()))?,
        summaries: tenant.cache("summaries", weigh as fn(&_, &_) -> _)?,
        _budget: Some(tenant),
    };
    let account = |i| {
        let tenant: Tenant = memory.tenant(&tenant_name(i), &division.tenant)?;
        Ok((tenant.account(), Some(tenant.budget().clone())))
    };
    let accounts = (0..options.tenants).map(account).collect::<Result<_, MemoryError>>()?;
    let mut report = work(options, input, division, shared, accounts)?;
    drop(monitor.stop());
    report.pressure = std::mem::take(&mut *lock(&events));
    report.process = Some(ProcessReport {
        capacity: memory.budget().capacity(),
        peak: memory.budget().peak(),
        used_at_end: memory.budget().used(),
    });
    Ok(report)
}

fn tenant_name(i: u16) -> String {
    format!("tenant-{}", i + 1)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs all workflows on a few threads; each thread takes the next tenant in turn, and does one step
/// of its workflow.
fn work<A: Account + Clone + Send + Sync>(
    options: &Options,
    input: &Input,
    division: &Division,
    shared: Shared<A>,
    accounts: Vec<(A, Option<MemoryBudget>)>,
) -> Result<Report, MemoryError> {
    let began = Instant::now();
    let shared = Arc::new(shared);
    let progress = Progress::new();
    let mut jobs = VecDeque::new();
    for (i, (account, budget)) in (0..).zip(accounts) {
        let (name, files) = (tenant_name(i), files_of(i, options, input));
        let (rogue, line) = (options.is_rogue(i), progress.line(&name, files.len()));
        let limit = budget.as_ref().map(MemoryBudget::capacity);
        let report = TenantReport::new(&name, rogue, limit);
        let arena: &ArenaConfig = &division.config.arena;
        let workflow = Some(Workflow::new(account, arena, Arc::clone(&shared))?);
        jobs.push_back(Job { name, rogue, workflow, budget, files, next: 0, line, report });
    }
    let stop_at = SAFETY_STOP.saturating_mul(division.tenant.capacity.get());
    let (waiting, ended) = (Mutex::new(jobs), Mutex::new(vec![]));
    thread::scope(|s| {
        for _ in 0..options.threads {
            s.spawn(|| {
                loop {
                    // A statement of its own, so that the lock is not held during the step.
                    let job = lock(&waiting).pop_front();
                    let Some(mut job) = job else { break };
                    if job.step(stop_at) {
                        lock(&ended).push(job);
                    } else {
                        lock(&waiting).push_back(job);
                    }
                }
            });
        }
    });
    let cache = shared.summaries.stats();
    let pool = shared.buffers.stats();
    drop(shared);
    let mut ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    ended.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
    let tenants: Vec<_> = ended.into_iter().map(|job| job.report).collect();
    let mut checksum = Checksum::default();
    for tenant in tenants.iter().filter(|t| !t.rogue) {
        checksum.add((&tenant.name, &tenant.checksum));
    }
    Ok(Report {
        budgets: !options.no_budgets,
        input_files: input.files.len(),
        input_bytes: input.bytes,
        seconds: began.elapsed().as_secs_f64(),
        tenants,
        checksum: checksum.to_string(),
        cache: CacheReport {
            hits: cache.hits,
            misses: cache.misses,
            hit_rate: cache.hit_rate().unwrap_or(0.0),
        },
        pool: PoolReport {
            created: pool.created,
            reuses: pool.reuses,
            reuse_rate: pool.reuse_rate(),
        },
        pressure: vec![],
        process: None,
    })
}

/// Every tenant works on half of the files, each beginning somewhere else, so that they share many.
fn files_of(tenant: u16, options: &Options, input: &Input) -> Vec<PathBuf> {
    let all = input.files.len();
    let start = all * usize::from(tenant) / usize::from(options.tenants);
    input.files.iter().cycle().skip(start).take(all.div_ceil(2)).cloned().collect()
}

impl<A: Account + Clone> Job<A> {
    /// Does one step; `true` if the workflow has ended with it.
    fn step(&mut self, stop_at: usize) -> bool {
        let Some(workflow) = &mut self.workflow else { return true };
        let astray = self.rogue && self.next >= HONEST_FILES.min(self.files.len());
        let result = if astray {
            workflow.feed_back()
        } else if let Some(path) = self.files.get(self.next) {
            self.next += 1;
            workflow.index_file(path)
        } else {
            self.report.checksum = Some(workflow.checksum().to_string());
            self.end(Outcome::Completed, None);
            return true;
        };
        self.report.tokens = workflow.tokens;
        self.report.words = workflow.words();
        let kept = workflow.kept_bytes;
        match result {
            Ok(()) if !astray => self.report.files += 1,
            Ok(()) if self.budget.is_none() && kept > stop_at => {
                self.end(Outcome::Stopped, None);
                return true;
            }
            Ok(()) => {}
            Err(StepError::File(error)) => self.report.file_errors.push(error),
            Err(StepError::Memory(error)) => {
                self.end(Outcome::Refused, Some(&error));
                return true;
            }
        }
        let used = self.budget.as_ref().map(|b| (b.committed(), b.capacity()));
        self.line.update(self.report.files, used);
        false
    }

    /// Ends the workflow: its memory goes back now, whatever the others do.
    fn end(&mut self, outcome: Outcome, error: Option<&MemoryError>) {
        self.report.outcome = outcome;
        self.report.error = error.map(ToString::to_string);
        self.report.peak = self.budget.as_ref().map(MemoryBudget::peak);
        self.workflow = None;
        self.budget = None;
        self.line.finish(match outcome {
            Outcome::Completed => "completed",
            Outcome::Refused => "refused by its budget; its memory is back",
            Outcome::Stopped => "stopped by the host: nothing else would have",
        });
    }
}

impl TenantReport {
    fn new(name: &str, rogue: bool, limit: Option<usize>) -> Self {
        Self {
            name: name.to_owned(),
            rogue,
            files: 0,
            tokens: 0,
            words: 0,
            peak: None,
            limit,
            // Until it ends otherwise.
            outcome: Outcome::Completed,
            error: None,
            file_errors: vec![],
            checksum: None,
        }
    }
}
