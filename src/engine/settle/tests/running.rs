//! The guest runs: libvirt commits and moves it.

use std::sync::{Arc, Mutex};

use super::*;

const COMMIT: [&str; 7] = ["block_job", "start_commit", "block_job", "block_job", "block_job", "block_job", "pivot"];

fn running(written: bool) -> Bench {
    Bench::new(DomainState::Running, written)
}

/// What the journal says whenever one of these calls comes.
fn noted_at(bench: &Bench, calls: &'static [&str], fails: Option<Kind>) -> Arc<Mutex<Vec<Option<Settling>>>> {
    let (seen, dir) = (Arc::new(Mutex::new(Vec::new())), bench.dir.path().to_owned());
    let known = Arc::clone(&seen);
    bench.fake.when(move |call, number, _| {
        if calls.contains(&call) {
            known.lock().unwrap().push(noted(&dir));
        }
        fails.filter(|_| call == "pivot" && number == 1)
    });
    seen
}

#[test]
fn it_is_committed_and_moved_and_the_journal_knows_before_and_after() {
    // An earlier try that noted its move, and did not make it.
    let mut bench = running(true).noted_before(Some(Settling::Committing));
    let seen = noted_at(&bench, &["start_commit", "pivot"], None);
    bench.settle().unwrap();
    assert_eq!(bench.acts(), COMMIT);
    assert_eq!(*seen.lock().unwrap(), [None, Some(Settling::Committing)]);
    assert_eq!(bench.noted(), Some(Settling::Committed));
    assert_eq!(bench.fake.get(|guest| guest.live["vda"].clone()), bench.chain(&["base.qcow2"]));
    assert!(!bench.overlay.path.exists());
}

#[test]
fn the_other_disks_stay_where_they_are() {
    let mut bench = running(true);
    let other = bench.chain(&["other.qcow2"]);
    bench.fake.set(|guest| {
        for chains in [&mut guest.live, &mut guest.defined] {
            chains.insert("sda".to_owned(), other.clone());
            chains.insert("vdb".to_owned(), other.clone());
        }
    });
    bench.settle().unwrap();
    assert_eq!(bench.acts(), COMMIT);
    assert_eq!(
        bench.fake.get(|guest| (guest.live["sda"].clone(), guest.defined["vdb"].clone())),
        (other.clone(), other)
    );
}

#[test]
fn a_commit_that_is_not_ready_yet_goes_on_and_its_move_is_not_noted_meanwhile() {
    let mut bench = running(true);
    let seen = noted_at(&bench, &["block_job", "pivot"], Some(Kind::NotReady));
    bench.settle().unwrap();
    let (none, moving) = (None, Some(Settling::Committing));
    assert_eq!(*seen.lock().unwrap(), [none, none, none, none, none, moving, none, moving]);
    assert!(!bench.overlay.path.exists());
}

#[test]
fn a_move_that_failed_is_still_noted_for_it_may_have_come_to_pass() {
    let mut bench = running(true);
    let _ = noted_at(&bench, &[], Some(Kind::Other));
    bench.refused();
    assert_eq!(bench.noted(), Some(Settling::Committing));
    assert_eq!(bench.fake.calls().iter().filter(|call| *call == "pivot").count(), 1);
    // It had: the guest is on its base, and what is left is the overlay.
    bench.put_on(&["base.qcow2"]);
    bench.settle().unwrap();
    assert_eq!(bench.noted(), Some(Settling::Committed));
    assert!(!bench.overlay.path.exists());
}

#[test]
fn a_commit_that_runs_already_is_adopted_and_other_jobs_are_left_alone() {
    let mut bench = running(true);
    bench.fake.set(|guest| guest.job = Some((true, vec![(1, 8), (8, 8)])));
    bench.settle().unwrap();
    assert!(!bench.fake.calls().contains(&"start_commit".to_owned()) && !bench.overlay.path.exists());

    let mut bench = running(true);
    bench.fake.set(|guest| guest.job = Some((false, vec![(8, 8)])));
    assert!(bench.refused().contains("another block job is running on it"));
    assert_eq!(bench.acts(), ["block_job", "block_job"]);

    let mut bench = running(true);
    bench.fake.when(|call, number, guest| {
        guest.job.take_if(|_| call == "block_job" && number == 3);
        None
    });
    assert!(bench.refused().contains("its commit ended early"));
}

