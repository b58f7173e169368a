//! Owns: the standard streams: what they are connected to, how text is written to them, and whether that failed. Must not: know
//! what is printed.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use crate::model::{Failure, RunResult};
use crate::report;

/// The first error of writing to standard output.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// A priority, as systemd reads it at the start of a line: sd-daemon(3).
pub(super) const ERROR: &str = "<3>";
pub(super) const WARNING: &str = "<4>";
pub(super) const INFO: &str = "<6>";
pub(super) const DEBUG: &str = "<7>";

/// Whether a stream is a terminal that can move its cursor.
pub(super) fn is_screen(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether a stream is a terminal that shows colours, and whose user wants them: <https://no-color.org>.
pub(super) fn wants_colour(stream: &impl IsTerminal) -> bool {
    is_screen(stream) && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Columns for text on a stream: those of the terminal, at least 80 and at most [`report::WIDTH`].
pub(super) fn width(stream: impl AsFd) -> usize {
    let columns = rustix::termios::tcgetwinsize(stream).map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { report::WIDTH } else { columns.clamp(80, report::WIDTH) }
}

/// Whether a stream is the journal. Processes inherit the variable even if their streams are something else: systemd.exec(5).
pub(super) fn is_journal(stream: impl AsFd) -> bool {
    let Ok(found) = rustix::fs::fstat(stream) else { return false };
    std::env::var("JOURNAL_STREAM").is_ok_and(|journal| journal == format!("{}:{}", found.st_dev, found.st_ino))
}

/// Prints a whole text. A closed pipe (`| head`) is no error; any other error changes the result.
pub(super) fn print(text: &str) {
    keep(io::stdout().write_all(text.as_bytes()));
}

/// Writes lines to standard error, each with its priority if that is the journal. An error cannot be reported anywhere.
pub(super) fn complain(priority: &str, text: &str) {
    let priority = if is_journal(io::stderr()) { priority } else { "" };
    let lines: String = text.lines().map(|line| format!("{priority}{}\n", line.replace('\r', " "))).collect();
    let _ = io::stderr().write_all(lines.as_bytes());
}

/// Writes lines that begin with their priorities to standard error, which is the journal.
pub(super) fn print_to_journal(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// The result of a command that prints no more: not good if its output was lost.
pub(super) fn finish(result: RunResult) -> RunResult {
    keep(io::stdout().flush());
    let Some(error) = FAILED.get() else { return result };
    super::print_failure(&Failure { message: format!("cannot write to standard output: {error}"), hint: None });
    result.max(RunResult::Untidy)
}

fn keep(written: io::Result<()>) {
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        let _ = FAILED.set(error);
    }
}

/// Closes the standard streams. A thread that a hung target blocks in the kernel outlives the program with all of its files open,
/// and a reader of the output (cron, a pipe) would wait for that thread.
pub(super) fn close() {
    if let Ok(nothing) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&nothing);
        let _ = rustix::stdio::dup2_stderr(&nothing);
    }
}
