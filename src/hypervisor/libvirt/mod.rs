//! The adapter to libvirt: translates calls and errors. Must not decide anything.

mod agent;
mod bitmaps;
mod capture;
mod definition;
mod ffi;
mod missing;
mod pools;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use virt::connect::Connect;
use virt::domain::Domain as Handle;
use virt::enumutil::Enum;
use virt::error::{Error as VirtError, ErrorNumber, clear_error_callback};

use super::{
    Agents, BackupJobs, BlockJob, Definitions, Error, Guests, Kind, OffKind, Overlay, PullJob, SavedState, Snapshots,
};
use crate::model::{Domain, DomainRef, DomainState, is_local};
use crate::sys::step::{self, Step};

/// A connection to libvirt that reconnects when it breaks.
pub struct Libvirt {
    uri: String,
    connection: Mutex<Connect>,
}

impl Libvirt {
    /// Connects.
    pub fn connect(uri: &str) -> Result<Libvirt, Error> {
        // By default libvirt also prints errors to stderr; our errors contain them.
        clear_error_callback();
        Ok(Libvirt { uri: uri.to_owned(), connection: Mutex::new(open(uri)?) })
    }

    fn connection(&self) -> Result<Connect, Error> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        // Only the next call notices that libvirtd was restarted, so make a harmless one.
        if !connection.is_alive().unwrap_or(false) || connection.lib_version().is_err() {
            tracing::warn!(uri = self.uri, "the connection to libvirt was lost; reconnecting");
            *connection = open(&self.uri)?;
        }
        Ok(connection.clone())
    }

    fn handle(&self, domain: &DomainRef) -> Result<Handle, Error> {
        self.connection()?.lookup_domain_by_uuid(domain.uuid).map_err(|source| call(domain, "find it", source))
    }
}

fn step(step: Step, domain: &DomainRef) -> Result<(), Error> {
    step::reached(step).map_err(|source| Error::Host { domain: domain.name.clone(), source })
}

/// Connects to the libvirt of this host. An alias (`uri_aliases` in libvirt.conf) is resolved only by connecting.
fn open(uri: &str) -> Result<Connect, Error> {
    let refused = |uri: &str| Error::Remote { uri: uri.to_owned() };
    if !is_local(uri) {
        return Err(refused(uri));
    }
    let failed = |source: VirtError| Error::Connect { uri: uri.to_owned(), source: source.into() };
    let connection = Connect::open(Some(uri)).map_err(failed)?;
    match connection.uri().map_err(failed)? {
        resolved if is_local(&resolved) => Ok(connection),
        resolved => Err(refused(&resolved)),
    }
}

fn call(domain: &DomainRef, action: impl Into<String>, source: VirtError) -> Error {
    Error::Call { domain: domain.name.clone(), action: action.into(), kind: kind(&source), source: source.into() }
}

fn kind(error: &VirtError) -> Kind {
    match error.code() {
        Enum::Known(ErrorNumber::NoDomain) => Kind::NoDomain,
        Enum::Known(ErrorNumber::AgentUnresponsive) => Kind::NoAgent,
        Enum::Known(ErrorNumber::AgentCommandFailed) => Kind::Refused,
        Enum::Known(ErrorNumber::BlockCopyActive) => Kind::NotReady,
        Enum::Known(ErrorNumber::OperationTimeout) => Kind::Busy,
        _ if error.message().contains("QEMU guest agent is not") => Kind::NoAgent,
        _ if error.message().contains("not ready for pivot") || error.message().contains("is not ready") => {
            Kind::NotReady
        }
        _ if error.message().contains("Inactive '") => Kind::Inactive,
        _ => Kind::Other,
    }
}

/// Major, minor and release, as libvirt packs them:
/// <https://libvirt.org/html/libvirt-libvirt-host.html#virConnectGetLibVersion>.
fn dotted(version: u64) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1000 % 1000, version % 1000)
}

