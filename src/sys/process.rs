//! Runs a process group: start, input and output, deadline, end. Must not know its purpose.

#[cfg(test)]
mod tests;

use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::output::BoundedOutput;
use super::program::{self, Stream};
use super::signals::Cancel;

/// Time between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);
/// Interval of checks for the end of the process. The end of its pipe is no indication, because a grandchild can keep it open.
const SLICE: Duration = Duration::from_millis(20);
/// Limit for bytes read after the end of the process; more than a pipe can hold.
const MAX_REST: usize = 1 << 20;
/// Position of the start time in `/proc/PID/stat`, counted after the name of the program.
const STARTED: usize = 19;
/// Ticks per second in files of `/proc`, on every architecture of Debian.
const TICKS: f64 = 100.0;
/// A year: longer than any reasonable deadline, and short enough to avoid an overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Where standard output goes.
pub enum Answer {
    /// To the pipe of standard error, so that both stay in order.
    Joined,
    /// To a separate pipe, from which at most this many bytes are read and kept.
    Kept(usize),
    /// To this file.
    File(OwnedFd),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code.
    Exit(i32),
    /// Another process sent this signal.
    Signal(i32),
    /// We ended it at its deadline.
    TimedOut,
    /// We ended it because the run was cancelled.
    Cancelled,
}

/// A process that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// The reason for its end.
    pub ended: Ended,
    /// The newest part of standard output and standard error, in order, see [`BoundedOutput`].
    pub output: String,
    /// Duration from start to end.
    pub time: Duration,
}

/// A process that leads its own group. Dropping it ends the group.
pub struct Process {
    child: Child,
    /// `None` at the end of the pipe. No code may wait for that, because grandchildren can keep the pipe open.
    pipe: Option<PipeReader>,
    output: BoundedOutput,
    /// Separate standard output, and the limit for what is kept of it.
    answer: (Option<PipeReader>, usize),
    answered: Vec<u8>,
    started: Instant,
    ended: Option<(ExitStatus, Instant)>,
}

/// Whether the process with this ID may be the program of this name that was running at this time. `false` if there is no
/// such process, or if it has another name and started later, so that it only got the same ID. Sends no signal.
pub fn may_have_written(pid: u32, name: &str, time: DateTime<Utc>) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return Path::new("/proc").join(pid.to_string()).exists();
    };
    // proc_pid_stat(5): the name is in parentheses and may contain any character.
    let Some((command, rest)) = status.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')) else { return true };
    let ticks = rest.split_whitespace().nth(STARTED).and_then(|ticks| ticks.parse::<u64>().ok());
    let uptime = std::fs::read_to_string("/proc/uptime").ok();
    let uptime = uptime.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    let (Some(ticks), Some(uptime)) = (ticks, uptime) else { return true };
    let age = uptime - ticks as f64 / TICKS;
    let started = Utc::now() - TimeDelta::milliseconds((age * 1000.0) as i64);
    command.contains(name) || started <= time
}

/// The time after this duration from now.
pub fn after(wait: Duration) -> Instant {
    Instant::now() + wait.min(LONGEST)
}

impl Process {
    /// Starts a program as [`program::start`] does; `output` takes its standard error.
    pub fn start(mut command: Command, input: Stream, answer: Answer, output: BoundedOutput) -> io::Result<Process> {
        let (pipe, end) = io::pipe()?;
        let (answer, stdout) = match answer {
            Answer::Joined => ((None, 0), Stream::File(end.try_clone()?.into())),
            Answer::File(file) => ((None, 0), Stream::File(file)),
            Answer::Kept(limit) => {
                let (answer, end) = io::pipe()?;
                ((Some(answer), limit), Stream::File(end.into()))
            }
        };
        // Ctrl-C in a terminal must reach only this process, which ends the group itself.
        command.process_group(0);
        let child = program::start(command, [input, stdout, Stream::File(end.into())])?;
        let (started, answered) = (Instant::now(), Vec::new());
        Ok(Process { child, pipe: Some(pipe), output, answer, answered, started, ended: None })
    }

    /// Runs it to its end. Ends its group after `timeout` or when `cancel` is set.
    pub fn run(mut self, timeout: Duration, cancel: Option<&Cancel>) -> io::Result<Ran> {
        let forced = self.follow(after(timeout), cancel, |_| false)?;
        if forced.is_some() {
            self.stop();
        }
        Ok(self.finish(forced))
    }

    /// Waits until it has ended or is `done`. Otherwise returns why it must be ended.
    pub fn follow(
        &mut self,
        deadline: Instant,
        cancel: Option<&Cancel>,
        done: impl Fn(&Process) -> bool,
    ) -> io::Result<Option<Ended>> {
        loop {
            self.step(deadline, None)?;
            if self.ended.is_some() || done(self) {
                return Ok(None);
            }
            if cancel.is_some_and(|cancel| cancel.signal().is_some()) {
                return Ok(Some(Ended::Cancelled));
            }
            if Instant::now() >= deadline {
                return Ok(Some(Ended::TimedOut));
            }
        }
    }

    /// Like [`Process::run`], but the deadline restarts whenever it reads or writes. Also returns its kept standard output.
    pub fn run_while_active(mut self, stall: Duration) -> io::Result<(Ran, Vec<u8>)> {
        let mut active = (0, Instant::now());
        let forced = loop {
            let forced = self.follow(after(stall / 16), None, |_| false)?;
            let transferred = self.transferred();
            if transferred != active.0 {
                active = (transferred, Instant::now());
            }
            if forced.is_none() || active.1.elapsed() >= stall {
                break forced;
            }
        };
        if forced.is_some() {
            self.stop();
        }
        self.read_rest();
        let answer = std::mem::take(&mut self.answered);
        Ok((self.finish(forced), answer))
    }

