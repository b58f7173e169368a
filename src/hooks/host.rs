//! Owns: running hooks as processes of this host, to their deadlines. Must not: handle a process itself; `process` does.

#[cfg(test)]
mod tests;

use std::io::{self, PipeReader, PipeWriter};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::process::Process;
use super::{Call, Deadlines, Ended, Error, Held, Ran, Released, Runner, Started};
use crate::sys::program::Stream;
use crate::sys::signals::Cancel;

/// A year: longer than anybody waits, and no deadline can overflow.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Hooks as processes of this host.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

impl<'a> Runner<'a> for Host {
    fn run(&self, call: &Call, timeout: Duration, cancel: Option<&Cancel>) -> Result<Ran, Error> {
        let mut process = Process::start(call, Stream::Null)?;
        let forced = follow(&mut process, after(timeout), cancel, |_| false)?;
        if forced.is_some() {
            process.stop();
        }
        Ok(process.finish(forced))
    }

    fn hold(&self, call: &Call, deadlines: Deadlines, cancel: Option<&Cancel>) -> Result<Started<'a>, Error> {
        let mut process = Process::start(call, Stream::Pipe)?;
        let forced = follow(&mut process, after(deadlines.ready), cancel, Process::is_ready)?;
        // One that was ready and has ended since is lost, not late: whoever releases it is told.
        if process.is_ready() && forced.is_none() {
            return Ok(Started::Ready(Box::new(Session::watch(process, deadlines)?)));
        }
        end_group(&mut process);
        Ok(Started::NotReady(process.finish(forced)))
    }
}

/// Waits until the process has ended or is `done`; else says why it is to be ended.
fn follow(
    process: &mut Process,
    deadline: Instant,
    cancel: Option<&Cancel>,
    done: impl Fn(&Process) -> bool,
) -> Result<Option<Ended>, Error> {
    loop {
        process.step(deadline, None)?;
        if process.ended().is_some() || done(process) {
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

/// Ends what a session leaves behind: any process of its group may be the one that holds the lock.
fn end_group(process: &mut Process) {
    if process.group_lives() {
        process.stop();
    }
}

fn after(wait: Duration) -> Instant {
    Instant::now() + wait.min(NEVER)
}

/// A session that holds, and the thread that watches over it: it reads its output, and lets it go when its time is up even
/// if whoever holds this hangs.
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
    let until = ready + deadlines.hold.min(NEVER);
    let asked = watch(&mut process, wake, until);
    let held = process.ended().unwrap_or_else(Instant::now).saturating_duration_since(ready);
    let alive = process.ended().is_none();
    let kept = process.let_go() && alive && asked;
    let forced = match follow(&mut process, after(deadlines.release), None, |_| false) {
        Ok(forced) => forced,
        Err(error) => {
            tracing::warn!("{error}");
            None
        }
    };
    end_group(&mut process);
    Released { held, kept, ran: process.finish(forced) }
}

/// Waits until the session has ended, its time is up or its release is asked for; true for the last.
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
