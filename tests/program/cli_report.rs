//! Output of reports: standard output, terminals, `-q`, the last report.

use crate::host;
use crate::host::Host;

#[test]
fn terminal_gets_bars_and_colours_and_a_pipe_does_not() {
    let host = Host::new(&["a"]);
    let config = host.path("config.yml");
    let program = env!("CARGO_BIN_EXE_kvmbackup");
    let words = format!("{program} -c {} --host {} backup", config.display(), host::NAME);
    let on_terminal = |words: &str| {
        let mut command = host.command("script");
        host.finish(command.args(["--quiet", "--return", "--command", words, "/dev/null"]).env("TERM", "xterm"))
    };
    let shown = on_terminal(&words).ends(0);
    assert!(shown.out.contains("\x1b[32m"), "a good report is green: {:?}", shown.out);
    let (bars, _) = shown.out.split_once("kvmbackup: ").unwrap();
    assert!(bars.contains("a  ") && bars.contains('\r') && bars.contains("B/s"), "no bar was seen: {bars:?}");
    let piped = on_terminal(&format!("{words} 2>&1 | cat")).ends(0);
    assert!(!piped.out.contains('\x1b'), "{:?}", piped.out);
    let plain = on_terminal(&format!("NO_COLOR=1 {words} 2>/dev/null")).ends(0);
    assert!(!plain.out.contains("\x1b["), "{:?}", plain.out);
}

#[test]
fn quiet_prints_nothing_on_success_and_reports_problems() {
    let host = Host::new(&["a"]);
    let good = host.run("backup -q").ends(0);
    assert_eq!((good.out.as_str(), good.err.as_str()), ("", ""));
    host.run("backup -q nosuch").ends(1).tells(&["FAILED", "nosuch"]);
    std::fs::remove_file(host.image("a")).unwrap();
    let bad = host.run("--quiet").ends(1).tells(&["FAILED", "a"]);
    assert_eq!(bad.err, "");
}

#[test]
fn last_report_is_printed_again() {
    let host = Host::new(&["a"]);
    let none = host.run("report").ends(1);
    assert!(none.err.contains("no run") && none.err.contains("hint"), "{}", none.err);
    let first = host.run("backup").ends(0);
    assert_eq!(host.run("report").ends(0).out, first.out);
    let json = host.run("backup --json").ends(0);
    assert_eq!(host.run("report --format json").ends(0).out, json.out);
    let failed = host.run("backup nosuch").ends(1);
    assert_eq!(host.run("report").ends(0).out, failed.out);
}

#[test]
fn run_that_cannot_start_leaves_a_report_with_its_reason() {
    let host = Host::new(&["a"]);
    host.run("backup").ends(0);
    std::fs::rename(host.path("backups"), host.path("elsewhere")).unwrap();
    std::fs::write(host.path("backups"), "a file").unwrap();
    host.run("backup").ends(5).tells(&["FAILED on desk"]).tells(&["backups is unusable"]);
    host.run("report").ends(0).tells(&["FAILED on desk"]);
    let json = host.run("backup --json").ends(5).json();
    assert!(json["errors"][0]["message"].as_str().unwrap().contains("is unusable"));
    assert!(json["errors"][0]["hint"].is_string());
}

#[test]
fn recovery_is_reported_even_if_the_run_then_cannot_start() {
    let host = Host::new(&["a"]);
    host.run("backup").ends(0);
    std::fs::write(host.path("state/journal/0.json"), "{").unwrap();
    host.configure("backupdir: /dev/null", "{a: {day_of_week: daily}}");
    host.run("backup").ends(5).tells(&["0.json"]);
}

#[test]
fn verbose_flag_adds_output_only_on_standard_error() {
    let host = Host::new(&["a"]);
    let plain = host.run("backup").ends(0);
    let told = host.run("backup -vv").ends(0);
    assert_eq!(plain.err, "");
    assert!(told.out.starts_with("kvmbackup: 1 of 1 good"), "{}", told.out);
}
