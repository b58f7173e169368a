//! Brings a disk back from an overlay of ours to its base, whatever state the domain is in or changes to: running,
//! paused, off, gone. A backup ends with this, and recovery does the same.
//!
//! Must not touch an overlay that is not ours, commit further than to the image right below it, or remove an overlay
//! with the only copy of any data.
//!
//! A disk on its base does not prove that its overlay was committed: another program may have moved it there without
//! the guest's last writes. So the journal records before a move that it is ours ([`Settling`]). Without that record,
//! an overlay is removed only if it is empty.

use std::thread;
use std::time::{Duration, Instant};

use super::journal::{Record, Settling};
use super::{Error, marks, overlay_file};
use crate::hypervisor::{Hypervisor, Kind, OffKind, Overlay};
use crate::model::{DomainRef, Failure};

mod alone;
mod below;
mod commit;
mod definition;
mod live;
mod refusal;
mod seats;

use seats::{Seat, Seats};

/// Pause between two checks of a block job.
const PAUSE: Duration = Duration::from_millis(25);
/// The domain may change its state between two calls, so start again, at most this often.
const ATTEMPTS: usize = 3;
/// How long to wait for a call that libvirt is still executing.
const CALLS: Duration = Duration::from_secs(60);
/// How long to retry while another program keeps the domain busy. libvirt itself waits half a minute before each
/// refusal.
const CALLS_OF_OTHERS: Duration = Duration::from_secs(300);
/// How long a restart of libvirtd may take.
const RESTART: Duration = Duration::from_secs(60);
/// Pause between two attempts after such a failure.
const AGAIN: Duration = Duration::from_millis(500);

/// Commits an overlay and removes it. Safe to call again at any time, and after an interruption at any point.
pub(super) fn overlay(hypervisor: &dyn Hypervisor, record: &mut Record, overlay: &Overlay) -> Result<(), Error> {
    // A committed overlay is not used any more, so it does not matter if it was replaced.
    if settling(record, overlay) != Some(Settling::Committed) && !marks::is_made(overlay) {
        return Err(refusal::replaced(overlay, &overlay.path));
    }
    if overlay_file::is_unused(&overlay.path) {
        return overlay_file::remove(&overlay.path);
    }
    let domain = record.entry().domain.clone();
    let (began, mut attempt) = (Instant::now(), 0);
    loop {
        // The last attempt may have changed the base.
        let known = record.entry().overlays.iter().find(|known| known.path == overlay.path);
        let overlay = known.unwrap_or(overlay).clone();
        let look = || Seats::find(hypervisor, &domain, &overlay);
        let (before, settled) = match look() {
            Ok(seats) => (Some(seats.situation()), once(hypervisor, record, &overlay, &seats)),
            Err(error) => (None, Err(error)),
        };
        let Err(error) = settled else { return Ok(()) };
        if began.elapsed() < patience(&error) {
            tracing::warn!(domain = domain.name, "{}; trying again", super::chain(&error));
            thread::sleep(AGAIN);
            continue;
        }
        attempt += 1;
        if attempt >= ATTEMPTS || before == look().ok().map(|seats| seats.situation()) {
            return Err(error);
        }
        let error = super::chain(&error);
        tracing::warn!(domain = domain.name, "{error}; the domain's state changed; trying again");
    }
}

fn once(hypervisor: &dyn Hypervisor, record: &mut Record, overlay: &Overlay, seats: &Seats) -> Result<(), Error> {
    let running = seats.running();
    if running.is_none()
        && let Some(seat) = seats.covered()
    {
        if !overlay_file::is_there(&overlay.path)? {
            return Err(refusal::over_nothing(overlay, seat));
        }
        expect_at_rest(hypervisor, seats, overlay)?;
        return Err(refusal::covered(overlay, seat));
    }
    // For a disk that is already on the base, the journal says what happened.
    if settling(record, overlay) != Some(Settling::Committed)
        && seats.rival(running.or_else(|| seats.on_overlay().next())).is_none()
        && let Some(image) = below::other(hypervisor, record, overlay, seats)?
    {
        let overlay = below::put_over(record, overlay, image);
        let seats = Seats::find(hypervisor, &record.entry().domain, &overlay)?;
        return once(hypervisor, record, &overlay, &seats);
    }
    if let Some(seat) = running {
        return online(hypervisor, record, overlay, seats, seat);
    }
    if overlay_file::is_there(&overlay.path)? {
        offline(hypervisor, record, overlay, seats)
    } else {
        without_file(hypervisor, record, overlay, seats)
    }
}

