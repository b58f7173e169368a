//! Finds the other paths of a file or directory through bind mounts and additional mounts. Must not mount anything.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A line of `/proc/self/mountinfo`, proc_pid_mountinfo(5).
struct Mount {
    device: OsString,
    /// The mounted directory inside the file system.
    root: PathBuf,
    /// The mount point.
    at: PathBuf,
}

/// All paths that may lead to `real`, a path without links, including itself. Some may lead elsewhere, because another mount
/// hides them.
///
/// # Errors
/// If the list of mounts cannot be read.
pub fn paths_to(real: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(paths_among(&mounts(&fs::read("/proc/self/mountinfo")?), real))
}

fn paths_among(mounts: &[Mount], real: &Path) -> Vec<PathBuf> {
    let mut paths = vec![real.to_owned()];
    // If two mounts have the same mount point, the later one hides the other.
    let own =
        mounts.iter().filter(|mount| real.starts_with(&mount.at)).max_by_key(|mount| mount.at.components().count());
    if let Some((own, below)) = own.and_then(|own| Some((own, real.strip_prefix(&own.at).ok()?))) {
        let within = joined(&own.root, below);
        let same = mounts.iter().filter(|mount| mount.device == own.device);
        paths.extend(same.filter_map(|mount| Some(joined(&mount.at, within.strip_prefix(&mount.root).ok()?))));
    }
    paths
}

/// Joins paths without a slash at the end.
fn joined(folder: &Path, below: &Path) -> PathBuf {
    folder.join(below).components().collect()
}

fn mounts(table: &[u8]) -> Vec<Mount> {
    let mount = |line: &[u8]| {
        let mut fields = line.split(|&byte| byte == b' ').skip(2).map(unescaped);
        let device = fields.next()?;
        Some(Mount { device, root: fields.next()?.into(), at: fields.next()?.into() })
    };
    table.split(|&byte| byte == b'\n').filter_map(mount).collect()
}

/// The kernel escapes spaces, tabs, line breaks and backslashes as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> OsString {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let Some((&first, others)) = rest.split_first() {
        let code = others.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        let (byte, after) = match code {
            Some(code) if first == b'\\' => (code, &others[3..]),
            _ => (first, others),
        };
        bytes.push(byte);
        rest = after;
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
        21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
        22 21 8:2 / /srv rw - ext4 /dev/sdb1 rw\n\
        23 21 8:1 /var/lib/kb\\040state/journal /images rw - ext4 /dev/sda1 rw\n\
        24 21 8:2 /a /mnt/\\134a rw - ext4 /dev/sdb1 rw\n";

    #[test]
    fn every_path_through_a_mount_is_found() {
        let mounts = mounts(TABLE.as_bytes());
        let paths = |real: &str| {
            let paths = paths_among(&mounts, Path::new(real)).into_iter().map(|path| path.to_str().unwrap().to_owned());
            let mut paths: Vec<_> = paths.collect();
            paths.sort();
            paths.dedup();
            paths
        };
        assert_eq!(paths("/images"), ["/images", "/var/lib/kb state/journal"]);
        assert_eq!(paths("/images/x"), ["/images/x", "/var/lib/kb state/journal/x"]);
        assert_eq!(paths("/var/lib/kb state/journal"), ["/images", "/var/lib/kb state/journal"]);
        assert_eq!(paths("/var/lib/kb state"), ["/var/lib/kb state"]);
        assert_eq!(paths("/srv/a/b"), ["/mnt/\\a/b", "/srv/a/b"]);
        assert_eq!(paths("/srv"), ["/srv"]);
        assert_eq!(paths("/imagesx"), ["/imagesx"]);
        assert_eq!(paths("/"), ["/"]);
    }
}