    /// Number of bytes that it has read and written: proc(5), `/proc/pid/io`.
    fn transferred(&self) -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap_or_default();
        io.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// When it ended, if it has.
    pub fn ended(&self) -> Option<Instant> {
        self.ended.map(|(_, at)| at)
    }

    /// Whether it has written the awaited line.
    pub fn has_awaited(&self) -> bool {
        self.output.has_awaited()
    }

    /// Its input ([`Stream::Pipe`]). Dropping it closes the pipe.
    pub fn take_input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Writes its input in a thread, because a program that does not read would block us. The thread ends with the last reader.
    pub fn write_input(&mut self, bytes: Vec<u8>) {
        let input = self.take_input();
        thread::spawn(move || input.map(|mut input| input.write_all(&bytes)));
    }

    /// Waits a moment for an event, at most until `deadline`. Returns true if the other end of `wake` was closed.
    pub fn step(&mut self, deadline: Instant, wake: Option<&PipeReader>) -> io::Result<bool> {
        let wait = deadline.saturating_duration_since(Instant::now()).min(SLICE);
        let [output, answer, woken] = poll([self.pipe.as_ref(), self.answer.0.as_ref(), wake], wait)?;
        self.read(output, answer);
        if self.ended.is_none() {
            let status = self.child.try_wait()?;
            self.ended = status.map(|status| (status, Instant::now()));
        }
        Ok(woken)
    }

    /// Ends the rest of the group: SIGTERM, and SIGKILL after [`GRACE`].
    pub fn stop(&mut self) {
        self.stop_by(Signal::TERM, GRACE);
    }

    /// The same with another signal than SIGTERM, and another time until SIGKILL.
    pub fn stop_by(&mut self, signal: Signal, grace: Duration) {
        drop(self.take_input());
        self.signal(signal);
        self.wait_for_group(grace);
        if self.group_lives() {
            tracing::debug!(process = self.child.id(), "still running {} s after {signal:?}", grace.as_secs());
            self.signal(Signal::KILL);
            // A process that hangs in the kernel, for example on a dead NFS server, survives SIGKILL; then we stop waiting.
            self.wait_for_leader();
        }
    }

    /// Whether the group still has a process. The kernel does not reuse the id of a group that has one.
    pub fn group_lives(&self) -> bool {
        self.ended.is_none() || rustix::process::test_kill_process_group(self.group()) != Err(Errno::SRCH)
    }

    /// The result. `forced` is the reason if we ended it.
    pub fn finish(mut self, forced: Option<Ended>) -> Ran {
        self.read_rest();
        let by_itself = match self.ended {
            Some((status, _)) => match (status.code(), status.signal()) {
                (Some(code), _) => Ended::Exit(code),
                (None, signal) => Ended::Signal(signal.unwrap_or_default()),
            },
            // It was killed because waiting for it failed.
            None => Ended::Signal(Signal::KILL.as_raw()),
        };
        let time = self.ended().unwrap_or_else(Instant::now).saturating_duration_since(self.started);
        Ran { ended: forced.unwrap_or(by_itself), output: self.output.take_text(), time }
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn signal(&self, signal: Signal) {
        // The group may have ended in the meantime.
        if self.group_lives() {
            let _ = rustix::process::kill_process_group(self.group(), signal);
        }
    }

    fn wait_for_group(&mut self, grace: Duration) {
        let deadline = Instant::now() + grace;
        while self.group_lives() && Instant::now() < deadline && self.step(deadline, None).is_ok() {}
    }

    fn wait_for_leader(&mut self) {
        let deadline = Instant::now() + GRACE;
        while self.ended.is_none() && Instant::now() < deadline && self.step(deadline, None).is_ok() {}
    }

    /// Reads once from each pipe that is ready, and returns the number of bytes.
    fn read(&mut self, output: bool, answer: bool) -> usize {
        let mut buffer = [0; 16 << 10];
        let output = if output { read(&mut self.pipe, &mut buffer) } else { 0 };
        self.output.push(&buffer[..output]);
        let answer = if answer { read(&mut self.answer.0, &mut buffer) } else { 0 };
        self.answered.extend_from_slice(&buffer[..answer]);
        if self.answered.len() > self.answer.1 {
            self.answered.truncate(self.answer.1);
            self.answer.0 = None;
        }
        output + answer
    }

    fn read_rest(&mut self) {
        let mut rest = 0;
        while rest < MAX_REST
            && let Ok([output, answer]) = poll([self.pipe.as_ref(), self.answer.0.as_ref()], Duration::ZERO)
            && (output || answer)
        {
            rest += self.read(output, answer);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.stop();
        }
    }
}

/// Reads once from a pipe that is ready. Closes the pipe at its end.
fn read(pipe: &mut Option<PipeReader>, buffer: &mut [u8]) -> usize {
    match pipe.as_mut().map_or(Ok(0), |pipe| pipe.read(buffer)) {
        Ok(count) if count > 0 => return count,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Ok(_) | Err(_) => *pipe = None,
    }
    0
}

/// Waits until a pipe has data or is at its end, and returns which ones.
fn poll<const N: usize>(pipes: [Option<&PipeReader>; N], wait: Duration) -> io::Result<[bool; N]> {
    let open = pipes.iter().flatten();
    let mut events: Vec<_> = open.map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)).collect();
    let timeout = Timespec { tv_sec: wait.as_secs().min(3600) as i64, tv_nsec: wait.subsec_nanos().into() };
    match rustix::event::poll(&mut events, Some(&timeout)) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok([false; N]),
        Err(error) => return Err(error.into()),
    }
    let mut happened = events.iter().map(|event| !event.revents().is_empty());
    Ok(pipes.map(|pipe| pipe.is_some() && happened.next().unwrap_or(false)))
}
