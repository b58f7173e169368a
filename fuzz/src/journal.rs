//! Entry point for journal entries. Checks with its own rules that an accepted entry refers only to permitted files.
//! Must not use the program's rules for that.

use std::path::{Component, Path};
use std::sync::{Mutex, PoisonError};

use kvmbackup::engine::journal::{Entry, Journal};
use kvmbackup::engine::recover::recover;
use kvmbackup::hypervisor;
use kvmbackup::sys::patience::Patience;
use kvmbackup::sys::signals::Cancel;

use super::folder;

/// Reads a journal entry.
pub fn journal(data: &[u8]) {
    is_accepted(data);
}

/// The same; returns whether the entry is accepted. `STATE` in the data means the state directory, which differs in every
/// process.
pub fn is_accepted(data: &[u8]) -> bool {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let state = folder().join("journal-state");
    let journal = Journal::open(&state).unwrap();
    std::fs::create_dir_all(state.join("sockets")).unwrap();
    let path = state.join("journal/00000001790000000000-00000000-0000-0000-0000-000000000000.json");
    std::fs::write(&path, text.replace("STATE", state.to_str().unwrap())).unwrap();
    private(&path);
    let accepted: Vec<_> = journal.left().unwrap().into_iter().flatten().collect();
    accepted.iter().for_each(|record| expect_limits(record.entry(), &state));
    // Recovery may connect only to libvirt on this host. Without a connection it undoes nothing, so the entry stays.
    let connect = |uri: &str| {
        assert!(is_of_this_host(uri), "recovery connects to {uri:?}");
        Err(hypervisor::Error::Remote { uri: uri.to_owned() })
    };
    recover(&journal, &connect, &Cancel::default(), &Patience::default()).unwrap();
    assert!(path.exists(), "recovery removed an entry without undoing it");
    !accepted.is_empty()
}

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn expect_limits(entry: &Entry, state: &Path) {
    if let Some(sockets) = &entry.sockets {
        let below = std::fs::canonicalize(state).unwrap().join("sockets");
        let parent = sockets.parent().and_then(|parent| std::fs::canonicalize(parent).ok());
        assert_eq!(parent, Some(below), "{sockets:?} is not directly below the directory of sockets");
        assert!(is_hexadecimal(name(sockets), 32), "{sockets:?}");
    }
    if let Some(partial) = &entry.partial {
        expect_straight(partial);
        let stamp = name(partial).strip_prefix('.').and_then(|name| name.strip_suffix(".part"));
        let stamp = stamp.and_then(|name| name.rsplit_once('-')).map(|(_, stamp)| stamp.as_bytes());
        let form = b"ddddddddTddddddZ";
        let fits = |(byte, form): (&u8, &u8)| if *form == b'd' { byte.is_ascii_digit() } else { byte == form };
        let is_ours = stamp.is_some_and(|stamp| stamp.len() == form.len() && stamp.iter().zip(form).all(fits));
        assert!(is_ours, "{partial:?} is not a temporary archive of kvmbackup");
    }
    for overlay in &entry.overlays {
        expect_of_a_run(&overlay.path, &["", ".qcow2"]);
    }
    if let Some(job) = &entry.pull {
        expect_straight(&job.socket);
        assert!(["kvmbackup.sock", "pull.sock"].contains(&name(&job.socket)), "{:?}", job.socket);
        job.scratch.iter().for_each(|scratch| expect_of_a_run(&scratch.path, &[".scratch"]));
    }
    // A URI of another host is only printed in a command for the operator. That command must not run a program.
    assert!(is_of_this_host(&entry.libvirt_uri) || !entry.libvirt_uri.contains(['?', '\'', '\0']), "{entry:?}");
}

/// Checks for `….kvmbackup-`, eight hexadecimal digits and one of these endings.
fn expect_of_a_run(path: &Path, endings: &[&str]) {
    expect_straight(path);
    let (_, run) = name(path).rsplit_once(".kvmbackup-").unwrap_or_default();
    let is_run = endings.iter().any(|ending| run.strip_suffix(ending).is_some_and(|run| is_hexadecimal(run, 8)));
    assert!(is_run, "{path:?} is not a name that kvmbackup chooses");
}

fn expect_straight(path: &Path) {
    assert!(path.is_absolute() && !path.components().any(|part| part == Component::ParentDir), "{path:?}");
}

fn is_hexadecimal(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Whether it is `DRIVER:///…`, `DRIVER+unix:///…` or an alias, without a program to run.
fn is_of_this_host(uri: &str) -> bool {
    let lower = uri.to_lowercase();
    let Some((driver, rest)) = lower.split_once(':') else { return !lower.contains(['=', '\0']) };
    let driver = driver.strip_suffix("+unix").unwrap_or(driver);
    let host = rest.strip_prefix("//").map_or("", |rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    !driver.contains('+') && host.is_empty() && !lower.contains("command=") && !lower.contains('\0')
}