impl Guests for Libvirt {
    fn version(&self) -> Result<String, Error> {
        let connection = self.connection()?;
        let told = || -> Result<String, VirtError> {
            let libvirt = dotted(u64::from(connection.lib_version()?));
            let (kind, version) = (connection.driver_type()?, dotted(u64::from(connection.hyp_version()?)));
            Ok(format!("libvirt {libvirt}, {kind} {version}"))
        };
        told().map_err(|source| Error::Call {
            domain: self.uri.clone(),
            action: "get its version".to_owned(),
            kind: kind(&source),
            source: source.into(),
        })
    }

    fn pools(&self) -> Result<Vec<PathBuf>, Error> {
        pools::folders(&self.connection()?)
    }

    fn domains(&self) -> Result<Vec<(DomainRef, DomainState)>, Error> {
        definition::list(&self.connection()?)
    }

    fn describe(&self, domain: &DomainRef) -> Result<Domain, Error> {
        definition::describe(&self.connection()?, &self.handle(domain)?, domain)
    }

    fn persistent(&self, domain: &DomainRef) -> Result<Option<Domain>, Error> {
        definition::persistent(&self.connection()?, &self.handle(domain)?, domain)
    }

    fn state(&self, domain: &DomainRef) -> Result<DomainState, Error> {
        definition::state(&self.handle(domain)?, domain)
    }

    fn off_kind(&self, domain: &DomainRef) -> Result<OffKind, Error> {
        definition::off_kind(&self.handle(domain)?, domain)
    }

    fn io_errors(&self, domain: &DomainRef) -> Result<Option<Vec<String>>, Error> {
        definition::io_errors(&self.handle(domain)?, domain)
    }

    fn job(&self, domain: &DomainRef) -> Result<Option<String>, Error> {
        definition::job(&self.handle(domain)?, domain)
    }

    fn resume(&self, domain: &DomainRef) -> Result<(), Error> {
        step(Step::Resume, domain)?;
        self.handle(domain)?.resume().map(drop).map_err(|source| call(domain, "resume it", source))
    }

    fn saved_states(&self, domain: &DomainRef) -> Result<Vec<SavedState>, Error> {
        definition::saved_states(&self.handle(domain)?, domain)
    }
}

impl Agents for Libvirt {
    fn freeze(&self, domain: &DomainRef, timeout: Duration) -> Result<(), Error> {
        step(Step::Freeze, domain)?;
        agent::freeze(&self.handle(domain)?, domain, timeout)?;
        step(Step::Frozen, domain)
    }

    fn thaw(&self, domain: &DomainRef) -> Result<(), Error> {
        step(Step::Thaw, domain)?;
        agent::thaw(&self.handle(domain)?, domain)?;
        step(Step::Thawed, domain)
    }

    fn is_frozen(&self, domain: &DomainRef) -> Result<bool, Error> {
        agent::is_frozen(&self.handle(domain)?, domain)
    }

    fn agent(&self, domain: &DomainRef, request: &serde_json::Value) -> Result<serde_json::Value, Error> {
        agent::ask(&self.handle(domain)?, domain, request)
    }
}

impl Snapshots for Libvirt {
    fn snapshot(&self, domain: &DomainRef, overlays: &[Overlay], others: &[String]) -> Result<(), Error> {
        step(Step::Snapshot, domain)?;
        capture::snapshot(&self.handle(domain)?, domain, overlays, others)?;
        step(Step::SnapshotTaken, domain)
    }

    fn disk_size(&self, domain: &DomainRef, target: &str) -> Result<u64, Error> {
        ffi::disk_size(&self.handle(domain)?, target)
            .map_err(|source| call(domain, format!("get the size of disk {target}"), source))
    }

    fn start_commit(&self, domain: &DomainRef, target: &str, image: &Path) -> Result<(), Error> {
        step(Step::CommitBegin, domain)?;
        ffi::commit_active_shallow(&self.handle(domain)?, target, image)
            .map_err(|source| call(domain, format!("commit the overlay of disk {target}"), source))?;
        step(Step::CommitBegun, domain)
    }

