//! Compares the system calls of the programs with the filters of their units.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use super::{PROGRAM, is_missing};
use crate::host::{self, Host};
use crate::repository;
use crate::units::{self, settings};

/// systemd cannot be run here. The forbidden calls are read from the units and compared with the calls of the programs,
/// with guests off: a live guest adds only what libvirt's library does over the same socket.
#[test]
fn no_program_makes_a_system_call_that_its_unit_forbids() {
    if is_missing("strace") || is_missing("systemd-analyze") {
        return;
    }
    let host = Host::new(&["a"]);
    let textfile = host.path("metrics.prom").display().to_string();
    let hook = host.script("hook", "echo hooked");
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

    let host = repository::host(&["a"], "{\"*\": {day_of_week: daily}}");
    host.run("repository init").ends(0);
    host.run("backup").ends(0);
    hold(&units["kvmbackup-maintain.service"], &groups, &traced(&host, "-q maintain"));
    repository::configure_copy(&host, "{\"*\": {day_of_week: daily}}");
    hold(&units["kvmbackup-copy.service"], &groups, &traced(&host, "-q copy --init"));
}

/// Panics if one of these calls is forbidden by a unit.
#[track_caller]
fn hold(unit: &str, groups: &BTreeMap<String, Vec<String>>, calls: &BTreeSet<(String, String)>) {
    // The first line says whether its calls are allowed or forbidden, and later ones add or remove calls:
    // systemd.exec(5).
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

/// Every system call of the program and its children, each with one line of the trace.
fn traced(host: &Host, words: &str) -> BTreeSet<(String, String)> {
    host.finish(&mut tracing(host, words)).ends(0);
    calls(host)
}

/// The same for an exporter, from its start over an answer to its end.
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
    // strace buffers its output.
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

/// systemd's groups of system calls, each with its contents: calls, and other groups.
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
