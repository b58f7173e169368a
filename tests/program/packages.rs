//! What is installed: units, the manual, the package for Debian, and that the units take away nothing that is needed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]

use crate::host;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};

use crate::host::Host;
use crate::units::{self, settings};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kvmbackup");

#[test]
fn systemd_understands_every_unit() {
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
    assert_eq!(units.len(), 7);
    let verified = output(Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units));
    let said = String::from_utf8_lossy(&verified.stderr);
    // Of units of this machine it may complain, too.
    let about_ours: Vec<_> = said.lines().filter(|line| line.contains("kvmbackup")).collect();
    assert!(verified.status.success() && about_ours.is_empty(), "{said}");
}

#[test]
fn units_hold_to_the_promises() {
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

/// Zones that change the clock at midnight, at 01:00, 02:00 and 03:00, by half an hour, and not at all.
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
fn the_timer_fires_once_on_every_day_of_every_zone() {
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
    }
}

/// systemd cannot be run here. What its settings forbid is taken from the units and held against the calls that the programs
/// make, guests off: a live guest adds what libvirt's library does over the same socket.
#[test]
fn no_program_makes_a_call_that_its_unit_forbids() {
    if is_missing("strace") || is_missing("systemd-analyze") {
        return;
    }
    let host = Host::new(&["a"]);
    let textfile = host.path("metrics.prom").display().to_string();
    let hook = host.path("hook");
    std::fs::write(&hook, "#!/bin/sh\necho hooked\n").unwrap();
    host::run("chmod", &["755", hook.to_str().unwrap()]);
    let hooks = format!("hooks: [{{name: one, phase: pre-domain, command: [{}]}}]", hook.display());
    host.configure(&format!("metrics: {{textfile: {textfile}}}\n{hooks}"), "{\"*\": {day_of_week: daily}}");
    let units = units::installed();
    let groups = system_call_groups();
    hold(&units["kvmbackup.service"], &groups, &traced(&host, "backup"));
    hold(&units["kvmbackup.service"], &groups, &traced(&host, "-q recover"));
    hold(&units["kvmbackup-metrics.service"], &groups, &traced(&host, "-q metrics"));
    hold(&units["kvmbackup-verify.service"], &groups, &traced(&host, "-q verify --all --older-than 6d --for 8h"));
    hold(&units["kvmbackup-exporter.service"], &groups, &traced_exporter(&host));
    assert_eq!(host.archives("a").len(), 1);
}

/// Panics if one of these calls is forbidden by a unit.
#[track_caller]
fn hold(unit: &str, groups: &BTreeMap<String, Vec<String>>, calls: &BTreeSet<(String, String)>) {
    // The first line says whether calls are allowed or forbidden, and later ones add or take away: systemd.exec(5).
    let filters = settings(unit, "SystemCallFilter");
    let forbids = filters[0].starts_with('~');
    let mut named = BTreeSet::new();
    for filter in filters {
        let (is_denied, names) = filter.strip_prefix('~').map_or((false, filter), |rest| (true, rest));
        for call in names.split_whitespace().flat_map(|name| members(groups, name)) {
            if is_denied == forbids {
                named.insert(call)
            } else {
                named.remove(call)
            };
        }
    }
    let families = settings(unit, "RestrictAddressFamilies").join(" ");
    let is = |key| settings(unit, key) == ["true"];
    for (name, line) in calls {
        assert_ne!(named.contains(name.as_str()), forbids, "{line}");
        let family = line.strip_prefix("socket(").and_then(|rest| rest.split(',').next());
        assert!(family.is_none_or(|family| families.split_whitespace().any(|other| other == family)), "{line}");
        assert!(!is("MemoryDenyWriteExecute") || !line.contains("PROT_WRITE|PROT_EXEC"), "{line}");
        assert!(!is("RestrictNamespaces") || !line.contains("CLONE_NEW"), "{line}");
    }
    assert!(calls.len() > 100, "{}", calls.len());
}

#[test]
fn programs_work_without_what_their_units_take_away() {
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
}

/// How much a unit that is taken over may do, as systemd judges it: from 0 to 10.
#[test]
fn exposure_of_each_unit_is_what_the_manual_says() {
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
        let row = manual.lines().find_map(|line| line.strip_prefix(&format!("| `{name}` | "))).unwrap();
        let told: f64 = row.split(' ').next().unwrap().parse().unwrap();
        // Versions of systemd differ a little in what they weigh.
        assert!((judged - told).abs() < 0.3, "{name}: {judged}, and the manual says {told}");
    }
}

