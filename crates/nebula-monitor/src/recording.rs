//! What a monitor saw, written down, and played again through the state machine.

use std::{fmt, io::Write, str::FromStr, time::Duration};

use nebula_memory_core::{MemoryError, PressureReading, panics::quietly};

use crate::{MonitoringConfig, Observation, PressureMachine, Step};

const HEADER: &str = "nebula-monitor recording 1";

/// When a source was read and what it said; `None` if it failed.
type Reading = Option<(Duration, PressureReading)>;

/// That of each source.
type Readings = Vec<Reading>;

/// A series of observations: recorded by a live monitor
/// ([`MonitorBuilder::record`](crate::MonitorBuilder::record)), or made up.
///
/// The text form ([`Display`](fmt::Display) and [`FromStr`]) has a line for each check: nanoseconds,
/// the stalled part of the time or `-`, and for each source `used/limit` (`-` for no limit), `x`
/// where it failed, and `=` where it was not read anew; a reading that is new, but was made at
/// another time than that of the check, has this behind it: `used/limit@nanoseconds`.
///
/// ```
/// use nebula_monitor::{MonitoringConfig, PressureLevel, Recording};
///
/// let recording: Recording = "nebula-monitor recording 1\n\
///     cgroup v2\n\
///     0 - 100/1000\n\
///     100000000 - 990/1000\n".parse()?;
/// let steps = recording.replay(MonitoringConfig::default())?;
/// assert_eq!(steps[1].1.to, PressureLevel::Critical);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recording {
    sources: Vec<String>,
    frames: Vec<Frame>,
}

#[derive(Clone, Debug, PartialEq)]
struct Frame {
    at: Duration,
    stall: Option<f64>,
    readings: Readings,
}

impl Recording {
    /// An empty one of these sources.
    pub fn new(sources: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { sources: sources.into_iter().map(Into::into).collect(), frames: Vec::new() }
    }

    /// Adds what was seen at `at`.
    pub fn push(&mut self, at: Duration, observation: Observation<'_>) {
        let Observation { readings, stall } = observation;
        self.frames.push(Frame { at, stall, readings: readings.to_vec() });
    }

    /// The names of the sources.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    /// How many checks are in it.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Plays it through a [`PressureMachine`], and returns every step with its time. Checks at which
    /// no source could be read are left out, as a monitor does. The same recording and
    /// configuration give the same steps every time.
    ///
    /// # Errors
    /// As [`MonitoringConfig::validate`].
    pub fn replay(&self, config: MonitoringConfig) -> Result<Vec<(Duration, Step)>, MemoryError> {
        let mut machine = PressureMachine::new(config)?;
        let seen = |frame: &&Frame| frame.readings.iter().any(Option::is_some);
        let step = |frame: &Frame| {
            let observation = Observation { readings: &frame.readings, stall: frame.stall };
            (frame.at, machine.observe_all(frame.at, observation))
        };
        Ok(self.frames.iter().filter(seen).map(step).collect())
    }
}

fn write_frame(
    out: &mut dyn fmt::Write,
    at: Duration,
    Observation { readings, stall }: Observation<'_>,
    is_known: impl Fn(usize, Reading) -> bool,
) -> fmt::Result {
    write!(out, "{}", at.as_nanos())?;
    match stall {
        Some(stall) => write!(out, " {stall}")?,
        None => out.write_str(" -")?,
    }
    for (source, reading) in readings.iter().enumerate() {
        let Some((then, PressureReading { used, limit })) = *reading else {
            out.write_str(" x")?;
            continue;
        };
        if then != at && is_known(source, *reading) {
            out.write_str(" =")?;
            continue;
        }
        match limit {
            Some(limit) => write!(out, " {used}/{limit}")?,
            None => write!(out, " {used}/-")?,
        }
        if then != at {
            write!(out, "@{}", then.as_nanos())?;
        }
    }
    out.write_str("\n")
}

