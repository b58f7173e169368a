//! Checks what a journal entry names. Must not open what it names, or undo it.
//!
//! Recovery removes and commits the files that an entry names, often as root. Therefore an entry is read only if no
//! user except root and our own could have written it, and it may name only what a backup creates: sockets below the
//! state directory, and files with our own naming scheme.

use std::fs;
use std::io;
use std::path::{Component, Path};

use super::Entry;
use crate::engine::{overlay_file, tracking};
use crate::model::{DomainRef, is_local};
use crate::store;
use crate::sys::opened;

/// Maximum length of an entry in bytes. It contains one XML element per disk.
const MAX: u64 = 16 << 20;

/// Reads an entry.
///
/// # Errors
/// If it is not a regular file, belongs to another user, is accessible to others, or is too long.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    opened::read_private(path, MAX)
}

/// Forgets a socket directory whose parent does not exist because the state directory was moved. Otherwise another user
/// could create that path later.
pub(super) fn forget_moved(entry: &mut Entry) {
    let is_gone =
        |sockets: &std::path::PathBuf| sockets.parent().is_none_or(|parent| fs::symlink_metadata(parent).is_err());
    entry.sockets.take_if(|sockets| is_straight(sockets) && is_named_after(sockets, &entry.domain) && is_gone(sockets));
}

/// The first path in an entry that no backup creates, if any.
pub(super) fn overstep(entry: &Entry, state_dir: &Path) -> Option<String> {
    let sockets = entry.sockets.iter().map(|path| ("socket directory", path, are_sockets(path, entry, state_dir)));
    let is_partial = |path: &Path| is_straight(path) && store::is_partial(path, &entry.domain.name);
    let partial = entry.partial.iter().map(|path| ("unfinished archive", path, is_partial(path)));
    let overlays = entry.overlays.iter().map(|overlay| &overlay.path);
    let overlays = overlays.map(|path| ("overlay", path, is_straight(path) && overlay_file::is_ours(path)));
    let scratch = entry.pull.iter().flat_map(|job| &job.scratch).map(|scratch| &scratch.path);
    let scratch = scratch.map(|path| ("scratch file", path, is_straight(path) && overlay_file::is_scratch(path)));
    let socket =
        entry.pull.iter().map(|job| ("socket", &job.socket, is_straight(&job.socket) && is_socket(&job.socket)));
    let mut named = sockets.chain(partial).chain(overlays).chain(scratch).chain(socket);
    // A remote URI is only shown, in a command for the operator to run.
    if !is_local(&entry.libvirt_uri) && entry.libvirt_uri.contains(|c: char| c == '?' || c == '\'' || c.is_control()) {
        return Some(format!("{:?} is not a libvirt URI that kvmbackup uses", entry.libvirt_uri));
    }
    if let Some(name) = entry.checkpoint.as_ref().filter(|name| !tracking::is_ours(name)) {
        return Some(format!("{name:?} is not a kvmbackup checkpoint"));
    }
    let (what, path, _) = named.find(|(_, _, is_ours)| !is_ours)?;
    Some(format!("{} is not a kvmbackup {what}", path.display()))
}

/// Absolute and without `..`.
fn is_straight(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

/// Whether this is the domain's own socket directory in this state directory, under any spelling.
fn are_sockets(folder: &Path, entry: &Entry, state_dir: &Path) -> bool {
    let known = state_dir.join("sockets");
    let same =
        |a: &Path, b: &Path| a == b || matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b);
    is_straight(folder)
        && is_named_after(folder, &entry.domain)
        && folder.parent().is_some_and(|parent| same(parent, &known))
}

fn is_named_after(sockets: &Path, domain: &DomainRef) -> bool {
    sockets.file_name().is_some_and(|name| *name == *domain.uuid.simple().to_string())
}

