//! All texts that operators read, in full: each is a file in `snapshots/`, and a change is reviewed as a difference of
//! that file.
//!
//! `INSTA_UPDATE=always cargo test --test program texts::` rewrites them.

use std::fs;

use regex::Regex;

use crate::host::{Host, run};
use crate::mailbox::parse;
use crate::repository;

const PROGRAM: &str = env!("CARGO_BIN_EXE_kvmbackup");

/// Compares a text with its file, except for parts that depend on the host and the time.
#[track_caller]
fn assert_text(host: &Host, name: &str, text: &str) {
    let folder = host.path("").display().to_string();
    let system = run("uname", &["-n"]);
    let [folder, system, version] = [&folder, &system, env!("CARGO_PKG_VERSION")]
        .map(|text| format!(r"\b{}\b", regex::escape(text.trim().trim_matches('/'))));
    let mut shown = text.to_owned();
    for (what, stands) in [
        (folder.as_str(), "host"),
        (&system, "SYSTEM"),
        (&version, "VERSION"),
        (r"libvirt [0-9.]+, TEST [0-9.]+", "libvirt VERSION"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?( [+-]\d\d:\d\d| UTC)?", "TIME"),
        (r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) \d{4}-\d\d-\d\d", "DAY"),
        (r"due: \w+day\b", "due: DAY"),
        (r"\d{8}T\d{6}Z", "POINT"),
        (r"[0-9a-f]{8}-[0-9a-f-]{27}", "UUID"),
        (r"\b\d+(\.\d+)? [kMGT]?B/s", "SPEED"),
        (r"\b\d+(\.\d+)? [kMGT]?B\b", "SIZE"),
        (r"\b(\d+m )?\d+(\.\d+)? ?m?s\b", "SECONDS"),
        (r"\b\d+\.\d+\b", "RATIO"),
        (r"SECONDS  \d+  ", "SECONDS  SPEED  "),
        // If the temporary directory is its own mount, there is nothing to warn about.
        (r"(?m)^WARNING( target .* free), on the root file system\n.*$", "ok $1"),
    ] {
        shown = Regex::new(what).unwrap().replace_all(&shown, stands).into_owned();
    }
    let mut settings = insta::Settings::new();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, shown));
}

/// Widths of columns and line breaks depend on the host and the time.
fn narrow(text: &str) -> String {
    let joined = Regex::new(r"\n {4,}").unwrap().replace_all(text, " ").replace(" hint: ", "\n    hint: ");
    Regex::new(r"(\S) {2,}").unwrap().replace_all(&joined, "$1  ").into_owned()
}

/// Output for an operator who runs these commands, which `; ` separates.
fn session(host: &Host, commands: &str) -> String {
    commands.split("; ").map(|command| typed(host, command)).collect()
}

fn typed(host: &Host, command: &str) -> String {
    let ran = host.run(command);
    let mut text = format!("$ kvmbackup {command}\n{}", narrow(&ran.out));
    for line in ran.err.lines() {
        text += &format!("stderr: {line}\n");
    }
    if ran.code != 0 {
        text += &format!("exit code {}\n", ran.code);
    }
    text + "\n"
}

/// The help of a command without the common parts.
fn help(command: &str) -> String {
    let mut words: Vec<_> = command.split_whitespace().collect();
    words.push("--help");
    let text = run(PROGRAM, &words);
    let own = if command.is_empty() { &text } else { text.split("\nGlobal options:").next().unwrap() };
    let example = text.split("\nExample").nth(1).filter(|_| !command.is_empty());
    let example = example.map(|rest| format!("\nExample{}", rest.split("\nExit status:").next().unwrap()));
    format!("$ kvmbackup {}\n{own}{}\n", words.join(" "), example.unwrap_or_default())
}

