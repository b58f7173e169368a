//! What the operator does with snapshots, and that they are good in the end.

use std::collections::{BTreeMap, BTreeSet};

use super::disks::Instant;
use super::world::World;
use crate::lab::try_virsh;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshot {
    Internal,
    External,
    Revert,
    Delete,
}

/// What an internal snapshot goes back to.
#[derive(Clone)]
pub struct Taken {
    held: Instant,
    live: BTreeSet<String>,
    config: BTreeSet<String>,
    elements: BTreeMap<String, String>,
}

impl World {
    pub fn snapshot(&mut self, how: Snapshot) -> Result<(), String> {
        let names: Vec<_> = self.taken.keys().cloned().collect();
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
            Snapshot::External => {
                let byte = self.disks.fresh();
                let mut words = vec!["snapshot-create-as".to_owned(), "--disk-only".into(), "--no-metadata".into()];
                for target in self.disks.present() {
                    let file = self.image(&format!("{target}-external-{byte}"));
                    words.extend(["--diskspec".to_owned(), format!("{target},file={}", file.display())]);
                }
                self.virsh(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
                self.take_elements();
            }
            Snapshot::Revert if !names.is_empty() => {
                let name = self.random.pick(&names);
                self.revert(&name)?;
            }
            Snapshot::Delete if !names.is_empty() => {
                let name = self.random.pick(&names);
                self.virsh(&["snapshot-delete", &name])?;
                self.taken.remove(&name);
            }
            Snapshot::Revert | Snapshot::Delete => return Err("there is none".into()),
        }
        Ok(())
    }

    fn revert(&mut self, name: &str) -> Result<(), String> {
        self.virsh(&["snapshot-revert", name])?;
        let taken = self.taken[name].clone();
        (self.disks.live, self.disks.config) = (taken.live, taken.config);
        self.elements = taken.elements;
        self.disks.go_back(&taken.held);
        Ok(())
    }

    /// Panics unless each snapshot is there and goes back to what it holds; one that was told of needs not.
    pub fn assert_snapshots(&mut self) {
        let listed = try_virsh(&["snapshot-list", "--name", &self.name]).expect("libvirt lists snapshots");
        for name in self.taken.keys().cloned().collect::<Vec<_>>() {
            if self.told.contains(&name) {
                self.note(format!("{name} was told of"));
                continue;
            }
            assert!(listed.lines().any(|line| line == name), "the snapshot {name} is gone: {listed}");
            let reverted = self.revert(&name);
            self.note(format!("revert to {name}: {reverted:?}"));
            reverted.expect("the snapshot is good");
            self.look();
            self.assert_contents();
        }
    }
}
