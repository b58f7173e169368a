//! Tests the lock protocol, with restic as the other process.

use super::super::fixture::Restic;
use super::*;

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(600);

fn timing() -> Timing {
    Timing { second_look: SHORT, refresh: LONG, give_up: LONG, wait: Duration::ZERO }
}

fn scene() -> (Restic, Repository) {
    let restic = Restic::new();
    let repository = Repository::init(restic.place(), Restic::PASSWORD).unwrap();
    (restic, repository)
}

fn take(repository: &Repository, timing: Timing) -> Result<SharedLock, Error> {
    SharedLock::take(repository, timing, &Cancel::default())
}

fn ids(repository: &Repository) -> Vec<Id> {
    repository.list(Kind::Lock).unwrap().into_iter().map(|(id, _)| id).collect()
}

#[test]
fn restic_backs_up_beside_our_lock_and_refuses_to_check() {
    let (restic, repository) = scene();
    std::fs::write(restic.path("file"), "x").unwrap();
    let locks = [take(&repository, timing()).unwrap(), take(&repository, timing()).unwrap()];
    let listed = ids(&repository);
    assert!(restic.run(&["--no-lock", "list", "locks"]).contains(&listed[0].to_string()));
    restic.run(&["backup", "file"]);
    restic.run(&["unlock"]);
    assert_eq!(ids(&repository), listed, "our process exists and received no signal");
    let check = restic.try_run(&["check"]);
    let errors = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(!check.status.success() && errors.contains("(kvmbackup)"), "{errors}");
    for lock in locks {
        lock.locked().check().unwrap();
        lock.release().unwrap();
    }
    assert_eq!(ids(&repository), []);
    restic.run(&["check"]);
}

#[test]
fn taking_a_lock_waits_for_an_exclusive_lock_and_names_its_process() {
    let (_restic, repository) = scene();
    let other =
        Stored { exclusive: true, pid: 1234, hostname: "cloud2".into(), username: "root".into(), ..Stored::ours() };
    let id = repository.save(Kind::Lock, &other).unwrap();
    let error = take(&repository, timing()).unwrap_err();
    assert!(error.to_string().contains("exclusively locked by process 1234 of user root on cloud2 since"), "{error}");
    assert_eq!(ids(&repository), [id]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| take(&repository, Timing { wait: LONG, ..timing() }).map(drop));
        thread::sleep(SHORT);
        repository.remove(Object::new(Kind::Lock, id)).unwrap();
        waiting.join().unwrap().unwrap();
    });
    repository.save(Kind::Lock, &other).unwrap();
    let cancel = Cancel::default();
    cancel.cancel(15);
    let stopped = SharedLock::take(&repository, Timing { wait: LONG, ..timing() }, &cancel);
    assert!(matches!(stopped, Err(Error::Stopped { signal: 15 })));
}

#[test]
fn lock_of_a_host_whose_clock_is_wrong_is_neither_removed_nor_ignored() {
    let (restic, repository) = scene();
    let ahead = Utc::now() + chrono::TimeDelta::hours(5);
    let other = Stored { exclusive: true, hostname: "cloud2".into(), time: ahead, ..Stored::ours() };
    let id = repository.save(Kind::Lock, &other).unwrap();
    assert_eq!((remove_stale(&repository).unwrap(), remove_left_by_us(&repository).unwrap()), (0, 0));
    let error = take(&repository, timing()).unwrap_err();
    assert!(error.to_string().contains(&ahead.with_timezone(&Local).format("%Y-%m-%d %H:%M").to_string()), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("unlock --remove-all")));
    assert_eq!(ids(&repository), [id]);
    restic.run(&["unlock", "--remove-all"]);
    take(&repository, timing()).unwrap();
    // A shared lock does not disturb others.
    repository.save(Kind::Lock, &Stored { exclusive: false, ..other }).unwrap();
    take(&repository, timing()).unwrap();
}