/// The subcommands of a command, as its help lists them.
fn commands(above: &str) -> Vec<String> {
    let text = run(PROGRAM, &above.split_whitespace().chain(["--help"]).collect::<Vec<_>>());
    let listed = text.split("\nCommands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap_or_default();
    // A continuation line is indented further.
    let lines = listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = lines.map(|line| line.split_whitespace().next().unwrap()).filter(|name| *name != "help");
    names
        .flat_map(|name| {
            let own = format!("{above} {name}");
            let below = commands(&own);
            [own].into_iter().chain(below)
        })
        .collect()
}

#[test]
fn help_of_every_command_is_as_reviewed() {
    let all: String = [String::new()].into_iter().chain(commands("")).map(|command| help(command.trim())).collect();
    assert_text(&Host::new(&[]), "help", &all);
}

#[test]
fn output_of_commands_on_a_healthy_host_is_as_reviewed() {
    let host = Host::new(&["db1", "web-1"]);
    let commands = "check; backup --dry-run; backup; report; list; list web-1; verify; prune --dry-run; recover; check";
    let seen = session(&host, commands);
    assert_text(&host, "in_order", &seen);
}

#[test]
fn output_of_commands_on_a_host_with_problems_is_as_reviewed() {
    let host = Host::new(&["db1", "gone", "web-1"]);
    host.run("backup").ends(0);
    fs::remove_file(host.image("gone")).unwrap();
    let domains = "{gone: {day_of_week: daily}, nosuch: {day_of_week: daily}, web-1: {day_of_week: daily}}";
    host.configure("", domains);
    let commands = "check; check --offline; backup; report; list nosuch; restore nosuch --to /host; restore web-1";
    let mut seen = session(&host, commands);
    host.configure("require_mount: true\nbackupdir: /nowhere/backups\nmetrics: {textfile: /nowhere/a.prom}", domains);
    seen += &session(&host, "check; backup; list");
    host.configure("libvirt_uri: test:///nowhere/at/all.xml", domains);
    seen += &session(&host, "check; backup");
    host.write_config(
        "desk:\n  backupdir: relative\n  backupdr: /x\n  domains:\n    a: {day_of_week: [Mno], quiece: never}\n",
    );
    seen += &session(&host, "check; backup");
    host.write_config("other:\n  backupdir: /b\n  domains: {a: {day_of_week: daily}}\n");
    seen += &session(&host, "backup");
    fs::remove_file(host.path("config.yml")).unwrap();
    seen += &session(&host, "backup");
    assert_text(&host, "in_trouble", &seen);
}

#[test]
fn mails_of_maintenances_are_as_reviewed() {
    let domains = "{\"*\": {day_of_week: daily}}";
    let host = repository::host(&["db1"], domains);
    host.run("repository init").ends(0);
    let sendmail = host.script("sendmail", &format!("exec cat >{}", host.path("mail").display()));
    let mail = format!("  mail: {{to: root, when: always, sendmail: {}}}\n", sendmail.display());
    let config = fs::read_to_string(host.path("config.yml")).unwrap() + &mail;
    host.write_config(&config);
    let mailed = |code| {
        host.run("maintain").ends(code);
        let mail = parse(&fs::read(host.path("mail")).unwrap());
        format!("Subject: {}\n\n{}\n", mail.header("Subject"), narrow(mail.text()))
    };
    let good = mailed(0);
    fs::write(host.path("password"), "another").unwrap();
    assert_text(&host, "maintenance_mails", &(good + &mailed(5)));
}

#[test]
fn mails_of_runs_are_as_reviewed() {
    let host = Host::new(&["db1", "web-1"]);
    let sendmail = host.script("sendmail", &format!("exec cat >{}", host.path("mail").display()));
    host.configure(
        &format!("mail: {{to: root, when: always, sendmail: {}}}", sendmail.display()),
        "{\"*\": {day_of_week: daily}}",
    );
    let mailed = |code| {
        host.run("backup --force").ends(code);
        let mail = parse(&fs::read(host.path("mail")).unwrap());
        format!("Subject: {}\n\n{}\n", mail.header("Subject"), narrow(mail.text()))
    };
    let good = mailed(0);
    fs::remove_file(host.image("db1")).unwrap();
    assert_text(&host, "mails", &(good + &mailed(1)));
}
