//! Requests: generated from a seed, or read from files.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Requests for keys, and how large the caches are to be.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What it is called.
    pub name: String,
    /// Keys in the order of requests.
    pub requests: Vec<u32>,
    /// How many different ones there are.
    pub keys: usize,
    /// Capacities to try, in entries.
    pub capacities: Vec<usize>,
}

impl Trace {
    /// Keys are renumbered in the order in which they first come up.
    fn new(name: impl Into<String>, requests: impl IntoIterator<Item = u64>) -> Self {
        let mut numbers = HashMap::new();
        let mut number = |key| {
            let next = u32::try_from(numbers.len()).expect("no more than u32 keys");
            *numbers.entry(key).or_insert(next)
        };
        let requests = requests.into_iter().map(&mut number).collect();
        Self { name: name.into(), requests, keys: numbers.len(), capacities: Vec::new() }
    }

    /// How many requests `request` says were hits.
    pub(super) fn hits(&self, mut request: impl FnMut(u32) -> bool) -> usize {
        self.requests.iter().filter(|&&key| request(key)).count()
    }
}

/// The traces of `folder`: its files `NAME.k32.zst`, in the order of names, with capacities of 0.5,
/// 1, 5 and 10 percent of their different keys.
///
/// # Errors
/// If there are none, or one cannot be read.
pub fn read_all(folder: &Path) -> io::Result<Vec<Trace>> {
    let within = |path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    let mut files = BTreeMap::new();
    for entry in folder.read_dir().map_err(|error| within(folder, error))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(name) = name.and_then(|name| name.strip_suffix(".k32.zst")) {
            files.insert(name.to_owned(), path);
        }
    }
    if files.is_empty() {
        let none = io::Error::new(io::ErrorKind::NotFound, "no file named NAME.k32.zst");
        return Err(within(folder, none));
    }
    files
        .into_iter()
        .map(|(name, path)| {
            let keys = File::open(&path).and_then(read_keys).map_err(|e| within(&path, e))?;
            let mut trace = Trace::new(name, keys.into_iter().map(u64::from));
            let part = |per_mille: usize| (trace.keys * per_mille / 1000).max(1);
            trace.capacities = [5, 10, 50, 100].map(part).to_vec();
            Ok(trace)
        })
        .collect()
}

/// Reads little-endian `u32` keys, compressed with zstd.
///
/// # Errors
/// If `source` cannot be read, or is something else.
pub fn read_keys(source: impl Read) -> io::Result<Vec<u32>> {
    let mut bytes = Vec::new();
    let decoder = ruzstd::decoding::StreamingDecoder::new(source);
    decoder.map_err(io::Error::other)?.read_to_end(&mut bytes)?;
    let keys = bytes.chunks_exact(4);
    if !keys.remainder().is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a whole number of keys"));
    }
    Ok(keys.map(|key| u32::from_le_bytes([key[0], key[1], key[2], key[3]])).collect())
}

/// A stream of numbers (`SplitMix64`: Steele, Lea and Flood, OOPSLA 2014).
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From zero up to one.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The sums of the chances of ranks in a Zipf distribution.
pub(super) struct Zipf(Vec<f64>);

impl Zipf {
    pub(super) fn new(keys: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut sums: Vec<f64> = Vec::with_capacity(keys);
        for rank in 1..=keys {
            sum += (rank as f64).powf(-exponent);
            sums.push(sum);
        }
        for part in &mut sums {
            *part /= sum;
        }
        Self(sums)
    }

    pub(super) fn draw(&self, random: &mut Random) -> u64 {
        let unit = random.unit();
        self.0.partition_point(|&sum| sum < unit).min(self.0.len() - 1) as u64
    }
}

/// Keys that nothing else uses begin here.
pub(super) const APART: u64 = 1 << 40;

/// Every key is used three times, about `gap` requests of others apart, and never again.
fn recency(random: &mut Random, requests: u64, gap: u64) -> Vec<u64> {
    let mut due: BTreeMap<(u64, u64), u32> = BTreeMap::new();
    let (mut keys, mut fresh) = (Vec::new(), APART);
    for now in 0..requests {
        let (key, left) = match due.first_entry() {
            Some(first) if first.key().0 <= now => {
                let ((_, key), left) = first.remove_entry();
                (key, left - 1)
            }
            _ => {
                fresh += 1;
                (fresh, 2)
            }
        };
        if left > 0 {
            due.insert((now + gap * 4 / 5 + random.below(gap * 2 / 5 + 1), key), left);
        }
        keys.push(key);
    }
    keys
}