#[test]
fn exclusive_lock_written_at_the_same_time_is_detected() {
    let (_restic, repository) = scene();
    let other = Stored { exclusive: true, ..Stored::ours() };
    thread::scope(|scope| {
        let taking = scope.spawn(|| take(&repository, Timing { second_look: SHORT * 20, ..timing() }));
        while ids(&repository).is_empty() {
            thread::yield_now();
        }
        let id = repository.save(Kind::Lock, &other).unwrap();
        assert!(matches!(taking.join().unwrap(), Err(Error::Locked { .. })));
        assert_eq!(ids(&repository), [id], "our lock is removed");
    });
}

#[test]
fn lock_is_refreshed_and_a_removed_or_old_lock_is_lost() {
    let (_restic, repository) = scene();
    let lock = take(&repository, Timing { refresh: SHORT, ..timing() }).unwrap();
    let first = lock.shared.state().id;
    while lock.shared.state().id == first {
        thread::yield_now();
    }
    lock.locked().check().unwrap();
    assert_eq!(ids(&repository).len(), 1, "the old lock is removed");
    let id = lock.shared.state().id;
    repository.remove(Object::new(Kind::Lock, id)).unwrap();
    while lock.locked().check().is_ok() {
        thread::yield_now();
    }
    let error = lock.locked().check().unwrap_err();
    assert!(matches!(error, Error::LockLost { .. }) && error.hint().is_some());
    lock.release().unwrap();
    assert_eq!(ids(&repository), [], "a removed lock is not written again");

    let lock = take(&repository, Timing { give_up: Duration::ZERO, ..timing() }).unwrap();
    assert!(matches!(lock.locked().check(), Err(Error::LockLost { .. })));
}

#[test]
fn only_locks_of_our_own_ended_processes_are_removed() {
    let (_restic, repository) = scene();
    let dead = Stored { pid: u32::MAX, ..Stored::ours() };
    repository.save(Kind::Lock, &dead).unwrap();
    let others = [
        Stored { hostname: host::node_name(), ..dead.clone() },
        Stored { hostname: "cloud2 (kvmbackup)".into(), ..dead },
        Stored { pid: 1, ..Stored::ours() },
    ];
    let mut kept = others.map(|other| repository.save(Kind::Lock, &other).unwrap()).to_vec();
    kept.sort();
    assert_eq!(remove_left_by_us(&repository).unwrap(), 1);
    assert_eq!(ids(&repository), kept);
}

#[test]
fn only_locks_of_processes_that_no_longer_exist_are_stale() {
    let (_restic, repository) = scene();
    let host = host::node_name();
    // Its name does not contain that of restic. SIGHUP would end it.
    let mut other = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let minutes = |minutes| Utc::now() - chrono::TimeDelta::minutes(minutes);
    let lock = |hostname: &str, pid, time| Stored { hostname: hostname.to_owned(), pid, time, ..Stored::ours() };
    // More than the kernel's largest ID of a process.
    let no_process = 1 << 30;
    let stale = [
        lock(&host, no_process, minutes(0)),
        lock(&host, other.id(), minutes(5)),
        lock(&host_name(), no_process, minutes(0)),
        lock("elsewhere", 1, minutes(31)),
    ];
    let live = [
        // It was running at that time, so it may be a restic under another name.
        lock(&host, other.id(), Utc::now() + chrono::TimeDelta::seconds(10)),
        lock(&host_name(), std::process::id(), minutes(5)),
        lock("elsewhere", no_process, minutes(29)),
    ];
    for lock in &stale {
        repository.save(Kind::Lock, lock).unwrap();
    }
    let mut expected: Vec<Id> = live.iter().map(|lock| repository.save(Kind::Lock, lock).unwrap()).collect();
    expected.sort_unstable();
    assert_eq!(remove_stale(&repository).unwrap(), stale.len());
    assert_eq!(ids(&repository), expected);
    assert_eq!(remove_stale(&repository).unwrap(), 0);
    assert!(other.try_wait().unwrap().is_none(), "a process received a signal");
    other.kill().unwrap();
    other.wait().unwrap();
}
