//! Tests a store with two targets: which one is written, and what is found where.

use super::*;
use crate::store::fixture::{DOMAIN, Fixture};

fn kinds(points: &[Point]) -> Vec<(String, StoreKind)> {
    points.iter().map(|point| (point.id.to_string(), point.store())).collect()
}

/// Archives first, then a repository, each with a point.
fn filled() -> Fixture {
    let fixture = Fixture::new().with_second();
    fixture.point("2026-11-20T02:00:00Z", ZSTD, &[]);
    let store = fixture.store.writing_to(StoreKind::Repository).unwrap();
    let fixture = Fixture { store, ..fixture };
    fixture.point("2026-11-21T02:00:00Z", ZSTD, &[]);
    fixture
}

#[test]
fn points_of_both_targets_are_listed_opened_protected_and_removed() {
    let fixture = filled();
    let store = &fixture.store;
    let points = store.points(DOMAIN).unwrap();
    let [archive, snapshot] = &points[..] else { panic!("{points:?}") };
    let expected = [("20261120T020000Z", StoreKind::Archive), ("20261121T020000Z", StoreKind::Repository)];
    assert_eq!(kinds(&points), expected.map(|(id, kind)| (id.to_owned(), kind)));
    assert_eq!(store.points_of(vec![DOMAIN.to_owned()]).unwrap()[0].1.as_ref().unwrap(), &points);
    assert_eq!(store.domains().unwrap().names, [DOMAIN]);
    for kind in StoreKind::ALL {
        let only = store.only(kind).unwrap().points(DOMAIN).unwrap();
        assert!(only.iter().all(|point| point.store() == kind) && only.len() == 1, "{only:?}");
    }
    for point in [archive, snapshot] {
        assert_eq!(store.open(point, &Cancel::default()).unwrap().manifest().unwrap().unwrap().point, point.id);
        store.protect(point, true).unwrap();
    }
    let points = store.points(DOMAIN).unwrap();
    assert!(points.iter().all(Point::is_protected), "{points:?}");
    assert!(points.iter().all(|point| store.remove(point).is_err()));
    for point in &points {
        store.protect(point, false).unwrap();
    }
    for point in store.points(DOMAIN).unwrap() {
        store.remove(&point).unwrap();
    }
    assert!(store.points(DOMAIN).unwrap().is_empty());
}

#[test]
fn new_point_is_newer_than_those_of_the_other_target() {
    let fixture = filled();
    let store = fixture.store.writing_to(StoreKind::Archive).unwrap();
    assert_eq!((store.kind(), fixture.store.kind()), (StoreKind::Archive, StoreKind::Repository));
    let fixture = Fixture { store, ..fixture };
    // The clock went back by a minute since the snapshot was taken.
    let point = fixture.point("2026-11-21T01:59:00Z", ZSTD, &[]);
    assert_eq!(point.id.to_string(), "20261121T020001Z");
    let copy = crate::model::NewId::Copied("20261121T020000Z".parse().unwrap());
    let intent = Intent { id: copy, codec: ZSTD, threads: 1, cancel: Cancel::default() };
    let domain = DomainRef { name: DOMAIN.to_owned(), uuid: uuid::Uuid::nil() };
    let writer = fixture.store.begin(&domain, &intent, |_| Ok::<_, Error>(())).unwrap();
    assert_eq!(writer.id().to_string(), "20261121T020000Z", "a copy has the ID of its point");
}
