//! What the operator may do, and what becomes of the guest by that. libvirt may refuse any of it.

use std::fs;

use super::world::{SPARE, World, elements};

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
}

/// Disks come and go.
pub const PLUG: &[Act] = &[Act::Attach, Act::Detach];

/// All of them.
pub const ALL: &[Act] =
    &[Act::Attach, Act::Detach, Act::Write, Act::Suspend, Act::Resume, Act::Reset, Act::Destroy, Act::Start];

impl World {
    /// Does it, and notes whether libvirt did.
    pub fn act(&mut self, act: Act) {
        let done = match act {
            Act::Attach => self.attach(),
            Act::Detach => self.detach(),
            Act::Write => Ok(()),
            Act::Suspend => self.virsh(&["suspend"]).map(drop),
            Act::Resume => self.virsh(&["resume"]).map(drop),
            Act::Reset => self.virsh(&["reset"]).map(drop),
            Act::Destroy => self.virsh(&["destroy"]).map(|_| self.disks.active = false),
            Act::Start => self.virsh(&["start", "--paused"]).map(|_| {
                self.disks.active = true;
                self.disks.live = self.disks.config.clone();
            }),
        };
        self.disks.remember();
        self.note(format!("{act:?}: {}", done.err().as_deref().unwrap_or("done").trim()));
        // What it writes then tells the instants before and after apart.
        if self.disks.active {
            let target = self.random.pick(&self.disks.present());
            self.write(&target);
        }
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
        self.virsh(&["dumpxml", "--inactive"]).expect("the domain is defined")
    }
}
