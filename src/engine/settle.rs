//! Owns: bringing a disk back from an overlay of ours to its base, whatever the domain does meanwhile: it runs, it is
//! paused, it was shut off, it is gone. The end of a backup and recovery are this same act.
//!
//! Must not: touch an overlay that is not ours, commit further than to the image right below it, or remove an overlay
//! that holds the only copy of anything.
//!
//! A disk on its base says nothing of its overlay: we may have moved it there, or somebody else, past what the guest
//! wrote last. So the journal says before a move that it is ours ([`Settling`]). Without that, an overlay goes only if
//! it is empty.

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

/// Between two looks at a block job.
const PAUSE: Duration = Duration::from_millis(25);
/// The domain may change its state under our hands; so many new beginnings are enough.
const ATTEMPTS: usize = 3;
/// How long a call that libvirt is still at is waited for.
const CALLS: Duration = Duration::from_secs(60);
/// How long somebody else may hold the domain, so that libvirt refuses to change its state: half a minute goes by each time
/// until it says so.
const CALLS_OF_OTHERS: Duration = Duration::from_secs(300);
/// How long a restart of libvirtd may take.
const RESTART: Duration = Duration::from_secs(60);
/// Between two tries after such a failure.
const AGAIN: Duration = Duration::from_millis(500);

/// Commits an overlay and removes it. Safe to call again at any time, and after an interruption at any point.
pub(super) fn overlay(hypervisor: &dyn Hypervisor, record: &mut Record, overlay: &Overlay) -> Result<(), Error> {
    // Nothing of a committed one is used any more.
    if settling(record, overlay) != Some(Settling::Committed) && !marks::is_made(overlay) {
        return Err(refusal::replaced(overlay, &overlay.path));
    }
    if overlay_file::is_unused(&overlay.path) {
        return overlay_file::remove(&overlay.path);
    }
    let domain = record.entry().domain.clone();
    let (began, mut attempt) = (Instant::now(), 0);
    loop {
        // Its base may be another one since the last attempt.
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
    // For a disk that is on the base already, the journal says what happened.
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

/// How long such a failure is waited out: a guest had better not stay on its overlay until the next night.
fn patience(error: &Error) -> Duration {
    match error {
        Error::Hypervisor(error) if error.kind() == Kind::Busy => CALLS_OF_OTHERS,
        Error::Hypervisor(error) if error.kind() == Kind::Unreachable => RESTART,
        _ => Duration::ZERO,
    }
}

/// Waits until libvirt has done what a run asked of it that was killed meanwhile: its snapshot or backup job may come to
/// be only now. A backup job that is there hides no such call.
pub(super) fn wait_for_calls(hypervisor: &dyn Hypervisor, domain: &DomainRef) {
    let began = Instant::now();
    // An error is for the calls that follow; a domain that is off has no jobs.
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

/// A guest runs on the overlay: QEMU commits.
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

/// No guest runs on the overlay: QEMU's tool commits, unless the guest was on the base already.
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
        // It may run on another host.
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

/// The overlay is gone, by our hand or another's.
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

/// The base has all that the guest wrote: every definition names it again, and the overlay goes.
fn finish(hypervisor: &dyn Hypervisor, record: &mut Record, overlay: &Overlay) -> Result<(), Error> {
    let domain = record.entry().domain.clone();
    let mut seats = Seats::find(hypervisor, &domain, overlay)?;
    if seats.on_overlay().next().is_some() {
        for seat in seats.on_overlay().filter(|seat| !seat.live && seat.above.is_none()) {
            definition::put_right(hypervisor, seat, overlay)?;
        }
        seats = Seats::find(hypervisor, &domain, overlay)?;
    }
    // Somebody may have started it on the overlay, or made a snapshot of it, before the definition was right.
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

/// Fails when a guest that is off may go on with the overlay.
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

/// Fails when the overlay holds an operator's internal snapshot, which would go with it.
fn expect_no_snapshots(overlay: &Overlay, seat: Option<&Seat>) -> Result<(), Error> {
    match overlay_file::held(&overlay.path, &overlay.base)?.snapshots {
        names if names.is_empty() => Ok(()),
        names => Err(refusal::snapshots(overlay, &names, seat)),
    }
}

/// A saved guest in a file of the operator's goes on with the overlay that it names.
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

/// A journal that cannot be written (a full disk) keeps no guest on its overlay: after a kill just then, a person has
/// to look.
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
