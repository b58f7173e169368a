//! The interface between the engine and a hypervisor, and its only real implementation, libvirt.
//! Must not decide when to freeze, snapshot or commit; the engine does.

pub mod domain_xml;
mod error;
mod json;
mod libvirt;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Domain, DomainRef, DomainState, Image};
use crate::sys::mark::Mark;

pub use error::{Error, Kind, Said};
pub use json::in_ascii;
pub use libvirt::Libvirt;

/// An overlay that a backup put over the image of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// Target of the disk (`vda`).
    pub target: String,
    /// File of the overlay.
    pub path: PathBuf,
    /// The image directly below, into which the overlay is committed.
    pub base: Image,
    /// The `<disk>` element of the persistent definition before the snapshot, to restore the definition. Missing in journals
    /// of older releases, and for a disk that only the running guest has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<String>,
    /// Identifies the files even if other files take their names later. Missing in journals of older releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<Marks>,
}

/// The files of an overlay when it was created, and the images below its base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// File of the overlay.
    pub overlay: Mark,
    /// File of the image directly below.
    pub base: Mark,
    /// All images below the base, nearest first.
    pub below: Vec<Image>,
}

/// A backup job in pull mode: the exports do not change while the guest writes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullJob {
    /// The NBD socket that QEMU creates.
    pub socket: PathBuf,
    /// For each disk, the file that receives the old contents of what the guest overwrites.
    pub scratch: Vec<Scratch>,
    /// Name of the checkpoint that is created at the same instant. The journal has it elsewhere.
    #[serde(skip)]
    pub checkpoint: Option<String>,
}

/// One disk of a pull job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scratch {
    /// Target of the disk, and the name of its NBD export.
    pub target: String,
    /// File that QEMU writes.
    pub path: PathBuf,
    /// The checkpoint since which changes are exported, as a dirty bitmap with its name.
    #[serde(skip)]
    pub since: Option<String>,
    /// Whether the new checkpoint includes the disk.
    #[serde(skip)]
    pub tracked: bool,
}

/// Kind and progress of a block job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockJob {
    /// Whether it commits the disk's active image. kvmbackup starts no other block jobs.
    pub active_commit: bool,
    /// Bytes done.
    pub done: u64,
    /// Bytes in total; grows while the guest writes.
    pub total: u64,
}

/// A snapshot or checkpoint of a domain. Its data are in the images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedState {
    /// The name in libvirt.
    pub name: String,
    /// Where its data are.
    pub kind: StateKind,
}

/// The kind of a saved state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKind {
    /// A snapshot inside the images.
    InternalSnapshot,
    /// A snapshot in separate files.
    ExternalSnapshot,
    /// A dirty bitmap in the images.
    Checkpoint,
}

/// Why a domain is off, as far as it matters for the use of its disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffKind {
    /// It was shut down or never started.
    Plain,
    /// Its memory was saved to a file of the operator (`virsh save`), or to a managed save that was removed since.
    SavedToFile,
    /// Its memory is in a managed save that is loaded at the next start. The save refers to the images of that time.
    Saved,
    /// It was migrated to another host and may run there on the same images.
    Migrated,
}

/// All capabilities of a hypervisor. A function that needs only some of them takes those traits instead.
///
/// Every error names the domain. Implementations are shared by threads that back up several domains at once.
pub trait Hypervisor: Guests + Agents + Snapshots + BackupJobs + Definitions {}

impl<T: Guests + Agents + Snapshots + BackupJobs + Definitions> Hypervisor for T {}

/// Domains and their states.
pub trait Guests: Send + Sync {
    /// Name and versions for display: `libvirt 9.0.0, QEMU 7.2.22`.
    fn version(&self) -> Result<String, Error>;
    /// The directories of active storage pools.
    fn pools(&self) -> Result<Vec<PathBuf>, Error>;
    /// All domains, running or not.
    fn domains(&self) -> Result<Vec<(DomainRef, DomainState)>, Error>;
    /// The domain as it is now.
    fn describe(&self, domain: &DomainRef) -> Result<Domain, Error>;
    /// The domain as it will be at its next start; `None` for a transient one.
    fn persistent(&self, domain: &DomainRef) -> Result<Option<Domain>, Error>;
    /// The current state of the domain.
    fn state(&self, domain: &DomainRef) -> Result<DomainState, Error>;
    /// Why a domain is off; [`OffKind::Plain`] if it is not off.
    fn off_kind(&self, domain: &DomainRef) -> Result<OffKind, Error>;
    /// The disks with I/O errors (a full file system under an overlay), if such an error has paused the guest.
    fn io_errors(&self, domain: &DomainRef) -> Result<Option<Vec<String>>, Error>;
    /// The job that libvirt runs on the domain (`outgoing migration`, `backup`), even if its caller has ended. Block jobs do
    /// not count.
    fn job(&self, domain: &DomainRef) -> Result<Option<String>, Error>;
    /// Resumes a paused guest.
    fn resume(&self, domain: &DomainRef) -> Result<(), Error>;
    /// The snapshots and checkpoints of the domain.
    fn saved_states(&self, domain: &DomainRef) -> Result<Vec<SavedState>, Error>;
}

