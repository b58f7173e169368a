//! Owns: running hooks as processes of this host: commands, and sessions that hold until they are released. Must not: handle a
//! process itself; `sys::process` does.

#[cfg(test)]
mod tests;

use std::io::{self, PipeReader, PipeWriter, Write};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Call, Deadlines, Ended, Error, Held, MAX_OUTPUT, READY, Ran, Released, Runner, Started, trust};
use crate::sys::output::Output;
use crate::sys::process::{Answer, Process, after};
use crate::sys::program::{self, Stream};
use crate::sys::signals::Cancel;

/// Hooks as processes of this host.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

impl<'a> Runner<'a> for Host {
    fn run(&self, call: &Call, timeout: Duration, cancel: Option<&Cancel>) -> Result<Ran, Error> {
        start(call, Stream::Null)?.run(timeout, cancel).map_err(lost(call))
    }

    fn hold(&self, call: &Call, deadlines: Deadlines, cancel: Option<&Cancel>) -> Result<Started<'a>, Error> {
        let mut process = start(call, Stream::Pipe)?;
        let forced = process.follow(after(deadlines.ready), cancel, Process::has_awaited).map_err(lost(call))?;
        // One that was ready and has ended since is lost, not late: its release reports that.
        if process.has_awaited() && forced.is_none() {
            return Ok(Started::Ready(Box::new(Session::watch(process, deadlines)?)));
        }
        end_group(&mut process);
        Ok(Started::NotReady(process.finish(forced)))
    }
}

/// Starts a hook in `/`, with nothing but its own environment. The file is checked first ([`trust::check_file`]).
fn start(call: &Call, input: Stream) -> Result<Process, Error> {
    let (program, arguments) = call.argv.split_first().ok_or(Error::Empty)?;
    trust::check_file(Path::new(program))?;
    let mut command = program::command(program);
    command.args(arguments).env_clear().envs(&call.env).current_dir("/");
    let output = Output::new(program, MAX_OUTPUT).awaiting(READY);
    Process::start(command, input, Answer::Joined, output)
        .map_err(|source| Error::Start { program: program.clone(), source })
}

fn lost(call: &Call) -> impl FnOnce(io::Error) -> Error {
    let program = call.argv.first().cloned().unwrap_or_default();
    |source| Error::Wait { program, source }
}

/// Ends what a session leaves behind: any process of its group may be the one that holds the lock.
fn end_group(process: &mut Process) {
    if process.group_lives() {
        process.stop();
    }
}

/// A session that holds, and the thread that watches it: the thread reads its output, and releases it at its deadline even if the
/// run hangs.
struct Session {
    /// Nothing is ever written: closing it wakes the thread.
    asks: Option<PipeWriter>,
    watch: Option<JoinHandle<Released>>,
}

impl Session {
    fn watch(process: Process, deadlines: Deadlines) -> Result<Session, Error> {
        let program = "the thread that watches a session";
        let failed = |source| Error::Start { program: program.to_owned(), source };
        let (wake, asks) = io::pipe().map_err(failed)?;
        let ready = Instant::now();
        let watch = move || hold(process, &wake, ready, deadlines);
        let watch = thread::Builder::new().name("hook".to_owned()).spawn(watch).map_err(failed)?;
        Ok(Session { asks: Some(asks), watch: Some(watch) })
    }

    fn end(&mut self) -> Option<Released> {
        drop(self.asks.take());
        self.watch.take().and_then(|watch| watch.join().ok())
    }
}

impl Held for Session {
    fn release(mut self: Box<Self>) -> Released {
        // The thread does not panic; if it did, the process was ended with it.
        self.end().unwrap_or(Released {
            held: Duration::ZERO,
            kept: false,
            ran: Ran { ended: Ended::Cancelled, output: String::new(), time: Duration::ZERO },
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

/// The life of a session from READY on.
fn hold(mut process: Process, wake: &PipeReader, ready: Instant, deadlines: Deadlines) -> Released {
    let asked = watch(&mut process, wake, after(deadlines.hold));
    let held = process.ended().unwrap_or_else(Instant::now).saturating_duration_since(ready);
    let alive = process.ended().is_none();
    // A line, and the end of its input.
    let told = process.take_input().is_some_and(|mut input| input.write_all(b"RELEASE\n").is_ok());
    let kept = told && alive && asked;
    let forced = match process.follow(after(deadlines.release), None, |_| false) {
        Ok(forced) => forced,
        Err(error) => {
            tracing::warn!("{error}");
            None
        }
    };
    end_group(&mut process);
    Released { held, kept, ran: process.finish(forced) }
}

/// Waits until the session has ended, its deadline has passed or its release is asked for; true for the last.
fn watch(process: &mut Process, wake: &PipeReader, until: Instant) -> bool {
    while process.ended().is_none() && Instant::now() < until {
        match process.step(until, Some(wake)) {
            Ok(false) => {}
            Ok(true) => return true,
            Err(error) => {
                tracing::warn!("{error}");
                return false;
            }
        }
    }
    false
}
