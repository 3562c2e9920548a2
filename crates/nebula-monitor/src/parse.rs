//! What the kernel's files say. Pure functions of text: junk gives `None`, never a panic, and
//! nothing here allocates except where paths are put together at probing.

use std::path::{Path, PathBuf};

/// No limit, among limits: greater than every one.
pub(crate) const UNLIMITED: u64 = u64::MAX;

/// Control groups of version 1 report "no limit" as the largest number of whole pages that a
/// signed 64-bit counter holds; everything from here on is taken for that.
const NO_LIMIT: u64 = 1 << 62;

/// A decimal number alone in its file, with white space around it.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    let digits = text.trim_ascii();
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// A limit of a control group: a number, or `max`, which gives [`UNLIMITED`].
pub(crate) fn limit(text: &[u8]) -> Option<u64> {
    if text.trim_ascii() == b"max" {
        return Some(UNLIMITED);
    }
    number(text).map(|bytes| if bytes < NO_LIMIT { bytes } else { UNLIMITED })
}

/// What follows `key` in a file of `key value` lines.
pub(crate) fn stat_value<'t>(text: &'t [u8], key: &[u8]) -> Option<&'t [u8]> {
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let value = line.strip_prefix(key)?;
        value.first().is_some_and(u8::is_ascii_whitespace).then_some(value.trim_ascii())
    })
}

/// `MemTotal` and `MemAvailable` of `/proc/meminfo`, in bytes.
pub(crate) fn meminfo(text: &[u8]) -> Option<(u64, u64)> {
    let value = |key: &[u8]| {
        let kib = text.split(|byte| *byte == b'\n').find_map(|line| {
            line.strip_prefix(key)?.strip_prefix(b":")?.trim_ascii().strip_suffix(b"kB")
        })?;
        number(kib)?.checked_mul(1024)
    };
    Some((value(b"MemTotal")?, value(b"MemAvailable")?))
}

/// `memory.events` of version 2. A counter that is missing is zero; with none at all it is another
/// file.
pub(crate) fn events(text: &[u8]) -> Option<GroupEvents> {
    let count = |key: &[u8]| stat_value(text, key).and_then(number);
    let all = [count(b"high"), count(b"max"), count(b"oom"), count(b"oom_kill")];
    all.iter().flatten().next()?;
    let [high, max, oom, oom_kill] = all.map(Option::unwrap_or_default);
    Some(GroupEvents { high, max, oom, oom_kill })
}

/// `memory.failcnt` of version 1: how often the limit was met.
pub(crate) fn failures(text: &[u8]) -> Option<GroupEvents> {
    Some(GroupEvents { max: number(text)?, ..GroupEvents::default() })
}

/// For how long some task has stalled on memory since the system started, in microseconds, from
/// the text of a pressure file.
pub(crate) fn stalled(text: &[u8]) -> Option<u64> {
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.strip_prefix(b"some ")?.split(|byte| *byte == b' ');
        fields.find_map(|field| number(field.strip_prefix(b"total=")?))
    })
}

/// The resident pages, from the text of `/proc/self/statm`: the second figure.
pub(crate) fn resident_pages(text: &[u8]) -> Option<u64> {
    number(text.split(|byte| *byte == b' ').nth(1)?)
}

/// The size of a page, from the auxiliary vector: pairs of words of `word` bytes, the first of
/// which is 6 for it.
pub(crate) fn page_size(vector: &[u8], word: usize) -> Option<u64> {
    const PAGE_SIZE: u64 = 6;
    let value = |bytes: &[u8]| match bytes.len() {
        4 => Some(u64::from(u32::from_ne_bytes(bytes.try_into().ok()?))),
        8 => Some(u64::from_ne_bytes(bytes.try_into().ok()?)),
        _ => None,
    };
    let mut pairs = vector.chunks_exact(word.checked_mul(2).filter(|pair| *pair > 0)?);
    let size = pairs.find_map(|pair| {
        let (key, size) = pair.split_at_checked(word)?;
        (value(key)? == PAGE_SIZE).then(|| value(size))?
    })?;
    size.is_power_of_two().then_some(size)
}

