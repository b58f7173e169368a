//! Users who could change what root reads and runs: the configuration, and the programs and files for mail. Each fault
//! is real, and the command of its hint repairs it.

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::host::{self, Host, Run};
use crate::mailbox::Server;

const NOBODY: u32 = 65534;
const ALL: &str = "{\"*\": {day_of_week: daily}}";

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn add(path: &Path, bits: u32) {
    mode(path, fs::metadata(path).unwrap().permissions().mode() | bits);
}

/// Runs the program with the configuration at this path.
fn with(host: &Host, config: &Path, words: &str) -> Run {
    let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
    host.finish(command.args(words.split(' ')).args(["--host", host::NAME, "--config"]).arg(config))
}

/// Runs the command of the first hint.
#[track_caller]
fn repair(told: &str) {
    let hint = told.lines().find_map(|line| line.trim().strip_prefix("hint: ")).unwrap_or_else(|| panic!("{told}"));
    let at = hint.rfind(": ").map_or(0, |at| at + 2);
    let command = [" chmod ", " chown "].iter().find_map(|word| hint.rfind(word)).map_or(at, |at| at + 1);
    host::run("sh", &["-c", &hint[command..]]);
}

type Fault = (&'static str, fn(&Path));

/// Ways in which another user could change a file, and the message for each.
const FAULTS: [Fault; 5] = [
    ("writable by its group or by others", |path| add(path, 0o022)),
    ("writable by its group or by others", |path| add(path, 0o020)),
    ("owned by another user", |path| chown(path, Some(NOBODY), None).unwrap()),
    ("the directory is writable by its group or by others", |path| mode(path.parent().unwrap(), 0o777)),
    ("the directory is owned by another user", |path| chown(path.parent().unwrap(), Some(NOBODY), None).unwrap()),
];

/// Moves the configuration into its own directory.
fn own_folder(host: &Host, name: &str) -> PathBuf {
    let path = host.path("etc").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::copy(host.path("config.yml"), &path).unwrap();
    path
}

#[test]
fn configuration_that_another_user_could_change_is_refused_by_every_command() {
    let host = Host::new(&["a"]);
    let config = own_folder(&host, "it's.yml");
    for (at, (what, make)) in FAULTS.iter().enumerate() {
        make(&config);
        let words = ["backup", "backup --dry-run", "list", "verify", "prune", "metrics --stdout", "report"];
        for words in words.iter().skip(at).step_by(FAULTS.len()).chain(&["check", "check --offline"]) {
            let run = with(&host, &config, words).ends(2);
            assert!(run.err.contains("is not trusted") && run.err.contains(what), "{words}: {run:?}");
            assert!(run.out.is_empty() && !host.path("state").exists(), "{words}: {run:?}");
        }
        repair(&with(&host, &config, "check").err);
        with(&host, &config, "check --offline").ends(0);
    }
    let link = host.path("link.yml");
    symlink(&config, &link).unwrap();
    with(&host, &link, "check --offline").ends(0);
    lchown(&link, Some(NOBODY), None).unwrap();
    repair(&with(&host, &link, "backup").ends(2).err);
    with(&host, &link, "backup").ends(0);
}

#[test]
fn configuration_that_the_caller_passes_open_is_read() {
    let host = Host::new(&["a"]);
    let text = fs::read(host.path("config.yml")).unwrap();
    // The caller's shell has opened it, so it does not matter who may change it.
    mode(&host.path("config.yml"), 0o666);
    let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
    command.args(["check", "--offline", "--host", host::NAME, "-c", "/dev/stdin"]);
    host.finish(command.stdin(fs::File::open(host.path("config.yml")).unwrap())).ends(0);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let mut child = piped.unwrap();
    child.stdin.take().unwrap().write_all(&text).unwrap();
    assert!(child.wait().unwrap().success());

    let mut shell = host.command("bash");
    let script = "\"$0\" check --offline --host \"$1\" -c <(cat \"$2\")";
    shell.args(["-c", script, env!("CARGO_BIN_EXE_kvmbackup"), host::NAME]).arg(host.path("config.yml"));
    host.finish(&mut shell).ends(0);

    let fifo = host.path("fifo");
    host::run("mkfifo", &["-m", "600", fifo.to_str().unwrap()]);
    let writer = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::write(fifo, text)
    });
    with(&host, &fifo, "check --offline").ends(0);
    writer.join().unwrap().unwrap();
    // Nothing writes to it: it is refused before it is opened.
    mode(&fifo, 0o622);
    let mut limited = host.command("timeout");
    limited.args(["20", env!("CARGO_BIN_EXE_kvmbackup"), "check", "--offline", "--host", host::NAME, "-c"]);
    host.finish(limited.arg(&fifo)).ends(2);
}

