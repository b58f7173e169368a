//! Tests verification with real archives, including damaged ones and those of the legacy script.

use std::fs;

use super::*;
use crate::engine::Silent;
use crate::model::Codec;
use crate::store::fixture::{DOMAIN, Fixture, run, text};

const ALL: Scope<'_> = Scope { domains: &[], which: Which::All, older_than: None, limit: None, sample: None };

fn checked(fixture: &Fixture, scope: &Scope<'_>, each: &mut dyn FnMut(&Verification)) -> Checks {
    verify(&fixture.store, &fixture.path("state"), scope, (&Silent, &Cancel::default()), each).unwrap()
}

fn ids(checks: &Checks) -> Vec<PointId> {
    checks.points.iter().map(|result| result.id).collect()
}

fn three(fixture: &Fixture) -> [Point; 3] {
    [20, 21, 22].map(|day| fixture.point(&format!("2026-11-{day}T02:00:00Z"), Codec::Zstd(1), &fixture.usual_disks()))
}

fn verdicts(fixture: &Fixture, which: Which) -> Vec<(String, Verdict)> {
    let mut heard = 0;
    let checks = checked(fixture, &Scope { which, ..ALL }, &mut |_| heard += 1);
    assert_eq!(checks.failures, []);
    assert_eq!((heard, checks.gone, checks.left), (checks.points.len(), 0, 0));
    checks.points.into_iter().map(|result| (result.id.to_string(), result.verdict)).collect()
}

#[test]
fn damaged_points_are_named_and_all_results_are_recorded() {
    let fixture = Fixture::new();
    let disks = fixture.usual_disks();
    let bad = fixture.point("2026-11-20T02:00:00Z", Codec::Zstd(1), &disks);
    let good = fixture.point("2026-11-21T02:00:00Z", Codec::Zstd(1), &disks);
    let mut bytes = fs::read(bad.location()).unwrap();
    let middle = bytes.len() / 2;
    // A single bit may be one that no decoder reads, and then nothing is damaged.
    bytes[middle..middle + 16].iter_mut().for_each(|byte| *byte ^= 0xff);
    fs::write(bad.location(), bytes).unwrap();
    let name = |point: &Point| point.id.to_string();
    assert_eq!(verdicts(&fixture, Which::One(When::Newest)), [(name(&good), Verdict::Good)]);
    assert_eq!(verdicts(&fixture, Which::All), [(name(&bad), Verdict::Damaged), (name(&good), Verdict::Good)]);
    let record = Verified::load(&fixture.path("state")).unwrap();
    assert!(record.is_damaged(&bad) && !record.is_damaged(&good) && record.get(&good).is_some());
}

#[test]
fn point_that_a_restore_would_refuse_is_damaged() {
    let fixture = Fixture::new();
    let disks = fixture.usual_disks();
    let (time, xml) = ("2026-11-20T02:00:00Z", fixture.xml(&disks));
    let other = xml.replace("<name>web 1", "<name>web 9");
    let point = fixture.point_with(time, Codec::Zstd(1), (&disks, &other), |_| ());
    assert_eq!(verdicts(&fixture, Which::All)[0].1, Verdict::Damaged, "the definition of another domain");
    fs::remove_file(point.location()).unwrap();
    let point = fixture.point_with(time, Codec::Zstd(1), (&disks, &xml), |manifest| {
        manifest.disks[0].virtual_bytes += 512;
    });
    assert_eq!(verdicts(&fixture, Which::All)[0].1, Verdict::Damaged, "another size");
    fs::remove_file(point.location()).unwrap();
    fixture.point_with(time, Codec::Zstd(1), (&disks, &xml), |_| ());
    assert_eq!(verdicts(&fixture, Which::All)[0].1, Verdict::Good);
}

