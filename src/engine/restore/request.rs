//! Owns: what is asked of a restore. Must not: look whether it can be had.

use std::path::PathBuf;

use super::Restored;
use crate::engine::points::When;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The domain.
    pub domain: String,
    /// Which of its restore points.
    pub when: When,
    /// The folder for files; made if it is not there.
    pub to: Option<PathBuf>,
    /// These disks only; none named: all.
    pub disks: Vec<DiskChoice>,
    /// Define the domain in libvirt.
    pub define: Option<Define>,
    /// Replace files, a definition, and what the original block devices hold.
    pub overwrite: bool,
    /// This program's own files and folders; an archive alone may send no image into, below or above them.
    pub kept_out: Vec<PathBuf>,
    /// Look and tell, but write nothing.
    pub dry_run: bool,
}

/// Whoever asked for the restore: a person or a program.
pub trait Operator {
    /// Shows what will be written; called before anything is.
    fn plan(&mut self, planned: &Restored);

    /// Shows these notes; called before anything is written.
    fn tell(&mut self, notes: &[String]);

    /// Whether the domain may be defined although its definition reaches for these parts of the host.
    fn accepts(&mut self, reaches: &[String]) -> bool;
}

/// A disk to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskChoice {
    /// The guest's name for it.
    pub target: String,
    /// The block device to write it into, instead of a file.
    pub device: Option<PathBuf>,
}

/// How the domain is defined.
#[derive(Debug, Clone, Default)]
pub struct Define {
    /// Another name: it gets an identity of its own.
    pub name: Option<String>,
    /// Start it afterwards.
    pub start: bool,
    /// The operator's definition, instead of the saved one.
    pub xml: Option<PathBuf>,
    /// Another machine type.
    pub machine: Option<String>,
}

impl Request {
    /// Whether it may change what guests use: a definition, or a block device. The caller holds the lock then, and has
    /// recovered what an interrupted run left.
    pub fn touches_guests(&self) -> bool {
        self.define.is_some() || self.names_device()
    }

    /// Whether it may write over something that exists, which a guest may use.
    pub fn may_replace(&self) -> bool {
        self.overwrite || self.names_device()
    }

    /// Whether a disk goes into a block device that is named.
    pub fn names_device(&self) -> bool {
        self.disks.iter().any(|disk| disk.device.is_some())
    }

    /// Whether it defines another domain than the one that was saved.
    pub fn copies(&self) -> bool {
        let name = self.define.as_ref().and_then(|define| define.name.as_ref());
        name.is_some_and(|name| *name != self.domain)
    }
}
