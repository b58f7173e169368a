//! libvirt calls that the crate `virt` lacks, and all `unsafe` code of this program.
//! Must not decide anything: each function is one call of the C library.
//!
//! Every block is sound for the same reasons: the domain pointer comes from a live `virt::Domain` that outlives the
//! call, strings are NUL-terminated `CString`s that outlive the call, and libvirt keeps no pointer of ours.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_uint};
use std::path::Path;
use std::ptr::{null, null_mut};

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;

use crate::hypervisor::domain_xml::Cpu;

fn check(result: c_int) -> Result<c_int, Error> {
    if result < 0 { Err(Error::last_error()) } else { Ok(result) }
}

/// Cuts `text` at its first NUL; names in libvirt cannot contain one.
fn c_string(text: &str) -> CString {
    let bytes: Vec<u8> = text.bytes().take_while(|byte| *byte != 0).collect();
    CString::new(bytes).unwrap_or_default()
}

/// `seconds` may also be one of libvirt's negative constants.
pub fn set_agent_timeout(domain: &Domain, seconds: c_int) -> Result<(), Error> {
    // SAFETY: see the module.
    check(unsafe { virt_sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), seconds, 0) }).map(drop)
}

/// Freezes all file systems of the guest and returns their number.
pub fn fs_freeze(domain: &Domain) -> Result<c_int, Error> {
    // SAFETY: see the module; no mount points means all.
    check(unsafe { virt_sys::virDomainFSFreeze(domain.as_ptr(), null_mut(), 0, 0) })
}

/// Thaws all file systems of the guest.
pub fn fs_thaw(domain: &Domain) -> Result<(), Error> {
    // SAFETY: see the module; no mount points means all.
    check(unsafe { virt_sys::virDomainFSThaw(domain.as_ptr(), null_mut(), 0, 0) }).map(drop)
}

/// Starts to commit the active image of a disk, which must be `image`, into the image directly below.
pub fn commit_active_shallow(domain: &Domain, disk: &str, image: &Path) -> Result<(), Error> {
    let (disk, image) = (c_string(disk), c_string(&image.to_string_lossy()));
    let flags = virt_sys::VIR_DOMAIN_BLOCK_COMMIT_ACTIVE | virt_sys::VIR_DOMAIN_BLOCK_COMMIT_SHALLOW;
    // SAFETY: see the module; no base means the image directly below. libvirt fails if the top is not the active image.
    check(unsafe {
        virt_sys::virDomainBlockCommit(domain.as_ptr(), disk.as_ptr(), null(), image.as_ptr(), 0, flags as c_uint)
    })
    .map(drop)
}

/// The block job of a disk as (type, done, total), if any.
pub fn block_job(domain: &Domain, disk: &str) -> Result<Option<(c_int, u64, u64)>, Error> {
    let disk = c_string(disk);
    let mut info = virt_sys::virDomainBlockJobInfo { type_: 0, bandwidth: 0, cur: 0, end: 0 };
    // SAFETY: see the module; `info` is a plain structure that libvirt fills in.
    let found = check(unsafe { virt_sys::virDomainGetBlockJobInfo(domain.as_ptr(), disk.as_ptr(), &mut info, 0) })?;
    Ok((found > 0).then_some((info.type_, info.cur, info.end)))
}

/// Ends the block job of a disk. With `pivot`, the guest moves to the destination of the job.
pub fn end_block_job(domain: &Domain, disk: &str, pivot: bool) -> Result<(), Error> {
    let disk = c_string(disk);
    let flags = if pivot { virt_sys::VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT } else { 0 };
    // SAFETY: see the module.
    check(unsafe { virt_sys::virDomainBlockJobAbort(domain.as_ptr(), disk.as_ptr(), flags as c_uint) }).map(drop)
}

/// Starts a backup job, and creates a checkpoint at the same instant; the scratch files must exist.
pub fn backup_begin(domain: &Domain, xml: &str, checkpoint: Option<&str>) -> Result<(), Error> {
    let (xml, checkpoint) = (c_string(xml), checkpoint.map(c_string));
    let checkpoint = checkpoint.as_ref().map_or(null(), |xml| xml.as_ptr());
    let flags = virt_sys::VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL;
    // SAFETY: see the module; a null checkpoint means none.
    check(unsafe { virt_sys::virDomainBackupBegin(domain.as_ptr(), xml.as_ptr(), checkpoint, flags as c_uint) })
        .map(drop)
}

/// The operation of the job on a domain (`VIR_DOMAIN_JOB_OPERATION_…`), if any.
pub fn job(domain: &Domain) -> Result<Option<u32>, Error> {
    let (mut kind, mut count) = (0, 0);
    let mut params: virt_sys::virTypedParameterPtr = null_mut();
    // SAFETY: see the module; libvirt allocates the list, and we must free it.
    check(unsafe { virt_sys::virDomainGetJobStats(domain.as_ptr(), &mut kind, &mut params, &mut count, 0) })?;
    let mut operation = 0;
    // SAFETY: as before; an empty list may be null, which both functions accept.
    unsafe {
        let name = virt_sys::VIR_DOMAIN_JOB_OPERATION.as_ptr();
        virt_sys::virTypedParamsGetInt(params, count, name, &mut operation);
        virt_sys::virTypedParamsFree(params, count);
    }
    Ok((kind != virt_sys::VIR_DOMAIN_JOB_NONE as c_int).then_some(operation as u32))
}

