//! The contents and the set of a guest's disks at each instant of a round.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::lab::qemu_img;

/// The size of every disk.
pub const SIZE: usize = 4 << 20;
/// The size of one write.
pub const SLOT: usize = 64 << 10;
pub const SLOTS: usize = SIZE / SLOT;

/// The byte that fills each slot of a disk.
pub type Slots = Vec<u8>;
/// The contents of the disks that a guest has, by target.
pub type Instant = BTreeMap<String, Slots>;

/// The disks and their history.
pub struct Disks {
    held: BTreeMap<String, Slots>,
    /// Those of the running guest.
    pub live: BTreeSet<String>,
    /// Those of its definition.
    pub config: BTreeSet<String>,
    pub active: bool,
    history: Vec<Instant>,
    last: u8,
}

impl Disks {
    /// `all` are the disks that the guest may get, empty; it starts with those of `now`.
    pub fn new(all: &[&str], now: &[&str], active: bool) -> Self {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let held = names(all).into_iter().map(|target| (target, vec![0; SLOTS])).collect();
        let mut disks = Disks { held, live: names(now), config: names(now), active, history: vec![], last: 0 };
        disks.remember();
        disks
    }

    /// The guest's current targets.
    pub fn present(&self) -> Vec<String> {
        let now = if self.active { &self.live } else { &self.config };
        now.iter().cloned().collect()
    }

    /// A byte that was not written recently.
    pub fn fresh(&mut self) -> u8 {
        self.last = self.last % 255 + 1;
        self.last
    }

    pub fn written(&mut self, target: &str, slot: usize, byte: u8) {
        self.held.get_mut(target).expect("the disk is known")[slot] = byte;
        self.remember();
    }

    /// The size of a disk with one more slot.
    pub fn next_size(&self, target: &str) -> usize {
        (self.held[target].len() + 1) * SLOT
    }

    /// Adds a slot.
    pub fn grow(&mut self, target: &str) {
        self.held.get_mut(target).expect("the disk is known").push(0);
    }

    /// Records the current contents.
    pub fn remember(&mut self) {
        let now = self.now();
        if self.history.last() != Some(&now) {
            self.history.push(now);
        }
    }

    /// The current contents.
    pub fn now(&self) -> Instant {
        self.present().into_iter().map(|target| (target.clone(), self.held[&target].clone())).collect()
    }

    /// The disks contain this again, as after a revert.
    pub fn go_back(&mut self, to: &Instant) {
        self.held.extend(to.clone());
        self.remember();
    }

    /// The number of the current instant.
    pub fn instant(&self) -> usize {
        self.history.len() - 1
    }

    /// Panics unless these contents are those of one instant since `from`, and the missing disks are among those in
    /// `told`.
    pub fn assert_one_instant(&self, from: usize, saved: &Instant, told: impl Fn(&str) -> bool) {
        let is_it = |then: &Instant| {
            let same = saved.iter().all(|(target, slots)| then.get(target) == Some(slots));
            same && then.keys().all(|target| saved.contains_key(target) || told(target))
        };
        let since = &self.history[from..];
        assert!(
            since.iter().any(is_it),
            "the archive matches no instant: {:#?}\nthe instants: {:#?}",
            Brief(saved),
            since.iter().map(Brief).collect::<Vec<_>>()
        );
    }
}

/// An instant, without the slots that were never written.
pub struct Brief<'a>(pub &'a Instant);

impl std::fmt::Debug for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (target, slots) in self.0 {
            let written = slots.iter().enumerate().filter(|(_, byte)| **byte != 0);
            write!(f, "{target}: {:?} ", written.collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

/// The slots of an image, each of which contains only one byte value.
pub fn slots_of(image: &Path, format: &str, copy: &Path) -> Slots {
    let [image, to] = [image, copy].map(|path| path.to_str().expect("paths are UTF-8"));
    qemu_img(&["convert", "-U", "-f", format, "-O", "raw", image, to]);
    let bytes = std::fs::read(copy).expect("the copy is readable");
    let slot = |slot: &[u8]| {
        assert_eq!(slot, vec![slot[0]; SLOT], "{image}: a slot mixes old and new");
        slot[0]
    };
    bytes.chunks(SLOT).map(slot).collect()
}
