//! Tests rotation with real archives.

use std::fs;

use super::*;
use crate::archive::Manifest;
use crate::engine::verified::Recorder;
use crate::model::Codec;
use crate::store::fixture::{DOMAIN, Fixture, UUID};

fn lines(rotation: &Rotation) -> Vec<String> {
    let line = |judged: &Judged| {
        let sign = match (judged.keep, judged.removed) {
            (true, _) => '+',
            (false, true) => '-',
            (false, false) => '?',
        };
        let why: String = judged.reasons.join(", ").chars().take(30).collect();
        format!("{sign} {} {why}", judged.id)
    };
    rotation.points.iter().map(line).collect()
}

fn now() -> DateTime<Local> {
    "2026-11-30T12:00:00Z".parse::<DateTime<chrono::Utc>>().unwrap().with_timezone(&Local)
}

/// Rotates as after a backup of the fixture's guest.
fn rotate(fixture: &Fixture, last: u32) -> Rotation {
    let verified = Verified::load(&fixture.path("state")).unwrap();
    let rotate = Rotate { store: &fixture.store, verified: &verified, now: now(), dry_run: false };
    rotate.guest(DOMAIN, UUID, (&Policy::rotate(last), StoreChoice::Archive)).unwrap()
}

#[test]
fn point_and_its_copy_in_the_other_store_count_once() {
    let fixture = Fixture::with_repository().with_second();
    let times = ["2026-11-20T02:00:00Z", "2026-11-21T02:00:00Z", "2026-11-22T02:00:00Z"];
    for time in times {
        fixture.point(time, Codec::None, &[]);
    }
    // The newest was not copied, and an older archive is from before the repository.
    let alone = Fixture { store: fixture.store.only(StoreKind::Archive).unwrap(), dir: fixture.dir };
    for time in ["2026-11-19T02:00:00Z", times[0], times[1]] {
        alone.point(time, Codec::None, &[]);
    }
    let fixture = Fixture { store: fixture.store, dir: alone.dir };
    let judged = |rotation: &Rotation| -> Vec<_> {
        rotation.points.iter().map(|point| (point.id.to_string(), point.store, point.keep)).collect()
    };
    // With both, archives are superseded only by archives.
    let verified = Verified::default();
    let both = Rotate { store: &fixture.store, verified: &verified, now: now(), dry_run: true };
    let both = both.guest(DOMAIN, UUID, (&Policy::rotate(2), StoreChoice::Both)).unwrap();
    let kept = judged(&both).into_iter().filter(|(_, store, keep)| *keep && *store == StoreKind::Archive);
    assert_eq!(kept.map(|(id, ..)| id).collect::<Vec<_>>(), ["20261121T020000Z", "20261120T020000Z"]);

    let rotation = rotate(&fixture, 2);
    let [archive, snapshot] = StoreKind::ALL;
    let expected = [
        ("20261122T020000Z", snapshot, true),
        ("20261121T020000Z", snapshot, true),
        ("20261121T020000Z", archive, true),
        ("20261120T020000Z", snapshot, false),
        ("20261120T020000Z", archive, false),
        ("20261119T020000Z", archive, false),
    ];
    assert_eq!(judged(&rotation), expected.map(|(id, store, keep)| (id.to_owned(), store, keep)));
    assert_eq!((rotation.left(), rotation.removed().len()), (2, 2));
    assert_eq!(fixture.store.points(DOMAIN).unwrap().len(), 3);
}

#[test]
fn damaged_points_stay_and_do_not_count() {
    let fixture = Fixture::new();
    let point = |day: u32| fixture.point(&format!("2026-11-{day}T02:00:00Z"), Codec::None, &[]);
    let points: Vec<_> = (20..25).map(point).collect();
    fs::write(points[4].location(), "").unwrap();
    let mut recorder = Recorder::new(&fixture.path("state")).unwrap();
    recorder.add(&points[3], false).unwrap();
    recorder.write().unwrap();
    let rotation = rotate(&fixture, 2);
    assert_eq!(
        lines(&rotation),
        [
            "+ 20261124T020000Z damaged: its manifest cannot b",
            "+ 20261123T020000Z found damaged by its last veri",
            "+ 20261122T020000Z last 1 of 2",
            "+ 20261121T020000Z last 2 of 2",
            "- 20261120T020000Z no rule keeps it",
        ]
    );
    assert_eq!((rotation.left(), rotation.removed()), (4, vec![points[0].id]));
    assert_eq!(fixture.store.points(DOMAIN).unwrap().len(), 4);
}

#[test]
fn only_good_point_stays_although_newer_points_exist() {
    let fixture = Fixture::new();
    let point = |day: u32| fixture.point(&format!("2026-11-{day}T02:00:00Z"), Codec::Zstd(1), &[]);
    let points: Vec<_> = (20..24).map(point).collect();
    points[1..].iter().for_each(|point| fs::write(point.location(), "x").unwrap());
    let rotation = rotate(&fixture, 1);
    assert!(rotation.points.iter().all(|judged| judged.keep), "{rotation:?}");
}

