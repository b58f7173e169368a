//! Two hosts back up into one repository while others prune, check and read it. Each committed point must contain exactly
//! what its disk contained, during the maintenance and afterwards.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::super::fixture::Restic;
use super::super::*;
use super::random::{Random, joined};
use super::scene::{Image, MIB, Scene, about};
use crate::sys::signals::Cancel;

/// Limit of each wait for another process, only against a test that never ends.
const WAIT: Duration = Duration::from_secs(300);

type Saved = (Id, Snapshot, Vec<u8>);

/// What all hosts have in common.
struct Shared<'a> {
    scene: &'a Scene,
    /// The points that exist, with the contents of their disks.
    saved: Mutex<Vec<Saved>>,
    /// How often the repository was maintained.
    maintained: Mutex<usize>,
    changed: Condvar,
    /// Number of hosts that are not done yet.
    writing: AtomicUsize,
}

/// One of the hosts, with its own cache.
struct HostOf<'a> {
    shared: &'a Shared<'a>,
    repository: Repository,
    options: WriteOptions,
    random: Random,
}

impl<'a> HostOf<'a> {
    fn new(shared: &'a Shared<'a>, seed: u64) -> HostOf<'a> {
        let restic = &shared.scene.restic;
        let timing = Timing { wait: WAIT, ..shared.scene.options.timing };
        let options =
            WriteOptions { cache: restic.path(&format!("cache of {seed}")), timing, ..shared.scene.options.clone() };
        let repository = Repository::open(restic.place(), Restic::PASSWORD).unwrap();
        HostOf { shared, repository, options, random: Random(seed) }
    }

    /// Backs up a guest again and again, and removes some of its points, as rotation does.
    fn back_up(mut self, guest: &str, mut image: Image, points: u32) {
        let mut changed = Vec::new();
        for minute in 0..points {
            for _ in 0..3 {
                let length = 1 + self.random.below(300_000);
                let offset = self.random.below(image.bytes.len() as u64 - length);
                image.fill(offset, length, self.random.next());
                image.extents = joined(&image.extents, offset, length);
                changed = joined(&changed, offset, length);
            }
            let time = format!("2026-12-01T02:{minute:02}:00Z");
            let writer = SnapshotWriter::begin(&self.repository, about(guest, &time), &self.options);
            let mut writer = writer.unwrap();
            let known = writer.parent().map(|_| std::mem::take(&mut changed));
            let disk = Disk { changed: known, ..image.disk() };
            writer.disk::<Error>("disks/vda.raw", &disk, &mut |extents, sink| image.read(extents, sink)).unwrap();
            let (id, snapshot) = writer.commit(None).unwrap();
            changed = Vec::new();
            self.shared.saved.lock().unwrap().push((id, snapshot, image.bytes.clone()));
            match self.random.below(3) {
                0 => self.rotate(guest),
                1 => self.shared.wait_for_maintenance(),
                _ => {}
            }
        }
        self.shared.writing.fetch_sub(1, Ordering::SeqCst);
    }

    /// Removes the oldest point of a guest unless it is the only one.
    fn rotate(&self, guest: &str) {
        let lock = SharedLock::take(&self.repository, self.options.timing, &Cancel::default()).unwrap();
        let mut saved = self.shared.saved.lock().unwrap();
        let own: Vec<Id> = saved.iter().filter(|saved| saved.1.hostname == guest).map(|saved| saved.0).collect();
        if let [oldest, _, ..] = own.as_slice() {
            self.repository.forget(*oldest).unwrap();
            saved.retain(|saved| saved.0 != *oldest);
        }
        lock.release().unwrap();
    }

    /// Reads a random point completely.
    fn read(&mut self) {
        let lock = SharedLock::take(&self.repository, self.options.timing, &Cancel::default()).unwrap();
        let saved = self.shared.saved.lock().unwrap();
        let Some(index) = (saved.len() as u64).checked_sub(1).map(|last| self.random.below(last + 1)) else { return };
        let (id, snapshot, bytes) = &saved[index as usize];
        let catalog = Arc::new(Catalog::open(&self.repository, &self.options.cache).unwrap());
        let reader = SnapshotReader::open(&self.repository, &catalog, (*id, snapshot), &Cancel::default()).unwrap();
        let (disk, mut found) = (reader.disk("disks/vda.raw").unwrap(), vec![0; bytes.len()]);
        disk.read_at(0, &mut found).unwrap();
        assert!(found == *bytes && reader.verify(&mut |_| ()).is_empty(), "point {id} of {}", snapshot.hostname);
        lock.release().unwrap();
    }
}

