//! Applies every damage of a matrix to a real archive: `verify` names it, `restore` never returns wrong data silently,
//! and nothing else in the same command is affected.
//!
//! The places are found by the test's own parser of the format (`damage/places.rs`); the archives are created by the
//! program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]

#[path = "damage/archives.rs"]
mod archives;
#[path = "damage/kinds.rs"]
mod kinds;
#[path = "damage/places.rs"]
mod places;
#[path = "damage/salvaged.rs"]
mod salvaged;

use crate::host;
use std::fs;

use archives::{Archives, Contents};
use kinds::{KINDS, Kind, damaged};
use places::places;
use salvaged::Originals;

/// Each damaged archive in place of the good one, with the description of its damage: `zstd: flip in seek table`.
fn each_damage(archives: &Archives, every: usize, mut check: impl FnMut(&str, &places::Place, Kind)) {
    let good = fs::read(&archives.archive).unwrap();
    let places = places(&good, archives.codec);
    // Each place in turn, so that a sample has every place and every kind.
    let all = places.iter().flat_map(|place| KINDS.map(|kind| (place, kind)));
    for (place, kind) in all.enumerate().filter(|(number, _)| number % every == 0).map(|(_, one)| one) {
        let Some(bad) = damaged(&good, place, kind) else { continue };
        fs::write(&archives.archive, bad).unwrap();
        check(&format!("{}: {kind:?} in {}", archives.codec, place.name), place, kind);
    }
    fs::write(&archives.archive, good).unwrap();
}

/// Panics unless `verify` reports the archive as damaged, with its path and the cause, and the other domain's as good.
fn is_named(archives: &Archives, what: &str) {
    let ran = archives.host.run("verify --json");
    assert_eq!(ran.code, 6, "{what}: {ran:?}");
    let points = ran.json()["points"].as_array().unwrap().clone();
    let of = |domain: &str| points.iter().find(|point| point["domain"] == domain).unwrap();
    assert_eq!(of("other")["verdict"], "good", "{what}: the other domain");
    assert_eq!(of("web")["verdict"], "damaged", "{what}");
    let failures = of("web")["failures"].as_array().unwrap();
    assert!(!failures.is_empty(), "{what}");
    for failure in failures {
        let message = failure["message"].as_str().unwrap();
        assert!(message.contains(archives.archive.to_str().unwrap()), "{what}: {message}");
        let places = [
            "member ",
            "frame at byte",
            "seek table",
            "tar header",
            "SHA256SUMS",
            "manifest.json",
            "not a kvmbackup archive",
            "cannot read",
        ];
        assert!(places.iter().any(|place| message.contains(place)), "{what}: {message}");
    }
}

/// Panics unless a restore returns the exact bytes that were saved, or fails and leaves nothing. The second disk alone
/// is restored if the damage is elsewhere.
fn is_never_silently_wrong(archives: &Archives, good: &Contents, what: &str, place: &places::Place, kind: Kind) {
    let stays_in_place = matches!(kind, Kind::Flip | Kind::Swap | Kind::Zero);
    for words in ["", "--disk vdb"] {
        let to = archives.host.path("restored");
        let ran = archives.host.run(&format!("restore web --to {} {words}", to.display()));
        match ran.code {
            0 => Contents::of(&to).is_within(good, what),
            _ => assert!(!to.exists(), "{what}: a failed restore left {:?}", Contents::of(&to)),
        }
        if words.contains("vdb") && place.leaves_second_disk && stays_in_place {
            assert_eq!(ran.code, 0, "{what}: the damage is not in vdb: {ran:?}");
        }
        let _ = fs::remove_dir_all(&to);
    }
}

/// Every so many entries of the matrix for one codec.
fn damage_matrix(codec: &'static str, every: usize) {
    let archives = Archives::new(codec);
    let good = archives.restored("web");
    let originals = Originals::of(&archives);
    each_damage(&archives, every, |what, place, kind| {
        eprintln!("{what}");
        is_named(&archives, what);
        is_never_silently_wrong(&archives, &good, what, place, kind);
        salvaged::all_else_comes_back(&archives, &originals, what, place, kind);
    });
    assert_eq!(archives.host.run("verify").code, 0, "the good archive is back");
    salvaged::a_good_one_is_whole(&archives, &originals);
}

#[test]
fn damage_to_a_zstd_archive_is_named_never_restored_and_costs_only_its_frames() {
    damage_matrix("zstd", 4);
}

#[test]
#[ignore = "soak: every entry of the matrix, of which the other tests take every fourth"]
fn damage_to_a_zstd_or_gzip_archive_is_named_at_every_place() {
    damage_matrix("zstd", 1);
    damage_matrix("gzip", 1);
}

#[test]
fn damage_to_a_gzip_archive_is_named_never_restored_and_costs_only_its_frames() {
    damage_matrix("gzip", 4);
}

#[test]
fn damage_to_an_uncompressed_archive_is_named_and_never_restored() {
    damage_matrix("none", 1);
}

#[test]
fn damage_to_an_archive_of_the_legacy_script_is_named_and_never_restored() {
    damage_matrix("seed", 1);
}