/// What the kernel has counted for a control group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct GroupEvents {
    /// How often it held up the group at `memory.high` (version 2 alone).
    pub high: u64,
    /// How often usage was about to exceed the limit.
    pub max: u64,
    /// How often it found nothing more to take back (version 2 alone).
    pub oom: u64,
    /// How many processes of the group it has killed for that (version 2 alone).
    pub oom_kill: u64,
}

impl GroupEvents {
    /// What has been counted since `before`.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            high: self.high.saturating_sub(before.high),
            max: self.max.saturating_sub(before.max),
            oom: self.oom.saturating_sub(before.oom),
            oom_kill: self.oom_kill.saturating_sub(before.oom_kill),
        }
    }
}

/// Which hierarchy of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// The memory controller of version 1.
    V1,
    /// The unified hierarchy.
    V2,
}

/// The process's path in `hierarchy`, from the text of `/proc/self/cgroup`.
pub(crate) fn cgroup_path(text: &str, hierarchy: Hierarchy) -> Option<&str> {
    text.lines().find_map(|line| {
        // A path may hold colons; the two fields before it may not.
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let ours = match hierarchy {
            Hierarchy::V1 => controllers.split(',').any(|name| name == "memory"),
            Hierarchy::V2 => id == "0" && controllers.is_empty(),
        };
        (ours && path.starts_with('/')).then_some(path)
    })
}

/// One mount of a hierarchy, as `/proc/self/mountinfo` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The control group that is mounted.
    pub(crate) root: String,
    /// Where it is mounted.
    pub(crate) point: PathBuf,
}

/// The mounts of `hierarchy`, from the text of `/proc/self/mountinfo`.
pub(crate) fn mounts(text: &str, hierarchy: Hierarchy) -> impl Iterator<Item = Mount> + '_ {
    text.lines().filter_map(move |line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut system = system.split(' ');
        let (kind, _device) = (system.next()?, system.next()?);
        let ours = match hierarchy {
            Hierarchy::V1 => {
                kind == "cgroup" && system.next()?.split(',').any(|option| option == "memory")
            }
            Hierarchy::V2 => kind == "cgroup2",
        };
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (unescape(mount.next()?), unescape(mount.next()?));
        (ours && point.starts_with('/')).then(|| Mount { root, point: point.into() })
    })
}

