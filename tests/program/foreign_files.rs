//! In place of a file of the state directory, the configuration, or a file named in it: a FIFO, a link to /dev/zero, or
//! 300 MB. Each is named with a hint; nothing waits for it or reads all of it into memory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::host::{self, Host, Run, run};

/// Limits of a command's address space in bytes, and of its time in seconds.
const MEMORY: &str = "--as=1073741824";
const TIME: &str = "60";

/// Objects in place of the file, created by a shell that gets the path.
const KINDS: [&str; 3] =
    ["mkfifo -m 600 \"$1\"", "ln -s /dev/zero \"$1\"", "truncate -s 300M \"$1\" && chmod 600 \"$1\""];

/// A file, the command that reads it, and the permitted exit codes.
const FILES: [(&str, &str, &[i32]); 11] = [
    ("config.yml", "check --offline", &[2]),
    ("config.yml", "backup", &[2]),
    ("state/ledger.json", "backup --force", &[7]),
    ("state/ledger.json", "metrics --stdout", &[7]),
    ("state/survey.json", "metrics --stdout", &[7]),
    ("state/journal/x.json", "recover", &[7]),
    ("state/verified.json", "verify --all", &[1, 5]),
    ("state/last-report.json", "report", &[1]),
    ("state/mail-spool/20200101T000000000000Z-x.eml", "backup --force", &[7]),
    ("mail/report.txt.hbs", "report --send", &[0]),
    ("state/lock", "backup --force", &[1, 7]),
];

fn make(script: &str, path: &Path) {
    let _ = fs::remove_file(path);
    run("sh", &["-c", script, "sh", path.to_str().unwrap()]);
}

fn bounded(host: &Host, words: &str) -> Run {
    let mut command = host.command("timeout");
    command.args([TIME, "prlimit", MEMORY, env!("CARGO_BIN_EXE_kvmbackup")]).args(words.split_whitespace());
    host.finish(command.arg("--config").arg(host.path("config.yml")).args(["--host", host::NAME]))
}

/// A host that mails by a program that accepts everything, and has made a backup.
fn host(mail: &str) -> Host {
    let host = Host::new(&["web"]);
    for folder in ["mail", "state", "state/mail-spool"] {
        fs::create_dir(host.path(folder)).unwrap();
        fs::set_permissions(host.path(folder), fs::Permissions::from_mode(0o700)).unwrap();
    }
    let templates = host.path("mail").display().to_string();
    host.configure(
        &format!("mail: {{to: root@example.org, when: always, {mail}, templates: {templates}}}"),
        "{\"*\": {day_of_week: daily}}",
    );
    host
}

#[test]
fn object_in_place_of_any_own_file_is_named_and_neither_blocks_nor_fills_memory() {
    let host = host("sendmail: /bin/true");
    host.run("backup").ends(0);
    for (file, words, codes) in FILES {
        let path = host.path(file);
        let good = fs::read(&path).ok();
        // The contents of a lock are replaced without being read.
        for script in KINDS.iter().filter(|script| file != "state/lock" || !script.contains("truncate")) {
            make(script, &path);
            let ran = bounded(&host, words);
            let told = format!("{}{}", ran.out, ran.err);
            assert!(codes.contains(&ran.code), "{file}: {script}: {words}: {ran:?}");
            assert!(told.contains(path.to_str().unwrap()), "{file}: {script}: {words}: {told}");
            let reason = [
                "a FIFO",
                "a symbolic link",
                "a character device",
                "larger than",
                "not a regular file",
                "is not trusted",
            ];
            assert!(reason.iter().any(|reason| told.contains(reason)), "{file}: {script}: {words}: {told}");
            let has_hint =
                told.contains("hint: ") || told.contains("; valid: ") || told.contains("using the built-in one");
            assert!(has_hint, "{file}: {script}: {words}: {told}");
        }
        fs::remove_file(&path).unwrap();
        if let Some(good) = good {
            fs::write(&path, good).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
    host.run("backup --force").ends(0);
}

#[test]
fn password_that_is_no_regular_file_is_not_waited_for() {
    let host = host("from: root@example.org, smtp: {host: 127.0.0.1, port: 1, username: u, password_file: /PATH}");
    let path = host.path("password");
    let config = fs::read_to_string(host.path("config.yml")).unwrap();
    host.write_config(&config.replace("/PATH", path.to_str().unwrap()));
    for script in KINDS {
        make(script, &path);
        let ran = bounded(&host, "check");
        let told = format!("{}{}", ran.out, ran.err);
        assert!(ran.code != 124 && told.contains(path.to_str().unwrap()), "{script}: {ran:?}");
    }
}

#[test]
fn configuration_may_come_from_a_pipe() {
    let host = Host::new(&["web"]);
    let config = host.path("config.yml");
    let program = env!("CARGO_BIN_EXE_kvmbackup");
    let script = format!("{program} check --offline --host {} --config", host::NAME);
    // A process substitution, a slow pipe, and a redirection.
    for how in [
        format!("{script} <(sleep 0.2; cat {0})", config.display()),
        format!("(sleep 0.2; cat {0}) | {script} /dev/stdin", config.display()),
        format!("{script} /dev/stdin < {}", config.display()),
    ] {
        let output = Command::new("timeout").args([TIME, "bash", "-c", &how]).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{how}: {output:?}");
    }
}
