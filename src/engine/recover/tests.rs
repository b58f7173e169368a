//! Tests that recovery needs only the journal, reports what it undoes, and that one entry never blocks another.

use std::path::PathBuf;

use chrono::TimeDelta;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::engine::fake::{self, Fake};
use crate::hypervisor::{Kind, Overlay, PullJob, Scratch};
use crate::model::{DomainState, Format, Image, Source};
use crate::store::fixture::{run, text};
use crate::sys::durable;

fn started() -> DateTime<Utc> {
    "2026-11-20T02:00:00Z".parse().unwrap()
}

fn recovered(journal: &Journal, connect: &Connect<'_>) -> (Vec<String>, Vec<String>) {
    let recovered = recover(journal, connect, &Cancel::default(), &Patience::default()).unwrap();
    (recovered.done, recovered.left.into_iter().map(|failure| failure.message).collect())
}

#[test]
fn entry_of_another_hosts_libvirt_has_a_hint_that_closes_it() {
    let killed = Killed::new();
    let connect = |uri: &str| Err(hypervisor::Error::Remote { uri: uri.to_owned() });
    let left = recover(&killed.journal, &connect, &Cancel::default(), &Patience::default()).unwrap().left;
    assert!(left[0].message.contains("used one, which is the libvirt of another host"), "{}", left[0].message);
    let hint = left[0].hint.clone().unwrap();
    assert!(hint.contains("virsh -c one blockcommit 'web 1' vda --active --pivot"), "{hint}");
    // Following the hint closes the entry.
    std::fs::remove_file(hint.rsplit_once("rm ").unwrap().1).unwrap();
    let (done, left) = recovered(&killed.journal, &connect);
    assert!(done.is_empty() && left.is_empty(), "{left:?}");
}

const OVERLAY: &str = "base.qcow2.vda.kvmbackup-0123abcd.qcow2";
const SCRATCH: &str = "b.raw.vdb.kvmbackup-0123abcd.scratch";
/// The partial file and the sockets of the domain [`fake::id`].
const PARTIAL: &str = "target/.web%201-20261120T020000Z.part";
const SOCKETS: &str = "sockets/11111111222243338444555555555555";

/// Everything that a killed run may leave.
struct Killed {
    dir: TempDir,
    journal: Journal,
    fake: Fake,
}

impl Killed {
    fn new() -> Killed {
        let dir = tempfile::tempdir().unwrap();
        let [base, path] = ["base.qcow2", OVERLAY].map(|name| dir.path().join(name));
        run("qemu-img", &["create", "-q", "-f", "qcow2", text(&base), "1M"]);
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", text(&base), "-F", "qcow2", text(&path)]);
        let fake = Fake::new(DomainState::Running, "vda", &[&path, &base]);
        let journal = Journal::open(dir.path()).unwrap();
        let killed = Killed { dir, journal, fake };
        for file in killed.held() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            if !file.exists() {
                std::fs::write(file, "").unwrap();
            }
        }
        let socket = killed.path("pull.sock");
        killed.fake.set(|guest| (guest.frozen, guest.busy, guest.pull) = (true, true, Some(socket.clone())));
        let mut record = killed.journal.begin(Uuid::new_v4(), started(), "one", &fake::id()).unwrap();
        let scratch = vec![Scratch { target: "vdb".to_owned(), path: killed.path(SCRATCH), ..Scratch::default() }];
        record
            .update(|entry| {
                let base = Image { source: Source::File(base), format: Format::Qcow2 };
                entry.overlays.push(Overlay { target: "vda".to_owned(), path, base, saved: None, marks: None });
                (entry.frozen, entry.pull) = (true, Some(PullJob { socket, scratch, checkpoint: None }));
                (entry.sockets, entry.partial) = (Some(killed.path(SOCKETS)), Some(killed.path(PARTIAL)));
            })
            .unwrap();
        killed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn held(&self) -> [PathBuf; 5] {
        [OVERLAY, "pull.sock", SCRATCH, &format!("{SOCKETS}/s"), PARTIAL].map(|name| self.path(name))
    }

    fn connect(&self) -> impl Fn(&str) -> Result<Box<dyn Hypervisor>, hypervisor::Error> + use<> {
        let fake = self.fake.clone();
        move |_| Ok(Box::new(fake.clone()))
    }

    fn expect_healed(&self) {
        assert!(self.held().iter().all(|path| !path.exists()) && !self.path(SOCKETS).exists());
        let base = vec![self.path("base.qcow2")];
        self.fake.get(|guest| assert!(!guest.frozen && guest.pull.is_none() && guest.live["vda"] == base));
    }
}