/// Whether this is the socket of a pull job, in libvirt's directory for the domain or in ours.
fn is_socket(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "kvmbackup.sock" || name == "pull.sock")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use chrono::Utc;
    use uuid::Uuid;

    use super::*;
    use crate::engine::journal::Journal;
    use crate::hypervisor::{Overlay, PullJob, Scratch};
    use crate::model::{Format, Image, Source};

    fn entry(state: &Path) -> Entry {
        let domain = DomainRef { name: "web 1".into(), uuid: Uuid::new_v4() };
        let record =
            Journal::open(state).unwrap().begin(Uuid::new_v4(), Utc::now(), "test:///default", &domain).unwrap();
        record.entry().clone()
    }

    fn overlay(path: &str) -> Overlay {
        let base = Image { source: Source::File("/v/a".into()), format: Format::Qcow2 };
        Overlay { target: "vda".into(), path: path.into(), base, saved: None, marks: None }
    }

    #[test]
    fn entry_may_name_the_resources_of_a_backup() {
        let state = tempfile::tempdir().unwrap();
        let mut entry = entry(state.path());
        let sockets = state.path().join("sockets").join(entry.domain.uuid.simple().to_string());
        entry.sockets = Some(sockets.clone());
        entry.partial = Some("/to/web%201/.web%201-20261122T020000Z.part".into());
        entry.overlays = vec![overlay("/v/a.qcow2.vda.kvmbackup-0123abcd.qcow2")];
        let scratch =
            Scratch { target: "vda".into(), path: "/v/a.vda.kvmbackup-0123abcd.scratch".into(), ..Scratch::default() };
        entry.pull = Some(PullJob { socket: sockets.join("pull.sock"), scratch: vec![scratch], checkpoint: None });
        assert_eq!(overstep(&entry, state.path()), None);
    }

    #[test]
    fn entry_must_not_name_other_resources() {
        let state = tempfile::tempdir().unwrap();
        std::fs::create_dir(state.path().join("sockets")).unwrap();
        let clean = entry(state.path());
        let uuid = clean.domain.uuid.simple().to_string();
        let other = tempfile::tempdir().unwrap();
        let refused = |change: &dyn Fn(&mut Entry)| {
            let mut entry = clean.clone();
            change(&mut entry);
            overstep(&entry, state.path()).is_some()
        };
        for name in ["", "foreign", "kvmbackup-1", "kvmbackup-0123456789abcdef0123456789abcdeX"] {
            assert!(refused(&|entry| entry.checkpoint = Some(name.into())), "{name}");
        }
        assert!(!refused(&|entry| entry.checkpoint = Some(format!("kvmbackup-{uuid}"))));
        for folder in ["/", "/etc", "/root"] {
            assert!(refused(&|entry| entry.sockets = Some(folder.into())), "{folder}");
        }
        assert!(refused(&|entry| entry.sockets = Some(other.path().join(&uuid))));
        assert!(refused(&|entry| entry.sockets = Some(state.path().join("sockets"))));
        assert!(refused(&|entry| entry.sockets = Some(state.path().join("sockets/../sockets").join(&uuid))));
        for uri in ["qemu+ext:///system?command=/x", "qemu+ssh://h/system?command=/x", "qemu:///system\0", "a+b://'/"] {
            assert!(refused(&|entry| entry.libvirt_uri = uri.into()), "{uri}");
        }
        assert!(!refused(&|entry| entry.libvirt_uri = "qemu+ssh://root@host/system".into()));
        for path in
            ["/etc/shadow", "/to/web/web-20261122T020000Z.tar", "/to/../.web%201-20261122T020000Z.part", "x.part"]
        {
            assert!(refused(&|entry| entry.partial = Some(path.into())), "{path}");
        }
        for path in ["/etc/shadow", "/v/../a.vda.kvmbackup-0123abcd.qcow2", "a.vda.kvmbackup-0123abcd.qcow2"] {
            assert!(refused(&|entry| entry.overlays = vec![overlay(path)]), "{path}");
        }
        let job = |socket: &str, scratch: &str| {
            Some(PullJob {
                socket: socket.into(),
                scratch: vec![Scratch { target: "vda".into(), path: scratch.into(), ..Scratch::default() }],
                checkpoint: None,
            })
        };
        let good = "/v/a.vda.kvmbackup-0123abcd.scratch";
        assert!(refused(&|entry| entry.pull = job("/etc/shadow", good)));
        assert!(refused(&|entry| entry.pull = job("/run/kvmbackup.sock", "/etc/shadow")));
        assert!(!refused(&|entry| entry.pull = job("/run/kvmbackup.sock", good)));
    }

    #[test]
    fn sockets_of_a_moved_state_directory_are_forgotten() {
        let state = tempfile::tempdir().unwrap();
        let clean = entry(state.path());
        let uuid = clean.domain.uuid.simple().to_string();
        let forgotten = |sockets: &Path| {
            let mut entry = clean.clone();
            entry.sockets = Some(sockets.to_owned());
            forget_moved(&mut entry);
            entry.sockets.is_none()
        };
        assert!(forgotten(&Path::new("/no/such/folder").join(&uuid)));
        assert!(!forgotten(&state.path().join(&uuid)), "the parent directory exists");
        assert!(!forgotten(Path::new("/no/such/folder/other")));
    }

    #[test]
    fn only_private_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("entry.json");
        std::fs::write(&path, "{}").unwrap();
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o602, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path).is_ok(), good, "{mode:o}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let link = dir.path().join("link.json");
        symlink(&path, &link).unwrap();
        assert!(read(&link).is_err());
        let pipe = dir.path().join("pipe.json");
        crate::store::fixture::run("mkfifo", &["-m", "600", pipe.to_str().unwrap()]);
        assert!(read(&pipe).is_err(), "a pipe must not block");
        std::fs::File::options().write(true).open(&path).unwrap().set_len(MAX + 1).unwrap();
        assert!(read(&path).is_err());
    }
}