fn write_header<'n>(out: &mut dyn fmt::Write, names: impl Iterator<Item = &'n str>) -> fmt::Result {
    writeln!(out, "{HEADER}")?;
    for (i, name) in names.enumerate() {
        let plain = name.replace(['\t', '\n', '\r'], " ");
        let plain = if plain.is_empty() { "unnamed" } else { &plain };
        write!(out, "{}{plain}", if i == 0 { "" } else { "\t" })?;
    }
    out.write_str("\n")
}

impl fmt::Display for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_header(f, self.sources.iter().map(String::as_str))?;
        let mut before: &[Reading] = &[];
        for frame in &self.frames {
            let observation = Observation { readings: &frame.readings, stall: frame.stall };
            let is_known = |source: usize, reading| before.get(source) == Some(&reading);
            write_frame(f, frame.at, observation, is_known)?;
            before = &frame.readings;
        }
        Ok(())
    }
}

impl FromStr for Recording {
    type Err = MemoryError;

    fn from_str(text: &str) -> Result<Self, MemoryError> {
        let fault = |line: usize, why: &str| {
            MemoryError::source_unavailable("recording", format_args!("line {line}: {why}"))
        };
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(fault(1, "must be `nebula-monitor recording 1`"));
        }
        let names = lines.next().ok_or_else(|| fault(2, "must name the sources"))?;
        let names = names.split('\t').filter(|name| !name.is_empty());
        let mut recording = Self::new(names);
        let mut before: Readings = vec![None; recording.sources.len()];
        for (i, line) in lines.enumerate() {
            let frame = parse_frame(line, &before).ok_or_else(|| {
                fault(i + 3, "must be nanoseconds, stalls, and a reading of each source")
            })?;
            before.clone_from(&frame.readings);
            recording.frames.push(frame);
        }
        Ok(recording)
    }
}

fn parse_frame(line: &str, before: &Readings) -> Option<Frame> {
    let nanos = |text: &str| Some(Duration::from_nanos(text.parse().ok()?));
    let mut fields = line.split(' ');
    let at = nanos(fields.next()?)?;
    let stall = match fields.next()? {
        "-" => None,
        part => Some(part.parse().ok().filter(|part: &f64| (0.0..=1.0).contains(part))?),
    };
    let reading = |(field, before): (&str, &Reading)| match field {
        "x" => Some(None),
        "=" => before.map(Some),
        field => {
            let (field, then) = match field.split_once('@') {
                Some((field, then)) => (field, nanos(then)?),
                None => (field, at),
            };
            let (used, limit) = field.split_once('/')?;
            let limit = if limit == "-" { None } else { Some(limit.parse().ok()?) };
            Some(Some((then, PressureReading { used: used.parse().ok()?, limit })))
        }
    };
    let fields: Vec<_> = fields.collect();
    if fields.len() != before.len() {
        return None;
    }
    let readings = fields.into_iter().zip(before).map(reading).collect::<Option<_>>()?;
    Some(Frame { at, stall, readings })
}

/// Where a live monitor writes to. After the first error or panic it writes no more.
pub(crate) struct Recorder {
    out: Box<dyn Write + Send>,
    /// What is written at once; its memory is used again.
    line: String,
    begun: bool,
    failed: bool,
}

impl Recorder {
    pub(crate) fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out, line: String::new(), begun: false, failed: false }
    }

    /// Writes down what was seen; `false` if that failed, now or before.
    pub(crate) fn record<'n>(
        &mut self,
        names: impl Iterator<Item = &'n str>,
        at: Duration,
        observation: Observation<'_>,
    ) -> bool {
        if self.failed {
            return false;
        }
        self.line.clear();
        let written = (self.begun || write_header(&mut self.line, names).is_ok())
            // A monitor's reading of another time is one that it has not made anew.
            && write_frame(&mut self.line, at, observation, |_, _| true).is_ok();
        self.begun = true;
        let (out, line) = (&mut self.out, self.line.as_bytes());
        let put = quietly(|| out.write_all(line).is_ok());
        self.failed = !(written && put == Some(true));
        !self.failed
    }
}
