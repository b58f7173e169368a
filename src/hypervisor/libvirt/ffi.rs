//! Owns: the libvirt calls that the crate `virt` lacks, and all `unsafe` code of this program.
//! Must not: decide anything; each function is one call of the C library.
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

/// A NUL inside of `text` cuts it off there: libvirt's names cannot hold one.
fn c_string(text: &str) -> CString {
    let bytes: Vec<u8> = text.bytes().take_while(|byte| *byte != 0).collect();
    CString::new(bytes).unwrap_or_default()
}

/// Seconds that libvirt waits for an answer of the guest agent, or one of its negative constants.
pub fn set_agent_timeout(domain: &Domain, seconds: c_int) -> Result<(), Error> {
    // SAFETY: see the module.
    check(unsafe { virt_sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), seconds, 0) }).map(drop)
}

/// Freezes all file systems of the guest and returns how many they are.
pub fn fs_freeze(domain: &Domain) -> Result<c_int, Error> {
    // SAFETY: see the module; no mount points means all.
    check(unsafe { virt_sys::virDomainFSFreeze(domain.as_ptr(), null_mut(), 0, 0) })
}

/// Thaws all file systems of the guest.
pub fn fs_thaw(domain: &Domain) -> Result<(), Error> {
    // SAFETY: see the module; no mount points means all.
    check(unsafe { virt_sys::virDomainFSThaw(domain.as_ptr(), null_mut(), 0, 0) }).map(drop)
}

/// Starts to commit the active image of a disk, which must be `image`, into the image right below it.
pub fn commit_active_shallow(domain: &Domain, disk: &str, image: &Path) -> Result<(), Error> {
    let (disk, image) = (c_string(disk), c_string(&image.to_string_lossy()));
    let flags = virt_sys::VIR_DOMAIN_BLOCK_COMMIT_ACTIVE | virt_sys::VIR_DOMAIN_BLOCK_COMMIT_SHALLOW;
    // SAFETY: see the module; no base means the image right below. libvirt fails when the top is not the active image.
    check(unsafe {
        virt_sys::virDomainBlockCommit(domain.as_ptr(), disk.as_ptr(), null(), image.as_ptr(), 0, flags as c_uint)
    })
    .map(drop)
}

/// The block job of a disk as (type, done, total), if there is one.
pub fn block_job(domain: &Domain, disk: &str) -> Result<Option<(c_int, u64, u64)>, Error> {
    let disk = c_string(disk);
    let mut info = virt_sys::virDomainBlockJobInfo { type_: 0, bandwidth: 0, cur: 0, end: 0 };
    // SAFETY: see the module; `info` is a plain structure that libvirt fills in.
    let found = check(unsafe { virt_sys::virDomainGetBlockJobInfo(domain.as_ptr(), disk.as_ptr(), &mut info, 0) })?;
    Ok((found > 0).then_some((info.type_, info.cur, info.end)))
}

/// Ends the block job of a disk, and moves the guest to the job's destination or leaves it where it is.
pub fn end_block_job(domain: &Domain, disk: &str, pivot: bool) -> Result<(), Error> {
    let disk = c_string(disk);
    let flags = if pivot { virt_sys::VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT } else { 0 };
    // SAFETY: see the module.
    check(unsafe { virt_sys::virDomainBlockJobAbort(domain.as_ptr(), disk.as_ptr(), flags as c_uint) }).map(drop)
}

/// Starts a backup job with scratch files that exist.
pub fn backup_begin(domain: &Domain, xml: &str) -> Result<(), Error> {
    let xml = c_string(xml);
    let flags = virt_sys::VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL;
    // SAFETY: see the module; no checkpoint is asked for.
    check(unsafe { virt_sys::virDomainBackupBegin(domain.as_ptr(), xml.as_ptr(), null(), flags as c_uint) }).map(drop)
}