/// How long to wait for such a failure to pass, so that a guest does not stay on its overlay until the next night.
fn patience(error: &Error) -> Duration {
    match error {
        Error::Hypervisor(error) if error.kind() == Kind::Busy => CALLS_OF_OTHERS,
        Error::Hypervisor(error) if error.kind() == Kind::Unreachable => RESTART,
        _ => Duration::ZERO,
    }
}

/// Waits until libvirt has finished a call of a run that was killed, because its snapshot or backup job may appear only
/// now. If a backup job already exists, no such call is pending.
pub(super) fn wait_for_calls(hypervisor: &dyn Hypervisor, domain: &DomainRef) {
    let began = Instant::now();
    // The calls that follow report errors. A domain that is off has no jobs.
    while hypervisor.state(domain).is_ok_and(|state| state.is_active())
        && matches!(hypervisor.job(domain), Ok(Some(_)))
        && !matches!(hypervisor.pull_socket(domain), Ok(Some(_)))
    {
        if began.elapsed() > CALLS {
            tracing::warn!(domain = domain.name, "a libvirt job is still running on the domain; continuing");
            return;
        }
        thread::sleep(PAUSE);
    }
}

/// A guest runs on the overlay, so QEMU commits it.
fn online(
    hypervisor: &dyn Hypervisor,
    record: &mut Record,
    overlay: &Overlay,
    seats: &Seats,
    seat: &Seat,
) -> Result<(), Error> {
    if settling(record, overlay) == Some(Settling::Committed) {
        return Err(refusal::stale(overlay, seat));
    }
    if let Some(rival) = seats.rival(Some(seat)) {
        return Err(refusal::divided(overlay, seat, rival));
    }
    live::commit(hypervisor, record, overlay, seat)?;
    finish(hypervisor, record, overlay)
}

/// No guest runs on the overlay, so `qemu-img` commits it, unless the guest was already on the base.
fn offline(hypervisor: &dyn Hypervisor, record: &mut Record, overlay: &Overlay, seats: &Seats) -> Result<(), Error> {
    let upper = seats.on_overlay().next();
    let lower = seats.rival(upper);
    expect_at_rest(hypervisor, seats, overlay)?;
    match (settling(record, overlay), lower) {
        (Some(Settling::Committed), _) | (Some(Settling::Committing), Some(_)) => {
            note(record, overlay, Some(Settling::Committed));
        }
        (_, Some(lower)) => match upper {
            _ if !overlay_file::holds_data(&overlay.path)? => {}
            Some(upper) => return Err(refusal::divided(overlay, upper, lower)),
            None => return Err(refusal::abandoned(overlay, lower)),
        },
        // The domain may run on another host.
        (_, None) if seats.own.is_none() && upper.is_none() => {
            if overlay_file::holds_data(&overlay.path)? {
                return Err(refusal::domain_gone(overlay));
            }
        }
        (_, None) => {
            let held = overlay_file::held(&overlay.path, &overlay.base)?;
            if !held.bitmaps.is_empty() {
                return Err(refusal::bitmaps(overlay, &held.bitmaps, upper));
            }
            expect_no_snapshots(overlay, upper)?;
            alone::expect_closed(overlay)?;
            commit::commit(overlay, upper)?;
            note(record, overlay, Some(Settling::Committing));
            tell_of_saved_files(hypervisor, record, overlay, seats)?;
        }
    }
    finish(hypervisor, record, overlay)
}

