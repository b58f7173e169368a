//! The domain is off: qemu-img commits, on real images.

use super::*;

fn off(written: bool) -> Bench {
    Bench::new(DomainState::Off, written)
}

#[test]
fn what_the_guest_wrote_is_in_the_base_and_the_definition_names_it() {
    let mut bench = off(true);
    let (dir, overlay) = (bench.dir.path().to_owned(), bench.overlay.path.clone());
    bench.fake.when(move |call, _, _| {
        assert!(call != "define" || noted(&dir) == Some(Settling::Committing) && overlay.exists());
        None
    });
    bench.settle().unwrap();
    assert!(bench.is_in_base() && !bench.overlay.path.exists());
    assert_eq!(bench.defined(), bench.chain(&["base.qcow2"]));
    assert_eq!(bench.acts(), ["off_kind", "off_kind", "define"]);
}

#[test]
fn an_overlay_that_was_committed_once_is_not_committed_again() {
    let mut bench = off(true).noted_before(Some(Settling::Committed));
    bench.settle().unwrap();
    assert!(!bench.is_in_base() && !bench.overlay.path.exists());
    assert_eq!(bench.defined(), bench.chain(&["base.qcow2"]));
}

#[test]
fn on_the_base_an_overlay_goes_if_we_moved_it_or_nothing_is_in_it() {
    use Settling::*;
    for (written, before, goes) in
        [(true, Some(Committing), true), (true, Some(Committed), true), (false, None, true), (true, None, false)]
    {
        let mut bench = off(written).noted_before(before);
        bench.put_on(&["base.qcow2"]);
        if goes {
            bench.settle().unwrap();
            assert!(!bench.overlay.path.exists(), "{before:?}");
        } else {
            assert!(bench.refused().contains("names the base, but the overlay"));
        }
        assert!(!bench.is_in_base() && !bench.fake.calls().contains(&"define".to_owned()));
    }
}

#[test]
fn without_the_overlay_the_definition_is_put_on_the_base_if_the_overlay_is_gone_for_good() {
    let mut bench = off(true);
    std::fs::remove_file(&bench.overlay.path).unwrap();
    // A saved state is of no concern then.
    bench.fake.set(|guest| guest.off_kind = OffKind::Saved);
    bench.settle().unwrap();
    assert_eq!(bench.defined(), bench.chain(&["base.qcow2"]));
    assert!(bench.record.told()[0].message.contains("removed by another hand"));
    bench.settle().unwrap();
    assert!(bench.record.told().is_empty());

    // Its file system may be mounted again.
    let mut bench = off(true);
    bench.overlay.path = bench.dir.path().join("mount/over.qcow2");
    bench.put_on(&["mount/over.qcow2", "base.qcow2"]);
    for folder in [false, true] {
        if folder {
            std::fs::create_dir(bench.dir.path().join("mount")).unwrap();
        }
        assert!(bench.settle().unwrap_err().to_string().contains("which does not exist"));
        assert_eq!(bench.defined(), bench.chain(&["mount/over.qcow2", "base.qcow2"]));
    }
}

#[test]
fn a_chain_that_somebody_changed_is_left_alone() {
    for before in [None, Some(Settling::Committing)] {
        let mut bench = off(false).noted_before(before);
        bench.put_on(&["theirs", "over.qcow2"]);
        assert!(bench.refused().contains("theirs over the overlay"));
        assert!(!bench.fake.calls().contains(&"define".to_owned()));
    }
}

#[test]
fn a_guest_that_may_go_on_with_the_overlay_keeps_it() {
    for (kind, said) in [(OffKind::Saved, "may need the overlay"), (OffKind::Migrated, "was migrated")] {
        for chain in [&["over.qcow2", "base.qcow2"][..], &["base.qcow2"]] {
            let mut bench = off(true).noted_before(Some(Settling::Committing));
            bench.put_on(chain);
            bench.fake.set(|guest| guest.off_kind = kind);
            assert!(bench.refused().contains(said));
            assert!(!bench.is_in_base() && bench.defined() == bench.chain(chain));
        }
    }
}

#[test]
fn a_definition_that_somebody_changes_meanwhile_keeps_the_overlay() {
    let mut bench = off(true);
    let theirs = bench.chain(&["theirs", "over.qcow2"]);
    bench.fake.when(move |call, number, guest| {
        if call == "describe" && number == 2 {
            guest.defined.insert("vda".to_owned(), theirs.clone());
        }
        None
    });
    assert!(bench.refused().contains("theirs over the overlay"));
}

#[test]
fn a_guest_that_is_started_on_the_overlay_meanwhile_is_moved_while_it_runs() {
    let mut bench = off(true);
    bench.fake.when(|call, _, guest| {
        if call == "define" {
            guest.live = guest.defined.clone();
            guest.state = DomainState::Running;
        }
        None
    });
    bench.settle().unwrap();
    assert!(bench.fake.calls().contains(&"pivot".to_owned()) && !bench.overlay.path.exists());
}