#[test]
fn legacy_archives_are_read_up_to_their_checksum() {
    let fixture = Fixture::new();
    let disks = fixture.usual_disks();
    let path = fixture.seed("web 1.tar.gz", &disks[1..]);
    assert_eq!(verdicts(&fixture, Which::All)[0].1, Verdict::Good);
    let good = fs::read(&path).unwrap();
    for at in [good.len() / 2, good.len() - 5] {
        let mut bad = good.clone();
        bad[at..at + 4].iter_mut().for_each(|byte| *byte ^= 0xff);
        fs::write(&path, bad).unwrap();
        assert_eq!(verdicts(&fixture, Which::All)[0].1, Verdict::Damaged, "{at}");
    }
    fs::write(&path, &good[..good.len() - 300]).unwrap();
    assert_eq!(verdicts(&fixture, Which::All)[0].1, Verdict::Damaged);
}

#[test]
fn legacy_archive_that_a_restore_would_refuse_is_damaged() {
    let fixture = Fixture::new();
    let path = fixture.seed("web 1.tar.gz", &fixture.usual_disks()[..1]);
    let (parts, day) = (fixture.path("parts"), fixture.path("parts/2026-11-15"));
    fs::create_dir(&parts).unwrap();
    run("tar", &["-C", text(&parts), "-xf", text(&path)]);
    let image = fs::read_dir(&day).unwrap().map(|entry| entry.unwrap().path());
    let image = image.into_iter().find(|path| path.extension().is_none_or(|end| end != "xml")).unwrap();
    let good = fs::read(&image).unwrap();
    let xml = fs::read_to_string(day.join("web 1-inactive.xml")).unwrap();
    assert!(xml.contains("'qcow2'"));
    let verdict = |what: &str| {
        run("tar", &["-C", text(&parts), "-czf", text(&path), "2026-11-15"]);
        let archive = fs::File::open(&path).unwrap();
        archive.set_modified(std::time::SystemTime::now()).unwrap();
        (what.to_owned(), verdicts(&fixture, Which::All)[0].1)
    };
    let damaged = |what: &str| (what.to_owned(), Verdict::Damaged);
    let good_one = |what: &str| (what.to_owned(), Verdict::Good);
    assert_eq!(verdict("as it was"), good_one("as it was"));
    for (what, bytes) in [("no qcow2 image", &good[1..]), ("an empty image", &[][..])] {
        fs::write(&image, bytes).unwrap();
        assert_eq!(verdict(what), damaged(what));
    }
    fs::remove_file(&image).unwrap();
    let base = ["-b", "/dev/null", "-F", "raw", text(&image), "1M"];
    run("qemu-img", &[&["create", "-q", "-u", "-f", "qcow2"][..], &base].concat());
    assert_eq!(verdict("a backing file"), damaged("a backing file"));
    fs::write(&image, good).unwrap();
    for (what, other) in [("of another domain", xml.replace("<name>web 1", "<name>web 9")), ("none", String::new())] {
        fs::write(day.join("web 1-inactive.xml"), other).unwrap();
        assert_eq!(verdict(what), damaged(what));
    }
    fs::write(day.join("web 1-inactive.xml"), xml).unwrap();
    fs::write(day.join(".hidden"), "").unwrap();
    assert_eq!(verdict("a hidden image"), damaged("a hidden image"));
}

#[test]
fn stopped_verification_records_only_earlier_results() {
    let fixture = Fixture::new();
    let [first, second, _] = three(&fixture);
    let cancel = Cancel::default();
    let scope = Scope { domains: &[DOMAIN.to_owned()], ..ALL };
    let stopped = verify(&fixture.store, &fixture.path("state"), &scope, (&Silent, &cancel), &mut |_| cancel.cancel(2));
    assert!(matches!(stopped, Err(Error::Cancelled(2))));
    let record = Verified::load(&fixture.path("state")).unwrap();
    assert!(record.get(&first).is_some() && record.get(&second).is_none());
}

#[test]
fn longest_unverified_points_come_first() {
    let fixture = Fixture::new();
    let [first, second, third] = three(&fixture).map(|point| point.id);
    let one = |id| checked(&fixture, &Scope { which: Which::One(When::Id(id)), ..ALL }, &mut |_| ());
    one(first);
    assert_eq!(ids(&checked(&fixture, &ALL, &mut |_| ())), [second, third, first]);
    one(second);
    assert_eq!(ids(&checked(&fixture, &ALL, &mut |_| ())), [third, first, second]);
}