#[test]
fn a_chain_that_somebody_changed_is_left_alone() {
    for written in [true, false] {
        for (chain, said) in [
            (&["theirs", OVER, "base.qcow2"][..], "theirs over the overlay"),
            (&[OVER, "theirs"], "not over the image of the backup"),
        ] {
            let mut bench = running(written);
            bench.put_on(chain);
            assert!(bench.refused().contains(said));
            assert_eq!(bench.acts(), [""; 0]);
        }
    }
}

#[test]
fn an_overlay_that_no_disk_is_on_any_more_is_committed_as_that_of_a_guest_that_is_off() {
    let mut bench = running(true);
    bench.put_on(&["theirs"]);
    bench.settle().unwrap();
    assert!(bench.is_in_base() && !bench.overlay.path.exists());
    assert!(!bench.fake.calls().contains(&"start_commit".to_owned()));
}

#[test]
fn on_the_base_an_overlay_goes_if_we_moved_it_or_nothing_is_in_it() {
    use Settling::*;
    for (written, before, goes) in
        [(true, Some(Committing), true), (true, Some(Committed), true), (false, None, true), (true, None, false)]
    {
        let mut bench = running(written).noted_before(before);
        bench.put_on(&["base.qcow2"]);
        if goes {
            bench.settle().unwrap();
            assert!(!bench.overlay.path.exists());
            assert_eq!(bench.noted(), before.and(Some(Committed)));
        } else {
            assert!(bench.refused().contains("names the base, but the overlay"));
        }
        assert!(!bench.fake.calls().contains(&"start_commit".to_owned()));
    }
    let mut bench = running(false);
    bench.put_on(&["base.qcow2"]);
    std::fs::remove_file(&bench.overlay.path).unwrap();
    bench.settle().unwrap();
}

#[test]
fn an_overlay_that_only_the_definition_names_goes_if_nothing_is_in_it() {
    for written in [true, false] {
        let mut bench = running(written);
        let chain = bench.chain(&["base.qcow2"]);
        bench.fake.set(|guest| drop(guest.live.insert("vda".to_owned(), chain.clone())));
        if written {
            assert!(bench.refused().contains("and the running guest web 1 on the base"));
            assert!(!bench.is_in_base());
        } else {
            bench.settle().unwrap();
            assert!(!bench.overlay.path.exists() && bench.defined() == chain);
        }
    }
}

#[test]
fn a_guest_that_was_put_on_its_committed_overlay_again_is_for_a_person() {
    let mut bench = running(true).noted_before(Some(Settling::Committed));
    assert!(bench.refused().contains("is older than its base"));
    assert_eq!((bench.acts().len(), bench.noted()), (0, Some(Settling::Committed)));
}

#[test]
fn a_definition_that_did_not_follow_is_put_right_before_the_overlay_goes() {
    for stubborn in [false, true] {
        let mut bench = running(true);
        let (old, overlay) = (bench.chain(&[OVER, "base.qcow2"]), bench.overlay.path.clone());
        bench.fake.when(move |call, number, guest| {
            if call == "describe" && (number == 2 || number > 2 && stubborn) {
                guest.defined.insert("vda".to_owned(), old.clone());
            }
            assert!(call != "define_disk" || overlay.exists());
            None
        });
        if stubborn {
            bench.refused();
        } else {
            bench.settle().unwrap();
            assert!(!bench.overlay.path.exists());
            assert_eq!(bench.defined(), bench.chain(&["base.qcow2"]));
        }
        assert!(bench.fake.calls().contains(&"define_disk".to_owned()));
    }
}

#[test]
fn an_image_that_somebody_puts_over_the_overlay_right_before_the_commit_is_not_committed() {
    let mut bench = running(true);
    let theirs = bench.chain(&["theirs", OVER, "base.qcow2"]);
    bench.fake.when(move |call, _, guest| {
        if call == "start_commit" {
            guest.live.insert("vda".to_owned(), theirs.clone());
        }
        None
    });
    assert!(bench.refused().contains("theirs over the overlay"));
    assert!(!bench.fake.calls().contains(&"pivot".to_owned()) && bench.noted().is_none());
}

#[test]
fn a_snapshot_that_somebody_makes_after_the_move_keeps_no_overlay() {
    let mut bench = running(true);
    let theirs = bench.chain(&["theirs", "base.qcow2"]);
    bench.fake.when(move |call, number, guest| {
        if call == "describe" && number == 2 {
            guest.live.insert("vda".to_owned(), theirs.clone());
            guest.defined.insert("vda".to_owned(), theirs.clone());
        }
        None
    });
    bench.settle().unwrap();
    assert!(!bench.overlay.path.exists());
}
