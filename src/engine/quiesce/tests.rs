//! A guest's agent decides neither how long a run waits for it, nor whether it hears signals.

use std::path::Path;

use chrono::Utc;
use uuid::Uuid;

use super::*;
use crate::engine::fake::{self, Fake};
use crate::engine::give_back::give_back;
use crate::engine::journal::Journal;
use crate::sys::signals::Cancel;

/// A guest that runs, and the entry of its backup.
fn scene() -> (tempfile::TempDir, Fake, Record) {
    let dir = tempfile::tempdir().unwrap();
    let record = Journal::open(dir.path()).unwrap().begin(Uuid::new_v4(), Utc::now(), "a", &fake::id()).unwrap();
    (dir, Fake::new(DomainState::Running, "vda", &[Path::new("/v/base")]), record)
}

/// Every answer after so many says "frozen".
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
fn a_guest_that_always_says_frozen_has_one_deadline_for_the_freeze_and_for_giving_back() {
    let (_dir, fake, mut record) = scene();
    says_frozen(&fake, 1);
    let frozen = frozen_around(&fake, &mut record);
    assert!(matches!(frozen.still_frozen, Some(Error::StillFrozen { .. })));
    assert!(thaws(&fake) > 1, "it is tried again until then");
    assert!(record.entry().frozen, "the next run tries again");
    says_frozen(&fake, 0);
    assert!(give_back(&fake, &mut record).is_err());
    assert_eq!(thaws(&fake), 1, "its time is over");
}

#[test]
fn a_signal_ends_the_thawing_of_a_guest_that_always_says_frozen() {
    let (_dir, fake, mut record) = scene();
    let cancel = Cancel::default();
    record.thawing().heed(&cancel);
    says_frozen(&fake, 1);
    cancel.cancel(15);
    assert!(frozen_around(&fake, &mut record).still_frozen.is_some());
    assert_eq!(thaws(&fake), 1);
}

#[test]
fn a_refused_freeze_and_an_accepted_thaw_leave_a_guest_thawed_whatever_its_agent_says() {
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
fn a_guest_that_thaws_is_thawed_in_spite_of_a_signal() {
    let (_dir, fake, mut record) = scene();
    let cancel = Cancel::default();
    record.thawing().heed(&cancel);
    cancel.cancel(15);
    let frozen = frozen_around(&fake, &mut record);
    assert!(frozen.reached && frozen.still_frozen.is_none() && !record.entry().frozen);
}