impl Shared<'_> {
    /// Waits until the repository was maintained, or until it never will be again. The caller has no lock, so an attempt succeeds at
    /// the latest when every host waits.
    fn wait_for_maintenance(&self) {
        let maintained = self.maintained.lock().unwrap();
        let until = maintained.saturating_add(1);
        let waited = self.changed.wait_timeout_while(maintained, WAIT, |maintained| *maintained < until).unwrap();
        assert!(!waited.1.timed_out());
    }

    /// Prunes or checks the repository until the writers are done; returns how often that succeeded. Each attempt is refused if a
    /// writer has a lock.
    fn maintain(&self) -> usize {
        let mut good = 0;
        for attempt in 0.. {
            let is_last = self.writing.load(Ordering::SeqCst) == 0;
            let command: &[&str] = match attempt % 3 {
                0 => &["check", "--read-data"],
                1 => &["prune", "--max-unused", "0"],
                _ => &["prune", "--max-unused", "0", "--repack-small"],
            };
            let done = self.scene.restic.try_run(command);
            let errors = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success() || errors.contains("already locked"), "{command:?}: {errors}");
            good += usize::from(done.status.success());
            *self.maintained.lock().unwrap() += usize::from(done.status.success());
            self.changed.notify_all();
            if is_last {
                break;
            }
        }
        *self.maintained.lock().unwrap() = usize::MAX;
        self.changed.notify_all();
        good
    }
}

/// Returns the number of prunes and checks that succeeded between the backups.
fn work(seed: u64, points: u32) -> usize {
    let scene = Scene::new();
    let shared = Shared {
        scene: &scene,
        saved: Mutex::default(),
        maintained: Mutex::default(),
        changed: Condvar::new(),
        writing: AtomicUsize::new(2),
    };
    let template = Image::new(6 * MIB + 512, &[(0, MIB), (3 * MIB, 2 * MIB)], 7);
    let maintained = thread::scope(|scope| {
        for (number, guest) in (1..).zip(["a", "b"]) {
            let (host, image) = (HostOf::new(&shared, seed * 10 + number), template.clone());
            scope.spawn(move || host.back_up(guest, image, points));
        }
        let mut reader = HostOf::new(&shared, seed * 10);
        let shared = &shared;
        scope.spawn(move || {
            while shared.writing.load(Ordering::SeqCst) > 0 {
                reader.read();
                shared.wait_for_maintenance();
            }
        });
        shared.maintain()
    });
    scene.restic.run(&["check", "--read-data"]);
    let saved = shared.saved.lock().unwrap();
    assert_eq!(scene.repository.uncached_snapshots().unwrap().found.len(), saved.len());
    for (id, snapshot, bytes) in &*saved {
        let dumped = scene.restic.try_run(&["dump", &id.to_string(), &format!("/{}/disks/vda.raw", snapshot.hostname)]);
        assert!(dumped.stdout == *bytes, "point {id} of {}", snapshot.hostname);
    }
    maintained
}

#[test]
fn points_of_two_hosts_are_exact_while_a_third_prunes_and_reads() {
    assert!(work(1, 6) > 1, "nothing was maintained between the backups");
}

#[test]
#[ignore = "soak: 20 runs of two hosts with 40 backups each"]
fn points_of_many_backups_are_exact_while_a_third_prunes_and_reads() {
    for seed in 2..22 {
        work(seed, 40);
    }
}