    fn block_job(&self, domain: &DomainRef, target: &str) -> Result<Option<BlockJob>, Error> {
        let job = ffi::block_job(&self.handle(domain)?, target)
            .map_err(|source| call(domain, format!("get the block job of disk {target}"), source))?;
        Ok(job.map(|(kind, done, total)| BlockJob {
            active_commit: kind == virt_sys::VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT as i32,
            done,
            total,
        }))
    }

    fn pivot(&self, domain: &DomainRef, target: &str) -> Result<(), Error> {
        step(Step::Pivot, domain)?;
        ffi::end_block_job(&self.handle(domain)?, target, true)
            .map_err(|source| call(domain, format!("move disk {target} back to its base"), source))?;
        step(Step::Pivoted, domain)
    }

    fn cancel_commit(&self, domain: &DomainRef, target: &str) -> Result<(), Error> {
        step(Step::CommitCancel, domain)?;
        ffi::end_block_job(&self.handle(domain)?, target, false)
            .map_err(|source| call(domain, format!("abort the commit of disk {target}"), source))
    }
}

impl BackupJobs for Libvirt {
    fn socket_path(&self, domain: &DomainRef, name: &str) -> Result<Option<PathBuf>, Error> {
        Ok(capture::socket_path(&self.handle(domain)?, name))
    }

    fn begin_pull(&self, domain: &DomainRef, job: &PullJob, others: &[String]) -> Result<(), Error> {
        step(Step::PullBegin, domain)?;
        capture::begin_pull(&self.handle(domain)?, domain, job, others)?;
        step(Step::PullBegun, domain)
    }

    fn pull_socket(&self, domain: &DomainRef) -> Result<Option<PathBuf>, Error> {
        capture::pull_socket(&self.handle(domain)?, domain)
    }

    fn end_pull(&self, domain: &DomainRef) -> Result<(), Error> {
        step(Step::PullEnd, domain)?;
        ffi::abort_job(&self.handle(domain)?).map_err(|source| call(domain, "abort the backup job", source))?;
        step(Step::PullEnded, domain)
    }

    fn delete_checkpoint(&self, domain: &DomainRef, name: &str, only_record: bool) -> Result<(), Error> {
        step(Step::CheckpointDelete, domain)?;
        ffi::delete_checkpoint(&self.handle(domain)?, name, only_record)
            .map_err(|source| call(domain, format!("delete the checkpoint {name}"), source))
    }

    fn remove_bitmap(&self, domain: &DomainRef, name: &str) -> Result<(), Error> {
        step(Step::CheckpointDelete, domain)?;
        bitmaps::remove(&self.handle(domain)?, domain, name)
    }
}

impl Definitions for Libvirt {
    fn define_disk(&self, domain: &DomainRef, disk: &str) -> Result<(), Error> {
        step(Step::DefinitionWrite, domain)?;
        definition::define_disk(&self.handle(domain)?, domain, disk)?;
        step(Step::DefinitionWritten, domain)
    }

    fn define(&self, xml: &str) -> Result<DomainRef, Error> {
        definition::define(&self.connection()?, xml)
    }

    fn try_define(&self, xml: &str) -> Result<(), Error> {
        definition::try_define(&self.connection()?, xml)
    }

    fn missing(&self, xml: &str) -> Result<Vec<String>, Error> {
        missing::missing(&self.connection()?, xml)
    }

    fn start(&self, domain: &DomainRef) -> Result<(), Error> {
        self.handle(domain)?.create().map(drop).map_err(|source| call(domain, "start it", source))
    }

    fn set_autostart(&self, domain: &DomainRef, autostart: bool) -> Result<(), Error> {
        self.handle(domain)?
            .set_autostart(autostart)
            .map(drop)
            .map_err(|source| call(domain, "set its autostart", source))
    }
}
