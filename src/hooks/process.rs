//! Owns: a process group of this host: its start, its output, its end. Must not: know what it is for.

#[cfg(test)]
mod tests;

use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::output::Output;
use super::{Call, Ended, Error, GRACE, Ran, trust};
use crate::sys::program::{self, Stream};

/// How often the process is asked whether it has ended: nothing else says so when a grandchild keeps the pipe open.
const SLICE: Duration = Duration::from_millis(20);
/// Bytes read after the end of the process at most: more than a pipe can hold of what the process itself wrote.
const MAX_REST: usize = 1 << 20;

/// A process that leads a group of its own. Dropping it ends the group.
pub(super) struct Process {
    program: String,
    child: Child,
    /// None: the pipe is at its end. Nothing here ever waits for that, since grandchildren can keep it open.
    pipe: Option<PipeReader>,
    output: Output,
    started: Instant,
    ended: Option<(ExitStatus, Instant)>,
}

impl Process {
    /// Starts it, in `/`, with nothing of ours but standard output and standard error, which are one pipe. The file is
    /// checked first ([`trust::check_file`]).
    pub(super) fn start(call: &Call, stdin: Stream) -> Result<Process, Error> {
        let (program, arguments) = call.argv.split_first().ok_or(Error::Empty)?;
        trust::check_file(Path::new(program))?;
        let failed = |source| Error::Start { program: program.clone(), source };
        let (pipe, end) = io::pipe().map_err(failed)?;
        let output = Stream::File(end.try_clone().map_err(failed)?.into());
        let mut command = program::command(program);
        // A terminal's interrupt is for us alone; we end it in our order.
        command.args(arguments).env_clear().envs(&call.env).current_dir("/").process_group(0);
        let child = program::start(command, [stdin, output, Stream::File(end.into())]).map_err(failed)?;
        let (output, started) = (Output::default(), Instant::now());
        Ok(Process { program: program.clone(), child, pipe: Some(pipe), output, started, ended: None })
    }

    /// When it ended, if it has.
    pub(super) fn ended(&self) -> Option<Instant> {
        self.ended.map(|(_, at)| at)
    }

    /// Whether it said READY.
    pub(super) fn is_ready(&self) -> bool {
        self.output.is_ready()
    }

    /// Waits a moment for something to happen, until `deadline` at most. True: `wake` was closed by its other end.
    pub(super) fn step(&mut self, deadline: Instant, wake: Option<&PipeReader>) -> Result<bool, Error> {
        let wait = deadline.saturating_duration_since(Instant::now()).min(SLICE);
        let (output, woken) = poll(self.pipe.as_ref(), wake, wait).map_err(|source| self.lost(source))?;
        if output {
            self.read();
        }
        if self.ended.is_none() {
            let status = self.child.try_wait().map_err(|source| self.lost(source))?;
            self.ended = status.map(|status| (status, Instant::now()));
        }
        Ok(woken)
    }

    /// Tells a session to let go, by a line and by the end of its input. False: nobody is there to hear it.
    pub(super) fn let_go(&mut self) -> bool {
        self.child.stdin.take().is_some_and(|mut stdin| stdin.write_all(b"RELEASE\n").is_ok())
    }

    /// Ends its input without a word, as the kernel does when we are killed.
    pub(super) fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Ends what is left of the group: SIGTERM, and SIGKILL after [`GRACE`].
    pub(super) fn stop(&mut self) {
        self.close_input();
        self.signal(Signal::TERM);
        self.wait_for_group();
        if self.group_lives() {
            tracing::debug!(self.program, "a hook does not end by SIGTERM");
            self.signal(Signal::KILL);
            // SIGKILL works unless it hangs in the kernel, say on a dead NFS server: then it is left to itself.
            self.wait_for_leader();
        }
    }

    /// Whether any process of the group is there.
    ///
    /// The number stays the group's as long as it has a process, so once it was seen to live it is no other's.
    pub(super) fn group_lives(&self) -> bool {
        self.ended.is_none() || rustix::process::test_kill_process_group(self.group()) != Err(Errno::SRCH)
    }

    /// What came of it. `forced`: it was ended by us.
    pub(super) fn finish(mut self, forced: Option<Ended>) -> Ran {
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
        Ran { ended: forced.unwrap_or(by_itself), output: std::mem::take(&mut self.output).into_text(), time }
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

    /// Reads once, which does not wait when there is something.
    fn read(&mut self) -> usize {
        let mut buffer = [0; 16 << 10];
        match self.pipe.as_mut().map_or(Ok(0), |pipe| pipe.read(&mut buffer)) {
            Ok(count) if count > 0 => {
                self.output.push(&buffer[..count]);
                return count;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => self.pipe = None,
        }
        0
    }

    fn read_rest(&mut self) {
        let mut rest = 0;
        while rest < MAX_REST && matches!(poll(self.pipe.as_ref(), None, Duration::ZERO), Ok((true, _))) {
            rest += self.read();
        }
    }

    fn lost(&self, source: io::Error) -> Error {
        Error::Wait { program: self.program.clone(), source }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.stop();
        }
    }
}

/// Waits until there is output, or its end, and until the other end of `wake` is closed; says which.
fn poll(output: Option<&PipeReader>, wake: Option<&PipeReader>, wait: Duration) -> io::Result<(bool, bool)> {
    let pipes: Vec<_> = [output, wake].into_iter().flatten().collect();
    let mut events: Vec<_> = pipes.iter().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)).collect();
    let timeout = Timespec { tv_sec: wait.as_secs().min(3600) as i64, tv_nsec: wait.subsec_nanos().into() };
    match rustix::event::poll(&mut events, Some(&timeout)) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok((false, false)),
        Err(error) => return Err(error.into()),
    }
    let mut happened = events.iter().map(|event| !event.revents().is_empty());
    let mut next = |pipe: Option<&PipeReader>| pipe.is_some() && happened.next().unwrap_or(false);
    Ok((next(output), next(wake)))
}
