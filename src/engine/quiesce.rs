//! Owns: the time in which a guest's file systems are frozen. Must not: do anything in it but what its caller hands in.
//!
//! A deadline does not cancel a freeze: the agent may still be at it when libvirt has given up, and freeze the guest
//! later with nobody to thaw it. So after every freeze that did not clearly fail, the guest is thawed until its agent
//! says that it is thawed, and the journal says "frozen" until then.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Error;
use super::journal::Record;
use crate::config::Quiesce;
use crate::hypervisor::{self, Hypervisor, Kind};
use crate::model::{DomainRef, DomainState, Failure};
use crate::sys::signals::Cancel;

/// How long thawing is retried in total before the run leaves the guest to the next run.
const THAW_DEADLINE: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(120) };
/// How long thawing is still retried after a signal: a frozen guest is worth a few attempts.
const AFTER_SIGNAL: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(10) };
/// How long a guest may stand still for its capture, which usually takes some tenths of a second.
const HOLD_DEADLINE: Duration = Duration::from_secs(30);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// The deadline for thawing a domain, shared by all attempts and by all clones.
#[derive(Debug, Clone, Default)]
pub(super) struct Thawing(Arc<Mutex<Tries>>);

#[derive(Debug, Default)]
struct Tries {
    /// The first failed attempt.
    began: Option<Instant>,
    /// When a signal was seen.
    signalled: Option<Instant>,
    cancel: Cancel,
}

impl Thawing {
    /// Listens to these signals from now on.
    pub(super) fn heed(&self, cancel: &Cancel) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).cancel = cancel.clone();
    }

    /// Called after a failed attempt; fails if it was the last one.
    fn expect_more(&self) -> Result<(), Error> {
        let mut tries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let began = *tries.began.get_or_insert_with(Instant::now);
        if tries.cancel.signal().is_some() {
            tries.signalled.get_or_insert_with(Instant::now);
        }
        let is_over = began.elapsed() >= THAW_DEADLINE
            || tries.signalled.is_some_and(|signalled| signalled.elapsed() >= AFTER_SIGNAL);
        if is_over { Err(Error::StillFrozen { seconds: began.elapsed().as_secs() }) } else { Ok(()) }
    }
}

/// What a freeze came to.
pub(super) struct Frozen {
    /// The file systems were frozen while the capture was taken.
    pub reached: bool,
    /// For how long we froze them.
    pub time: Option<Duration>,
    /// What the operator should know: why they were not frozen, or that another program had frozen them.
    pub told: Option<Failure>,
    /// The guest could not be thawed for sure.
    pub still_frozen: Option<Error>,
}

/// Freezes as far as wanted and possible, runs `capture`, and thaws whatever `capture` came to.
///
/// The journal says "frozen" from before the freeze until the guest is thawed for sure. An agent that does not even
/// answer is not asked to freeze, and then the journal says nothing: there would be nobody to thaw the guest. Nor is a
/// guest that another program has frozen, which also thaws it.
pub(super) fn around<T>(
    hypervisor: &dyn Hypervisor,
    record: &mut Record,
    wanted: Quiesce,
    timeout: Duration,
    capture: impl FnOnce() -> Result<T, Error>,
) -> (Result<T, Error>, Frozen) {
    let mut frozen = Frozen { reached: false, time: None, told: None, still_frozen: None };
    if wanted == Quiesce::Never {
        return (capture(), frozen);
    }
    let domain = record.entry().domain.clone();
    match hypervisor.is_frozen(&domain) {
        Ok(false) => {}
        Ok(true) => return frozen_by_another(hypervisor, &domain, wanted, frozen, capture),
        Err(refused) => return unfrozen(wanted, refused, frozen, capture),
    }
    if let Err(error) = record.update(|entry| entry.frozen = true) {
        return (Err(error), frozen);
    }
    let thaw = Thaw { hypervisor, domain: &domain, thawing: record.thawing(), armed: true };
    let began = Instant::now();
    let asked = hypervisor.freeze(&domain, timeout);
    if let Err(refused) = asked {
        let thawed = match refused.kind() {
            Kind::NoAgent => thaw.not_needed(),
            Kind::Refused => thaw.finish(Enough::Accepted),
            _ => thaw.finish(Enough::Thawed),
        };
        frozen.still_frozen = thawed.and_then(|()| record.update(|entry| entry.frozen = false)).err();
        return unfrozen(wanted, refused, frozen, capture);
    }
    let captured = held(hypervisor, &domain, capture);
    let lasted = hypervisor.is_frozen(&domain);
    let thawed = thaw.finish(Enough::Thawed);
    frozen.still_frozen = thawed.and_then(|()| record.update(|entry| entry.frozen = false)).err();
    match lost(&domain, lasted) {
        None => {
            frozen.reached = true;
            frozen.time = Some(began.elapsed());
        }
        Some(lost) if wanted == Quiesce::Require => {
            return (captured.and(Err(Error::Quiesce { source: lost })), frozen);
        }
        Some(lost) => frozen.told = Some(only_crash_consistent(lost)),
    }
    (captured, frozen)
}

