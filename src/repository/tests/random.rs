//! Random sequences of writes, backups of changed ranges, crashes, removals and prunes, compared with a model of the disk
//! after each step. restic checks every byte of the repository.

use std::fs;

use super::super::*;
use super::scene::{Image, MIB, Scene, about};
use crate::model::Extent;
use crate::sys::signals::Cancel;

/// A generator of numbers that depends only on its seed: splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// A committed point with the contents that it must have, and what changed since.
struct Saved {
    id: Id,
    snapshot: Snapshot,
    bytes: Vec<u8>,
    changed: Vec<Extent>,
}

/// A guest with one disk, and the points that a correct repository has of it.
struct Guest {
    name: String,
    image: Image,
    saved: Vec<Saved>,
}

struct World {
    scene: Scene,
    random: Random,
    guests: Vec<Guest>,
    clock: u64,
}

impl World {
    /// Guests of one template, so that they share blobs.
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let size = (1 + random.below(9)) * MIB + random.below(3) * 512;
        let ranges = [(0, MIB.min(size / 2)), (size / 2, size / 4)];
        let guest =
            |name: &str| Guest { name: name.to_owned(), image: Image::new(size, &ranges, 7), saved: Vec::new() };
        World { scene: Scene::new(), random, guests: vec![guest("a"), guest("b")], clock: 0 }
    }

    fn step(&mut self) -> &'static str {
        let which = self.random.below(self.guests.len() as u64) as usize;
        match self.random.below(20) {
            0..7 => self.write(which),
            7..9 => self.discard(which),
            9..15 => self.back_up(which),
            15 => self.crash(which),
            16 => self.resize(which),
            17 => self.forget(which),
            18 => {
                self.scene.restic.run(&["prune", "--max-unused", "0"]);
                "prune"
            }
            _ => {
                let _ = fs::remove_dir_all(&self.scene.options.cache);
                "lose the cache"
            }
        }
    }

    fn range(&mut self, which: usize) -> (u64, u64) {
        let size = self.guests[which].image.bytes.len() as u64;
        let offset = self.random.below(size);
        let longest = [100, 5000, 70_000, 600_000, 3 * MIB][self.random.below(5) as usize];
        (offset, (1 + self.random.below(longest)).min(size - offset))
    }

    fn write(&mut self, which: usize) -> &'static str {
        for _ in 0..=self.random.below(8) {
            let ((offset, length), seed) = (self.range(which), self.random.next());
            let guest = &mut self.guests[which];
            guest.image.fill(offset, length, seed);
            guest.image.extents = joined(&guest.image.extents, offset, length);
            guest.note(offset, length);
        }
        "write"
    }

    fn discard(&mut self, which: usize) -> &'static str {
        let (offset, length) = self.range(which);
        let guest = &mut self.guests[which];
        guest.image.bytes[offset as usize..(offset + length) as usize].fill(0);
        let end = offset + length;
        let rest = |extent: &Extent| {
            let before = Extent { length: extent.length.min(offset.saturating_sub(extent.offset)), ..*extent };
            let start = extent.offset.max(end);
            [before, Extent { offset: start, length: extent.end().saturating_sub(start) }]
        };
        guest.image.extents = guest.image.extents.iter().flat_map(rest).filter(|extent| extent.length > 0).collect();
        guest.note(offset, length);
        "discard"
    }

    /// The changes since the last point are known for some runs, and are more than what really changed.
    fn back_up(&mut self, which: usize) -> &'static str {
        let is_known = self.random.below(5) > 0;
        let writer = self.begin(which, is_known);
        let (id, snapshot) = writer.commit(None).unwrap();
        let guest = &mut self.guests[which];
        guest.saved.push(Saved { id, snapshot, bytes: guest.image.bytes.clone(), changed: Vec::new() });
        if is_known { "back up what changed" } else { "back up everything" }
    }

    /// The run dies before it commits.
    fn crash(&mut self, which: usize) -> &'static str {
        drop(self.begin(which, true));
        "crash"
    }

    fn begin(&mut self, which: usize, is_known: bool) -> SnapshotWriter {
        self.clock += 1;
        let time = format!("2026-12-01T{:02}:{:02}:{:02}Z", self.clock / 3600, self.clock / 60 % 60, self.clock % 60);
        let guest = &self.guests[which];
        let mut writer =
            SnapshotWriter::begin(&self.scene.repository, about(&guest.name, &time), &self.scene.options).unwrap();
        assert_eq!(writer.parent(), guest.saved.last().map(|saved| saved.id), "the newest point is the parent");
        writer.add("manifest.json", b"{}").unwrap();
        let changed = guest.saved.last().filter(|_| is_known).map(|saved| saved.changed.clone());
        let disk = Disk { changed, ..guest.image.disk() };
        writer.disk::<Error>("disks/vda.raw", &disk, &mut |extents, sink| guest.image.read(extents, sink)).unwrap();
        writer
    }

    fn resize(&mut self, which: usize) -> &'static str {
        let more = self.random.below(2 * MIB);
        let image = &mut self.guests[which].image;
        image.bytes.resize(image.bytes.len() + more as usize, 0);
        "resize"
    }

    fn forget(&mut self, which: usize) -> &'static str {
        let guest = &mut self.guests[which];
        if !guest.saved.is_empty() {
            let saved = guest.saved.remove(self.random.below(guest.saved.len() as u64) as usize);
            self.scene.repository.forget(saved.id).unwrap();
        }
        "forget"
    }

    /// Compares every byte of every point with the model.
    fn check(&self, steps: &[&str]) {
        self.scene.restic.run(&["check", "--read-data"]);
        for guest in &self.guests {
            for saved in &guest.saved {
                let catalog =
                    std::sync::Arc::new(Catalog::open(&self.scene.repository, &self.scene.options.cache).unwrap());
                let parts = (saved.id, &saved.snapshot);
                let reader = SnapshotReader::open(&self.scene.repository, &catalog, parts, &Cancel::default()).unwrap();
                let disk = reader.disk("disks/vda.raw").unwrap();
                let mut found = vec![0; disk.size() as usize];
                disk.read_at(0, &mut found).unwrap();
                assert!(found == saved.bytes, "{}: point {} differs after {steps:?}", guest.name, saved.id);
            }
            if let Some(saved) = guest.saved.last() {
                let dumped = self.scene.restic.try_run(&[
                    "dump",
                    &saved.id.to_string(),
                    &format!("/{}/disks/vda.raw", guest.name),
                ]);
                assert!(dumped.stdout == saved.bytes, "{}: restic's bytes differ after {steps:?}", guest.name);
            }
        }
    }
}

