//! Owns: the command line, and all that is printed. Must not: decide how a backup or a restore is done.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the one module that prints")]

pub mod args;
mod backup;
mod check;
mod exporter;
mod hooks;
mod list;
mod logging;
mod man;
mod metrics;
mod output;
mod progress;
mod prune;
mod recover;
mod report;
mod restore;
mod verify;

use std::io::{stderr, stdout};
use std::path::Path;

use args::{Args, At, Command, Global};
use output::print;

use crate::app;
use crate::config::Settings;
use crate::engine::points::When;
use crate::engine::{Monitor, Silent};
use crate::model::command::{self, typed};
use crate::model::{Failure, RunReport};
use crate::report::ExitCode;
use crate::report::table::printable;
use crate::sys::program;

/// Runs the program on the words of its command line, and ends with its exit code.
pub fn main() -> ! {
    let args = args::parse(std::env::args_os()).unwrap_or_else(|error| not_run(&error));
    leave_no_core();
    program::prepare();
    logging::start(args.global.verbose, args.global.quiet);
    let Args { global, command } = args;
    let config = (global.config != Path::new(args::CONFIG)).then_some(global.config.as_path());
    command::name_configuration(config, global.host.as_deref());
    let code = run(&global, command).unwrap_or_else(|error| {
        print_error(&error);
        error.exit_code()
    });
    leave(output::finish(code))
}

/// Ends the program when there is no command to run: prints the help that was asked for, or what is wrong.
fn not_run(error: &clap::Error) -> ! {
    if error.use_stderr() {
        error.exit();
    }
    let text = error.render();
    print(&if output::wants_colour(&stdout()) { text.ansi().to_string() } else { text.to_string() });
    leave(output::finish(ExitCode::Good.code()))
}

/// What is in our memory (passwords, secrets of domain XML) goes to no core, whatever takes cores on this host. What we start
/// loses the former with exec(2) and keeps the latter: `qemu-nbd` has blocks of disks in memory. A hook may raise it again.
fn leave_no_core() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), ..getrlimit(Resource::Core) });
}

/// Ends the program, whatever its threads are doing.
///
/// exit(3) is not used because it unloads libvirt's libraries while other threads may still run inside them, and such a thread
/// crashes the process. The standard streams are closed first, see [`output::close`].
fn leave(code: u8) -> ! {
    output::close();
    signal_hook::low_level::exit(code.into())
}

fn run(global: &Global, command: Command) -> Result<u8, app::Error> {
    match command {
        Command::Backup(words) => backup::run(global, &words),
        Command::Check(words) => check::run(global, &words),
        Command::Exporter(words) => exporter::run(global, &words),
        Command::Hooks(words) => hooks::run(global, &words),
        Command::Metrics(words) => metrics::run(global, &words),
        Command::Recover(words) => recover::run(global, &words),
        Command::Report(words) => report::run(global, &words),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut args::definition(), "kvmbackup", &mut script);
            print(&String::from_utf8_lossy(&script));
            Ok(0)
        }
        Command::Man { folder } => man::run(&folder),
        Command::List(words) => list::run(global, &words),
        Command::Restore(words) => restore::run(global, &words),
        Command::Verify(words) => verify::run(global, &words),
        Command::Prune(words) => prune::run(global, &words),
    }
}

/// The settings that the command line names.
fn settings(global: &Global) -> Result<Settings, app::Error> {
    app::settings(&global.config, global.host.as_deref())
}

/// Prints an error that ends a command.
fn print_error(error: &app::Error) {
    print_failure(&error.failure());
}

/// The exit code after updating ledger and metrics. A failure is printed, and changes only exit code 0.
fn watched(told: Result<(), app::Error>, code: u8) -> u8 {
    match told {
        Ok(()) => code,
        Err(error) => {
            print_error(&error);
            crate::report::untold(code)
        }
    }
}

/// The exit code after mailing, and [`app::mail::Told::settled`].
fn mailed(told: app::mail::Told, code: u8) -> (u8, bool) {
    for message in told.complaints {
        print_failure(&Failure { message, hint: None });
    }
    (told.errors.into_iter().fold(code, |code, error| watched(Err(error), code)), told.settled)
}

/// The one place where an error is printed.
fn print_failure(failure: &Failure) {
    // Each mistake in a configuration has a line.
    let lines = failure.message.lines().map(printable).collect::<Vec<_>>();
    output::complain(output::ERROR, &format!("kvmbackup: {}", lines.join("\n")));
    if let Some(hint) = hint("", failure) {
        output::complain(output::ERROR, &hint);
    }
}

/// The line below a failure that says what to do.
fn hint(indent: &str, failure: &Failure) -> Option<String> {
    failure.hint.as_deref().map(|hint| format!("{indent}hint: {}", printable(&typed(hint))))
}

/// Shows progress: bars on a terminal, otherwise nothing.
fn monitor(global: &Global, json: bool) -> Box<dyn Monitor> {
    match global.quiet || json || !output::is_screen(&stderr()) {
        true => Box::new(Silent),
        false => Box::new(progress::Bars::new()),
    }
}

/// The restore point that `--at` means.
fn when(at: Option<At>) -> When {
    match at {
        None => When::Newest,
        Some(At::Id(id)) => When::Id(id),
        Some(At::Time(time)) => When::NoLaterThan(time),
    }
}

/// Prints a report as standard output shows it best.
fn print_report(report: &RunReport) {
    print(&match output::is_journal(stdout()) {
        true => crate::report::journal(report),
        false => crate::report::text(report, output::wants_colour(&stdout()), output::width(stdout())),
    });
}
