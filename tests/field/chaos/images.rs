//! The operator's actions on the images of the disks, and on their file system.

use std::fs;
use std::io::Write as _;

use super::disks::SLOT;
use super::world::{World, elements};
use crate::lab::try_run;

/// More than the size of any small file system.
const PLENTY: usize = 1 << 30;

impl World {
    /// Enlarges a disk of the running guest by one slot.
    pub fn resize(&mut self) -> Result<(), String> {
        let target = self.random.pick(&self.disks.present());
        let bytes = self.disks.next_size(&target);
        self.virsh(&["blockresize", &target, &format!("{bytes}B")])?;
        self.disks.grow(&target);
        Ok(())
    }

    /// Moves a disk of the running guest to another image.
    pub fn block_copy(&mut self) -> Result<(), String> {
        let (target, byte) = (self.random.pick(&self.disks.present()), self.disks.fresh());
        let to = self.image(&format!("{target}-copy-{byte}"));
        let words = ["blockcopy", &target, "--dest", to.to_str().unwrap(), "--format", "qcow2"];
        self.virsh(&[&words[..], &["--transient-job", "--wait", "--pivot"]].concat())?;
        self.moved.insert(target);
        self.take_elements();
        Ok(())
    }

    /// Commits all images of a disk of the running guest into the lowest, including an overlay of kvmbackup.
    pub fn block_commit(&mut self) -> Result<(), String> {
        let target = self.random.pick(&self.disks.present());
        self.virsh(&["blockcommit", &target, "--active", "--wait", "--pivot"])?;
        self.committed.insert(target);
        // The operator has committed the images below these.
        self.kept.clear();
        self.take_elements();
        Ok(())
    }

    /// The operator has changed the sources of disks. Those of the definition are right, unless images of kvmbackup are
    /// below them.
    pub fn take_elements(&mut self) {
        for (target, element) in elements(&self.guest_xml()) {
            let source = element.split_once("<source file='").and_then(|(_, rest)| rest.split('\'').next());
            let chain = try_run("qemu-img", &["info", "-U", "--backing-chain", source.unwrap_or_default()]);
            let is_ours = String::from_utf8_lossy(&chain.stdout).contains("kvmbackup");
            if !is_ours && self.elements.contains_key(&target) {
                self.elements.insert(target, element);
            }
        }
    }

    /// Fills the file system of the images except for a few slots.
    pub fn fill(&mut self) -> Result<(), String> {
        self.free()?;
        let mut file = fs::File::create(self.image("filler")).unwrap();
        let written = (0..PLENTY / SLOT).take_while(|_| file.write_all(&[1; SLOT]).is_ok()).count();
        let left = self.random.pick(&[0, 0, 1, 4, 16]);
        file.set_len((written.saturating_sub(left) * SLOT) as u64).unwrap();
        self.note(format!("{left} slots are left"));
        self.full = true;
        Ok(())
    }

    /// Frees the space again.
    pub fn free(&mut self) -> Result<(), String> {
        if std::mem::take(&mut self.full) {
            fs::remove_file(self.image("filler")).unwrap();
        }
        Ok(())
    }
}
