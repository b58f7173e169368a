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
        assert!(call != "define_disk" || noted(&dir) == Some(Settling::Committing) && overlay.exists());
        None
    });
    bench.settle().unwrap();
    assert!(bench.is_in_base() && !bench.overlay.path.exists());
    assert_eq!(bench.defined(), bench.chain(&["base.qcow2"]));
    assert_eq!(bench.acts(), ["off_kind", "off_kind", "define_disk"]);
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
        assert!(!bench.is_in_base() && !bench.fake.calls().contains(&"define_disk".to_owned()));
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
    assert!(bench.record.told()[0].message.contains("removed by another program"));
    bench.settle().unwrap();
    assert!(bench.record.told().is_empty());

    // Its file system may be mounted again.
    let mut bench = off(true);
    bench.overlay.path = bench.dir.path().join(format!("mount/{OVER}"));
    bench.put_on(&[&format!("mount/{OVER}"), "base.qcow2"]);
    for folder in [false, true] {
        if folder {
            std::fs::create_dir(bench.dir.path().join("mount")).unwrap();
        }
        assert!(bench.settle().unwrap_err().to_string().contains("which does not exist"));
        assert_eq!(bench.defined(), bench.chain(&[&format!("mount/{OVER}"), "base.qcow2"]));
    }
}

#[test]
fn a_chain_that_somebody_changed_is_left_alone() {
    for before in [None, Some(Settling::Committing)] {
        let mut bench = off(false).noted_before(before);
        bench.put_on(&["theirs", OVER]);
        assert!(bench.refused().contains("theirs over the overlay"));
        assert!(!bench.fake.calls().contains(&"define_disk".to_owned()));
    }
}

#[test]
fn an_image_of_an_operator_over_an_overlay_that_is_gone_is_told() {
    let mut bench = off(true);
    bench.put_on(&["theirs", OVER, "base.qcow2"]);
    std::fs::remove_file(&bench.overlay.path).unwrap();
    let error = bench.settle().unwrap_err();
    assert!(error.to_string().contains(&format!("{OVER}, which does not exist")), "{error}");
    assert!(error.hint().unwrap().contains("virsh edit"), "{:?}", error.hint());
}

#[test]
fn a_guest_that_may_go_on_with_the_overlay_keeps_it() {
    for (kind, said) in [(OffKind::Saved, "may need the overlay"), (OffKind::Migrated, "was migrated")] {
        for chain in [&[OVER, "base.qcow2"][..], &["base.qcow2"], &["theirs", OVER, "base.qcow2"]] {
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
    let theirs = bench.chain(&["theirs", OVER]);
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
        if call == "define_disk" {
            guest.live = guest.defined.clone();
            guest.state = DomainState::Running;
        }
        None
    });
    bench.settle().unwrap();
    assert!(bench.fake.calls().contains(&"pivot".to_owned()) && !bench.overlay.path.exists());
}

/// Puts an operator's image between the base and the overlay, as an external snapshot right before ours does.
fn over_theirs(bench: &Bench) -> Vec<PathBuf> {
    let chain = bench.chain(&[OVER, "theirs", "base.qcow2"]);
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", text(&chain[2]), "-F", "qcow2", text(&chain[1])]);
    run("qemu-img", &["rebase", "-u", "-b", "theirs", "-F", "qcow2", text(&chain[0])]);
    chain
}

#[test]
fn an_overlay_over_the_image_of_an_operator_is_committed_into_that() {
    for moved in [true, false] {
        let mut bench = off(true);
        let chain = over_theirs(&bench);
        if moved {
            bench.put_on(&[OVER, "theirs", "base.qcow2"]);
        } else {
            // No disk is on it.
            bench.put_on(&["another"]);
        }
        bench.settle().unwrap();
        assert!(!bench.overlay.path.exists() && !bench.is_in_base());
        let known = &bench.record.entry().overlays[0];
        assert_eq!((known.base.source.path(), known.saved.as_deref()), (Some(&*chain[1]), None));
        let read = run("qemu-io", &["-f", "qcow2", "-r", "-c", "read -P 7 0 64k", text(&chain[1])]);
        assert!(!read.contains("verification failed"), "{read}");
        assert_eq!(bench.defined(), if moved { chain[1..].to_vec() } else { bench.chain(&["another"]) });
    }
}

#[test]
fn an_overlay_that_lies_over_something_else_than_the_definition_says_is_left_alone() {
    // The header alone names the operator's image; the definition alone; the base itself lies over it.
    let mut bench = off(true);
    over_theirs(&bench);
    assert!(bench.refused().contains("not over the image of the backup"));

    let mut bench = off(true);
    bench.put_on(&[OVER, "theirs", "base.qcow2"]);
    assert!(bench.refused().contains("not over the image of the backup"));

    let mut bench = off(true);
    let chain = bench.chain(&[OVER, "lower"]);
    run("qemu-img", &["create", "-q", "-f", "qcow2", text(&chain[1]), "1M"]);
    let base = bench.overlay.base.source.path().unwrap().to_owned();
    for image in [&base, &chain[0]] {
        run("qemu-img", &["rebase", "-u", "-b", text(&chain[1]), "-F", "qcow2", text(image)]);
    }
    bench.put_on(&[OVER, "lower"]);
    assert!(bench.refused().contains("not over the image of the backup"));

    // A `virsh blockpull` leaves nothing below it.
    for on_it in [true, false] {
        let mut bench = off(true);
        run("qemu-img", &["rebase", "-u", "-b", "", text(&bench.overlay.path)]);
        bench.put_on(if on_it { &[OVER] } else { &["another"] });
        assert!(bench.refused().contains("no known image"));
    }
}

#[test]
fn a_base_that_is_named_by_a_link_or_a_relative_name_is_the_base() {
    let mut bench = off(true);
    std::os::unix::fs::symlink("base.qcow2", bench.dir.path().join("link")).unwrap();
    run("qemu-img", &["rebase", "-u", "-b", "link", "-F", "qcow2", text(&bench.overlay.path)]);
    bench.settle().unwrap();
    assert!(bench.is_in_base() && bench.record.entry().overlays[0] == bench.overlay);
}
