//! The operator's snapshots, and the check that they are intact in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::disks::{Instant, slots_of};
use super::world::World;
use crate::lab::try_virsh;

/// The kind of action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshot {
    Internal,
    External,
    /// An external snapshot that libvirt keeps.
    Kept,
    Revert,
    Delete,
}

/// The contents that an internal snapshot reverts to.
#[derive(Clone)]
pub struct Taken {
    held: Instant,
    live: BTreeSet<String>,
    config: BTreeSet<String>,
    elements: BTreeMap<String, String>,
}

/// An external snapshot.
pub struct Kept {
    held: Instant,
    /// The images that contain it, and the overlays above them.
    below: BTreeMap<String, PathBuf>,
    above: BTreeMap<String, PathBuf>,
}

impl World {
    pub fn snapshot(&mut self, how: Snapshot) -> Result<(), String> {
        let internal: Vec<_> = self.taken.keys().cloned().collect();
        let names: Vec<_> = self.taken.keys().chain(self.kept.keys()).cloned().collect();
        match how {
            Snapshot::Internal => {
                let name = format!("internal-{}", self.disks.fresh());
                let taken = Taken {
                    held: self.disks.now(),
                    live: self.disks.live.clone(),
                    config: self.disks.config.clone(),
                    elements: self.elements.clone(),
                };
                self.virsh(&["snapshot-create-as", &name])?;
                self.taken.insert(name, taken);
            }
            Snapshot::External => drop(self.external(&["--no-metadata"])?),
            Snapshot::Kept => {
                let name = format!("kept-{}", self.disks.fresh());
                let kept = self.external(&[&name])?;
                self.kept.insert(name, kept);
            }
            Snapshot::Revert if !internal.is_empty() => {
                let name = self.random.pick(&internal);
                self.revert(&name)?;
            }
            Snapshot::Delete if !names.is_empty() => {
                let name = self.random.pick(&names);
                self.delete(&name)?;
            }
            Snapshot::Revert | Snapshot::Delete => return Err("there is none".into()),
        }
        Ok(())
    }

    /// Takes an external snapshot of all disks.
    fn external(&mut self, words: &[&str]) -> Result<Kept, String> {
        let (held, byte) = (self.disks.now(), self.disks.fresh());
        let (mut below, mut above) = (BTreeMap::new(), BTreeMap::new());
        let mut words: Vec<_> = ["snapshot-create-as"].iter().chain(words).map(|word| (*word).to_owned()).collect();
        words.push("--disk-only".into());
        for target in self.disks.present() {
            let file = self.image(&format!("{target}-external-{byte}"));
            words.extend(["--diskspec".to_owned(), format!("{target},file={}", file.display())]);
            below.insert(target.clone(), self.source(&target));
            above.insert(target, file);
        }
        self.virsh(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        self.moved.extend(above.keys().cloned());
        self.take_elements();
        Ok(Kept { held, below, above })
    }

    /// Deletes a snapshot. An external one is committed into the images that contain it.
    fn delete(&mut self, name: &str) -> Result<(), String> {
        // It may be partly done when it fails.
        let kept = self.kept.remove(name);
        let deleted = self.virsh(&["snapshot-delete", name]);
        self.take_elements();
        deleted?;
        self.taken.remove(name);
        for (target, image) in kept.iter().flat_map(|kept| &kept.above) {
            for later in self.kept.values_mut().filter(|later| later.below.get(target) == Some(image)) {
                later.below.insert(target.clone(), kept.as_ref().unwrap().below[target].clone());
            }
        }
        Ok(())
    }

    fn revert(&mut self, name: &str) -> Result<(), String> {
        self.virsh(&["snapshot-revert", name])?;
        // The guest now writes to the images that contain these.
        (self.frozen, self.kept) = (None, BTreeMap::new());
        let taken = self.taken[name].clone();
        (self.disks.live, self.disks.config) = (taken.live, taken.config);
        self.elements = taken.elements;
        self.disks.go_back(&taken.held);
        Ok(())
    }

    /// Panics unless each snapshot exists and reverts to its contents. Snapshots named in a report may be missing.
    pub fn assert_snapshots(&mut self) {
        let listed = try_virsh(&["snapshot-list", "--name", &self.name]).expect("libvirt lists snapshots");
        for (name, kept) in &self.kept {
            if kept.above.values().chain(kept.below.values()).any(|file| self.told.contains(&*file.to_string_lossy())) {
                continue;
            }
            assert!(listed.lines().any(|line| line == name), "the snapshot {name} is missing: {listed}");
            for (target, image) in &kept.below {
                let held = slots_of(image, "qcow2", &self.lab.path("copy"));
                assert_eq!(held, kept.held[target], "{target} of the snapshot {name}");
            }
        }
        for name in self.taken.keys().cloned().collect::<Vec<_>>() {
            if self.told.contains(&name) {
                self.note(format!("{name} was told of"));
                continue;
            }
            assert!(listed.lines().any(|line| line == name), "the snapshot {name} is missing: {listed}");
            let reverted = self.revert(&name);
            self.note(format!("revert to {name}: {reverted:?}"));
            reverted.expect("the snapshot is intact");
            self.look();
            self.assert_contents();
        }
    }
}
