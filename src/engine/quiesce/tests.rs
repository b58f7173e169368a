//! Tests that a guest's agent cannot make a run wait without limit or ignore signals.

use std::path::Path;

use chrono::Utc;
use uuid::Uuid;

use super::*;
use crate::engine::fake::{self, Fake};
use crate::engine::give_back::give_back;
use crate::engine::journal::Journal;
use crate::sys::signals::Cancel;

/// A running guest, and the entry of its backup.
fn scene() -> (tempfile::TempDir, Fake, Record) {
    let dir = tempfile::tempdir().unwrap();
    let record = Journal::open(dir.path()).unwrap().begin(Uuid::new_v4(), Utc::now(), "a", &fake::id()).unwrap();
    (dir, Fake::new(DomainState::Running, "vda", &[Path::new("/v/base")]), record)
}

/// The agent reports "frozen" in every answer after this many.
fn says_frozen(fake: &Fake, after: usize) {
    fake.when(move |call, number, guest| {
        guest.frozen |= call == "is_frozen" && number > after;
        None
    });
}

fn thaws(fake: &Fake) -> usize {
    fake.calls().iter().filter(|call| *call == "thaw").count()
}

fn frozen_around(fake: &Fake, record: &mut Record) -> Frozen {
    around(fake, record, Quiesce::Prefer, Duration::from_secs(1), || Ok(())).1
}

#[test]
fn freeze_and_release_share_one_deadline_for_thawing() {
    let (_dir, fake, mut record) = scene();
    says_frozen(&fake, 1);
    let frozen = frozen_around(&fake, &mut record);
    assert!(matches!(frozen.still_frozen, Some(Error::StillFrozen { .. })));
    assert!(thaws(&fake) > 1, "thawing is retried until the deadline");
    assert!(record.entry().frozen, "the next run must try again");
    says_frozen(&fake, 0);
    assert!(give_back(&fake, &mut record).is_err());
    assert_eq!(thaws(&fake), 1, "the deadline has passed");
}

#[test]
fn signal_ends_thawing_of_a_guest_that_always_reports_frozen() {
    let (_dir, fake, mut record) = scene();
    let cancel = Cancel::default();
    record.thawing().heed(&cancel);
    says_frozen(&fake, 1);
    cancel.cancel(15);
    assert!(frozen_around(&fake, &mut record).still_frozen.is_some());
    assert_eq!(thaws(&fake), 1);
}

#[test]
fn accepted_thaw_suffices_after_a_refused_freeze() {
    for (kind, is_answer) in [(Kind::Refused, true), (Kind::Other, false)] {
        let (_dir, fake, mut record) = scene();
        fake.when(move |call, number, guest| {
            guest.frozen |= call == "is_frozen" && number > 1;
            (call == "freeze").then_some(kind)
        });
        let frozen = frozen_around(&fake, &mut record);
        assert!(!frozen.reached && frozen.told.is_some());
        assert_eq!((frozen.still_frozen.is_none(), record.entry().frozen), (is_answer, !is_answer), "{kind:?}");
        assert_eq!(thaws(&fake) == 1, is_answer, "{kind:?}");
    }
}

#[test]
fn guest_is_thawed_despite_a_signal() {
    let (_dir, fake, mut record) = scene();
    let cancel = Cancel::default();
    record.thawing().heed(&cancel);
    cancel.cancel(15);
    let frozen = frozen_around(&fake, &mut record);
    assert!(frozen.reached && frozen.still_frozen.is_none() && !record.entry().frozen);
}
