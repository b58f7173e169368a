//! Tests listing and finding with real archives, including damaged ones and those of the legacy script.

use std::fs;

use super::*;
use crate::engine::verified::Recorder;
use crate::model::Codec;
use crate::store::fixture::{DOMAIN, Fixture};

fn state(fixture: &Fixture) -> PathBuf {
    fixture.path("state")
}

fn record(fixture: &Fixture, point: &Point, good: bool) {
    let mut recorder = Recorder::new(&state(fixture)).unwrap();
    recorder.add(point, good).unwrap();
    recorder.write().unwrap();
}

#[test]
fn damaged_points_and_legacy_archives_are_listed() {
    let fixture = Fixture::new();
    let disks = fixture.usual_disks();
    let good = fixture.point("2026-11-20T02:00:00Z", Codec::Zstd(1), &disks);
    let bad = fixture.point("2026-11-21T02:00:00Z", Codec::Gzip(1), &disks);
    let mut bytes = fs::read(bad.location()).unwrap();
    bytes[40] ^= 0xff;
    fs::write(bad.location(), bytes).unwrap();
    fixture.seed("web 1.tar.gz.1", &disks[1..]);

    record(&fixture, &good, true);
    let (all, failures) = list(&fixture.store, &state(&fixture), &[]).unwrap();
    assert_eq!(failures, []);
    let told: Vec<_> = all.iter().map(|info| (info.origin, info.details.is_some(), info.damaged.is_some())).collect();
    let [first, second, third] = &all[..] else { panic!("{all:?}") };
    assert_eq!(told.iter().filter(|told| **told == ("seed", false, false)).count(), 1, "{told:?}");
    let of = |id: &str| [first, second, third].into_iter().find(|info| info.id.to_string() == id).unwrap();
    let details = of("20261120T020000Z").details.as_ref().unwrap();
    assert_eq!(details.disks.len(), 2);
    assert!(details.ratio.unwrap() > 1.0);
    assert!(of("20261120T020000Z").verified.as_ref().unwrap().good);
    assert!(of("20261121T020000Z").damaged.as_ref().unwrap().message.contains("damaged"));
    assert!(of("20261121T020000Z").verified.is_none());
}

#[test]
fn requested_point_is_found() {
    let fixture = Fixture::new();
    for day in ["20", "21", "22"] {
        fixture.point(&format!("2026-11-{day}T02:00:00Z"), Codec::None, &[]);
    }
    let id = |when| find(&fixture.store, DOMAIN, when).map(|point| point.id.to_string());
    let time = |text: &str| When::NoLaterThan(text.parse().unwrap());
    assert_eq!(id(When::Newest).unwrap(), "20261122T020000Z");
    assert_eq!(id(When::Id("20261120T020000Z".parse().unwrap())).unwrap(), "20261120T020000Z");
    assert_eq!(id(time("2026-11-22T01:59:59Z")).unwrap(), "20261121T020000Z");
    assert_eq!(id(time("2026-11-22T02:00:00Z")).unwrap(), "20261122T020000Z");
    let error = id(time("2026-11-20T01:00:00Z")).unwrap_err();
    assert_eq!(error.hint().unwrap(), "Restore points: 20261122T020000Z, 20261121T020000Z, 20261120T020000Z");
    let error = find(&fixture.store, "web 2", When::Newest).unwrap_err();
    assert_eq!(error.hint().unwrap(), "Domains with restore points: web 1");
    assert!(list(&fixture.store, &state(&fixture), &["web 2".to_owned()]).is_err());
}

#[test]
fn verification_counts_only_for_the_archive_that_was_verified() {
    let fixture = Fixture::new();
    let mut point = fixture.point("2026-11-20T02:00:00Z", Codec::None, &[]);
    record(&fixture, &point, false);
    let again = Verified::load(&state(&fixture)).unwrap();
    assert!(again.is_damaged(&point));
    point.bytes += 1;
    assert!(again.get(&point).is_none());
    fs::write(state(&fixture).join("verified.json"), "{").unwrap();
    assert!(Verified::load(&state(&fixture)).unwrap().get(&point).is_none());
}

/// Lists this many guests with 30 points each, first without a cache. Prints how long that takes.
fn list_of_a_fleet(guests: usize) {
    let fixture = Fixture::with_repository();
    fixture.point("2026-11-20T02:00:00Z", Codec::None, &fixture.usual_disks());
    fixture.multiply(guests, 30);
    for cache in ["cold", "warm"] {
        if cache == "cold" {
            fs::remove_dir_all(fixture.path("cache")).unwrap();
        }
        let store = fixture.opened(&crate::sys::patience::Patience::default());
        let began = std::time::Instant::now();
        let (listed, failures) = list(&store, &state(&fixture), &[]).unwrap();
        eprintln!("figure: {} points with a {cache} cache: {:.1} s", listed.len(), began.elapsed().as_secs_f64());
        assert!(
            listed.len() == guests * 30 && failures.is_empty() && listed.iter().all(|point| point.details.is_some())
        );
    }
}

#[test]
fn points_of_twenty_guests_in_a_repository_are_listed() {
    list_of_a_fleet(20);
}