/// The overlay does not exist any more. Either we or another program removed it.
fn without_file(
    hypervisor: &dyn Hypervisor,
    record: &mut Record,
    overlay: &Overlay,
    seats: &Seats,
) -> Result<(), Error> {
    let Some(seat) = seats.on_overlay().next() else { return Ok(()) };
    if settling(record, overlay).is_none() {
        if !overlay_file::is_gone_for_good(&overlay.path) {
            return Err(refusal::missing(overlay, seat));
        }
        record.tell(Failure {
            message: format!(
                "disk {} of {}: its overlay {} was removed by another program; the disk is on its base again",
                seat.target,
                seat.domain.id.name,
                overlay.path.display()
            ),
            hint: None,
        });
    }
    finish(hypervisor, record, overlay)
}

/// The base has everything that the guest wrote: makes every definition name it again, and removes the overlay.
fn finish(hypervisor: &dyn Hypervisor, record: &mut Record, overlay: &Overlay) -> Result<(), Error> {
    let domain = record.entry().domain.clone();
    let mut seats = Seats::find(hypervisor, &domain, overlay)?;
    if seats.on_overlay().next().is_some() {
        for seat in seats.on_overlay().filter(|seat| !seat.live && seat.above.is_none()) {
            definition::put_right(hypervisor, seat, overlay)?;
        }
        seats = Seats::find(hypervisor, &domain, overlay)?;
    }
    // Another program may have started the guest on the overlay or taken a snapshot before the definition was corrected.
    if let Some(seat) = seats.on_overlay().next() {
        return Err(refusal::taken(overlay, seat));
    }
    definition::put_details_right(hypervisor, record, overlay, &seats);
    expect_no_snapshots(overlay, None)?;
    if overlay_file::is_there(&overlay.path)? {
        alone::expect_unused(hypervisor, overlay)?;
    }
    overlay_file::remove(&overlay.path)
}

/// Fails if a guest that is off may continue on the overlay.
fn expect_at_rest(hypervisor: &dyn Hypervisor, seats: &Seats, overlay: &Overlay) -> Result<(), Error> {
    for domain in seats.domains().filter(|domain| !domain.state.is_active()) {
        match hypervisor.off_kind(&domain.id)? {
            OffKind::Plain | OffKind::SavedToFile => {}
            OffKind::Saved => return Err(refusal::saved(overlay, &domain.id.name)),
            OffKind::Migrated => return Err(refusal::migrated(overlay, &domain.id.name, seats.covered())),
        }
    }
    Ok(())
}

/// Fails if the overlay contains internal snapshots of an operator, which would be lost with it.
fn expect_no_snapshots(overlay: &Overlay, seat: Option<&Seat>) -> Result<(), Error> {
    match overlay_file::held(&overlay.path, &overlay.base)?.snapshots {
        names if names.is_empty() => Ok(()),
        names => Err(refusal::snapshots(overlay, &names, seat)),
    }
}

/// Warns if an operator saved the guest to a file, because it would continue on the overlay that the file names.
fn tell_of_saved_files(
    hypervisor: &dyn Hypervisor,
    record: &mut Record,
    overlay: &Overlay,
    seats: &Seats,
) -> Result<(), Error> {
    for seat in seats.on_overlay() {
        if hypervisor.off_kind(&seat.domain.id)? == OffKind::SavedToFile {
            record.tell(refusal::saved_to_file(overlay, seat));
        }
    }
    Ok(())
}

fn settling(record: &Record, overlay: &Overlay) -> Option<Settling> {
    record.entry().settling.get(&overlay.target).copied()
}

/// A journal that cannot be written (a full disk) must not keep a guest on its overlay. If the process is killed at
/// that moment, the operator has to decide.
fn note(record: &mut Record, overlay: &Overlay, how_far: Option<Settling>) {
    if settling(record, overlay) == how_far {
        return;
    }
    let target = overlay.target.clone();
    let noted = record.update(|entry| match how_far {
        Some(how_far) => drop(entry.settling.insert(target, how_far)),
        None => drop(entry.settling.remove(&target)),
    });
    if let Err(error) = noted {
        tracing::warn!(disk = overlay.target, "{}", super::chain(&error));
    }
}

#[cfg(test)]
mod tests;
