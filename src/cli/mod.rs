//! Owns: the command line, and all that is printed. Must not: decide how a backup or a restore is done.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the one module that prints")]

pub mod args;
mod backup;
mod logging;
mod progress;
mod recover;
mod report;

use std::io::{IsTerminal, Write};

use args::{Args, Command, Global};

use crate::app;
use crate::engine;

/// Runs the program on the words of its command line and returns its exit code.
pub fn main() -> u8 {
    let args = match args::parse(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    logging::start(args.global.verbose, args.global.quiet);
    let Args { global, command } = args;
    run(&global, command).unwrap_or_else(|error| {
        print_error(&error);
        error.exit_code()
    })
}

fn run(global: &Global, command: Command) -> Result<u8, app::Error> {
    match command {
        Command::Backup(words) => backup::run(global, &words),
        Command::Recover => recover::run(global),
        Command::Report(words) => report::run(global, &words),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut args::definition(), "kvmbackup", &mut std::io::stdout());
            Ok(0)
        }
        _ => Ok(2),
    }
}

/// The one place where an error is printed.
fn print_error(error: &app::Error) {
    eprintln!("kvmbackup: {}", engine::chain(error));
    if let Some(hint) = error.hint() {
        eprintln!("hint: {hint}");
    }
}

/// Whether standard output is a terminal that wants colours.
fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints a whole text. A reader that went away (`| head`) is no error of ours.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