#[test]
fn last_complete_point_stays() {
    let fixture = Fixture::new();
    fixture.point("2026-11-19T02:00:00Z", Codec::None, &[]);
    fixture.point("2026-11-20T02:00:00Z", Codec::None, &[]);
    for day in 21..24 {
        let lacks = |manifest: &mut Manifest| manifest.skipped[0].missed = true;
        fixture.point_with(&format!("2026-11-{day}T02:00:00Z"), Codec::None, (&[], "<domain/>"), lacks);
    }
    let rotation = rotate(&fixture, 2);
    assert_eq!(
        lines(&rotation),
        [
            "+ 20261123T020000Z last 1 of 2",
            "+ 20261122T020000Z last 2 of 2",
            "- 20261121T020000Z no rule keeps it",
            "+ 20261120T020000Z the newest complete one",
            "- 20261119T020000Z no rule keeps it",
        ]
    );
}

#[test]
fn legacy_archives_stay_and_do_not_count() {
    let fixture = Fixture::new();
    fixture.seed("web 1.tar.gz", &[]);
    fixture.point("2026-11-20T02:00:00Z", Codec::None, &[]);
    fixture.point("2026-11-21T02:00:00Z", Codec::None, &[]);
    let rotation = rotate(&fixture, 1);
    assert_eq!(rotation.removed().len(), 1);
    assert_eq!(fixture.store.points(DOMAIN).unwrap().len(), 2);
}

#[test]
fn points_of_another_guest_stay_and_do_not_count() {
    let fixture = Fixture::new();
    let other = Uuid::from_u128(7);
    for day in 18..20 {
        let of_other = |manifest: &mut Manifest| manifest.domain.uuid = other;
        fixture.point_with(&format!("2026-11-{day}T02:00:00Z"), Codec::None, (&[], "<domain/>"), of_other);
    }
    let days = [20, 21, 22].map(|day| fixture.point(&format!("2026-11-{day}T02:00:00Z"), Codec::None, &[]));
    let rotation = rotate(&fixture, 2);
    assert_eq!(
        lines(&rotation),
        [
            "+ 20261122T020000Z last 1 of 2",
            "+ 20261121T020000Z last 2 of 2",
            "- 20261120T020000Z no rule keeps it",
            "+ 20261119T020000Z of another guest with this nam",
            "+ 20261118T020000Z of another guest with this nam",
        ]
    );
    assert_eq!((rotation.left(), rotation.removed()), (2, vec![days[0].id]));
    let [told] = &rotation.left_alone[..] else { panic!("{rotation:?}") };
    assert_eq!(told.message, format!("2 restore points of another guest with this name (UUID {other}) are kept"));
    let hint = told.hint.as_ref().unwrap();
    assert!(hint.contains("rm /") && hint.ends_with("/web%201/web%201-20261119T020000Z.tar"), "{hint}");
    // The guest is identified by its UUID, not by the newest point.
    let verified = Verified::load(&fixture.path("state")).unwrap();
    let rotate = Rotate { store: &fixture.store, verified: &verified, now: now(), dry_run: false };
    let of_other = rotate.guest(DOMAIN, other, (&Policy::rotate(1), StoreChoice::Archive)).unwrap();
    assert_eq!(of_other.removed(), ["20261118T020000Z".parse().unwrap()]);
}

#[test]
fn unreadable_point_stays() {
    let fixture = Fixture::new();
    let days = [20, 21, 22].map(|day| fixture.point(&format!("2026-11-{day}T02:00:00Z"), Codec::None, &[]));
    fs::write(days[2].location(), "x").unwrap();
    let rotation = rotate(&fixture, 1);
    assert_eq!(rotation.removed(), [days[0].id]);
    assert_eq!(rotation.left(), 2);
}

#[test]
fn suspect_newest_point_puts_rotation_on_hold() {
    let fixture = Fixture::new();
    let days = [20, 21].map(|day| fixture.point(&format!("2026-11-{day}T02:00:00Z"), Codec::None, &[]));
    let suspect = |manifest: &mut Manifest| manifest.suspect = Some("disk vda is empty".to_owned());
    fixture.point_with("2026-11-22T02:00:00Z", Codec::None, (&[], "<domain/>"), suspect);
    let held = rotate(&fixture, 1);
    assert_eq!(
        lines(&held),
        [
            "+ 20261122T020000Z last 1 of 1",
            "+ 20261121T020000Z the newest complete one",
            "+ 20261120T020000Z rotation is on hold: the newes",
        ]
    );
    assert!(held.left_alone[0].message.ends_with("disk vda is empty"), "{held:?}");
    // The next point is complete.
    fixture.point("2026-11-23T02:00:00Z", Codec::None, &[]);
    let resumed = rotate(&fixture, 1);
    assert_eq!((resumed.removed().len(), resumed.left_alone.len()), (3, 0));
    assert!(!resumed.removed().is_empty() && !days[1].location().exists());
}

#[test]
fn paths_in_hints_are_quoted_for_a_shell() {
    assert_eq!((quoted("/b/a%20b-1.tar"), quoted("/b c/d'e")), ("/b/a%20b-1.tar".into(), "'/b c/d'\\''e'".into()));
}