/// Takes the capture of a guest that is frozen already, and leaves it so.
fn frozen_by_another<T>(
    hypervisor: &dyn Hypervisor,
    domain: &DomainRef,
    wanted: Quiesce,
    mut frozen: Frozen,
    capture: impl FnOnce() -> Result<T, Error>,
) -> (Result<T, Error>, Frozen) {
    let captured = capture();
    let lost = lost(domain, hypervisor.is_frozen(domain));
    frozen.reached = lost.is_none();
    if wanted == Quiesce::Require
        && let Some(source) = lost
    {
        return (captured.and(Err(Error::Quiesce { source })), frozen);
    }
    let worth = lost.map(|lost| format!("; {}", only_crash_consistent(lost).message)).unwrap_or_default();
    frozen.told = Some(Failure {
        message: format!(
            "another program had already frozen the guest's file systems; this backup neither froze nor thawed them{worth}"
        ),
        hint: Some("If no other program needs them frozen: virsh domfsthaw DOMAIN".into()),
    });
    (captured, frozen)
}

/// Why a freeze did not last until the capture was taken, if it did not.
fn lost(domain: &DomainRef, lasted: Result<bool, hypervisor::Error>) -> Option<hypervisor::Error> {
    match lasted {
        Ok(true) => None,
        Ok(false) => {
            let answer = "the guest was thawed before the capture was complete".to_owned();
            Some(hypervisor::Error::Agent { domain: domain.name.clone(), answer })
        }
        Err(error) => Some(error),
    }
}

fn only_crash_consistent(why: hypervisor::Error) -> Failure {
    let Failure { message, hint } = Error::from(why).failure();
    Failure { message: format!("only crash-consistent: {message}"), hint }
}

/// Runs `capture`, and thaws the guest when that takes too long: a hung file system under an overlay must not make the
/// guest stand still.
fn held<T>(
    hypervisor: &dyn Hypervisor,
    domain: &DomainRef,
    capture: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    let (done, waits) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if waits.recv_timeout(HOLD_DEADLINE) == Err(RecvTimeoutError::Timeout) {
                tracing::error!(
                    domain = domain.name,
                    "the capture takes too long; thawing the guest before it is complete"
                );
                if let Err(error) = hypervisor.thaw(domain) {
                    tracing::error!(domain = domain.name, "{}", super::error::chain(&error));
                }
            }
        });
        let captured = capture();
        drop(done);
        captured
    })
}

/// Goes on without a freeze, where that is allowed.
fn unfrozen<T>(
    wanted: Quiesce,
    refused: hypervisor::Error,
    mut frozen: Frozen,
    capture: impl FnOnce() -> Result<T, Error>,
) -> (Result<T, Error>, Frozen) {
    if wanted == Quiesce::Require {
        return (Err(Error::Quiesce { source: refused }), frozen);
    }
    frozen.told = Some(only_crash_consistent(refused));
    (capture(), frozen)
}

/// Thaws when it is dropped, so that a panic leaves no guest frozen.
struct Thaw<'a> {
    hypervisor: &'a dyn Hypervisor,
    domain: &'a DomainRef,
    thawing: Thawing,
    armed: bool,
}

/// When a guest counts as thawed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Enough {
    /// The agent accepted the command. It had refused the freeze, so no freeze is in progress.
    Accepted,
    /// The agent reports it.
    Thawed,
}

impl Thaw<'_> {
    fn finish(mut self, enough: Enough) -> Result<(), Error> {
        self.armed = false;
        thaw(self.hypervisor, self.domain, &self.thawing, enough)
    }

    fn not_needed(mut self) -> Result<(), Error> {
        self.armed = false;
        Ok(())
    }
}

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = thaw(self.hypervisor, self.domain, &self.thawing, Enough::Thawed)
        {
            tracing::error!(domain = self.domain.name, "{}", super::error::chain(&error));
        }
    }
}

/// Thaws the guest of an entry until its agent itself says "thawed". A guest that is off has nothing frozen.
pub(super) fn until_thawed(hypervisor: &dyn Hypervisor, record: &Record) -> Result<(), Error> {
    thaw(hypervisor, &record.entry().domain, &record.thawing(), Enough::Thawed)
}

fn thaw(hypervisor: &dyn Hypervisor, domain: &DomainRef, thawing: &Thawing, enough: Enough) -> Result<(), Error> {
    loop {
        match hypervisor.thaw(domain) {
            Ok(()) if enough == Enough::Accepted => return Ok(()),
            Ok(()) => {}
            Err(error) => tracing::debug!(domain = domain.name, "thaw: {}", super::error::chain(&error)),
        }
        match hypervisor.is_frozen(domain) {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(error) if error.kind() == Kind::NoDomain => return Ok(()),
            Err(_) if matches!(hypervisor.state(domain), Ok(DomainState::Off)) => return Ok(()),
            Err(error) => tracing::debug!(domain = domain.name, "{}", super::error::chain(&error)),
        }
        thawing.expect_more()?;
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests;
