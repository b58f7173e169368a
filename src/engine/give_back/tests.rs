//! Tests which guests are resumed when their capture is released.

use std::path::Path;

use chrono::Utc;
use uuid::Uuid;

use super::*;
use crate::engine::fake::{self, Fake};
use crate::engine::journal::Journal;

/// Releases a capture of these disks of a paused guest whose disks have these errors. Returns whether that succeeded,
/// and the guest's state afterwards.
fn resumed(captured: &[&str], errors: Option<&[&str]>, fails: Option<Kind>) -> (bool, DomainState) {
    let owned = |list: &[&str]| list.iter().map(|target| (*target).to_owned()).collect::<Vec<_>>();
    let dir = tempfile::tempdir().unwrap();
    let mut record = Journal::open(dir.path()).unwrap().begin(Uuid::new_v4(), Utc::now(), "a", &fake::id()).unwrap();
    record.update(|entry| entry.resumable = Some(owned(captured))).unwrap();
    let fake = Fake::new(DomainState::Paused, "vda", &[Path::new("/v/base")]);
    fake.set(|guest| guest.io_errors = errors.map(owned));
    fake.when(move |_, _, _| fails);
    let given_back = give_back(&fake, &mut record);
    assert_eq!(record.entry().resumable().is_empty(), given_back.is_ok() || captured.is_empty());
    (given_back.is_ok(), fake.get(|guest| guest.state))
}

#[test]
fn only_a_running_guest_paused_by_a_captured_disk_is_resumed() {
    let (running, paused) = (DomainState::Running, DomainState::Paused);
    assert_eq!(resumed(&["vda", "vdb"], Some(&["vdb"]), None), (true, running));
    assert_eq!(resumed(&["vda"], Some(&[]), None), (true, running));
    assert_eq!(resumed(&["vda"], Some(&["vda", "vdb"]), None), (true, paused), "another disk has an error");
    assert_eq!(resumed(&[], Some(&["vda"]), None), (true, paused), "the guest was not running before");
    assert_eq!(resumed(&["vda"], None, None), (true, paused), "the guest was paused for another reason");
    assert_eq!(resumed(&["vda"], Some(&["vda"]), Some(Kind::NoDomain)), (true, paused));
    assert_eq!(resumed(&["vda"], Some(&["vda"]), Some(Kind::Other)), (false, paused));
}
