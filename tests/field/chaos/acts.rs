//! The operator's possible actions. libvirt may refuse any of them.

use std::fs;

use super::snapshots::Snapshot;
use super::world::{SPARE, World, elements};

/// One action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Attach,
    Detach,
    Write,
    Suspend,
    Resume,
    Reset,
    Destroy,
    Start,
    ManagedSave,
    Redefine,
    Undefine,
    Define,
    Rename,
    Resize,
    BlockCopy,
    BlockPull,
    BlockCommit,
    Save,
    Migrate,
    Snapshot(Snapshot),
    Restart,
    Fill,
    Free,
    Freeze,
    Thaw,
}

/// Attaching and detaching disks.
pub const PLUG: &[Act] = &[Act::Attach, Act::Detach];

/// All actions that are possible in every setting.
pub const ALL: &[Act] = &[
    Act::Attach,
    Act::Detach,
    Act::Write,
    Act::Suspend,
    Act::Resume,
    Act::Reset,
    Act::Destroy,
    Act::Start,
    Act::ManagedSave,
    Act::Redefine,
    Act::Undefine,
    Act::Define,
    Act::Rename,
    Act::Resize,
    Act::BlockCopy,
    Act::BlockPull,
    Act::BlockCommit,
    Act::Save,
    Act::Migrate,
    Act::Snapshot(Snapshot::Internal),
    Act::Snapshot(Snapshot::External),
    Act::Snapshot(Snapshot::Kept),
    Act::Snapshot(Snapshot::Revert),
    Act::Snapshot(Snapshot::Delete),
];

impl World {
    /// One of these that can have an effect now.
    pub fn pick(&mut self, acts: &[Act]) -> Act {
        loop {
            let act = self.random.pick(acts);
            if self.makes_sense(act) {
                return act;
            }
        }
    }

    fn makes_sense(&self, act: Act) -> bool {
        match act {
            Act::Attach | Act::Detach | Act::Write | Act::Snapshot(Snapshot::Internal) => true,
            Act::Redefine | Act::Undefine => self.undefined.is_none(),
            Act::Define => self.undefined.is_some(),
            Act::Snapshot(Snapshot::Revert) => !self.taken.is_empty(),
            Act::Snapshot(Snapshot::Delete) => !(self.taken.is_empty() && self.kept.is_empty()),
            Act::BlockCommit => self.disks.active && (self.method == "snapshot" || !self.moved.is_empty()),
            Act::Start | Act::Rename => !self.disks.active,
            Act::Free => self.full,
            Act::Thaw => self.frozen != Some(false),
            Act::Restart | Act::Fill | Act::Freeze => true,
            _ => self.disks.active,
        }
    }

    /// Performs the action and notes whether libvirt accepted it.
    pub fn act(&mut self, act: Act) {
        // A migrated guest no longer belongs to this host.
        let act = if self.away.is_some() { Act::Write } else { act };
        let done = match act {
            Act::Attach => self.attach(),
            Act::Detach => self.detach(),
            Act::Write => Ok(()),
            Act::Suspend => self.virsh(&["suspend"]).map(drop),
            Act::Resume => self.virsh(&["resume"]).map(drop),
            Act::Reset => self.virsh(&["reset"]).map(|_| self.frozen = Some(false)),
            Act::Destroy => self.virsh(&["destroy"]).map(|_| self.frozen = Some(false)),
            Act::Start => self.start(),
            Act::ManagedSave => self.managed_save(),
            Act::Redefine => self.redefine(),
            Act::Undefine => self.undefine(),
            Act::Define => self.define(),
            Act::Rename => self.rename(),
            Act::Resize => self.resize(),
            Act::BlockCopy => self.block_copy(),
            Act::BlockPull => {
                let target = self.random.pick(&self.disks.present());
                self.virsh(&["blockpull", &target, "--wait"]).map(drop)
            }
            Act::BlockCommit => self.block_commit(),
            Act::Save => self.save(),
            Act::Migrate => self.migrate(),
            Act::Snapshot(how) => self.snapshot(how),
            Act::Restart => self.restart(),
            Act::Fill => self.fill(),
            Act::Free => self.free(),
            Act::Freeze => self.freeze(),
            Act::Thaw => self.thaw(),
        };
        self.note(format!("{act:?}: {}", done.err().as_deref().unwrap_or("done").trim()));
        self.look();
        // A write after the action distinguishes the instants before and after it.
        if self.disks.active {
            let target = self.random.pick(&self.disks.present());
            self.write(&target);
        }
    }

    /// Notes whether the guest is running, and its disks.
    pub fn look(&mut self) {
        let active = !matches!(self.state().as_str(), "shut off" | "undefined");
        if active && !self.disks.active {
            self.disks.live = self.saved.take().unwrap_or_else(|| self.disks.config.clone());
        }
        self.disks.active = active;
        self.disks.remember();
    }

    /// In the running guest, its definition, or both.
    fn scope(&mut self) -> Vec<&'static str> {
        match self.disks.active {
            true => self.random.pick(&[vec!["--live"], vec!["--live", "--config"], vec!["--config"]]),
            false => vec!["--config"],
        }
    }

    fn attach(&mut self) -> Result<(), String> {
        let (target, scope) = (self.random.pick(&SPARE), self.scope());
        if self.moved.contains(target) {
            return Err(format!("{target} has another image now"));
        }
        let xml = format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>\
             <target dev='{target}' bus='scsi'/></disk>",
            self.image(target).display()
        );
        let file = self.lab.path("attach.xml");
        fs::write(&file, xml).unwrap();
        self.note(format!("attach {target} {scope:?}"));
        self.virsh(&[&["attach-device", file.to_str().unwrap()], &scope[..]].concat())?;
        if scope.contains(&"--live") {
            self.disks.live.insert(target.to_owned());
        }
        if scope.contains(&"--config") {
            self.disks.config.insert(target.to_owned());
            let element = elements(&self.guest_xml()).remove(target).expect("the disk was attached");
            self.elements.insert(target.to_owned(), element);
        }
        Ok(())
    }

    fn detach(&mut self) -> Result<(), String> {
        let (target, scope) = (self.random.pick(&["sda", "sdb", "sdc"]), self.scope());
        self.note(format!("detach {target} {scope:?}"));
        self.virsh(&[&["detach-disk", target], &scope[..]].concat())?;
        if scope.contains(&"--live") {
            self.disks.live.remove(target);
        }
        if scope.contains(&"--config") {
            self.disks.config.remove(target);
            self.elements.remove(target);
        }
        Ok(())
    }
}
