//! The request for a restore. Must not check whether it can be fulfilled.

use std::path::PathBuf;

use super::Restored;
use crate::engine::points::When;

/// A request to restore one domain.
#[derive(Debug, Clone)]
pub struct Request {
    /// Name of the domain.
    pub domain: String,
    /// Selects the restore point.
    pub when: When,
    /// Destination directory; created if missing.
    pub to: Option<PathBuf>,
    /// Disks to restore; empty means all.
    pub disks: Vec<DiskChoice>,
    /// If set, define the domain in libvirt.
    pub define: Option<Define>,
    /// Replace files, the definition and the contents of the original block devices.
    pub overwrite: bool,
    /// Files and directories of kvmbackup; an archive alone must not place images in, below or above them.
    pub kept_out: Vec<PathBuf>,
    /// Check and report only; write nothing.
    pub dry_run: bool,
}

/// The user or program that requested the restore.
pub trait Operator {
    /// Shows the plan; called before the first write.
    fn plan(&mut self, planned: &Restored);

    /// Shows notes; called before the first write.
    fn tell(&mut self, notes: &[String]);

    /// Whether the domain may be defined with these host resources.
    fn accepts(&mut self, reaches: &[String]) -> bool;
}

/// A selected disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskChoice {
    /// Target name, such as `vda`.
    pub target: String,
    /// Destination block device; `None` for a file.
    pub device: Option<PathBuf>,
}

/// How to define the domain.
#[derive(Debug, Clone, Default)]
pub struct Define {
    /// New name, which also implies a new UUID.
    pub name: Option<String>,
    /// Start the domain afterwards.
    pub start: bool,
    /// Definition to use instead of the saved one.
    pub xml: Option<PathBuf>,
    /// Machine type to use instead of the saved one.
    pub machine: Option<String>,
}

impl Request {
    /// Whether it may change a definition or a block device. The caller must then hold the lock and have recovered
    /// interrupted runs.
    pub fn touches_guests(&self) -> bool {
        self.define.is_some() || self.names_device()
    }

    /// Whether it may overwrite existing files or devices, which a guest may use.
    pub fn may_replace(&self) -> bool {
        self.overwrite || self.names_device()
    }

    /// Whether a destination device is named.
    pub fn names_device(&self) -> bool {
        self.disks.iter().any(|disk| disk.device.is_some())
    }

    /// Whether it defines a domain under another name.
    pub fn copies(&self) -> bool {
        let name = self.define.as_ref().and_then(|define| define.name.as_ref());
        name.is_some_and(|name| *name != self.domain)
    }
}
