//! Destinations of output: a real journal, terminals without colours, a full device, a reader that has exited.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::host::{self, Host};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kvmbackup");
const ALL: &str = "{\"*\": {day_of_week: daily}}";

/// A host whose runs are always mailed, and the mail is accepted.
fn mailed() -> Host {
    let host = Host::new(&["a"]);
    let sendmail = host.script("sendmail", "exec cat >/dev/null");
    host.configure(&format!("mail: {{to: root, when: always, sendmail: {}}}", sendmail.display()), ALL);
    host
}

fn words(host: &Host, words: &str) -> Vec<String> {
    let config = host.path("config.yml").display().to_string();
    words.split(' ').chain(["--host", host::NAME, "-c", &config]).map(str::to_owned).collect()
}

/// The journal after a command, each line with its priority; and the exit code.
fn in_journal(host: &Host, stdout: &str, command: &str) -> (Vec<(u8, String)>, i32) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/journal/in-journal");
    let mut tried = host.command(script.to_str().unwrap());
    let run = host.finish(tried.arg(stdout).arg(PROGRAM).args(words(host, command))).ends(0);
    let mut lines: Vec<_> = run.out.lines().collect();
    let code = lines.pop().unwrap().parse().unwrap();
    let entry = |line: &str| {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        // A message that is not plain text is a list of bytes.
        let message = entry["MESSAGE"].as_str().unwrap_or_else(|| panic!("{entry}")).to_owned();
        assert!(!message.starts_with('<') && !message.contains('\u{1b}'), "{message:?}");
        (entry["PRIORITY"].as_str().unwrap().parse().unwrap(), message)
    };
    (lines.into_iter().map(entry).collect(), code)
}

/// The priority of the line that contains these words.
#[track_caller]
fn priority(entries: &[(u8, String)], words: &str) -> u8 {
    let found = entries.iter().find(|(_, message)| message.contains(words));
    found.unwrap_or_else(|| panic!("no line with {words:?} in {entries:#?}")).0
}

#[test]
fn journal_gets_the_report_of_a_mailed_run_with_priorities() {
    let host = mailed();
    let (entries, code) = in_journal(&host, "-", "-vv backup");
    assert_eq!((code, priority(&entries, "1 of 1 good"), priority(&entries, "RESULT  DOMAIN")), (0, 6, 6));
    assert!(entries.iter().any(|(priority, _)| *priority == 7), "no debug messages: {entries:#?}");
    assert!(entries.iter().all(|(priority, _)| *priority > 4), "{entries:#?}");
    let (entries, _) = in_journal(&host, "-", "--quiet backup --force");
    assert_eq!(entries, []);

    fs::remove_file(host.image("a")).unwrap();
    let (entries, code) = in_journal(&host, "-", "backup --force");
    assert_eq!(code, 1);
    for words in ["1 of 1 FAILED", "FAILED  a", "No such file"] {
        assert_eq!(priority(&entries, words), 3, "{words}");
    }
    assert_eq!(priority(&entries, "RESULT"), 6);
    // Errors of the command itself.
    host.write_config("desk: {}\n");
    let (entries, code) = in_journal(&host, "-", "backup");
    assert_eq!((code, priority(&entries, "backupdir")), (2, 3));
}

#[test]
fn report_goes_only_to_the_stream_that_is_the_journal() {
    let host = mailed();
    let file = host.path("out");
    let (entries, code) = in_journal(&host, file.to_str().unwrap(), "backup");
    assert_eq!((code, priority(&entries, "1 of 1 good")), (0, 6));
    assert_eq!(fs::read_to_string(&file).unwrap(), "", "cron would mail a report that was already mailed");
    // JSON is for programs.
    let (entries, _) = in_journal(&host, file.to_str().unwrap(), "backup --force --json");
    assert!(entries.is_empty() && fs::read_to_string(&file).unwrap().starts_with('{'), "{entries:?}");
    // The variable is inherited from a service, but these pipes do not lead to its journal.
    let mut command = host.command(PROGRAM);
    let run = host.finish(command.args(words(&host, "backup --force")).env("JOURNAL_STREAM", "9:4451425")).ends(0);
    assert_eq!((run.out.as_str(), run.err.as_str()), ("", ""));
}

