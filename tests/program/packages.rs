//! Checks installed files: units, the manual, the Debian package, and that the units restrict nothing that is needed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]

mod calls;

use crate::host;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use crate::host::Host;
use crate::repository;
use crate::units::{self, settings};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kvmbackup");

#[test]
fn systemd_accepts_every_unit() {
    if is_missing("systemd-analyze") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for (name, text) in units::installed() {
        let path = folder.path().join(name);
        std::fs::write(&path, text.replace("/usr/bin/kvmbackup", PROGRAM)).unwrap();
        units.push(path);
    }
    assert_eq!(units.len(), 11);
    let verified = output(Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units));
    let said = String::from_utf8_lossy(&verified.stderr);
    // It may also complain about units of this machine.
    let about_ours: Vec<_> = said.lines().filter(|line| line.contains("kvmbackup")).collect();
    assert!(verified.status.success() && about_ours.is_empty(), "{said}");
}

#[test]
fn units_have_the_documented_settings() {
    let units = units::installed();
    let run = &units["kvmbackup.service"];
    for line in
        ["Type=oneshot", "ExecStopPost=-/usr/bin/kvmbackup -q recover", "LogRateLimitIntervalSec=0", "KillMode=mixed"]
    {
        assert!(run.lines().any(|other| other == line), "kvmbackup.service: {line}");
    }
    assert!(run.contains("#OnFailure="));
    let timer = &units["kvmbackup.timer"];
    assert!(timer.contains("\nOnCalendar=*-*-* 04:15:00\n") && timer.contains("\nPersistent=true\n"));
    assert!(timer.contains("\nRandomizedDelaySec="));
    let exporter = &units["kvmbackup-exporter.service"];
    for key in ["LimitNOFILE=", "TasksMax=", "MemoryMax=", "SuccessExitStatus=143"] {
        assert!(exporter.contains(&format!("\n{key}")), "kvmbackup-exporter.service: {key}");
    }
    for (name, text) in units {
        for call in text.lines().filter_map(|line| line.split_once("/usr/bin/")).map(|(_, call)| call) {
            let parsed = kvmbackup::cli::args::parse(call.split_whitespace());
            assert!(parsed.is_ok(), "{name}: {call}: {}", parsed.unwrap_err());
        }
    }
}

/// Time zones that change the clock at midnight, at 01:00, 02:00 and 03:00, by half an hour, and not at all.
const ZONES: [&str; 9] = [
    "America/Santiago",
    "Asia/Beirut",
    "Atlantic/Azores",
    "Europe/London",
    "Europe/Berlin",
    "America/New_York",
    "Europe/Helsinki",
    "Australia/Lord_Howe",
    "Asia/Tokyo",
];

/// The days of the first elapses of a timer from 2026 on.
fn days(timer: &str, zone: &str, count: usize) -> BTreeSet<String> {
    let timer = &units::installed()[timer];
    let [when] = settings(timer, "OnCalendar")[..] else { panic!("{timer}") };
    let count = format!("--iterations={count}");
    let output = output(
        Command::new("systemd-analyze")
            .args(["calendar", "--base-time=2026-01-01 00:00:00", &count, when])
            .env("TZ", zone),
    );
    let told = String::from_utf8(output.stdout).unwrap();
    let day = |line: &str| {
        let (_, rest) =
            line.split_once("elapse: ").or_else(|| line.split_once(": ").filter(|(name, _)| name.contains("Iter")))?;
        rest.split_whitespace().nth(1).map(str::to_owned)
    };
    told.lines().filter_map(day).collect()
}

#[test]
fn timer_fires_once_on_every_day_of_every_zone() {
    if is_missing("systemd-analyze") {
        return;
    }
    for zone in ZONES {
        let days = days("kvmbackup.timer", zone, 365);
        assert_eq!(days.len(), 365, "{zone}: {days:?}");
        assert!(days.contains("2026-01-01") && days.contains("2026-12-31"), "{zone}");
        let weeks = self::days("kvmbackup-verify.timer", zone, 52);
        assert_eq!(weeks.len(), 52, "{zone}: {weeks:?}");
        assert!(weeks.contains("2026-01-04") && weeks.contains("2026-12-27"), "{zone}");
        let weeks = self::days("kvmbackup-maintain.timer", zone, 52);
        assert_eq!(weeks.len(), 52, "{zone}: {weeks:?}");
        assert!(weeks.contains("2026-01-03") && weeks.contains("2026-12-26"), "{zone}");
    }
}