/// The operation of the job that libvirt is doing on a domain (`VIR_DOMAIN_JOB_OPERATION_…`), if it does one.
pub fn job(domain: &Domain) -> Result<Option<u32>, Error> {
    let (mut kind, mut count) = (0, 0);
    let mut params: virt_sys::virTypedParameterPtr = null_mut();
    // SAFETY: see the module; the list is allocated by libvirt and ours to free.
    check(unsafe { virt_sys::virDomainGetJobStats(domain.as_ptr(), &mut kind, &mut params, &mut count, 0) })?;
    let mut operation = 0;
    // SAFETY: as before; a list of no elements may be null, which both functions accept.
    unsafe {
        let name = virt_sys::VIR_DOMAIN_JOB_OPERATION.as_ptr();
        virt_sys::virTypedParamsGetInt(params, count, name, &mut operation);
        virt_sys::virTypedParamsFree(params, count);
    }
    Ok((kind != virt_sys::VIR_DOMAIN_JOB_NONE as c_int).then_some(operation as u32))
}

/// The targets of the disks on which QEMU had an I/O error.
pub fn disk_errors(domain: &Domain) -> Result<Vec<String>, Error> {
    // SAFETY: see the module; without a list, the call returns how long it can become.
    let most = check(unsafe { virt_sys::virDomainGetDiskErrors(domain.as_ptr(), null_mut(), 0, 0) })?;
    let mut errors = vec![virt_sys::virDomainDiskError { disk: null_mut(), error: 0 }; most as usize];
    // SAFETY: see the module; the list has as many elements as libvirt is told.
    let found = check(unsafe {
        virt_sys::virDomainGetDiskErrors(domain.as_ptr(), errors.as_mut_ptr(), errors.len() as c_uint, 0)
    })?;
    // SAFETY: libvirt has filled in that many elements.
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

/// The XML of the backup job that runs now.
pub fn backup_xml(domain: &Domain) -> Result<String, Error> {
    // SAFETY: see the module.
    let text = unsafe { virt_sys::virDomainBackupGetXMLDesc(domain.as_ptr(), 0) };
    if text.is_null() {
        return Err(Error::last_error());
    }
    // SAFETY: as `taken` wants it.
    Ok(unsafe { taken(text) })
}

/// A string of libvirt's, which it is ours to free.
///
/// # Safety
/// It must be NUL-terminated, from malloc, and not be used afterwards.
unsafe fn taken(text: *mut c_char) -> String {
    // SAFETY: the caller's promise.
    unsafe {
        let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
        free(text.cast());
        copy
    }
}

/// Ends the domain's job, a backup among them.
pub fn abort_job(domain: &Domain) -> Result<(), Error> {
    // SAFETY: see the module.
    check(unsafe { virt_sys::virDomainAbortJob(domain.as_ptr()) }).map(drop)
}

/// The names of the checkpoints of a domain.
pub fn checkpoints(domain: &Domain) -> Result<Vec<String>, Error> {
    let mut list: *mut virt_sys::virDomainCheckpointPtr = null_mut();
    // SAFETY: see the module; libvirt fills in a list of its own.
    let count = check(unsafe { virt_sys::virDomainListAllCheckpoints(domain.as_ptr(), &mut list, 0) })?;
    let mut names = Vec::new();
    for at in 0..usize::try_from(count).unwrap_or_default() {
        // SAFETY: the list has `count` checkpoints, each ours to free; a name lives as long as its checkpoint.
        unsafe {
            let checkpoint = *list.add(at);
            let name = virt_sys::virDomainCheckpointGetName(checkpoint);
            if !name.is_null() {
                names.push(CStr::from_ptr(name).to_string_lossy().into_owned());
            }
            virt_sys::virDomainCheckpointFree(checkpoint);
        }
    }
    // SAFETY: the list is from malloc, and ours to free.
    unsafe { free(list.cast()) };
    Ok(names)
}

/// Whether this host can run a CPU, as one of libvirt's constants.
pub fn compare_cpu(connection: &Connect, cpu: &Cpu) -> Result<virt_sys::virCPUCompareResult, Error> {
    let [emulator, arch, machine] = [&cpu.emulator, &cpu.arch, &cpu.machine].map(|text| text.as_deref().map(c_string));
    let pointer = |text: &Option<CString>| text.as_ref().map_or(null(), |text| text.as_ptr());
    let (virt_type, xml) = (c_string(&cpu.virt_type), c_string(&cpu.xml));
    // SAFETY: the connection lives as long as the call, as do the strings; those that are null are chosen by libvirt.
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
    /// The C library's, which libvirt allocates with.
    fn free(pointer: *mut std::ffi::c_void);
}