/// Undoes mountinfo's octal escapes (a blank is `\040`).
fn unescape(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) =
            (first, tail)
        {
            bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
            rest = after;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Where the control group `path` lies within a mount of the control group `root`, relative to the
/// mount point; `None` if it is not within.
///
/// Both are absolute within the process's namespace, and climb out of it by leading `..`.
pub(crate) fn within(path: &str, root: &str) -> Option<PathBuf> {
    let relative = Path::new(path).strip_prefix(root).ok()?;
    let plain = |part| matches!(part, std::path::Component::Normal(_));
    relative.components().all(plain).then(|| relative.to_path_buf())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_plain_decimals() {
        assert_eq!(number(b"0"), Some(0));
        assert_eq!(number(b" 4685824\n"), Some(4_685_824));
        assert_eq!(number(b"18446744073709551615\n"), Some(u64::MAX));
        for junk in ["", "\n", "18446744073709551616", "-1", "+1", "1 2", "0x10", "12k", "max"] {
            assert_eq!(number(junk.as_bytes()), None, "{junk:?}");
        }
    }

    #[test]
    fn no_limit_is_max_or_a_huge_number() {
        assert_eq!(limit(b"max\n"), Some(UNLIMITED));
        assert_eq!(limit(b"9223372036854771712\n"), Some(UNLIMITED));
        assert_eq!(limit(b"536870912\n"), Some(512 << 20));
        assert_eq!(limit(b"0\n"), Some(0));
        assert_eq!(limit(b"maximum\n"), None);
        assert_eq!(limit(b""), None);
    }

    #[test]
    fn a_statistic_is_found_by_its_whole_key() {
        let text = b"inactive_file_x 1\ninactive_file 20480\ntotal_inactive_file 40960\n";
        assert_eq!(stat_value(text, b"inactive_file"), Some(&b"20480"[..]));
        assert_eq!(stat_value(text, b"total_inactive_file"), Some(&b"40960"[..]));
        assert_eq!(stat_value(text, b"file"), None);
        assert_eq!(stat_value(b"inactive_file", b"inactive_file"), None);
    }

    #[test]
    fn meminfo_needs_both_figures() {
        let text = b"MemTotal:       24684084 kB\nMemFree: 1 kB\nMemAvailable:   24362056 kB\n";
        assert_eq!(meminfo(text), Some((24_684_084 * 1024, 24_362_056 * 1024)));
        assert_eq!(meminfo(b"MemTotal: 5 kB\nMemFree: 3 kB\n"), None);
        assert_eq!(meminfo(b"MemTotal: 5 MB\nMemAvailable: 3 kB\n"), None);
        assert_eq!(meminfo(b"MemTotal: 18446744073709551615 kB\nMemAvailable: 3 kB\n"), None);
    }

    #[test]
    fn counters_of_a_group_are_found_by_their_names() {
        let text = b"low 0\nhigh 5\nmax 17\noom 2\noom_kill 1\noom_group_kill 9\n";
        let all = GroupEvents { high: 5, max: 17, oom: 2, oom_kill: 1 };
        assert_eq!(events(text), Some(all));
        assert_eq!(events(b"max 3\n"), Some(GroupEvents { max: 3, ..GroupEvents::default() }));
        assert_eq!(events(b"maximum 3\n"), None);
        assert_eq!(failures(b"12\n"), Some(GroupEvents { max: 12, ..GroupEvents::default() }));
        assert_eq!(failures(b"many\n"), None);
        let earlier = GroupEvents { high: 5, max: 20, oom: 1, oom_kill: 0 };
        assert_eq!(all.since(earlier), GroupEvents { high: 0, max: 0, oom: 1, oom_kill: 1 });
    }

    #[test]
    fn stalls_are_those_of_some_task() {
        let text = b"some avg10=0.12 avg60=0.00 avg300=0.00 total=4711\nfull avg10=0.00 total=3\n";
        assert_eq!(stalled(text), Some(4711));
        assert_eq!(stalled(b"full avg10=0.00 total=3\n"), None);
        assert_eq!(stalled(b"some avg10=0.00 total=-3\n"), None);
    }

    #[test]
    fn resident_memory_is_pages_times_their_size() {
        assert_eq!(resident_pages(b"4567 123 99 1 0 500 0\n"), Some(123));
        assert_eq!(resident_pages(b"4567"), None);
        let vector: Vec<u8> =
            [33_u64, 99, 6, 16384, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(page_size(&vector, 8), Some(16384));
        assert_eq!(page_size(&vector[..20], 8), None);
        let small: Vec<u8> = [6_u32, 4096].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(page_size(&small, 4), Some(4096));
        assert_eq!((page_size(&small, 0), page_size(&small, usize::MAX)), (None, None));
    }

    #[test]
    fn the_own_group_is_found_in_either_hierarchy() {
        let hybrid = "9:name=systemd:/\n4:cpu,memory:/api/x:y\n1:cpu:/\n0::/user.slice\n";
        assert_eq!(cgroup_path(hybrid, Hierarchy::V1), Some("/api/x:y"));
        assert_eq!(cgroup_path(hybrid, Hierarchy::V2), Some("/user.slice"));
        assert_eq!(cgroup_path("0::/../..\n", Hierarchy::V2), Some("/../.."));
        assert_eq!(cgroup_path("0::/../..\n", Hierarchy::V1), None);
        assert_eq!(cgroup_path("3:notmemory:/a\n0::\n::\n", Hierarchy::V1), None);
        assert_eq!(cgroup_path("0::relative\n", Hierarchy::V2), None);
    }

    #[test]
    fn mounts_are_told_apart_by_type_and_options() {
        let text = "22 27 0:21 / /proc rw - proc proc rw\n\
            34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
            35 31 0:32 /docker/a\\040b /sys/fs/cgroup/mem\\134ory rw shared:1 master:2 - cgroup cgroup rw,memory\n\
            41 31 0:38 /.. /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
            broken line\n - \n";
        let v1: Vec<_> = mounts(text, Hierarchy::V1).collect();
        let memory = Mount { root: "/docker/a b".into(), point: "/sys/fs/cgroup/mem\\ory".into() };
        assert_eq!(v1, [memory]);
        let v2: Vec<_> = mounts(text, Hierarchy::V2).collect();
        assert_eq!(v2, [Mount { root: "/..".into(), point: "/sys/fs/cgroup/unified".into() }]);
    }

    #[test]
    fn a_path_is_placed_within_its_mount() {
        let cases = [
            ("/", "/", Some("")),
            ("/a/b", "/", Some("a/b")),
            ("/docker/x", "/docker/x", Some("")),
            ("/docker/x/y", "/docker/x", Some("y")),
            ("/docker/xy", "/docker/x", None),
            ("/../..", "/../..", Some("")),
            ("/../../a", "/../..", Some("a")),
            ("/../..", "/", None),
            ("/a/../../b", "/", None),
            ("/", "/..", None),
        ];
        for (path, root, expected) in cases {
            assert_eq!(within(path, root), expected.map(PathBuf::from), "{path} in {root}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn junk_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (number(&bytes), limit(&bytes), meminfo(&bytes), stat_value(&bytes, b"a"));
            let _ = (events(&bytes), failures(&bytes), stalled(&bytes), resident_pages(&bytes));
            let _ = (page_size(&bytes, 4), page_size(&bytes, 8), page_size(&bytes, bytes.len()));
            let text = String::from_utf8_lossy(&bytes);
            for hierarchy in [Hierarchy::V1, Hierarchy::V2] {
                let _ = (cgroup_path(&text, hierarchy), mounts(&text, hierarchy).count());
            }
            let _ = (within(&text, "/"), within("/", &text), unescape(&text));
        }

        /// Closer to the real files than random bytes: their own words in random order.
        #[test]
        fn scrambled_files_never_panic(words in proptest::collection::vec(
            prop_oneof![
                Just("0::/"), Just("memory"), Just(":"), Just("/.."), Just(" - "), Just("cgroup2"),
                Just("cgroup cgroup rw,memory"), Just("\n"), Just("\\0"), Just("\\777"), Just(" "),
                Just("MemTotal:"), Just("MemAvailable:"), Just("kB"), Just("99999999999999999999"),
                Just("max"), Just("7"), Just("some "), Just("total="), Just("oom "), Just("high"),
            ],
            0..30,
        )) {
            let text = words.concat();
            let _ = (meminfo(text.as_bytes()), limit(text.as_bytes()));
            let _ = (events(text.as_bytes()), stalled(text.as_bytes()));
            for hierarchy in [Hierarchy::V1, Hierarchy::V2] {
                let _ = cgroup_path(&text, hierarchy).map(|path| within(path, "/"));
                for mount in mounts(&text, hierarchy) {
                    prop_assert!(mount.point.starts_with("/"));
                }
            }
        }

        #[test]
        fn any_number_comes_back(value: u64) {
            let text = format!("{value}\n");
            prop_assert_eq!(number(text.as_bytes()), Some(value));
            prop_assert_eq!(limit(text.as_bytes()), Some(if value < NO_LIMIT { value } else { UNLIMITED }));
            let stat = format!("anon 1\nfile {value}\n");
            prop_assert_eq!(stat_value(stat.as_bytes(), b"file").and_then(number), Some(value));
        }
    }
}
