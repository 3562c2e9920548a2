//! The workflow host as a user runs it: what it prints, how it exits, and that the well-behaved
//! tenants' results never depend on the rogue one, nor on budgets.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use serde_json::Value;

/// The example's binary. `cargo test` builds it along with the tests; a run that was told to build
/// one test alone builds it here. Without a cargo to do that, there is none.
fn binary() -> Option<&'static Path> {
    static BINARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let binary = BINARY.get_or_init(|| {
        // target/PROFILE/deps/workflow_host-HASH, or target/TRIPLE/PROFILE/deps/...
        let test = std::env::current_exe().expect("the test knows its own path");
        let profile = test.ancestors().nth(2).expect("test binaries lie in target/PROFILE/deps");
        let name = format!("workflow_host{}", std::env::consts::EXE_SUFFIX);
        let binary = profile.join("examples").join(name);
        let cargo = Path::new(env!("CARGO"));
        if binary.exists() {
            return Some(binary);
        }
        // Cargo is no program of this platform if the test was built on another one.
        if !cargo.exists() || !env!("CARGO").ends_with(std::env::consts::EXE_SUFFIX) {
            return None;
        }
        let mut build = Command::new(cargo);
        build.args(["build", "--package", "nebula-memory", "--example", "workflow_host"]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let target = profile.parent().expect("profiles lie in target");
        // Flags of this build, a sanitizer's say, may not do without its other options.
        build.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        let status = build.arg("--target-dir").arg(target).status();
        assert!(status.is_ok_and(|status| status.success()), "the example does not build");
        Some(binary)
    });
    binary.as_deref()
}

/// Whether the example is there to be run; if not, says so.
fn ready() -> bool {
    let ready = binary().is_some();
    if !ready {
        eprintln!(
            "skipped: the example workflow_host is not built, and the cargo that built this test, \
             {}, is not to be had here; `cargo build --examples` first",
            env!("CARGO")
        );
    }
    ready
}

fn run(args: &[&str]) -> Output {
    let binary = binary().expect("tests begin with `ready`");
    Command::new(binary).args(args).output().expect("the example runs")
}

/// A folder of text whose files share words, and some of whose files say the same.
fn texts() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("there is room for a temporary folder");
    for i in 0..60_usize {
        let mut text = String::new();
        for j in 0..400 {
            let _ = writeln!(text, "word_{} number {} of file {}", i * j % 977, j, i % 40);
        }
        let below = folder.path().join(format!("part{}", i % 3));
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join(format!("{i}.txt")), text).unwrap();
    }
    folder
}

fn path(folder: &tempfile::TempDir) -> &str {
    folder.path().to_str().expect("temporary folders have plain names")
}