#[test]
fn a_real_systemd_runs_timer_and_service_and_calls_somebody_after_a_failure() {
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
        // A run's programs may be others': sendmail needs its own group.
        "sendmail: NoNewPrivs:\t0",
        "sendmail: effective user 1",
        "sendmail: umask 0077",
    ] {
        assert!(lines.contains(line), "{line}\n{said}\n{errors}");
    }
    assert!(said.contains(&format!("journal: kvmbackup: 1 of 1 good on {name}\n")), "a mailed run: {said}");
    for subject in &subjects {
        assert!(lines.contains(subject.as_str()), "{subject}\n{said}\n{errors}");
    }
}

#[test]
fn the_package_passes_lintian_and_leaves_nothing_behind() {
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
        "kvmbackup-exporter.service: disabled",
        "manual: /usr/share/man/man1/kvmbackup-restore.1.gz",
        // Without a configuration.
        "check: 2",
    ] {
        assert!(lines.contains(line), "{line}\n{said}\n{errors}");
    }
    assert!(!said.contains("left: "), "{said}");
    assert!(said.contains("said: kvmbackup: /var/lib/kvmbackup stays"), "{said}\n{errors}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every system call of the program and of what it starts, each with one line of how it was made.
fn traced(host: &Host, words: &str) -> BTreeSet<(String, String)> {
    host.finish(&mut tracing(host, words)).ends(0);
    calls(host)
}

/// The same of an exporter, from its start over an answer to its end.
fn traced_exporter(host: &Host) -> BTreeSet<(String, String)> {
    let socket = host.path("exporter.sock");
    let mut strace = tracing(host, &format!("-q exporter --listen unix:{}", socket.display())).spawn().unwrap();
    let mut client = loop {
        match UnixStream::connect(&socket) {
            Ok(client) => break client,
            Err(_) => assert!(strace.try_wait().unwrap().is_none(), "the exporter has ended"),
        }
        std::thread::yield_now();
    };
    client.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // strace writes when it has much to write.
    let process = loop {
        let trace = std::fs::read(host.path("trace")).unwrap();
        if let Some((process, _)) = String::from_utf8_lossy(&trace).split_once(' ') {
            break process.to_owned();
        }
        std::thread::yield_now();
    };
    host::run("kill", &["-TERM", &process]);
    strace.wait().unwrap();
    calls(host)
}

fn tracing(host: &Host, words: &str) -> Command {
    let mut command = host.command("strace");
    command.args(["-f", "-qq", "-s", "0", "-e", "signal=none", "-o"]).arg(host.path("trace")).arg(PROGRAM);
    command.args(words.split_whitespace()).arg("--config").arg(host.path("config.yml")).args(["--host", host::NAME]);
    command
}

fn calls(host: &Host) -> BTreeSet<(String, String)> {
    let text = String::from_utf8_lossy(&std::fs::read(host.path("trace")).unwrap()).into_owned();
    // `PID  name(arguments) = result`, or `PID  <... name resumed>…` for the rest of one.
    let calls = text.lines().filter_map(|line| line.split_once(' ').map(|(_, call)| call.trim().to_owned()));
    let named = calls.filter_map(|call| {
        let name = call.split_once('(')?.0.to_owned();
        (name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')).then_some((name, call))
    });
    named.collect()
}

/// systemd's groups of system calls, each with what it lists: calls, and other groups.
fn system_call_groups() -> BTreeMap<String, Vec<String>> {
    let text = host::run("systemd-analyze", &["--no-pager", "syscall-filter"]);
    let mut groups = BTreeMap::<String, Vec<String>>::new();
    let mut group = String::new();
    for line in text.lines() {
        if line.starts_with('@') {
            group = line.trim().to_owned();
        } else if line.starts_with(' ') && !line.trim_start().starts_with('#') {
            groups.entry(group.clone()).or_default().push(line.trim().to_owned());
        }
    }
    groups
}

fn members<'a>(groups: &'a BTreeMap<String, Vec<String>>, name: &'a str) -> Vec<&'a str> {
    match groups.get(name) {
        Some(listed) => listed.iter().flat_map(|name| members(groups, name)).collect(),
        None => vec![name],
    }
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
