//! Owns: the wish of the operator, or of the init system, that the program ends. Must not: end it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Says whether the run shall stop. Cloned into every thread; each asks between two steps and unwinds in order.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicUsize>);

impl Cancel {
    /// Set by SIGINT, SIGTERM and SIGHUP.
    pub fn on_signals() -> io::Result<Cancel> {
        let cancel = Cancel::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_usize(signal, Arc::clone(&cancel.0), signal as usize)?;
        }
        Ok(cancel)
    }

    /// The signal that asked, if one did.
    pub fn signal(&self) -> Option<i32> {
        i32::try_from(self.0.load(Ordering::Relaxed)).ok().filter(|signal| *signal != 0)
    }

    /// Asks, as if the signal had come.
    pub fn cancel(&self, signal: i32) {
        self.0.store(signal.unsigned_abs() as usize, Ordering::Relaxed);
    }
}

/// Takes the same signals, for a program that only waits for them.
#[derive(Debug)]
pub struct Waiter(Signals);

impl Waiter {
    /// From now on they do not end the process.
    pub fn new() -> io::Result<Waiter> {
        Signals::new([SIGINT, SIGTERM, SIGHUP]).map(Waiter)
    }

    /// Waits for one of them; which one it was.
    pub fn wait(mut self) -> Option<i32> {
        self.0.forever().next()
    }
}
