//! Owns: printing the notes of a restore, and asking the operator on a terminal. Must not: decide what needs an answer.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::args::{self, Global};
use super::super::print;
use super::{notes, places};
use crate::engine::restore::{Operator, Restored};
use crate::sys::signals::Cancel;

/// How often to check for a signal while waiting for an answer.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

pub(super) struct Terminal<'a> {
    /// The number of notes printed so far.
    pub told: usize,
    is_quiet: bool,
    accepts: bool,
    cancel: &'a Cancel,
}

impl<'a> Terminal<'a> {
    pub fn new(global: &Global, words: &args::Restore, cancel: &'a Cancel) -> Terminal<'a> {
        // `--quiet` does not hide what a definition from an archive reaches for.
        Terminal { told: 0, is_quiet: global.quiet && !words.define, accepts: words.accept_host_access, cancel }
    }

    fn asks(&self) -> io::Result<bool> {
        if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Ok(false);
        }
        let mut screen = io::stderr();
        write!(screen, "The notes list what the definition uses on this host. Define the domain? [y/N] ")?;
        screen.flush()?;
        let stdin = io::stdin();
        while poll(&mut [PollFd::new(&stdin.as_fd(), PollFlags::IN)], Some(&LOOK)).unwrap_or(0) == 0 {
            if self.cancel.signal().is_some() {
                return Ok(false);
            }
        }
        let mut answer = String::new();
        stdin.read_line(&mut answer)?;
        Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
    }
}

impl Operator for Terminal<'_> {
    fn plan(&mut self, planned: &Restored) {
        // Only a definition leads to places that the operator did not type. A dry run ends with them.
        if planned.defined.is_some() && !planned.dry_run && !self.is_quiet {
            print(&format!("will be written:\n{}", places(planned)));
        }
    }

    fn tell(&mut self, known: &[String]) {
        if !self.is_quiet {
            print(&notes(known));
        }
        self.told = known.len();
    }

    fn accepts(&mut self, _: &[String]) -> bool {
        self.accepts || self.asks().unwrap_or(false)
    }
}
