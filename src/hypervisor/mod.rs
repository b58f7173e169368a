//! Owns: what the engine may ask of a hypervisor, as a trait, and its one real adapter, libvirt.
//! Must not: decide when to freeze, snapshot or commit; the engine does.

pub mod domain_xml;
mod error;
mod libvirt;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Domain, DomainRef, DomainState, Image};
use crate::sys::mark::Mark;

pub use error::{Error, Kind, Said};
pub use libvirt::Libvirt;

/// An overlay of ours over the image that a disk had before the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// The disk.
    pub target: String,
    /// The overlay's file.
    pub path: PathBuf,
    /// The image below it, to which it is committed back, and no further.
    pub base: Image,
    /// The disk's element in the persistent definition before the snapshot, which puts the definition right. Older releases
    /// did not keep it, and a disk that only the running guest has is in no persistent definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<String>,
    /// The files themselves, whatever lies under their names later. Older releases did not keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<Marks>,
}

/// The files of an overlay as they were when it was made, and what lies below its base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// The overlay.
    pub overlay: Mark,
    /// The image below it.
    pub base: Mark,
    /// All images below that one, the nearest first.
    pub below: Vec<Image>,
}

/// A backup job in pull mode: the exports stand still while the guest writes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullJob {
    /// The NBD socket that QEMU makes.
    pub socket: PathBuf,
    /// For each disk the file that takes the old contents of what the guest overwrites.
    pub scratch: Vec<Scratch>,
}

/// One disk of a pull job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scratch {
    /// The disk, and the name of its NBD export.
    pub target: String,
    /// The scratch file.
    pub path: PathBuf,
}

/// What a block job is, and how far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockJob {
    /// It commits the disk's active image; a copy, a pull or a commit below that one is somebody else's.
    pub active_commit: bool,
    /// Bytes done.
    pub done: u64,
    /// Bytes to do, growing while the guest writes.
    pub total: u64,
}

/// A snapshot or checkpoint of a domain: what is known of it, apart from what lies in the images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedState {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: StateKind,
}

/// What a saved state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKind {
    /// A snapshot that lies in the images themselves.
    InternalSnapshot,
    /// A snapshot whose disks are files of their own.
    ExternalSnapshot,
    /// A checkpoint: a dirty bitmap in the images.
    Checkpoint,
}

/// How a domain came to be off, as far as its disks may still be spoken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffKind {
    /// It was turned off, or never started: its disks are at rest.
    Plain,
    /// Its memory was saved, but not where libvirt would load it from: to a file of the operator's, if the saved state was not
    /// dropped since.
    SavedToFile,
    /// Its memory was saved and is loaded at the next start; the saved state names the images it was made with.
    Saved,
    /// It was moved to another host, and may run there, on the same images.
    Migrated,
}

/// What the engine asks of a hypervisor: all capabilities together. A step that needs one of them takes that one.
///
/// Every call names the domain and fails with an [`Error`] that does so too. Implementations are shared by the threads that back
/// up several domains at once.
pub trait Hypervisor: Guests + Agents + Snapshots + BackupJobs + Definitions {}

impl<T: Guests + Agents + Snapshots + BackupJobs + Definitions> Hypervisor for T {}

/// Which domains there are, and what they are doing.
pub trait Guests: Send + Sync {
    /// What it is and its versions, for people: `libvirt 9.0.0, QEMU 7.2.22`.
    fn version(&self) -> Result<String, Error>;
    /// The folders of active storage pools.
    fn pools(&self) -> Result<Vec<PathBuf>, Error>;
    /// All domains, running or not.
    fn domains(&self) -> Result<Vec<(DomainRef, DomainState)>, Error>;
    /// The domain as it is now.
    fn describe(&self, domain: &DomainRef) -> Result<Domain, Error>;
    /// The domain as it will be at its next start; `None` for a transient one, which has none.
    fn persistent(&self, domain: &DomainRef) -> Result<Option<Domain>, Error>;
    /// What the domain is doing.
    fn state(&self, domain: &DomainRef) -> Result<DomainState, Error>;
    /// How a domain that is off came to be so; [`OffKind::Plain`] for one that is not off.
    fn off_kind(&self, domain: &DomainRef) -> Result<OffKind, Error>;
    /// The disks with I/O errors (a full file system under an overlay), when such an error has paused the guest.
    fn io_errors(&self, domain: &DomainRef) -> Result<Option<Vec<String>>, Error>;
    /// The job that libvirt is doing on the domain (`migration out`, `backup`), which may be a call whose caller has
    /// ended. Block jobs do not count.
    fn job(&self, domain: &DomainRef) -> Result<Option<String>, Error>;
    /// Lets a paused guest run on.
    fn resume(&self, domain: &DomainRef) -> Result<(), Error>;
    /// The snapshots and checkpoints that are kept of a domain.
    fn saved_states(&self, domain: &DomainRef) -> Result<Vec<SavedState>, Error>;
}

