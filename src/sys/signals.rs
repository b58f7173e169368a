//! Receives the signals with which the operator or the init system ends the program. Must not end it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

/// Whether the run must stop. Every thread has a clone, checks it between two steps and cleans up in order.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicUsize>);

impl Cancel {
    /// Is set by SIGINT, SIGTERM and SIGHUP. From now on, a write beyond the limit of file sizes is an error instead of a
    /// signal that ends the process.
    pub fn on_signals() -> io::Result<Cancel> {
        let cancel = Cancel::default();
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_usize(signal, Arc::clone(&cancel.0), signal as usize)?;
        }
        Ok(cancel)
    }

    /// The received signal, if any.
    pub fn signal(&self) -> Option<i32> {
        i32::try_from(self.0.load(Ordering::Relaxed)).ok().filter(|signal| *signal != 0)
    }

    /// Acts as if the signal had been received.
    pub fn cancel(&self, signal: i32) {
        self.0.store(signal.unsigned_abs() as usize, Ordering::Relaxed);
    }
}

/// Receives the same signals in a program that only waits for them.
#[derive(Debug)]
pub struct Waiter(Signals);

impl Waiter {
    /// From now on the signals do not end the process.
    pub fn new() -> io::Result<Waiter> {
        Signals::new([SIGINT, SIGTERM, SIGHUP]).map(Waiter)
    }

    /// Waits for a signal and returns it.
    pub fn wait(mut self) -> Option<i32> {
        self.0.forever().next()
    }
}