/// Traces for caches of `entries` entries, from a fixed seed: skew alone, skew with scans and with
/// changes, loops from half of what fits to three times that, recency, and mixtures.
#[must_use]
pub fn generated(entries: usize) -> Vec<Trace> {
    let room = entries as u64;
    let requests = 100 * room;
    let mut random = Random(1);
    let mut traces = Vec::new();
    for exponent in [0.7, 0.99, 1.2] {
        let zipf = Zipf::new(20 * entries, exponent);
        let keys = (0..requests).map(|_| zipf.draw(&mut random));
        traces.push(Trace::new(format!("zipf {exponent}"), keys));
    }
    let zipf = Zipf::new(20 * entries, 0.99);
    // A scan of twice what fits now and then.
    let keys = (0..requests).map(|at| match at % (10 * room) {
        phase if phase < 8 * room => zipf.draw(&mut random),
        _ => APART + at,
    });
    traces.push(Trace::new("zipf, scans", keys));
    let keys = (0..requests).map(|at| zipf.draw(&mut random) + at / 20);
    traces.push(Trace::new("zipf, drifting", keys));
    let keys = (0..requests).map(|at| zipf.draw(&mut random) + at / (10 * room) * APART);
    traces.push(Trace::new("zipf, jumping", keys));
    for (name, tenths) in [
        ("loop 0.5x", 5),
        ("loop 0.9x", 9),
        ("loop 1.1x", 11),
        ("loop 1.5x", 15),
        ("loop 2x", 20),
        ("loop 3x", 30),
    ] {
        traces.push(Trace::new(name, (0..requests).map(|at| at % (room * tenths / 10))));
    }
    for (name, tenths) in [("recency 0.3x", 3), ("recency 0.5x", 5), ("recency 0.7x", 7)] {
        traces.push(Trace::new(name, recency(&mut random, requests, room * tenths / 10)));
    }
    let keys = (0..requests).map(|_| random.below(5 * room));
    traces.push(Trace::new("uniform", keys));
    // Every other request is one of a loop.
    let keys = (0..requests).map(|at| match at % 2 {
        0 => zipf.draw(&mut random),
        _ => APART + at / 2 % (2 * room),
    });
    traces.push(Trace::new("mixed: zipf and loop", keys));
    let recent = recency(&mut random, requests, room * 6 / 10);
    let keys = recent.into_iter().enumerate().map(|(at, key)| {
        let phase = at as u64 / (10 * room);
        if phase.is_multiple_of(2) { zipf.draw(&mut random) } else { key }
    });
    traces.push(Trace::new("mixed: zipf, then recency", keys));
    let keys = (0..requests).map(|at| match at {
        at if at < 10 * room => zipf.draw(&mut random),
        at => APART + at % (3 * room / 2),
    });
    traces.push(Trace::new("mixed: zipf, then loop", keys));
    for trace in &mut traces {
        trace.capacities = vec![entries];
    }
    traces
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    #[test]
    fn generated_traces_are_the_same_each_time_and_told_apart_by_name() {
        let (once, again) = (generated(50), generated(50));
        let mut names = HashSet::new();
        for (trace, same) in once.iter().zip(&again) {
            assert!(names.insert(trace.name.as_str()));
            assert_eq!((&trace.requests, trace.requests.len()), (&same.requests, 5000));
            let different: HashSet<&u32> = trace.requests.iter().collect();
            assert_eq!(different.len(), trace.keys);
        }
    }

    #[test]
    fn compressed_keys_are_read_back() {
        let keys: Vec<u32> = (0..10_000).map(|at| at * at % 700).collect();
        let bytes: Vec<u8> = keys.iter().flat_map(|key| key.to_le_bytes()).collect();
        let compress = |bytes| compress_to_vec(bytes, CompressionLevel::Fastest);
        assert_eq!(read_keys(&*compress(&bytes[..])).unwrap(), keys);
        assert!(read_keys(&*compress(&bytes[1..])).is_err());
        assert!(read_keys(&b"something else"[..]).is_err());
    }
}
