//! Owns: what libvirt knows of domains, and defining them. Must not: read the XML itself; `domain_xml` does.

use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use virt::connect::Connect;
use virt::domain::{
    Domain as Handle, DomainPausedReason, DomainShutoffReason, DomainState as VirtState, DomainStateReason,
};
use virt::enumutil::Enum;
use virt_sys::{
    VIR_DOMAIN_AFFECT_CONFIG, VIR_DOMAIN_UNDEFINE_KEEP_NVRAM, VIR_DOMAIN_XML_INACTIVE, VIR_DOMAIN_XML_MIGRATABLE,
    VIR_DOMAIN_XML_SECURE,
};

use super::{call, ffi};
use crate::hypervisor::{Error, Kind, OffKind, Said, SavedState, StateKind, domain_xml};
use crate::model::{Domain, DomainRef, DomainState, DomainXml, Failure, Image, Source};

pub(super) fn list(connection: &Connect) -> Result<Vec<(DomainRef, DomainState)>, Error> {
    let nobody = DomainRef { name: "libvirt".to_owned(), uuid: uuid::Uuid::nil() };
    let handles = connection.list_all_domains(0).map_err(|source| call(&nobody, "list the domains", source))?;
    let mut domains = Vec::with_capacity(handles.len());
    for handle in handles {
        match identify(&handle).and_then(|domain| Ok((state(&handle, &domain)?, domain))) {
            Ok((state, domain)) => domains.push((domain, state)),
            // It went away between the list and the question.
            Err(error) if error.kind() == Kind::NoDomain => {}
            Err(error) => return Err(error),
        }
    }
    domains.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    Ok(domains)
}

fn identify(handle: &Handle) -> Result<DomainRef, Error> {
    let unnamed = DomainRef { name: "domain".to_owned(), uuid: uuid::Uuid::nil() };
    let name = handle.name().map_err(|source| call(&unnamed, "get its name", source))?;
    let uuid = handle.uuid().map_err(|source| call(&unnamed, "get its UUID", source))?;
    Ok(DomainRef { name, uuid })
}

pub(super) fn state(handle: &Handle, domain: &DomainRef) -> Result<DomainState, Error> {
    known(handle, domain).map(|(state, _)| state)
}

/// What the domain is doing, and whether it is suspended to memory.
///
/// Only libvirt's own word says that no QEMU process is left: a guest that crashed, is suspended or is shutting down may
/// still have one, which keeps its disks open.
fn known(handle: &Handle, domain: &DomainRef) -> Result<(DomainState, bool), Error> {
    let failed = |source| call(domain, "get its state", source);
    let (state, _) = handle.state().map_err(failed)?;
    if !handle.is_active().map_err(failed)? {
        return Ok((DomainState::Off, false));
    }
    let stands_still = matches!(
        state,
        Enum::Known(VirtState::Paused | VirtState::PMSuspended | VirtState::Crashed | VirtState::Shutdown)
    );
    let is_suspended = state == Enum::Known(VirtState::PMSuspended);
    Ok((if stands_still { DomainState::Paused } else { DomainState::Running }, is_suspended))
}

/// A saved state is asked for itself: libvirt goes on to say "saved" of a domain whose saved state was dropped since.
pub(super) fn off_kind(handle: &Handle, domain: &DomainRef) -> Result<OffKind, Error> {
    let (_, reason) = handle.state().map_err(|source| call(domain, "get its state", source))?;
    if matches!(reason, Enum::Known(DomainStateReason::Shutoff(Enum::Known(DomainShutoffReason::Migrated)))) {
        return Ok(OffKind::Migrated);
    }
    let saved = handle.has_managed_save(0).map_err(|source| call(domain, "get its saved state", source))?;
    let was_saved = matches!(reason, Enum::Known(DomainStateReason::Shutoff(Enum::Known(DomainShutoffReason::Saved))));
    Ok(match (saved, was_saved) {
        (true, _) => OffKind::Saved,
        (false, true) => OffKind::SavedToFile,
        (false, false) => OffKind::Plain,
    })
}

/// A call that keeps even questions out shows as a timeout.
pub(super) fn job(handle: &Handle, domain: &DomainRef) -> Result<Option<String>, Error> {
    match ffi::job(handle).map_err(|source| call(domain, "get its job", source)) {
        Ok(operation) => Ok(operation.map(|operation| operation_name(operation).to_owned())),
        Err(error) if error.kind() == Kind::Busy => Ok(Some("a call from another program".to_owned())),
        Err(_) if state(handle, domain)? == DomainState::Off => Ok(None),
        Err(error) => Err(error),
    }
}

