//! The operator's actions on the domain and its host: define, rename, save, migrate, freeze, restart libvirtd.

use std::fs;

use super::world::World;
use crate::lab::{Host, try_virsh};

impl World {
    /// The current definition.
    pub fn guest_xml(&self) -> String {
        try_virsh(&["dumpxml", "--inactive", &self.name]).expect("the domain is defined")
    }

    pub fn start(&mut self) -> Result<(), String> {
        if self.forked {
            return Err("its definition names images that are older than its data".into());
        }
        self.virsh(&["start", "--paused"]).map(drop)
    }

    pub fn managed_save(&mut self) -> Result<(), String> {
        self.virsh(&["managedsave"])?;
        (self.saved, self.frozen) = (Some(self.disks.live.clone()), None);
        Ok(())
    }

    /// Undefines the domain and defines it again unchanged.
    pub fn redefine(&mut self) -> Result<(), String> {
        let xml = self.virsh(&["dumpxml", "--inactive"])?;
        self.virsh(&["undefine"])?;
        self.define_as(&xml)
    }

    fn define_as(&mut self, xml: &str) -> Result<(), String> {
        let file = self.lab.path("again.xml");
        fs::write(&file, xml).unwrap();
        self.virsh_plain(&["define", file.to_str().unwrap()])
    }

    /// Undefines the domain. It is defined again sooner or later, with that definition or with the operator's own copy.
    pub fn undefine(&mut self) -> Result<(), String> {
        let xml = self.virsh(&["dumpxml", "--inactive"])?;
        self.virsh(&["undefine"])?;
        self.undefined = Some(self.random.once_in(2).then_some(xml));
        Ok(())
    }

    /// Defines the domain that was undefined.
    pub fn define(&mut self) -> Result<(), String> {
        let Some(then) = self.undefined.clone() else { return Err("it is defined".into()) };
        match then {
            Some(xml) => self.define_as(&xml)?,
            None => {
                self.define_as(&self.written_down())?;
                self.forked = !self.disks.active;
            }
        }
        self.undefined = None;
        Ok(())
    }

    /// Edits the definition to what the operator wants.
    pub fn edit(&mut self) -> Result<(), String> {
        self.define_as(&self.written_down())
    }

    /// The definition that the operator wants.
    fn written_down(&self) -> String {
        let disks: String = self.elements.values().map(|disk| format!("<disk {disk}</disk>")).collect();
        self.frame.replacen("<devices>", &format!("<devices>{disks}"), 1)
    }

    pub fn rename(&mut self) -> Result<(), String> {
        let to = format!("{}.renamed", self.name);
        self.virsh(&["domrename", &to])?;
        self.frame = self.frame.replace(&format!("<name>{}</name>", self.name), &format!("<name>{to}</name>"));
        self.guest.renamed(&to);
        self.name = to;
        Ok(())
    }

    /// Saves the guest to a file of the operator.
    pub fn save(&mut self) -> Result<(), String> {
        let (file, live) = (self.lab.path("saved"), self.disks.live.clone());
        self.virsh(&["save", file.to_str().unwrap()])?;
        (self.saved_to_file, self.frozen) = (Some(live), None);
        Ok(())
    }

    /// Restores it from that file, unless the report said that this needs a change.
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

    /// Migrates the guest to another host. The disks of a paused guest stay inactive on arrival.
    pub fn migrate(&mut self) -> Result<(), String> {
        if self.state() != "running" {
            return Err("it does not run".into());
        }
        let host = Host::start(&self.lab);
        self.virsh(&["migrate", "--live", "--unsafe", &host.uri(), "tcp://127.0.0.1"])?;
        self.away = Some(host);
        Ok(())
    }

    /// Restarts libvirtd.
    pub fn restart(&mut self) -> Result<(), String> {
        self.host.as_ref().expect("the round has its own host").restart();
        Ok(())
    }

    /// Freezes the file systems of the guest.
    pub fn freeze(&mut self) -> Result<(), String> {
        self.virsh(&["domfsfreeze"])?;
        // After a thaw of a freeze that was not the operator's, the owner of the freeze is unknown.
        self.frozen = (self.frozen == Some(false)).then_some(true);
        Ok(())
    }

    pub fn thaw(&mut self) -> Result<(), String> {
        self.virsh(&["domfsthaw"])?;
        self.frozen = if self.frozen == Some(true) { Some(false) } else { None };
        Ok(())
    }

    /// Panics unless the guest is frozen exactly if the operator has frozen it.
    pub fn assert_frozen(&self) {
        if !self.has_system || self.state() != "running" {
            return;
        }
        let answers = || (0..10).any(|_| self.guest.try_agent("guest-ping").is_ok());
        if let Some(frozen) = self.frozen
            && self.away.is_none()
            && answers()
        {
            assert_eq!(self.guest.is_frozen(), frozen, "whether the guest is frozen");
        }
    }
}
