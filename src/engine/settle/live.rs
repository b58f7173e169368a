//! Commits the overlay of a running guest through QEMU, and moves the guest to its base. Must not remove anything, or
//! end a block job that is not ours.

use std::thread;
use std::time::{Duration, Instant};

use super::seats::Seat;
use super::{PAUSE, expect_no_snapshots, note, refusal};
use crate::engine::Error;
use crate::engine::journal::{Record, Settling};
use crate::hypervisor::{Kind, Overlay, Snapshots};

/// A commit that has not come closer to its end for this long is abandoned, and the guest keeps running on its overlay.
/// Moved data alone is no progress, because a guest may write faster.
const STALLED: Duration = Duration::from_secs(600);

/// Commits the overlay and moves the guest to the base, and records the move in the journal before and after. Adopts a
/// commit that an interrupted run has started.
pub(super) fn commit(
    hypervisor: &dyn Snapshots,
    record: &mut Record,
    overlay: &Overlay,
    seat: &Seat,
) -> Result<(), Error> {
    let (domain, target) = (&seat.domain.id, &seat.target);
    // The guest is on the overlay, so an earlier move did not happen.
    note(record, overlay, None);
    if hypervisor.block_job(domain, target)?.is_none() {
        expect_no_snapshots(overlay, Some(seat))?;
        hypervisor.start_commit(domain, target, &overlay.path)?;
    }
    let mut nearest = (u64::MAX, Instant::now());
    loop {
        let Some(job) = hypervisor.block_job(domain, target)? else {
            return Err(refusal::commit_ended(overlay));
        };
        if !job.active_commit {
            return Err(refusal::busy(overlay, seat));
        }
        // libvirt takes no snapshot during a commit, but one may have been taken right before it began.
        if nearest.0 == u64::MAX
            && let Err(error) = expect_no_snapshots(overlay, Some(seat))
        {
            hypervisor.cancel_commit(domain, target)?;
            record.tell(refusal::late_snapshot(&error));
            return Err(error);
        }
        if job.total > 0 && job.done == job.total {
            note(record, overlay, Some(Settling::Committing));
            match hypervisor.pivot(domain, target) {
                Ok(()) => {
                    note(record, overlay, Some(Settling::Committed));
                    tracing::info!(domain = domain.name, disk = target, bytes = job.total, "committed");
                    return Ok(());
                }
                Err(error) if error.kind() == Kind::NotReady => note(record, overlay, None),
                Err(error) => return Err(error.into()),
            }
        }
        let left = job.total.saturating_sub(job.done);
        if left < nearest.0 {
            nearest = (left, Instant::now());
        } else if nearest.1.elapsed() > STALLED {
            return Err(Error::CommitStalled { target: target.clone(), minutes: STALLED.as_secs() / 60 });
        }
        thread::sleep(PAUSE);
    }
}