/// The targets of the disks with I/O errors.
pub fn disk_errors(domain: &Domain) -> Result<Vec<String>, Error> {
    // SAFETY: see the module; without a list, the call returns the maximum length of the list.
    let most = check(unsafe { virt_sys::virDomainGetDiskErrors(domain.as_ptr(), null_mut(), 0, 0) })?;
    let mut errors = vec![virt_sys::virDomainDiskError { disk: null_mut(), error: 0 }; most as usize];
    // SAFETY: see the module; the list has the length that is passed to libvirt.
    let found = check(unsafe {
        virt_sys::virDomainGetDiskErrors(domain.as_ptr(), errors.as_mut_ptr(), errors.len() as c_uint, 0)
    })?;
    // SAFETY: libvirt has filled in the first `found` elements.
    Ok(errors.iter().take(found as usize).map(|error| unsafe { taken(error.disk) }).collect())
}

/// The size of a disk of an active domain, in bytes, as its guest sees it.
pub fn disk_size(domain: &Domain, disk: &str) -> Result<u64, Error> {
    let disk = c_string(disk);
    let mut info = virt_sys::virDomainBlockInfo { capacity: 0, allocation: 0, physical: 0 };
    // SAFETY: see the module; `info` is a plain structure that libvirt fills in.
    check(unsafe { virt_sys::virDomainGetBlockInfo(domain.as_ptr(), disk.as_ptr(), &mut info, 0) })?;
    Ok(info.capacity)
}

/// The XML of the running backup job.
pub fn backup_xml(domain: &Domain) -> Result<String, Error> {
    // SAFETY: see the module.
    let text = unsafe { virt_sys::virDomainBackupGetXMLDesc(domain.as_ptr(), 0) };
    if text.is_null() {
        return Err(Error::last_error());
    }
    // SAFETY: libvirt returns a NUL-terminated string from malloc, which is not used elsewhere.
    Ok(unsafe { taken(text) })
}

/// Copies a string of libvirt and frees it.
///
/// # Safety
/// It must be NUL-terminated, allocated with malloc, and not used afterwards.
unsafe fn taken(text: *mut c_char) -> String {
    // SAFETY: the caller guarantees it.
    unsafe {
        let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
        free(text.cast());
        copy
    }
}

/// Aborts the domain's job, for example a backup.
pub fn abort_job(domain: &Domain) -> Result<(), Error> {
    // SAFETY: see the module.
    check(unsafe { virt_sys::virDomainAbortJob(domain.as_ptr()) }).map(drop)
}

/// The names of the checkpoints of a domain.
pub fn checkpoints(domain: &Domain) -> Result<Vec<String>, Error> {
    let mut list: *mut virt_sys::virDomainCheckpointPtr = null_mut();
    // SAFETY: see the module; libvirt allocates the list.
    let count = check(unsafe { virt_sys::virDomainListAllCheckpoints(domain.as_ptr(), &mut list, 0) })?;
    let mut names = Vec::new();
    for at in 0..usize::try_from(count).unwrap_or_default() {
        // SAFETY: the list has `count` checkpoints, which we must free; a name lives as long as its checkpoint.
        unsafe {
            let checkpoint = *list.add(at);
            let name = virt_sys::virDomainCheckpointGetName(checkpoint);
            if !name.is_null() {
                names.push(CStr::from_ptr(name).to_string_lossy().into_owned());
            }
            virt_sys::virDomainCheckpointFree(checkpoint);
        }
    }
    // SAFETY: the list was allocated with malloc, and we must free it.
    unsafe { free(list.cast()) };
    Ok(names)
}

/// Deletes a checkpoint of a domain. With `only_record`, its bitmaps stay in the images.
pub fn delete_checkpoint(domain: &Domain, name: &str, only_record: bool) -> Result<(), Error> {
    let name = c_string(name);
    // SAFETY: see the module.
    let checkpoint = unsafe { virt_sys::virDomainCheckpointLookupByName(domain.as_ptr(), name.as_ptr(), 0) };
    if checkpoint.is_null() {
        return Err(Error::last_error());
    }
    let flags = if only_record { virt_sys::VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY } else { 0 };
    // SAFETY: the checkpoint is valid until it is freed.
    let result = check(unsafe { virt_sys::virDomainCheckpointDelete(checkpoint, flags as c_uint) });
    // SAFETY: libvirt returned the checkpoint, we must free it, and it is not used afterwards.
    unsafe { virt_sys::virDomainCheckpointFree(checkpoint) };
    result.map(drop)
}

/// Whether this host can run a CPU, as a constant of libvirt.
pub fn compare_cpu(connection: &Connect, cpu: &Cpu) -> Result<virt_sys::virCPUCompareResult, Error> {
    let [emulator, arch, machine] = [&cpu.emulator, &cpu.arch, &cpu.machine].map(|text| text.as_deref().map(c_string));
    let pointer = |text: &Option<CString>| text.as_ref().map_or(null(), |text| text.as_ptr());
    let (virt_type, xml) = (c_string(&cpu.virt_type), c_string(&cpu.xml));
    // SAFETY: the connection and the strings outlive the call; libvirt has defaults for null strings.
    let result = check(unsafe {
        virt_sys::virConnectCompareHypervisorCPU(
            connection.as_ptr(),
            pointer(&emulator),
            pointer(&arch),
            pointer(&machine),
            virt_type.as_ptr(),
            xml.as_ptr(),
            0,
        )
    })?;
    Ok(result as virt_sys::virCPUCompareResult)
}

unsafe extern "C" {
    /// Frees what libvirt allocated.
    fn free(pointer: *mut std::ffi::c_void);
}
