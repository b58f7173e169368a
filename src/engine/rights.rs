//! Finds out which users run guests on this host, and who owns the files of guests. Must not change a file.

use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::model::Owner;
use crate::sys::owner;

/// The users that run swtpm by default, the most common one first.
const SWTPM_USERS: [&str; 2] = ["swtpm", "tss"];

/// Where libvirt keeps files of guests.
#[derive(Debug, Clone)]
pub struct Places {
    /// The state of emulated TPMs, by UUID.
    pub swtpm: PathBuf,
    /// QEMU's own directory. libvirt gives it to the user that runs QEMU.
    pub qemu: PathBuf,
    /// Default directories of images and UEFI variables.
    pub images: Vec<PathBuf>,
}

impl Default for Places {
    fn default() -> Places {
        Places {
            swtpm: "/var/lib/libvirt/swtpm".into(),
            qemu: "/var/lib/libvirt/qemu".into(),
            images: vec!["/var/lib/libvirt/images".into(), "/var/lib/libvirt/qemu/nvram".into()],
        }
    }
}

impl Places {
    /// A private file of the user that runs QEMU. `None` unless we are root, because only root can give files away.
    pub fn qemu_owner(&self) -> Option<Owner> {
        let status = fs::metadata(&self.qemu).ok().filter(|_| is_root())?;
        Some(Owner::private(status.uid(), status.gid()))
    }

    /// A private file of the user that runs swtpm: the owner of other TPM state, otherwise the default user.
    pub fn swtpm_owner(&self) -> Option<Owner> {
        if !is_root() {
            return None;
        }
        let mut states: Vec<PathBuf> = folders(&self.swtpm).iter().flat_map(|domain| folders(domain)).collect();
        states.sort();
        let known = states.first().and_then(|state| fs::metadata(state).ok());
        let known = known.map(|status| Owner::private(status.uid(), status.gid()));
        known.or_else(|| {
            let users = fs::read_to_string("/etc/passwd").ok()?;
            SWTPM_USERS.iter().find_map(|name| user(&users, name))
        })
    }

    /// The directory at or above `folder` that QEMU's user cannot enter, if one is known.
    pub fn barred(&self, folder: &Path) -> Option<(PathBuf, Owner)> {
        let qemu = self.qemu_owner().filter(|owner| owner.uid != 0)?;
        let bars = |folder: &&Path| {
            let status = fs::metadata(folder).ok().filter(Metadata::is_dir);
            // An access control list may allow it.
            status.is_some_and(|status| !of(&status).lets_enter(qemu.uid, qemu.gid)) && !has_list(folder)
        };
        folder.ancestors().find(bars).map(|folder| (folder.to_owned(), qemu))
    }
}

/// The owner of a regular file.
pub fn of_file(path: &Path) -> Option<Owner> {
    fs::symlink_metadata(path).ok().filter(Metadata::is_file).map(|status| of(&status))
}

/// The regular file that a symbolic link leads to. Only links of root and of this user are followed.
pub fn trusted_link(path: &Path) -> Option<PathBuf> {
    fs::symlink_metadata(path).ok().filter(|status| status.is_symlink() && owner::is_trusted(status.uid()))?;
    fs::canonicalize(path).ok().filter(|real| real.is_file())
}

/// The owner of a file that will be replaced. `None` in a directory where every user may create files, because the
/// owner means nothing there.
pub fn of_replaced(path: &Path) -> Option<Owner> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let is_open = fs::metadata(folder).ok()?.permissions().mode() & 0o002 != 0;
    of_file(path).filter(|_| !is_open).map(Owner::sane)
}

fn of(status: &Metadata) -> Owner {
    Owner { uid: status.uid(), gid: status.gid(), mode: status.mode() & 0o7777 }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The subdirectories of a directory.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Whether a file or directory has an access control list: acl(5).
pub(super) fn has_list(folder: &Path) -> bool {
    rustix::fs::getxattr(folder, "system.posix_acl_access", &mut [0_u8; 0][..]).is_ok_and(|length| length > 0)
}

/// A private file of a user, from the lines of passwd(5).
fn user(users: &str, name: &str) -> Option<Owner> {
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let user = fields.into_iter().find(|fields| fields.first() == Some(&name))?;
    Some(Owner::private(user.get(2)?.parse().ok()?, user.get(3)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_is_found_by_the_full_name() {
        let users = "root:x:0:0::/root:/bin/sh\ntss2:x:1:1::/:/x\ntss:x:104:108:TPM:/var/lib/tpm:/bin/false\n";
        assert_eq!(user(users, "tss"), Some(Owner::private(104, 108)));
        assert_eq!([user(users, "swtpm"), user("tss:x:no", "tss")], [None, None]);
    }

    #[test]
    fn owner_of_a_replaced_file_in_a_world_writable_directory_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o4646)).unwrap();
        assert_eq!(of_replaced(&file).map(|owner| owner.mode), Some(0o644));
        assert_eq!(of_replaced(&dir.path().join("b")), None);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(of_replaced(&file), None);
    }

    #[test]
    fn tpm_state_gets_the_owner_of_other_tpm_state() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { swtpm: dir.path().join("swtpm"), qemu: dir.path().to_owned(), images: Vec::new() };
        let state = places.swtpm.join("uuid/tpm2");
        fs::create_dir_all(&state).unwrap();
        if !is_root() {
            assert_eq!((places.swtpm_owner(), places.qemu_owner()), (None, None));
            return;
        }
        std::os::unix::fs::chown(&state, Some(1234), Some(1235)).unwrap();
        assert_eq!(places.swtpm_owner(), Some(Owner::private(1234, 1235)));
        std::os::unix::fs::chown(dir.path(), Some(1236), Some(1237)).unwrap();
        assert_eq!(places.qemu_owner(), Some(Owner::private(1236, 1237)));
        assert_eq!(places.barred(&state).map(|(folder, _)| folder), None);
        fs::set_permissions(&places.swtpm, fs::Permissions::from_mode(0o750)).unwrap();
        assert_eq!(places.barred(&state).map(|(folder, _)| folder), Some(places.swtpm.clone()));
    }
}
