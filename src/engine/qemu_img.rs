//! Owns: running `qemu-img` with a deadline. Must not: decide what it is run for.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use super::Error;
use crate::sys::output::Output;
use crate::sys::process::{Answer, Ended, Process};
use crate::sys::program::{self, Stream};

/// Bytes of its error message that are kept.
const MAX_MESSAGE: usize = 4096;

/// The limits of a command that answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// How long it may neither read nor write.
    pub stall: Duration,
    /// Bytes of its answer that are read.
    pub answer: usize,
}

/// What it reports of an image, as JSON. Another process may have the image open.
pub(super) fn info(image: &Path, format: &str, limits: Limits) -> Result<serde_json::Value, Error> {
    let arguments = ["info", "-U", "--output=json", "-f", format, "--"].map(OsStr::new);
    serde_json::from_slice(&ask(arguments, image.as_os_str(), limits)?).map_err(Error::Json)
}

/// Runs a command and returns what it writes to standard output.
pub(super) fn ask<const N: usize>(arguments: [&OsStr; N], image: &OsStr, limits: Limits) -> Result<Vec<u8>, Error> {
    run(arguments, image, (Stream::Null, Answer::Kept(limits.answer)), limits.stall)
}

/// Runs it, and ends it when it has neither read nor written anything for so long. Returns what it wrote to a pipe.
pub(super) fn run<const N: usize>(
    arguments: [&OsStr; N],
    image: &OsStr,
    (input, answer): (Stream, Answer),
    stall: Duration,
) -> Result<Vec<u8>, Error> {
    let mut command = program::command("qemu-img");
    command.args(arguments).arg(image);
    let started = Process::start(command, input, answer, Output::new("qemu-img", MAX_MESSAGE));
    let ran = started.and_then(|process| process.run_while_active(stall));
    let (ran, answer) = ran.map_err(|error| failed(super::chain(&error)))?;
    match ran.ended {
        Ended::Exit(0) => Ok(answer),
        Ended::TimedOut => Err(failed(format!("no response for {} s", stall.as_secs()))),
        _ => Err(failed(ran.output.trim().to_owned())),
    }
}

/// That it failed, and why.
pub(super) fn failed(message: String) -> Error {
    Error::Program { program: "qemu-img", message }
}