impl Guest {
    /// Records a change for all points.
    fn note(&mut self, offset: u64, length: u64) {
        for saved in &mut self.saved {
            saved.changed = joined(&saved.changed, offset, length);
        }
    }
}

/// The extents with one more, merged.
pub fn joined(extents: &[Extent], offset: u64, length: u64) -> Vec<Extent> {
    let mut all = [extents, &[Extent { offset, length }]].concat();
    all.sort_unstable_by_key(|extent| extent.offset);
    let mut merged: Vec<Extent> = Vec::new();
    for extent in all {
        match merged.last_mut() {
            Some(last) if last.end() >= extent.offset => last.length = last.length.max(extent.end() - last.offset),
            _ => merged.push(extent),
        }
    }
    merged
}

/// Runs one sequence. Each step is followed by a complete check if `each`, or else the last one is.
fn sequence(seed: u64, each: bool) {
    eprintln!("seed {seed}");
    let mut world = World::new(seed);
    let mut steps = Vec::new();
    for _ in 0..25 {
        steps.push(world.step());
        if each && !matches!(steps.last(), Some(&("write" | "discard" | "resize"))) {
            world.check(&steps);
        }
    }
    world.check(&steps);
}

#[test]
fn any_sequence_of_changes_and_backups_leaves_correct_points() {
    (0..3).for_each(|seed| sequence(seed, false));
}

#[test]
#[ignore = "soak: 300 sequences, each step checked by restic"]
fn three_hundred_sequences_leave_correct_points_after_every_step() {
    (1000..1300).for_each(|seed| sequence(seed, true));
}
