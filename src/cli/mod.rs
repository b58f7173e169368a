//! Runs the commands and prints their results; no other module prints. Must not decide how a backup or a restore is
//! done.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the one module that prints")]

pub mod args;
mod backup;
mod check;
mod checkpoints;
mod copy;
mod exporter;
mod hooks;
mod keys;
mod list;
mod logging;
mod maintain;
mod man;
mod metrics;
mod output;
mod progress;
mod protect;
mod prune;
mod recover;
mod report;
mod repository;
mod restore;
mod transfer;
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
use crate::model::{Failure, RunReport, RunResult};
use crate::report::table::printable;
use crate::sys::program;

/// Runs the program and exits with the code of the result.
pub fn main() -> ! {
    let args = args::parse(std::env::args_os()).unwrap_or_else(|error| not_run(&error));
    leave_no_core();
    program::prepare();
    logging::start(args.global.verbose, args.global.quiet);
    let Args { global, command } = args;
    let config = (global.config != Path::new(args::CONFIG)).then_some(global.config.as_path());
    command::name_configuration(config, global.host.as_deref());
    let result = run(&global, command).unwrap_or_else(|error| {
        print_error(&error);
        error.result()
    });
    leave(output::finish(result))
}

/// Exits without running a command: prints the requested help, or the error.
fn not_run(error: &clap::Error) -> ! {
    if error.use_stderr() {
        error.exit();
    }
    let text = error.render();
    print(&if output::wants_colour(&stdout()) { text.ansi().to_string() } else { text.to_string() });
    leave(output::finish(RunResult::Good))
}

/// Disables core dumps, because memory contains passwords and secrets of domain XML. exec(2) resets the first setting,
/// but programs that we start inherit the limit: `qemu-nbd` has disk blocks in memory. A hook may raise it.
fn leave_no_core() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), ..getrlimit(Resource::Core) });
}

/// Exits, regardless of running threads.
///
/// exit(3) is not used because it unloads libvirt's libraries. Other threads may still run in them, and would crash the
/// process. The standard streams are closed first, see [`output::close`].
fn leave(result: RunResult) -> ! {
    output::close();
    signal_hook::low_level::exit(result.exit_code().into())
}

fn run(global: &Global, command: Command) -> Result<RunResult, app::Error> {
    match command {
        Command::Backup(words) => backup::run(global, &words),
        Command::Checkpoints(words) => checkpoints::run(global, &words),
        Command::Check(words) => check::run(global, &words),
        Command::Export(words) => transfer::export(global, &words),
        Command::Import(words) => transfer::import(global, &words),
        Command::Exporter(words) => exporter::run(global, &words),
        Command::Hooks(words) => hooks::run(global, &words),
        Command::Metrics(words) => metrics::run(global, &words),
        Command::Recover(words) => recover::run(global, &words),
        Command::Maintain(words) => maintain::run(global, &words),
        Command::Copy(words) => copy::run(global, &words),
        Command::Report(words) => report::run(global, &words),
        Command::Repository(words) => repository::run(global, &words),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut args::definition(), "kvmbackup", &mut script);
            print(&String::from_utf8_lossy(&script));
            Ok(RunResult::Good)
        }
        Command::Man { folder } => man::run(&folder),
        Command::List(words) => list::run(global, &words),
        Command::Restore(words) => restore::run(global, &words),
        Command::Verify(words) => verify::run(global, &words),
        Command::Protect(words) => protect::run(global, &words, true),
        Command::Unprotect(words) => protect::run(global, &words, false),
        Command::Prune(words) => prune::run(global, &words),
    }
}

/// The settings that the command line selects.
fn settings(global: &Global) -> Result<Settings, app::Error> {
    app::settings(&global.config, global.host.as_deref())
}

fn print_error(error: &app::Error) {
    print_failure(&error.failure());
}

/// The result after an update of ledger and metrics. A failure is printed, and changes only a good result.
fn watched(told: Result<(), app::Error>, result: RunResult) -> RunResult {
    match told {
        Ok(()) => result,
        Err(error) => {
            print_error(&error);
            result.max(RunResult::Untidy)
        }
    }
}

/// The result after mailing.
fn mailed(told: app::mail::MailResult, result: RunResult) -> RunResult {
    for message in told.complaints {
        print_failure(&Failure { message, hint: None });
    }
    told.errors.into_iter().fold(result, |result, error| watched(Err(error), result))
}

/// Prints an error. No other function does.
fn print_failure(failure: &Failure) {
    // A configuration error has one line per mistake.
    let lines = failure.message.lines().map(printable).collect::<Vec<_>>();
    output::complain(output::ERROR, &format!("kvmbackup: {}", lines.join("\n")));
    if let Some(hint) = hint("", failure) {
        output::complain(output::ERROR, &hint);
    }
}

/// The hint line below a failure.
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

fn when(at: Option<At>) -> When {
    match at {
        None => When::Newest,
        Some(At::Id(id)) => When::Id(id),
        Some(At::Time(time)) => When::NoLaterThan(time),
    }
}

/// Prints a report for a terminal, the journal or a file.
fn print_report(report: &RunReport) {
    print(&match output::is_journal(stdout()) {
        true => crate::report::journal(report),
        false => crate::report::text(report, output::wants_colour(&stdout()), output::width(stdout())),
    });
}
