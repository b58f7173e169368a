//! Owns: a block device that a disk is written into. Must not: write to it.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::staging::target::check_unused;
use crate::engine::Error;
use crate::model::size;

/// Opens a block device that nothing uses: no mount, no volume group, no guest. It must have room for `bytes`.
pub fn open(path: &Path, bytes: u64) -> Result<File, Error> {
    let other = |message: String, hint: &str| Error::Rejected { message, hint: Some(hint.to_owned()) };
    let status = std::fs::metadata(path).map_err(Error::file("access", path))?;
    if !status.file_type().is_block_device() {
        return Err(other(format!("{}: not a block device", path.display()), "To restore to a file: --to DIR"));
    }
    // Without O_CREAT, O_EXCL on a block device fails when the kernel itself uses it: open(2).
    let flags = OFlags::EXCL.bits() as i32;
    let mut file = File::options().read(true).write(true).custom_flags(flags).open(path).map_err(|error| {
        if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) {
            let hint = "Find out what uses it: lsblk; then unmount it, or use another device.";
            return other(format!("{}: in use", path.display()), hint);
        }
        Error::file("open", path)(error)
    })?;
    check_unused(&file, path)?;
    let room = file.seek(SeekFrom::End(0)).map_err(Error::file("get the size of", path))?;
    if room < bytes {
        return Err(Error::Room { path: path.to_owned(), free: size::bytes(room), wanted: size::bytes(bytes) });
    }
    Ok(file)
}