#[test]
fn ordinary_users_can_use_their_own_files_and_not_those_of_another() {
    let host = Host::new(&[]);
    host.configure("", ALL);
    let config = own_folder(&host, "config.yml");
    // On the way to the temporary directory, root's directories let everyone pass.
    mode(&host.path(""), 0o711);
    let check = || {
        let mut command = host.command("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", env!("CARGO_BIN_EXE_kvmbackup")]);
        host.finish(command.args(["check", "--offline", "--host", host::NAME, "-c"]).arg(&config))
    };
    for (owner, code) in [(NOBODY, 0), (0, 0), (NOBODY - 1, 2)] {
        chown(&config, Some(owner), None).unwrap();
        check().ends(code);
    }
    chown(&config, Some(NOBODY), None).unwrap();
    chown(config.parent().unwrap(), Some(NOBODY), None).unwrap();
    check().ends(0);
}

#[test]
fn mail_transport_that_another_user_could_change_is_not_used() {
    let host = Host::new(&["a"]);
    let server = Server::start("accept");
    let folder = host.path("etc");
    fs::create_dir(&folder).unwrap();
    let file = |name: &str, text: &[u8], bits: u32| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        mode(&path, bits);
        path
    };
    let sendmail = file("sendmail", b"#!/bin/sh\nexec cat >/dev/null\n", 0o755);
    let password = file("password", b"s3cret pass\n", 0o600);
    let authority = file("ca.pem", &fs::read(server.ca()).unwrap(), 0o644);
    let smtp = |password: &str| {
        let (port, authority) = (server.port, authority.display());
        let smtp = format!("{{host: localhost, port: {port}, ca_file: {authority}, username: backup, {password}}}");
        format!("mail: {{to: root@example.org, from: a@example.org, when: always, smtp: {smtp}}}")
    };
    let by_file = smtp(&format!("password_file: {}", password.display()));
    let ways = [
        (&sendmail, format!("mail: {{to: root, when: always, sendmail: {}}}", sendmail.display())),
        (&password, by_file.clone()),
        (&authority, by_file),
        (&password, smtp("password_credential: password")),
    ];
    let run = |words: &str| {
        let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
        command.env("CREDENTIALS_DIRECTORY", &folder).args(words.split(' '));
        host.finish(command.args(["--host", host::NAME, "-c"]).arg(host.path("config.yml")))
    };
    let ledger = || fs::read_to_string(host.path("state/ledger.json")).unwrap();
    for (path, keys) in ways {
        host.configure(&keys, ALL);
        run("backup --force").ends(0);
        let (before, mails) = (host.archives("a"), server.mails().len());
        for (what, make) in FAULTS {
            make(path);
            for words in ["check", "check --offline"] {
                let told = run(words).ends(1).tells(&["PROBLEM", "mail", "is not trusted", what]);
                let lines: Vec<_> = told.out.lines().filter(|line| line.contains("is not trusted")).collect();
                assert_eq!(lines.len(), lines.iter().collect::<HashSet<_>>().len(), "printed twice: {lines:?}");
            }
            let refused = run("backup --force").ends(2);
            assert!(refused.err.contains("is not trusted") && refused.err.contains(what), "{refused:?}");
            assert!(ledger().contains("\"config_ok\": false"), "not in the metrics: {}", ledger());
            // Restoring does not need mail.
            run("list").ends(0);
            repair(&run("check --offline").out);
        }
        assert_eq!((host.archives("a"), server.mails().len()), (before, mails));
        // The mails of the refused runs waited for a working transport.
        run("backup --force").ends(0);
        let waiting = fs::read_dir(host.path("state/mail-spool")).map_or(0, Iterator::count);
        assert_eq!(waiting, 0);
    }
}

#[test]
fn state_directory_that_others_can_change_selects_no_program_and_no_file() {
    let host = Host::new(&["a"]);
    let ran = host.path("ran");
    let trap = host.script("trap", &format!("touch {}", ran.display()));
    host.configure(&format!("mail: {{to: root, when: always, sendmail: {}}}", trap.display()), ALL);
    host.run("backup").ends(0);
    assert!(ran.exists(), "the ledger knows this mail transport");
    fs::remove_file(&ran).unwrap();
    // No `mail` section can be read from this, but the state directory can.
    host.configure("mail: {too: root}", ALL);
    let before = fs::read(host.path("state/ledger.json")).unwrap();
    mode(&host.path("state"), 0o777);
    let run = host.run("backup").ends(2);
    assert!(run.err.contains("the state directory cannot be trusted"), "{run:?}");
    assert!(!ran.exists() && fs::read(host.path("state/ledger.json")).unwrap() == before);
    mode(&host.path("state"), 0o700);
    host.run("backup").ends(2);
    assert!(ran.exists());
}

#[test]
fn object_that_is_no_regular_file_is_named_and_no_hint_changes_a_device() {
    let host = Host::new(&["a"]);
    for (device, name) in [("/dev/zero", "zero.yml"), ("/dev/full", "full.yml")] {
        let config = host.path(name);
        symlink(device, &config).unwrap();
        let told = with(&host, &config, "backup").ends(2).err;
        assert!(told.contains(&format!("{device}: it is neither a file nor a pipe")), "{told}");
        assert!(told.contains(&format!("ls -ld '{device}'")) && !told.contains("chmod"), "{told}");
        repair(&told);
    }
}