#[test]
fn signal_stops_recovery_before_the_next_entry() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let domain = DomainRef { name: "a".into(), uuid: Uuid::new_v4() };
    journal.begin(Uuid::new_v4(), Utc::now(), "test:///default", &domain).unwrap();
    let cancel = Cancel::default();
    cancel.cancel(15);
    let recovered =
        recover(&journal, &|_| unreachable!("nothing must be undone after a signal"), &cancel, &Patience::default())
            .unwrap();
    assert_eq!((recovered.stopped, recovered.done.len(), recovered.left.len()), (Some(15), 0, 0));
    assert_eq!(journal.left().unwrap().len(), 1);
}

#[test]
fn recovery_undoes_and_reports_everything_and_can_be_repeated() {
    let killed = Killed::new();
    let entry = std::fs::read_dir(killed.path("journal")).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read(&entry).unwrap();
    let said = "web 1: the run of 2026-11-20 02:00:00 UTC was interrupted; thawed the guest, committed vda back to its base, \
                stopped the backup job, removed the unfinished archive";
    assert_eq!(recovered(&killed.journal, &killed.connect()), (vec![said.to_owned()], vec![]));
    killed.expect_healed();
    assert!(killed.journal.left().unwrap().is_empty());
    assert_eq!(recovered(&killed.journal, &killed.connect()), (vec![], vec![]));
    // Killed again after everything was undone and before the entry was removed.
    durable::write(&entry, &text).unwrap();
    let (done, left) = recovered(&killed.journal, &killed.connect());
    assert!(done[0].ends_with("interrupted; thawed the guest") && left.is_empty(), "{done:?} {left:?}");
    killed.expect_healed();
}

#[test]
fn failed_entry_stays_in_the_journal_and_others_are_recovered() {
    let killed = Killed::new();
    let before = started() - TimeDelta::days(1);
    for (name, uri, time) in [("db", "down", started() + TimeDelta::days(1)), ("mail", "one", before)] {
        let domain = DomainRef { name: name.to_owned(), uuid: Uuid::new_v4() };
        killed.journal.begin(Uuid::new_v4(), time, uri, &domain).unwrap();
    }
    let works = killed.connect();
    let connect = |uri: &str| match uri {
        "down" => Err(hypervisor::Error::Connect { uri: uri.to_owned(), source: fake::said() }),
        uri => works(uri),
    };
    let (done, left) = recovered(&killed.journal, &connect);
    assert_eq!(done.len(), 2);
    assert_eq!(done[1], "mail: the run of 2026-11-19 02:00:00 UTC was interrupted; nothing was left behind");
    assert!(left.len() == 1 && left[0].starts_with("db: cannot connect to libvirt at down"), "{left:?}");
    killed.expect_healed();
    assert_eq!(killed.journal.left().unwrap().len(), 1);
    assert_eq!(recovered(&killed.journal, &works).0.len(), 1);
    assert!(killed.journal.left().unwrap().is_empty());
}

#[test]
fn failure_names_the_domain_once() {
    let killed = Killed::new();
    killed.fake.when(|call, _, _| (call == "describe").then_some(Kind::Other));
    let (done, left) = recovered(&killed.journal, &killed.connect());
    assert!(done.is_empty() && left.len() == 1 && left[0].starts_with("web 1: cannot do it"), "{left:?}");
    // The guest is thawed anyway. Steps after the disks are not done yet.
    assert!(!killed.fake.get(|guest| guest.frozen) && killed.path(PARTIAL).exists());
    killed.fake.when(|_, _, _| None);
    assert_eq!(recovered(&killed.journal, &killed.connect()).1, [""; 0]);
    killed.expect_healed();
}

#[test]
fn unfinished_archive_on_an_unmounted_target_is_not_considered_removed() {
    let killed = Killed::new();
    std::fs::rename(killed.path("target"), killed.path("elsewhere")).unwrap();
    let (done, left) = recovered(&killed.journal, &killed.connect());
    assert!(done.is_empty() && left[0].contains("its directory is missing"), "{left:?}");
    std::fs::rename(killed.path("elsewhere"), killed.path("target")).unwrap();
    assert_eq!(recovered(&killed.journal, &killed.connect()).0.len(), 1);
    killed.expect_healed();
}

#[test]
fn after_a_panic_only_the_entry_of_that_run_is_undone() {
    let killed = Killed::new();
    let recover =
        |started| recover_domain(&killed.journal, &killed.fake, started, &fake::id(), &Patience::default()).unwrap();
    recover(started() + TimeDelta::seconds(1));
    assert!(killed.path(OVERLAY).exists() && killed.journal.left().unwrap().len() == 1);
    recover(started());
    killed.expect_healed();
    assert!(killed.journal.left().unwrap().is_empty());
}