/// As `virsh domjobinfo` says it.
fn operation_name(operation: u32) -> &'static str {
    match operation {
        virt_sys::VIR_DOMAIN_JOB_OPERATION_START => "start",
        virt_sys::VIR_DOMAIN_JOB_OPERATION_SAVE => "save",
        virt_sys::VIR_DOMAIN_JOB_OPERATION_RESTORE => "restore",
        virt_sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN => "incoming migration",
        virt_sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT => "outgoing migration",
        virt_sys::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT => "snapshot",
        virt_sys::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT => "snapshot revert",
        virt_sys::VIR_DOMAIN_JOB_OPERATION_DUMP => "dump",
        virt_sys::VIR_DOMAIN_JOB_OPERATION_BACKUP => "backup",
        virt_sys::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_DELETE => "snapshot deletion",
        _ => "unknown job",
    }
}

pub(super) fn io_errors(handle: &Handle, domain: &DomainRef) -> Result<Option<Vec<String>>, Error> {
    let (_, reason) = handle.state().map_err(|source| call(domain, "get its state", source))?;
    match reason {
        Enum::Known(DomainStateReason::Paused(Enum::Known(DomainPausedReason::IOError))) => {
            ffi::disk_errors(handle).map(Some).map_err(|source| call(domain, "get its disk errors", source))
        }
        _ => Ok(None),
    }
}

pub(super) fn describe(connection: &Connect, handle: &Handle, domain: &DomainRef) -> Result<Domain, Error> {
    let (state, suspended) = known(handle, domain)?;
    let persistent = handle.is_persistent().map_err(|source| call(domain, "check whether it is persistent", source))?;
    let text =
        |flags| handle.xml_desc(flags | VIR_DOMAIN_XML_SECURE).map_err(|source| call(domain, "get its XML", source));
    let live = text(0)?;
    let inactive = if persistent { text(VIR_DOMAIN_XML_INACTIVE)? } else { live.clone() };
    let migratable = text(VIR_DOMAIN_XML_MIGRATABLE)?;
    let described = read(connection, domain, DomainXml { live, inactive, migratable }, (state, persistent))?;
    Ok(Domain { suspended, ..described })
}

pub(super) fn persistent(connection: &Connect, handle: &Handle, domain: &DomainRef) -> Result<Option<Domain>, Error> {
    if !handle.is_persistent().map_err(|source| call(domain, "check whether it is persistent", source))? {
        return Ok(None);
    }
    let state = state(handle, domain)?;
    let flags = VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE;
    let xml = handle.xml_desc(flags).map_err(|source| call(domain, "get its XML", source))?;
    let xml = DomainXml { live: xml.clone(), inactive: xml, migratable: String::new() };
    read(connection, domain, xml, (state, true)).map(Some)
}

fn read(
    connection: &Connect,
    known: &DomainRef,
    xml: DomainXml,
    (state, persistent): (DomainState, bool),
) -> Result<Domain, Error> {
    let described =
        domain_xml::read(xml, state, persistent).map_err(|source| Error::Xml { domain: known.name.clone(), source })?;
    let mut domain = described.domain;
    // libvirt writes a carriage return of a name as it is, and XML reads it as a line feed.
    if domain.id.name == known.name.replace("\r\n", "\n").replace('\r', "\n") {
        domain.id.name.clone_from(&known.name);
    }
    domain.tpm = domain.tpm.map(|state| tpm_state(connection, state));
    for volume in described.volumes {
        let Some(disk) = domain.disks.iter_mut().find(|disk| disk.target == volume.target) else { continue };
        match volume_source(connection, &volume) {
            Ok(source) => {
                let image: Option<&mut Image> = match volume.layer.checked_sub(1) {
                    None => Some(&mut disk.image),
                    Some(below) => disk.backing.get_mut(below),
                };
                if let Some(image) = image {
                    image.source = source;
                }
            }
            Err(failure) => disk.unknown = Some(failure),
        }
    }
    Ok(domain)
}