/// The guest agent.
pub trait Agents: Send + Sync {
    /// Freezes the guest's file systems. After any error except [`Kind::NoAgent`] the guest may be frozen or freeze later,
    /// because the timeout does not cancel the freeze.
    fn freeze(&self, domain: &DomainRef, timeout: Duration) -> Result<(), Error>;
    /// Thaws the guest's file systems.
    fn thaw(&self, domain: &DomainRef) -> Result<(), Error>;
    /// Whether the agent reports frozen file systems.
    fn is_frozen(&self, domain: &DomainRef) -> Result<bool, Error>;
    /// Sends the agent one command, `{"execute": …}`, and returns the value of `return` in its answer. Times out after a few
    /// seconds and never retries.
    fn agent(&self, domain: &DomainRef, request: &serde_json::Value) -> Result<serde_json::Value, Error>;
}

/// External snapshots and their block commits.
pub trait Snapshots: Send + Sync {
    /// Takes an atomic snapshot with these overlays, whose files exist and are empty. The disks in `others` are excluded.
    /// Fails without any change if the domain has a disk that is in neither list.
    fn snapshot(&self, domain: &DomainRef, overlays: &[Overlay], others: &[String]) -> Result<(), Error>;
    /// The size of an active domain's disk, in bytes, as its guest sees it.
    fn disk_size(&self, domain: &DomainRef, target: &str) -> Result<u64, Error>;
    /// Starts to commit a disk's active image into the image directly below. Fails if the active image is not `image`.
    fn start_commit(&self, domain: &DomainRef, target: &str, image: &Path) -> Result<(), Error>;
    /// The block job on a disk, if any.
    fn block_job(&self, domain: &DomainRef, target: &str) -> Result<Option<BlockJob>, Error>;
    /// Ends an active commit by moving the guest to the base. Fails with [`Kind::NotReady`] if the job is not ready yet.
    fn pivot(&self, domain: &DomainRef, target: &str) -> Result<(), Error>;
    /// Aborts an active commit: the guest stays on its overlay.
    fn cancel_commit(&self, domain: &DomainRef, target: &str) -> Result<(), Error>;
}

/// Backup jobs in pull mode, and checkpoints.
pub trait BackupJobs: Send + Sync {
    /// Where QEMU may create a socket of this name for this domain, if libvirt has a directory for that.
    fn socket_path(&self, domain: &DomainRef, name: &str) -> Result<Option<PathBuf>, Error>;
    /// Starts a pull job of the disks in `job`. The disks in `others` are excluded. The scratch files exist as empty qcow2
    /// images with the sizes of the disks.
    fn begin_pull(&self, domain: &DomainRef, job: &PullJob, others: &[String]) -> Result<(), Error>;
    /// The socket of the running backup job, if any.
    fn pull_socket(&self, domain: &DomainRef) -> Result<Option<PathBuf>, Error>;
    /// Ends the backup job.
    fn end_pull(&self, domain: &DomainRef) -> Result<(), Error>;
    /// Deletes a checkpoint with its bitmaps, which requires a running guest. With `only_record`, libvirt forgets the
    /// checkpoint and the bitmaps stay.
    fn delete_checkpoint(&self, domain: &DomainRef, name: &str, only_record: bool) -> Result<(), Error>;
    /// Removes a dirty bitmap that libvirt cannot delete from the images of a running guest; one that no image has is not an
    /// error.
    fn remove_bitmap(&self, domain: &DomainRef, name: &str) -> Result<(), Error>;
}

/// Definitions of domains, and starting them.
pub trait Definitions: Send + Sync {
    /// Replaces one disk of the definition with this `<disk>` element. Everything else in the definition stays, even if
    /// another program changed it since. Fails if the definition no longer has a disk with that target.
    fn define_disk(&self, domain: &DomainRef, disk: &str) -> Result<(), Error>;
    /// Defines a domain, or replaces the definition of the domain with the same UUID.
    fn define(&self, xml: &str) -> Result<DomainRef, Error>;
    /// Checks that libvirt accepts a definition by defining the domain and undefining it at once. No domain may have its name
    /// or UUID.
    fn try_define(&self, xml: &str) -> Result<(), Error>;
    /// What a definition needs but this host does not have (networks, bridges, filters, pools, CPU features), for display.
    fn missing(&self, xml: &str) -> Result<Vec<String>, Error>;
    /// Starts a defined domain.
    fn start(&self, domain: &DomainRef) -> Result<(), Error>;
    /// Sets whether the domain starts with the host. A restored domain must not do so unless the operator asks for it.
    fn set_autostart(&self, domain: &DomainRef, autostart: bool) -> Result<(), Error>;
}