#[test]
fn programs_work_within_the_limits_of_their_units() {
    if !is_root() || is_missing("setpriv") {
        return;
    }
    let host = Host::new(&["a"]);
    let textfile = host.path("metrics.prom").display().to_string();
    host.configure(&format!("metrics: {{textfile: {textfile}}}"), "{\"*\": {day_of_week: daily}}");
    let config = host.path("config.yml").display().to_string();
    for (unit, words) in [
        ("kvmbackup.service", "backup"),
        ("kvmbackup-metrics.service", "metrics"),
        ("kvmbackup-verify.service", "verify"),
    ] {
        let limits = units::limits(unit);
        let mut command = host.command(&limits[0]);
        command.args(&limits[1..]).args([PROGRAM, words, "--config", &config, "--host", host::NAME]);
        let run = host.finish(&mut command).ends(0);
        assert!(words != "backup" || run.out.contains("1 of 1 good"), "{run:?}");
        assert!(words != "verify" || run.out.starts_with("good "), "{run:?}");
    }
    assert_eq!(host.archives("a").len(), 1);

    let maintained = repository::host(&["a"], "{\"*\": {day_of_week: daily}}");
    maintained.run("repository init").ends(0);
    maintained.run("backup").ends(0);
    let config = maintained.path("config.yml").display().to_string();
    let limits = units::limits("kvmbackup-maintain.service");
    let mut command = maintained.command(&limits[0]);
    command.args(&limits[1..]).args([PROGRAM, "maintain", "--config", &config, "--host", host::NAME]);
    let run = maintained.finish(&mut command).ends(0);
    assert!(run.out.contains("no damage"), "{run:?}");

    repository::configure_copy(&maintained, "{\"*\": {day_of_week: daily}}");
    let limits = units::limits("kvmbackup-copy.service");
    let mut command = maintained.command(&limits[0]);
    command.args(&limits[1..]).args([PROGRAM, "copy", "--due", "--init", "--config", &config, "--host", host::NAME]);
    let run = maintained.finish(&mut command).ends(0);
    assert!(run.out.contains("copied 1 restore point"), "{run:?}");
}

/// The exposure of a compromised unit, as rated by systemd: from 0 to 10.
#[test]
fn exposure_of_each_unit_is_as_in_the_manual() {
    if is_missing("systemd-analyze") {
        return;
    }
    let manual = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in units::installed().into_iter().filter(|(name, _)| name.ends_with(".service")) {
        let path = folder.path().join(&name);
        std::fs::write(&path, text.replace("/usr/bin/kvmbackup", PROGRAM)).unwrap();
        let judged =
            host::run("systemd-analyze", &["security", "--offline=true", "--no-pager", path.to_str().unwrap()]);
        let judged = judged.lines().find_map(|line| line.split_once("Overall exposure level for ")).unwrap().1;
        let judged: f64 = judged.split_whitespace().nth(1).unwrap().parse().unwrap();
        let mut rows = manual.lines().filter_map(|line| line.strip_prefix(&format!("| `{name}` | ")));
        let told: f64 = rows.find_map(|row| row.split(' ').next()?.parse().ok()).unwrap();
        // Versions of systemd use slightly different weights.
        assert!((judged - told).abs() < 0.3, "{name}: {judged}, but the manual says {told}");
    }
}