#[test]
fn only_a_recent_good_result_skips_a_point() {
    let fixture = Fixture::new();
    let [first, second, third] = three(&fixture);
    let mut recorder = Recorder::new(&fixture.path("state")).unwrap();
    recorder.add(&first, true).unwrap();
    recorder.add(&second, false).unwrap();
    recorder.write().unwrap();
    let older_than = |age| ids(&checked(&fixture, &Scope { older_than: Some(age), ..ALL }, &mut |_| ()));
    assert_eq!(older_than(Duration::MAX), [third.id, second.id]);
    assert_eq!(older_than(Duration::MAX), []);
    assert_eq!(older_than(Duration::ZERO), [first.id, third.id, second.id]);
}

#[test]
fn no_verification_begins_after_the_limit_and_the_rest_is_counted() {
    let fixture = Fixture::new();
    three(&fixture);
    let within = |limit| checked(&fixture, &Scope { limit: Some(limit), ..ALL }, &mut |_| ());
    assert_eq!((within(Duration::ZERO).points.len(), within(Duration::ZERO).left), (0, 3));
    let all = within(Duration::MAX);
    assert_eq!((all.points.len(), all.left), (3, 0));
}

#[test]
fn point_removed_before_its_verification_is_not_a_failure() {
    let fixture = Fixture::new();
    let [first, second, third] = three(&fixture);
    let checks = checked(&fixture, &ALL, &mut |result| {
        if result.id == first.id {
            fixture.store.remove(&second).unwrap();
        }
    });
    assert_eq!((ids(&checks), checks.gone), (vec![first.id, third.id], 1));
    assert!(checks.points.iter().all(|result| result.verdict == Verdict::Good));
}

/// Over NFS, a file that is removed during reading cannot be read any further.
#[test]
fn point_removed_during_its_verification_is_not_a_failure() {
    struct Remover<'a>(&'a Fixture, &'a Point);
    impl Monitor for Remover<'_> {
        fn expect(&self, _: &str, _: u64) {
            // Called for the other points, too, when it is already removed.
            let _ = self.0.store.remove(self.1);
        }
    }
    let fixture = Fixture::new();
    let [first, second, third] = three(&fixture);
    let mut bytes = fs::read(first.location()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 16].iter_mut().for_each(|byte| *byte ^= 0xff);
    fs::write(first.location(), bytes).unwrap();
    let (state, monitor) = (fixture.path("state"), Remover(&fixture, &first));
    let checks = verify(&fixture.store, &state, &ALL, (&monitor, &Cancel::default()), &mut |_| ()).unwrap();
    assert_eq!((ids(&checks), checks.gone), (vec![second.id, third.id], 1), "{checks:?}");
    assert!(!Verified::load(&state).unwrap().is_damaged(&first));
}

/// The directory of a target that is no longer mounted is empty.
#[test]
fn point_that_cannot_be_opened_is_a_failure_unless_it_was_removed() {
    for is_emptied in [true, false] {
        let fixture = Fixture::new();
        let [first, second, third] = three(&fixture);
        let checks = checked(&fixture, &ALL, &mut |result| {
            let removed = if is_emptied { &[&first, &second, &third][..] } else { &[&second] };
            if result.id == first.id {
                removed.iter().for_each(|point| fs::remove_file(point.location()).unwrap());
                if !is_emptied {
                    fs::create_dir(second.location()).unwrap();
                }
            }
        });
        let verdicts: Vec<_> = checks.points.iter().map(|result| result.verdict).collect();
        let last = if is_emptied { Verdict::Unchecked } else { Verdict::Good };
        assert_eq!((&verdicts[..], checks.gone), (&[Verdict::Good, Verdict::Unchecked, last][..], 0), "{checks:?}");
    }
}
