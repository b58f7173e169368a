//! Tests that a sample finds what it reads and every damage of the structure, and nothing else.

use std::collections::BTreeSet;

use super::super::*;
use super::scene::{Image, MIB, Scene, objects, put_back};
use crate::model::Sample;

const TIME: &str = "2026-11-30T02:00:00Z";

#[test]
fn sample_finds_damage_only_in_the_blobs_that_it_reads() {
    let scene = Scene::new();
    let image = Image::new(4 * MIB, &[(0, 4 * MIB)], 9);
    let (id, snapshot) = scene.point("web", TIME, &image);
    let sampled = |percent, seed| {
        let (damages, read, all) = scene.open(id, &snapshot).unwrap().sample(Sample { percent, seed }, &mut |_| ());
        assert!(damages.iter().all(Error::is_damage) && read <= all, "{damages:?}");
        (damages.len(), read, all)
    };
    let (_, read, all) = sampled(10, 1);
    assert!(read > all / 20 && read < all / 4, "{read} of {all}");
    assert_eq!((sampled(100, 1), sampled(10, 1)), ((0, all, all), (0, read, all)));

    // The first blob of the largest pack.
    let saved = objects(&scene);
    let packs = saved.iter().filter(|(object, _)| object.kind == Kind::Pack);
    let (object, mut bytes) = packs.max_by_key(|(_, bytes)| bytes.len()).unwrap().clone();
    bytes[20] ^= 1;
    scene.restic.place().put(object, bytes).unwrap();
    let found: BTreeSet<usize> = (0..60).map(|seed| sampled(10, seed).0).collect();
    assert_eq!(found, BTreeSet::from([0, 1]), "a sample finds it sometimes");
    assert_eq!(sampled(100, 1).0, 1);
    for seed in 0..5 {
        assert_eq!(sampled(10, seed), sampled(10, seed), "the same sample has the same result");
    }
}

#[test]
fn sample_always_finds_lost_and_short_packs_and_a_lost_index() {
    let scene = Scene::new();
    let image = Image::new(3 * MIB, &[(0, 3 * MIB)], 9);
    let (id, snapshot) = scene.point("web", TIME, &image);
    let saved = objects(&scene);
    let place = scene.restic.place();
    let largest = saved.iter().filter(|(object, _)| object.kind == Kind::Pack).max_by_key(|(_, bytes)| bytes.len());
    let (pack, bytes) = largest.unwrap();
    for rest in [None, Some(bytes.len() / 2), Some(0)] {
        match rest {
            Some(length) => place.put(*pack, bytes[..length].to_vec()).unwrap(),
            None => place.remove(*pack).unwrap(),
        }
        let (damages, ..) = scene.open(id, &snapshot).unwrap().sample(Sample { percent: 1, seed: 1 }, &mut |_| ());
        assert!(damages.len() > 5 && damages.iter().all(Error::is_damage), "{rest:?} {damages:?}");
        assert!(damages.iter().all(|error| error.to_string().contains(&pack.to_string())), "{damages:?}");
        put_back(&scene, &saved);
    }
    // The index that lists the largest pack.
    let size = |reader: &SnapshotReader| reader.sample(Sample { percent: 1, seed: 1 }, &mut |_| ()).0.len();
    assert_eq!(size(&scene.open(id, &snapshot).unwrap()), 0);
    for (index, _) in saved.iter().filter(|(object, _)| object.kind == Kind::Index) {
        place.remove(*index).unwrap();
    }
    // Without any index, not even the directories are found.
    assert!(scene.open(id, &snapshot).err().unwrap().is_damage());
}