#[test]
fn real_systemd_runs_timer_and_service_and_notifies_after_a_failure() {
    if !is_root() || is_missing("systemd-nspawn") {
        return;
    }
    let (host, place) = (Host::new(&["web-1"]), tempfile::tempdir().unwrap());
    let script = root().join("tests/packages/try-systemd");
    let tried = output(Command::new(script).arg(PROGRAM).arg(place.path()).arg(host.image("web-1")));
    let [said, errors] = [&tried.stdout, &tried.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    if tried.status.code() == Some(77) {
        eprintln!("no systemd can be booted here: {errors}");
        return;
    }
    assert!(tried.status.success(), "{said}\n{errors}");
    let lines: BTreeSet<_> = said.lines().collect();
    let name = host::run("hostname", &["-s"]);
    let name = name.trim();
    let subjects = [
        format!("mail: Subject: [kvmbackup] OK 1/1 - {name}"),
        format!("mail: Subject: [kvmbackup] FAILED 1/1 - {name} - web-1"),
    ];
    for line in [
        "timer: Result=success",
        "timer: ExecMainStatus=0",
        "timer: TriggeredBy=kvmbackup.timer",
        "recover: status=0",
        "start: fails",
        "called: yes",
        "credential: given",
        "verify: Result=success",
        "metrics: Result=success",
        "exporter: kvmbackup is healthy",
        "exporter: NoNewPrivs:\t1",
        // Programs that a run starts may need other privileges: sendmail needs its own group.
        "sendmail: NoNewPrivs:\t0",
        "sendmail: effective user 1",
        "sendmail: umask 0077",
        "damage: exit status 6",
        "damage: NoNewPrivs:\t0",
        "damage: effective user 1",
    ] {
        assert!(lines.contains(line), "{line}\n{said}\n{errors}");
    }
    assert!(said.contains(&format!("damage: Subject: [kvmbackup] FAILED - {name} - web-1 2")), "{said}\n{errors}");
    assert!(said.contains(&format!("journal: kvmbackup: 1 of 1 good on {name}\n")), "a mailed run: {said}");
    for subject in &subjects {
        assert!(lines.contains(subject.as_str()), "{subject}\n{said}\n{errors}");
    }
}

#[test]
fn package_passes_lintian_and_leaves_nothing_behind() {
    if !is_root() || ["lintian", "dpkg-buildpackage", "dh"].into_iter().any(is_missing) {
        return;
    }
    let target = tempfile::tempdir().unwrap();
    let built = output(
        Command::new("make")
            .arg("deb")
            .arg(format!("BIN={PROGRAM}"))
            .arg(format!("TARGET={}", target.path().display()))
            .env_remove("MAKEFLAGS")
            // The tests' program is large, but nothing here depends on the size of the package.
            .env("DPKG_DEB_COMPRESSOR_LEVEL", "0")
            .current_dir(root()),
    );
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let mut packages = std::fs::read_dir(target.path().join("deb")).unwrap().map(|entry| entry.unwrap().path());
    let package = packages.find(|path| path.extension().is_some_and(|extension| extension == "deb")).unwrap();

    let judged = output(Command::new("lintian").args(["--allow-root", "--fail-on", "error,warning"]).arg(&package));
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stdout));

    let place = tempfile::tempdir().unwrap();
    let tried = output(Command::new(root().join("tests/packages/try-deb")).arg(&package).arg(place.path()));
    let [said, errors] = [&tried.stdout, &tried.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    if tried.status.code() == Some(77) {
        eprintln!("not installed and purged, for there is no copy of this machine to be had: {errors}");
        return;
    }
    assert!(tried.status.success(), "{said}\n{errors}");
    let lines: BTreeSet<_> = said.lines().collect();
    let version = format!("version: kvmbackup {}", env!("CARGO_PKG_VERSION"));
    for line in [
        version.as_str(),
        "kvmbackup.timer: disabled",
        "kvmbackup-metrics.timer: disabled",
        "kvmbackup-verify.timer: disabled",
        "kvmbackup-maintain.timer: disabled",
        "kvmbackup-copy.timer: disabled",
        "kvmbackup-exporter.service: disabled",
        "manual: /usr/share/man/man1/kvmbackup-restore.1.gz",
        // Without a configuration.
        "check: 2",
    ] {
        assert!(lines.contains(line), "{line}\n{said}\n{errors}");
    }
    assert!(!said.contains("left: "), "{said}");
    assert!(said.contains("said: kvmbackup: /var/lib/kvmbackup is kept"), "{said}\n{errors}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn is_root() -> bool {
    let is_root = host::run("id", &["-u"]).trim() == "0";
    if !is_root {
        eprintln!("skipped: this needs root");
    }
    is_root
}

fn is_missing(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !found {
        eprintln!("skipped: there is no {program}");
    }
    !found
}