/// The libvirt of a user keeps the state of TPMs in that user's configuration (`swtpmStorageDir` in libvirt's `qemu_conf.c`).
fn tpm_state(connection: &Connect, state: PathBuf) -> PathBuf {
    let is_session =
        connection.uri().is_ok_and(|uri| uri.split('?').next().is_some_and(|uri| uri.ends_with("/session")));
    let Ok(within) = state.strip_prefix(domain_xml::TPM_STATE) else { return state };
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")));
    match config {
        Some(config) if is_session => config.join("libvirt/qemu/swtpm").join(within),
        _ => state,
    }
}

/// The path of a pool's volume, which the domain XML does not name.
fn volume_source(connection: &Connect, volume: &domain_xml::Volume) -> Result<Source, Failure> {
    let domain_xml::Volume { pool: name, volume, .. } = volume;
    let failed = |what: String, error: Option<virt::error::Error>, hint: String| {
        let why = error.map_or(String::new(), |error| format!(": {}", Said::from(error)));
        Failure { message: format!("{what}{why}"), hint: Some(hint) }
    };
    let pool = connection.lookup_storage_pool_by_name(name).map_err(|error| {
        failed(
            format!("storage pool {name} not found"),
            Some(error),
            "Define it again. To list pools: virsh pool-list --all".into(),
        )
    })?;
    if !pool.is_active().unwrap_or(true) {
        return Err(failed(
            format!(
                "storage storage storage storage storage storage storage storage storage storage \
        storage storage storage storage storage storage storage pool {name} is not active"
            ),
            None,
            format!(
                "virsh \
        pool-start {name}"
            ),
        ));
    }
    let path = pool.lookup_storage_vol_by_name(volume).and_then(|volume| volume.path()).map_err(|error| {
        let hint =
            format!("virsh pool-refresh {name}; if it is still missing, list the volumes: virsh vol-list {name}");
        failed(format!("volume {volume} not found in storage pool {name}"), Some(error), hint)
    })?;
    let path = PathBuf::from(path);
    let is_block = std::fs::metadata(&path).is_ok_and(|metadata| metadata.file_type().is_block_device());
    Ok(if is_block { Source::Block(path) } else { Source::File(path) })
}

/// A whole definition is not written because it would revert changes made since it was read.
pub(super) fn define_disk(handle: &Handle, domain: &DomainRef, disk: &str) -> Result<(), Error> {
    let updated = handle.update_device_flags(disk, VIR_DOMAIN_AFFECT_CONFIG);
    updated.map(drop).map_err(|source| call(domain, "update a disk in its definition", source))
}

pub(super) fn define(connection: &Connect, xml: &str) -> Result<DomainRef, Error> {
    let nobody = DomainRef { name: "domain".to_owned(), uuid: uuid::Uuid::nil() };
    let handle = connection.define_domain_xml(xml).map_err(|source| call(&nobody, "define it", source))?;
    identify(&handle)
}

/// The UUID is nobody's, so that no TPM state goes with it.
pub(super) fn try_define(connection: &Connect, xml: &str) -> Result<(), Error> {
    let nobody = DomainRef { name: "domain".to_owned(), uuid: uuid::Uuid::nil() };
    let handle = connection.define_domain_xml(xml).map_err(|source| call(&nobody, "define it", source))?;
    // Drivers without UEFI variables do not know the flag.
    let undefined = handle.undefine_flags(VIR_DOMAIN_UNDEFINE_KEEP_NVRAM).or_else(|_| handle.undefine());
    undefined.map(drop).map_err(|source| call(&identify(&handle).unwrap_or(nobody), "undefine it again", source))
}

/// A domain of another kind than QEMU's may have no such states to ask for.
pub(super) fn saved_states(handle: &Handle, domain: &DomainRef) -> Result<Vec<SavedState>, Error> {
    let failed = |source| call(domain, "list its snapshots", source);
    let mut states = Vec::new();
    for snapshot in handle.list_all_snapshots(0).map_err(failed)? {
        let name = snapshot.name().map_err(failed)?;
        let xml = snapshot.xml_desc(0).map_err(failed)?;
        let kind = match domain_xml::is_external_snapshot(&xml) {
            true => StateKind::ExternalSnapshot,
            false => StateKind::InternalSnapshot,
        };
        states.push(SavedState { name, kind });
    }
    let checkpoints = ffi::checkpoints(handle).map_err(|source| call(domain, "list its checkpoints", source))?;
    states.extend(checkpoints.into_iter().map(|name| SavedState { name, kind: StateKind::Checkpoint }));
    Ok(states)
}