fn json(args: &[&str]) -> Value {
    let output = run(&[args, &["--json"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "one JSON object and nothing else: {text}");
    serde_json::from_str(&text).unwrap()
}

/// The checksums of the well-behaved tenants, by name.
fn checksums(report: &Value) -> BTreeMap<String, String> {
    let tenants = report["tenants"].as_array().unwrap();
    let well_behaved = tenants.iter().filter(|t| t["rogue"] == false);
    let checksum = |t: &Value| {
        let text = |key: &str| t[key].as_str().unwrap().to_owned();
        (text("name"), text("checksum"))
    };
    well_behaved.map(checksum).collect()
}

#[test]
fn results_are_the_same_with_and_without_the_rogue_and_budgets() {
    if !ready() {
        return;
    }
    let folder = texts();
    let base = ["--input", path(&folder), "--tenants", "4", "--budget", "32MiB"];
    let with = |more: &[&str]| json(&[&base[..], more].concat());
    let rogue = with(&["--rogue", "1"]);
    let honest = with(&["--rogue", "0"]);
    let free = with(&["--rogue", "1", "--no-budgets", "--threads", "3"]);
    let (of_rogue, of_honest) = (checksums(&rogue), checksums(&honest));
    assert_eq!((of_rogue.len(), of_honest.len()), (3, 4));
    for (tenant, checksum) in &of_rogue {
        assert_eq!(of_honest[tenant], *checksum, "{tenant}");
    }
    assert_eq!(checksums(&free), of_rogue);
    assert_eq!(rogue["checksum"], free["checksum"]);
    assert_ne!(rogue["checksum"], honest["checksum"], "there is one more result in it");
    // Tenants work on different texts, so that equal checksums would be a coincidence.
    let distinct: std::collections::BTreeSet<_> = of_honest.values().collect();
    assert_eq!(distinct.len(), 4);
}

#[test]
fn the_rogue_is_refused_with_a_full_explanation_and_its_memory_comes_back() {
    if !ready() {
        return;
    }
    let folder = texts();
    let report = json(&["--input", path(&folder), "--budget", "32MiB"]);
    let tenants = report["tenants"].as_array().unwrap();
    for tenant in &tenants[..3] {
        assert_eq!((&tenant["outcome"], &tenant["files"]), (&"completed".into(), &30.into()));
        assert!(tenant["peak"].as_u64().unwrap() > 0);
    }
    let rogue = &tenants[3];
    assert_eq!((&rogue["rogue"], &rogue["outcome"]), (&true.into(), &"refused".into()));
    let error = rogue["error"].as_str().unwrap();
    for part in ["budget exceeded", "`process", "has used", "MiB"] {
        assert!(error.contains(part), "{part} is missing in: {error}");
    }
    let process = &report["process"];
    assert_eq!(process["used_at_end"], 0, "{process}");
    let (peak, capacity) = (process["peak"].as_u64(), process["capacity"].as_u64());
    assert!(peak > Some(0) && peak <= capacity, "{process}");
    assert!(report["cache"]["hits"].as_u64().unwrap() > 0, "{report}");
    assert!(report["pool"]["reuse_rate"].as_f64().unwrap() > 0.9, "{report}");
}

#[test]
fn without_budgets_only_the_host_itself_stops_the_rogue() {
    if !ready() {
        return;
    }
    let folder = texts();
    let report = json(&["--input", path(&folder), "--budget", "4MiB", "--no-budgets"]);
    assert_eq!(report["tenants"][3]["outcome"], "stopped");
    assert_eq!(report["process"], Value::Null);
}

#[test]
fn several_rogues_do_not_disturb_the_others() {
    if !ready() {
        return;
    }
    let folder = texts();
    let base = ["--input", path(&folder), "--tenants", "6", "--budget", "48MiB"];
    let one = json(&[&base[..], &["--rogue", "3", "--threads", "4"]].concat());
    let none = json(&[&base[..], &["--rogue", "0"]].concat());
    for (tenant, checksum) in checksums(&one) {
        assert_eq!(checksums(&none)[&tenant], checksum, "{tenant}");
    }
    assert_eq!(one["process"]["used_at_end"], 0);
}

#[test]
fn people_get_a_table_with_the_rogues_error() {
    if !ready() {
        return;
    }
    let folder = texts();
    let output = run(&["--input", path(&folder), "--budget", "32MiB"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["tenant-1", "completed", "refused by its budget", "hits", "reuse", "tenant-4 got:"]
    {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    let progress = String::from_utf8(output.stderr).unwrap();
    assert!(progress.contains("tenant-2: completed"), "{progress}");
}

/// The exit code, and what was said on standard error.
fn failure(args: &[&str]) -> (i32, String) {
    let output = run(args);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn impossible_requests_exit_with_2_and_say_why() {
    if !ready() {
        return;
    }
    let empty = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &str); 7] = [
        (&["--input", "/no/such/folder"], "/no/such/folder is not a folder"),
        (&["--input", path(&empty)], "holds no files"),
        (&["--tenants", "0"], "--tenants"),
        (&["--threads", "0"], "--threads"),
        (&["--tenants", "2", "--rogue", "3"], "more than the 2 tenants"),
        (&["--budget", "lots"], "--budget"),
        (&["--budget", "0"], "must be above zero"),
    ];
    for (args, message) in cases {
        let (code, text) = failure(args);
        assert_eq!(code, 2, "{args:?}: {text}");
        assert!(text.contains(message), "{args:?}: {text}");
    }
}

#[test]
fn a_budget_smaller_than_a_tenant_needs_exits_with_1_and_names_the_tenant() {
    if !ready() {
        return;
    }
    let folder = texts();
    for budget in ["1", "1000", "64KiB", "300KiB"] {
        let args = ["--input", path(&folder), "--rogue", "0", "--budget", budget];
        let (code, text) = failure(&args);
        assert_eq!(code, 1, "{budget}: {text}");
        assert!(text.contains("error: "), "{budget}: {text}");
        assert!(!text.contains("panicked"), "{budget}: {text}");
    }
    let (_, text) = failure(&["--input", path(&folder), "--rogue", "0", "--budget", "300KiB"]);
    assert!(text.contains("tenant-1: budget exceeded"), "{text}");
    assert!(text.contains("larger --budget"), "{text}");
}

#[test]
fn a_file_that_is_no_text_is_named_and_the_others_are_worked_on() {
    if !ready() {
        return;
    }
    let folder = texts();
    let bad = folder.path().join("part1").join("bad.txt");
    fs::write(&bad, [b'a', 0xff, 0xfe]).unwrap();
    let output = run(&["--input", path(&folder), "--rogue", "0", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut reported = 0;
    for tenant in report["tenants"].as_array().unwrap() {
        let errors = tenant["file_errors"].as_array().unwrap();
        reported += errors.len();
        assert_eq!(tenant["outcome"], "completed");
        assert_eq!(tenant["files"].as_u64().unwrap(), 31 - errors.len() as u64);
    }
    assert!(reported > 0);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("bad.txt is not UTF-8 text"), "{text}");
}

#[cfg(unix)]
#[test]
fn a_file_that_cannot_be_read_is_named_and_the_others_are_worked_on() {
    use std::os::unix::fs::PermissionsExt;

    if !ready() {
        return;
    }
    let folder = texts();
    let secret = folder.path().join("part0").join("secret.txt");
    fs::write(&secret, "not for you").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&secret).is_ok() {
        eprintln!("skipped: this user may read every file, whatever its permissions");
        return;
    }
    let (code, text) = failure(&["--input", path(&folder), "--rogue", "0"]);
    assert_eq!(code, 1);
    assert!(text.contains("cannot read") && text.contains("secret.txt"), "{text}");
}
