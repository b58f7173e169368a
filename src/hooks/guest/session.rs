//! Owns: a session that holds in a guest, until it is released. Must not: watch it; the guest does that itself, because
//! its agent starts nothing while file systems are frozen.

use std::time::{Duration, Instant};

use super::process::Process;
use crate::hooks::{Deadlines, Ended, Error, GRACE, Held, Ran, Released};

/// A session that holds.
pub(super) struct Session<'a> {
    process: Option<Process<'a>>,
    ready: Instant,
    deadlines: Deadlines,
}

impl<'a> Session<'a> {
    pub(super) fn new(process: Process<'a>, deadlines: Deadlines) -> Session<'a> {
        Session { process: Some(process), ready: Instant::now(), deadlines }
    }

    fn end(&mut self) -> Option<Released> {
        let process = self.process.take()?;
        let told = process.release();
        let held = self.ready.elapsed();
        let mut kept = matches!(told, Ok(true));
        let ran = told.and_then(|_| self.finish(process)).unwrap_or_else(|error| {
            // It releases its lock at its deadline in the guest. Whether it held until now is unknown, so it counts as not held.
            kept = false;
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            Ran { ended: Ended::TimedOut, output: format!("{error}{cause}\n"), time: self.ready.elapsed() }
        });
        Some(Released { held, kept, ran })
    }

    fn finish(&self, mut process: Process<'_>) -> Result<Ran, Error> {
        // The wrapper notices the end of the session a moment later.
        let deadline = Instant::now() + self.deadlines.release.min(Duration::from_secs(24 * 3600)) + GRACE;
        let forced = process.wait(deadline)?;
        process.finish(forced)
    }
}

impl Held for Session<'_> {
    fn release(mut self: Box<Self>) -> Released {
        let nothing = Ran { ended: Ended::Cancelled, output: String::new(), time: Duration::ZERO };
        self.end().unwrap_or(Released { held: Duration::ZERO, kept: false, ran: nothing })
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.end();
    }
}
