//! Owns: a process group of this host: its start, its input and output, its deadline, its end. Must not: know what it is for.

#[cfg(test)]
mod tests;

use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::output::Output;
use super::program::{self, Stream};
use super::signals::Cancel;

/// How long a process may take to end after SIGTERM, before SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);
/// How often the process is asked whether it has ended: nothing else reports it when a grandchild keeps the pipe open.
const SLICE: Duration = Duration::from_millis(20);
/// Bytes read after the end of the process at most: more than a pipe can hold of what the process itself wrote.
const MAX_REST: usize = 1 << 20;
/// A year: longer than any deadline that is meant, and short enough that no time overflows.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Standard output.
pub enum Answer {
    /// The pipe of standard error, so that both come in order.
    Joined,
    /// A pipe of its own, of which at most so many bytes are read and kept.
    Kept(usize),
    /// This file.
    File(OwnedFd),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exit(i32),
    /// By this signal, which was not ours.
    Signal(i32),
    /// By us, at its deadline.
    TimedOut,
    /// By us, because the run was cancelled.
    Cancelled,
}

/// A process that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// How it ended.
    pub ended: Ended,
    /// The newest part of standard output and standard error, in order, see [`Output`].
    pub output: String,
    /// From its start to its end.
    pub time: Duration,
}

/// A process that leads a group of its own. Dropping it ends the group.
pub struct Process {
    child: Child,
    /// None: the pipe is at its end. Nothing here ever waits for that, since grandchildren can keep it open.
    pipe: Option<PipeReader>,
    output: Output,
    /// Standard output, where it is kept apart, and how much of it is read.
    answer: (Option<PipeReader>, usize),
    answered: Vec<u8>,
    started: Instant,
    ended: Option<(ExitStatus, Instant)>,
}

/// The time after so long.
pub fn after(wait: Duration) -> Instant {
    Instant::now() + wait.min(LONGEST)
}

impl Process {
    /// Starts a program as [`program::start`] does; `output` takes its standard error.
    pub fn start(mut command: Command, input: Stream, answer: Answer, output: Output) -> io::Result<Process> {
        let (pipe, end) = io::pipe()?;
        let (answer, stdout) = match answer {
            Answer::Joined => ((None, 0), Stream::File(end.try_clone()?.into())),
            Answer::File(file) => ((None, 0), Stream::File(file)),
            Answer::Kept(limit) => {
                let (answer, end) = io::pipe()?;
                ((Some(answer), limit), Stream::File(end.into()))
            }
        };
        // A terminal's interrupt is for us alone; we end it in our order.
        command.process_group(0);
        let child = program::start(command, [input, stdout, Stream::File(end.into())])?;
        let (started, answered) = (Instant::now(), Vec::new());
        Ok(Process { child, pipe: Some(pipe), output, answer, answered, started, ended: None })
    }

    /// Runs it to its end. After `timeout`, or once `cancel` says so, its group is ended.
    pub fn run(mut self, timeout: Duration, cancel: Option<&Cancel>) -> io::Result<Ran> {
        let forced = self.follow(after(timeout), cancel, |_| false)?;
        if forced.is_some() {
            self.stop();
        }
        Ok(self.finish(forced))
    }

    /// Waits until it has ended or is `done`; else returns why it must be ended.
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

    /// As [`Process::run`], but its deadline starts again whenever it reads or writes. Also returns its kept answer.
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

    /// Bytes that it has read and written: proc(5), `/proc/pid/io`.
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

    /// Its input ([`Stream::Pipe`]), which ends when this is dropped.
    pub fn take_input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Writes all of its input, in a thread: a program that reads nothing would block us. The thread ends with the last reader.
    pub fn write_input(&mut self, bytes: Vec<u8>) {
        let input = self.take_input();
        thread::spawn(move || input.map(|mut input| input.write_all(&bytes)));
    }

    /// Waits a moment for something to happen, until `deadline` at most. True: `wake` was closed by its other end.
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

    /// Ends what is left of the group: SIGTERM, and SIGKILL after [`GRACE`].
    pub fn stop(&mut self) {
        drop(self.take_input());
        self.signal(Signal::TERM);
        self.wait_for_group();
        if self.group_lives() {
            tracing::debug!(process = self.child.id(), "still running {} s after SIGTERM", GRACE.as_secs());
            self.signal(Signal::KILL);
            // SIGKILL works unless it hangs in the kernel, for example on a dead NFS server: then we stop waiting.
            self.wait_for_leader();
        }
    }

    /// Whether the group still has a process.
    ///
    /// The number stays the group's as long as it has a process, so once it was seen to live it is no other's.
    pub fn group_lives(&self) -> bool {
        self.ended.is_none() || rustix::process::test_kill_process_group(self.group()) != Err(Errno::SRCH)
    }

    /// How it ended. `forced`: by us.
    pub fn finish(mut self, forced: Option<Ended>) -> Ran {
        self.read_rest();
        let by_itself = match self.ended {
            Some((status, _)) => match (status.code(), status.signal()) {
                (Some(code), _) => Ended::Exit(code),
                (None, signal) => Ended::Signal(signal.unwrap_or_default()),
            },
            // It could not be followed, and was killed.
            None => Ended::Signal(Signal::KILL.as_raw()),
        };
        let time = self.ended().unwrap_or_else(Instant::now).saturating_duration_since(self.started);
        Ran { ended: forced.unwrap_or(by_itself), output: self.output.take_text(), time }
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn signal(&self, signal: Signal) {
        // The group may be gone by now.
        if self.group_lives() {
            let _ = rustix::process::kill_process_group(self.group(), signal);
        }
    }

    fn wait_for_group(&mut self) {
        let deadline = Instant::now() + GRACE;
        while self.group_lives() && Instant::now() < deadline && self.step(deadline, None).is_ok() {}
    }

    fn wait_for_leader(&mut self) {
        let deadline = Instant::now() + GRACE;
        while self.ended.is_none() && Instant::now() < deadline && self.step(deadline, None).is_ok() {}
    }

    /// Reads once from those of its pipes that have something.
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

/// Reads once, which does not wait when there is something. At its end the pipe is closed.
fn read(pipe: &mut Option<PipeReader>, buffer: &mut [u8]) -> usize {
    match pipe.as_mut().map_or(Ok(0), |pipe| pipe.read(buffer)) {
        Ok(count) if count > 0 => return count,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Ok(_) | Err(_) => *pipe = None,
    }
    0
}

/// Waits until one of the pipes has something to read or is at its end; returns which.
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
