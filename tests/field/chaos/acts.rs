//! What the operator may do, and what becomes of the guest by that. libvirt may refuse any of it.

use std::fs;

use super::snapshots::Snapshot;
use super::world::{SPARE, World, elements};
use crate::lab::{Host, try_run, try_virsh};

/// One act.
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
    Rename,
    Resize,
    BlockCopy,
    BlockPull,
    Save,
    Migrate,
    Snapshot(Snapshot),
}

/// Disks come and go.
pub const PLUG: &[Act] = &[Act::Attach, Act::Detach];

/// All of them.
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
    Act::Rename,
    Act::Resize,
    Act::BlockCopy,
    Act::BlockPull,
    Act::Save,
    Act::Migrate,
    Act::Snapshot(Snapshot::Internal),
    Act::Snapshot(Snapshot::External),
    Act::Snapshot(Snapshot::Revert),
    Act::Snapshot(Snapshot::Delete),
];

impl World {
    /// Does it, and notes whether libvirt did.
    pub fn act(&mut self, act: Act) {
        // On another host it is nobody's here any more.
        let act = if self.away.is_some() { Act::Write } else { act };
        let done = match act {
            Act::Attach => self.attach(),
            Act::Detach => self.detach(),
            Act::Write => Ok(()),
            Act::Suspend => self.virsh(&["suspend"]).map(drop),
            Act::Resume => self.virsh(&["resume"]).map(drop),
            Act::Reset => self.virsh(&["reset"]).map(drop),
            Act::Destroy => self.virsh(&["destroy"]).map(drop),
            Act::Start => self.virsh(&["start", "--paused"]).map(drop),
            Act::ManagedSave => self.virsh(&["managedsave"]).map(|_| self.saved = Some(self.disks.live.clone())),
            Act::Redefine => self.redefine(),
            Act::Rename => self.rename(),
            Act::Resize => self.resize(),
            Act::BlockCopy => self.block_copy(),
            Act::BlockPull => {
                let target = self.random.pick(&self.disks.present());
                self.virsh(&["blockpull", &target, "--wait"]).map(drop)
            }
            Act::Save => self.save(),
            Act::Migrate => self.migrate(),
            Act::Snapshot(how) => self.snapshot(how),
        };
        self.note(format!("{act:?}: {}", done.err().as_deref().unwrap_or("done").trim()));
        self.look();
        // What it writes then tells the instants before and after apart.
        if self.disks.active {
            let target = self.random.pick(&self.disks.present());
            self.write(&target);
        }
    }

    /// Takes notice of whether the guest is on, and with which disks.
    pub fn look(&mut self) {
        let active = !matches!(self.state().as_str(), "shut off" | "undefined");
        if active && !self.disks.active {
            self.disks.live = self.saved.take().unwrap_or_else(|| self.disks.config.clone());
        }
        self.disks.active = active;
        self.disks.remember();
    }

    /// For the running guest, its definition, or both.
    fn scope(&mut self) -> Vec<&'static str> {
        match self.disks.active {
            true => self.random.pick(&[vec!["--live"], vec!["--live", "--config"], vec!["--config"]]),
            false => vec!["--config"],
        }
    }

    fn attach(&mut self) -> Result<(), String> {
        let (target, scope) = (self.random.pick(&SPARE), self.scope());
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
            let element = elements(&self.guest_xml()).remove(target).expect("it was attached");
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

    /// The definition as it is now.
    pub fn guest_xml(&self) -> String {
        try_virsh(&["dumpxml", "--inactive", &self.name]).expect("the domain is defined")
    }

    /// Undefines the domain and defines it again as it was.
    fn redefine(&mut self) -> Result<(), String> {
        let file = self.lab.path("again.xml");
        fs::write(&file, self.guest_xml()).unwrap();
        self.virsh(&["undefine"])?;
        self.virsh_plain(&["define", file.to_str().unwrap()])
    }

    fn rename(&mut self) -> Result<(), String> {
        let to = format!("{}.renamed", self.name);
        self.virsh(&["domrename", &to])?;
        self.frame = self.frame.replace(&format!("<name>{}</name>", self.name), &format!("<name>{to}</name>"));
        self.guest.renamed(&to);
        self.name = to;
        Ok(())
    }

    /// Makes a disk of the running guest one slot larger.
    fn resize(&mut self) -> Result<(), String> {
        let target = self.random.pick(&self.disks.present());
        let bytes = self.disks.next_size(&target);
        self.virsh(&["blockresize", &target, &format!("{bytes}B")])?;
        self.disks.grow(&target);
        Ok(())
    }

    /// Moves a disk of the running guest to another image.
    fn block_copy(&mut self) -> Result<(), String> {
        let (target, byte) = (self.random.pick(&self.disks.present()), self.disks.fresh());
        let to = self.image(&format!("{target}-copy-{byte}"));
        let words = ["blockcopy", &target, "--dest", to.to_str().unwrap(), "--format", "qcow2"];
        self.virsh(&[&words[..], &["--transient-job", "--wait", "--pivot"]].concat())?;
        self.take_elements();
        Ok(())
    }

    /// Saves the guest to a file of the operator's.
    fn save(&mut self) -> Result<(), String> {
        let (file, live) = (self.lab.path("saved"), self.disks.live.clone());
        self.virsh(&["save", file.to_str().unwrap()])?;
        self.saved_to_file = Some(live);
        Ok(())
    }

    /// Restores it from there, unless the report said that this needs a change.
    pub fn restore_saved(&mut self) -> Result<(), String> {
        let Some(live) = self.saved_to_file.take() else { return Ok(()) };
        if self.disks.active || self.told.contains("save-image-edit") {
            return Ok(());
        }
        self.virsh_plain(&["restore", self.lab.path("saved").to_str().unwrap(), "--paused"])?;
        (self.disks.live, self.disks.active) = (live, true);
        self.disks.remember();
        Ok(())
    }

    /// Migrates the guest to another host. Where a paused one arrives, its disks stay inactive.
    fn migrate(&mut self) -> Result<(), String> {
        if self.state() != "running" {
            return Err("it does not run".into());
        }
        let host = Host::start(&self.lab);
        self.virsh(&["migrate", "--live", "--unsafe", &host.uri(), "tcp://127.0.0.1"])?;
        self.away = Some(host);
        Ok(())
    }

    /// The operator has changed the sources of disks: those of the definition are right, unless kvmbackup's are below them.
    pub fn take_elements(&mut self) {
        for (target, element) in elements(&self.guest_xml()) {
            let source = element.split_once("<source file='").and_then(|(_, rest)| rest.split('\'').next());
            let chain = try_run("qemu-img", &["info", "-U", "--backing-chain", source.unwrap_or_default()]);
            if !String::from_utf8_lossy(&chain.stdout).contains("kvmbackup") {
                self.elements.insert(target, element);
            }
        }
    }
}
