//! Owns: running `qemu-img` with a deadline. Must not: decide what it is run for.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::Error;
use crate::sys::patience::Patience;
use crate::sys::program::{self, Stream};

/// Bytes that are read of what it complains of.
const MAX_COMPLAINT: u64 = 64 << 10;

/// What it may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// How long it may neither read nor write.
    pub stall: Duration,
    /// Bytes of its answer that are read.
    pub answer: u64,
}

/// Standard input and output of a command that is asked for something.
pub(super) fn asks() -> [Stream; 2] {
    [Stream::Null, Stream::Pipe]
}

/// What it says of an image, as JSON. Another process may have the image open.
pub(super) fn info(image: &Path, format: &str, limits: Limits) -> Result<serde_json::Value, Error> {
    let arguments = ["info", "-U", "--output=json", "-f", format, "--"].map(OsStr::new);
    serde_json::from_slice(&run(arguments, image.as_os_str(), asks(), limits)?).map_err(Error::Json)
}

/// Runs it, and kills it when it has neither read nor written anything for so long. `streams` are its standard input and output.
/// Returns what it wrote to a pipe.
pub(super) fn run<const N: usize>(
    arguments: [&OsStr; N],
    image: &OsStr,
    streams: [Stream; 2],
    limits: Limits,
) -> Result<Vec<u8>, Error> {
    let mut command = program::command("qemu-img");
    command.args(arguments).arg(image);
    let [input, output] = streams;
    let started = program::start(command, [input, output, Stream::Pipe]);
    let done = started.and_then(|child| patiently(child, limits));
    let (status, answer, complaint) = done.map_err(|error| failed(super::chain(&error)))?;
    if status.success() {
        return Ok(answer);
    }
    Err(failed(String::from_utf8_lossy(&complaint).trim().chars().take(1000).collect()))
}

/// That it failed, and why.
pub(super) fn failed(message: String) -> Error {
    Error::Program { program: "qemu-img", message }
}

fn patiently(child: Child, limits: Limits) -> io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    let process = child.id();
    let done = Patience::new(limits.stall)
        .start("qemu-img", move || output(child, limits.answer))?
        .wait(|| transferred(process));
    if done.is_err()
        && let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw)
    {
        // One that hangs in the kernel dies when its storage answers.
        let _ = kill_process(pid, Signal::KILL);
    }
    done?
}

fn output(mut child: Child, limit: u64) -> io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let complaint = thread::spawn(move || stderr.map_or(Ok(Vec::new()), |stderr| all(stderr, MAX_COMPLAINT)));
    let answer = stdout.map_or(Ok(Vec::new()), |stdout| all(stdout, limit))?;
    let status = child.wait()?;
    Ok((status, answer, complaint.join().unwrap_or(Ok(Vec::new()))?))
}

fn all(stream: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(limit).read_to_end(&mut bytes).map(|_| bytes)
}

/// Bytes that a process has read and written: proc(5), `/proc/pid/io`.
fn transferred(process: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
    io.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}