/// The agent in the guest.
pub trait Agents: Send + Sync {
    /// Freezes the guest's file systems. After an error of another kind than [`Kind::NoAgent`] the guest may be frozen
    /// all the same, even later: the deadline does not cancel the freeze.
    fn freeze(&self, domain: &DomainRef, timeout: Duration) -> Result<(), Error>;
    /// Thaws the guest's file systems.
    fn thaw(&self, domain: &DomainRef) -> Result<(), Error>;
    /// Whether the agent says that file systems are frozen.
    fn is_frozen(&self, domain: &DomainRef) -> Result<bool, Error>;
    /// Gives the agent one command, `{"execute": …}`, and returns the value of `return` in its answer. It has a few seconds
    /// to answer; nothing is done twice.
    fn agent(&self, domain: &DomainRef, request: &serde_json::Value) -> Result<serde_json::Value, Error>;
}

/// External snapshots and the way back from them.
pub trait Snapshots: Send + Sync {
    /// Puts all overlays in place at one instant; the disks in `others` stay out of it. The files of the overlays exist and
    /// are empty. Fails, and leaves every disk where it is, when the domain has a disk that is in neither list.
    fn snapshot(&self, domain: &DomainRef, overlays: &[Overlay], others: &[String]) -> Result<(), Error>;
    /// The size of an active domain's disk, in bytes, as its guest sees it.
    fn disk_size(&self, domain: &DomainRef, target: &str) -> Result<u64, Error>;
    /// Starts to commit a disk's active image into the image right below it; fails when that is not `image` any more.
    fn start_commit(&self, domain: &DomainRef, target: &str, image: &Path) -> Result<(), Error>;
    /// The block job on a disk, if there is one.
    fn block_job(&self, domain: &DomainRef, target: &str) -> Result<Option<BlockJob>, Error>;
    /// Ends an active commit by moving the guest to the base; fails with [`Kind::NotReady`] while the job has to go on.
    fn pivot(&self, domain: &DomainRef, target: &str) -> Result<(), Error>;
    /// Ends an active commit without that: the guest stays where it is.
    fn cancel_commit(&self, domain: &DomainRef, target: &str) -> Result<(), Error>;
}

/// Backup jobs in pull mode. Checkpoints belong here, too.
pub trait BackupJobs: Send + Sync {
    /// Where QEMU may make a socket of this name for this domain, when libvirt keeps a folder for that.
    fn socket_path(&self, domain: &DomainRef, name: &str) -> Result<Option<PathBuf>, Error>;
    /// Starts a pull job of the disks in `job`; those in `others` stay out of it. The scratch files exist as empty qcow2
    /// images of the disks' sizes.
    fn begin_pull(&self, domain: &DomainRef, job: &PullJob, others: &[String]) -> Result<(), Error>;
    /// The socket of the backup job that runs now, if one does.
    fn pull_socket(&self, domain: &DomainRef) -> Result<Option<PathBuf>, Error>;
    /// Ends the backup job.
    fn end_pull(&self, domain: &DomainRef) -> Result<(), Error>;
}

/// Definitions of domains, and starting them.
pub trait Definitions: Send + Sync {
    /// Replaces one disk of the definition with this `<disk>` element and keeps all other changes that were made meanwhile. Fails
    /// if the definition no longer has a disk at that target.
    fn define_disk(&self, domain: &DomainRef, disk: &str) -> Result<(), Error>;
    /// Defines a domain, or replaces the definition of one of the same UUID.
    fn define(&self, xml: &str) -> Result<DomainRef, Error>;
    /// Whether it takes a definition: the domain is defined, and undefined at once. Its name and UUID must be no domain's.
    fn try_define(&self, xml: &str) -> Result<(), Error>;
    /// What a definition needs and this host lacks (networks, bridges, filters, pools, CPU features), in words.
    fn missing(&self, xml: &str) -> Result<Vec<String>, Error>;
    /// Starts a defined domain.
    fn start(&self, domain: &DomainRef) -> Result<(), Error>;
    /// Whether the domain is started with the host; a restored one must not be unasked.
    fn set_autostart(&self, domain: &DomainRef, autostart: bool) -> Result<(), Error>;
}