#[test]
fn colours_are_only_for_terminals_that_support_them() {
    let host = Host::new(&["a"]);
    host.run("backup").ends(0);
    fs::remove_file(host.image("a")).unwrap();
    let on_terminal = |variables: &[(&str, &str)], words_of: &str| {
        let line: Vec<_> = [PROGRAM.to_owned()].into_iter().chain(words(&host, words_of)).collect();
        let mut command = host.command("script");
        command.args(["-qec", &line.join(" "), "/dev/null"]).env_remove("NO_COLOR").envs(variables.iter().copied());
        host.finish(&mut command).out
    };
    for words in ["report", "-vv backup --force", "--help"] {
        assert!(on_terminal(&[("TERM", "xterm")], words).contains("\u{1b}["), "{words}");
        for plain in [("TERM", "dumb"), ("NO_COLOR", "1")] {
            let out = on_terminal(&[("TERM", "xterm"), plain], words);
            // `m` ends a colour; progress bars move the cursor with other sequences.
            let has_colour = out
                .split("\u{1b}[")
                .skip(1)
                .any(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m'));
            assert!(!has_colour, "{words} with {plain:?}: {out:?}");
        }
    }
    assert!(
        !on_terminal(&[("TERM", "dumb")], "backup --force").contains('\u{1b}'),
        "a dumb terminal cannot move the cursor"
    );
    let piped = host.run("-vvv backup --force").ends(1);
    assert!(!piped.out.contains('\u{1b}') && !piped.err.contains('\u{1b}') && piped.err.contains("DEBUG"), "{piped:?}");
}

#[test]
fn lost_output_is_an_error_but_a_closed_pipe_is_not() {
    let host = Host::new(&["a"]);
    host.run("backup").ends(0);
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let commands = [
        "backup --force",
        "backup --dry-run",
        "check",
        "completions bash",
        "completions zsh",
        "help",
        "help backup",
        "hooks list",
        "list",
        "list --json",
        "metrics --stdout",
        "prune --dry-run",
        "report",
        "report --format json",
        "verify",
        "--version",
        "list --help",
    ];
    for command in commands {
        let of_help =
            command.starts_with("help") || command.starts_with("--version") || command.starts_with("completions");
        let arguments = match of_help {
            true => command.split(' ').map(str::to_owned).collect(),
            false => words(&host, command),
        };
        let run = |stdout: Stdio, stderr: Stdio| {
            let mut program = host.command(PROGRAM);
            program.args(&arguments).stdout(stdout).stderr(stderr).spawn().unwrap().wait_with_output().unwrap()
        };
        let lost = run(full(), Stdio::piped());
        let told = String::from_utf8(lost.stderr).unwrap();
        assert_eq!(lost.status.code(), Some(7), "{command}: {told}");
        assert!(told.contains("cannot write to standard output: No space left"), "{command}: {told}");
        assert_eq!(run(full(), full()).status.code(), Some(7), "{command}");
        // The reading end is closed before the program starts.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let piped = run(writer.into(), Stdio::piped());
        let told = String::from_utf8(piped.stderr).unwrap();
        assert_eq!((piped.status.code(), told.as_str()), (Some(0), ""), "{command}");
    }
    // Errors have no other destination, and must not cause a panic.
    let mut program = Command::new(PROGRAM);
    program.args(words(&host, "restore nosuch --to /nowhere")).stdout(Stdio::null());
    assert_eq!(program.stderr(full()).status().unwrap().code(), host.run("restore nosuch --to /nowhere").code.into());
}
