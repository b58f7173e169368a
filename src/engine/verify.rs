//! Owns: the check of every byte of restore points, and the record of it. Must not: write anything but that record.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::points::{self, When};
use super::restore::restorable;
use super::verified::Verified;
use super::{Error, Monitor};
use crate::archive::Archive;
use crate::model::{DomainOutcome, Failure, PointId};
use crate::store::{Origin, Point, Store};
use crate::sys::host;
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;

/// Which restore points of each domain are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// One.
    One(When),
    /// Every one.
    All,
}

/// What the check of a restore point came to.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// The domain.
    pub domain: String,
    /// The point.
    pub id: PointId,
    /// The archive.
    pub path: PathBuf,
    /// Length of the archive, in bytes.
    pub stored_bytes: u64,
    /// When the check ended.
    pub time: DateTime<Utc>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// How it ended.
    pub verdict: Verdict,
    /// What is damaged, or why it could not be checked.
    pub failures: Vec<Failure>,
    /// Whether the target hangs, so that it could not be checked.
    #[serde(skip)]
    pub is_stall: bool,
}

/// How the check of a restore point ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every byte is right.
    Good,
    /// It is damaged.
    Damaged,
    /// It could not be checked.
    Unchecked,
}

/// Checks restore points of these domains (of none named: of all), one after another, and records each result at once.
/// `each` hears of every result when it is there; a damaged point does not keep the others from being checked. Also returns
/// why the points of some domains could not be listed.
///
/// # Errors
/// Unknown domains and points, before anything is checked; [`Error::Cancelled`]; a record that cannot be written.
pub fn verify(
    store: &Store,
    state_dir: &Path,
    (domains, which): (&[String], Which),
    monitor: &dyn Monitor,
    cancel: &Cancel,
    each: &mut dyn FnMut(&Verification),
) -> Result<(Vec<Verification>, Vec<Failure>), Error> {
    let found = points::found(store, domains)?;
    let mut chosen = Vec::new();
    for (domain, present) in found.domains {
        let wanted = match which {
            Which::All => present.clone(),
            Which::One(_) if present.is_empty() => Vec::new(),
            Which::One(when) => vec![points::find(store, &domain, when)?],
        };
        chosen.push((present, wanted));
    }
    let mut verified = Verified::load(state_dir)?;
    let mut results = Vec::new();
    for (present, wanted) in chosen {
        for point in wanted {
            let result = check(&point, store.patience(), monitor, cancel);
            monitor.done(&DomainOutcome::new(&point.domain, None));
            let result = result?;
            if result.verdict != Verdict::Unchecked {
                verified.record(&point, &present, result.verdict == Verdict::Good)?;
            }
            each(&result);
            results.push(result);
        }
    }
    Ok((results, found.failures))
}

fn check(point: &Point, patience: &Patience, monitor: &dyn Monitor, cancel: &Cancel) -> Result<Verification, Error> {
    let began = Instant::now();
    monitor.stage(&point.domain, "verify");
    let errors = match point.origin {
        Origin::Kvmbackup => check_ours(point, patience, monitor, cancel),
        Origin::Seed { .. } => restorable::seed_refusals(point, patience, monitor, cancel),
    };
    // Cut short, it has found nothing that counts.
    if let Some(signal) = cancel.signal() {
        return Err(Error::Cancelled(signal));
    }
    let verdict = match &errors[..] {
        [] => Verdict::Good,
        errors if errors.iter().any(Error::is_damage) => Verdict::Damaged,
        _ => Verdict::Unchecked,
    };
    Ok(Verification {
        domain: point.domain.clone(),
        id: point.id,
        path: point.path.clone(),
        stored_bytes: point.bytes,
        time: Utc::now(),
        duration_ms: began.elapsed().as_millis() as u64,
        verdict,
        failures: errors.iter().map(Error::failure).collect(),
        is_stall: verdict == Verdict::Unchecked && errors.iter().any(Error::is_target_stall),
    })
}

fn check_ours(point: &Point, patience: &Patience, monitor: &dyn Monitor, cancel: &Cancel) -> Vec<Error> {
    let archive = match Archive::open_patiently(&point.path, patience) {
        Ok(archive) => archive,
        Err(error) => return vec![Error::archive(&point.path)(error)],
    };
    monitor.expect(&point.domain, archive.packed_bytes());
    let mut progress = |bytes| {
        monitor.advance(&point.domain, bytes);
        cancel.signal().map_or(ControlFlow::Continue(()), |_| ControlFlow::Break(()))
    };
    match archive.verify(host::cores(), &mut progress) {
        Ok(()) => restorable::refusals(point, &archive),
        Err(damages) => damages.into_iter().map(Error::archive(&point.path)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::engine::Silent;
    use crate::engine::fixture::{DOMAIN, Fixture, run, text};
    use crate::model::Codec;

    fn verdicts(fixture: &Fixture, which: Which) -> Vec<(String, Verdict)> {
        let mut heard = 0;
        let results =
            verify(&fixture.store, &fixture.path("state"), (&[], which), &Silent, &Cancel::default(), &mut |_| {
                heard += 1
            });
        let (results, failures) = results.unwrap();
        assert_eq!(failures, []);
        assert_eq!(heard, results.len());
        results.into_iter().map(|result| (result.id.to_string(), result.verdict)).collect()
    }

    #[test]
    fn damaged_points_are_named_and_all_are_recorded() {
        let fixture = Fixture::new();
        let disks = fixture.usual_disks();
        let bad = fixture.point("2026-11-20T02:00:00Z", Codec::Zstd(1), &disks);
        let good = fixture.point("2026-11-21T02:00:00Z", Codec::Zstd(1), &disks);
        let mut bytes = fs::read(&bad.path).unwrap();
        let middle = bytes.len() / 2;
        // One bit may be one that no decoder looks at; then nothing is damaged.
        bytes[middle..middle + 16].iter_mut().for_each(|byte| *byte ^= 0xff);
        fs::write(&bad.path, bytes).unwrap();
        let name = |point: &Point| point.id.to_string();
        assert_eq!(verdicts(&fixture, Which::One(When::Newest)), [(name(&good), Verdict::Good)]);
        assert_eq!(verdicts(&fixture, Which::All), [(name(&bad), Verdict::Damaged), (name(&good), Verdict::Good)]);
        let record = Verified::load(&fixture.path("state")).unwrap();
        assert!(record.is_damaged(&bad) && !record.is_damaged(&good) && record.get(&good).is_some());
    }

    #[test]
    fn what_a_restore_would_refuse_is_damage_though_every_byte_is_right() {
        let fixture = Fixture::new();
        let disks = fixture.usual_disks();
        let (time, xml) = ("2026-11-20T02:00:00Z", fixture.xml(&disks));
        let other = xml.replace("<name>web 1", "<name>web 9");
        let point = fixture.point_with(time, Codec::Zstd(1), &disks, &other, |_| ());
        assert_eq!(verdicts(&fixture, Which::All)[0].1, Verdict::Damaged, "the definition of another domain");
        fs::remove_file(point.path).unwrap();
        let point = fixture.point_with(time, Codec::Zstd(1), &disks, &xml, |manifest| {
            manifest.disks[0].virtual_bytes += 512;
        });
        assert_eq!(verdicts(&fixture, Which::All)[0].1, Verdict::Damaged, "another size");
        fs::remove_file(point.path).unwrap();
        fixture.point_with(time, Codec::Zstd(1), &disks, &xml, |_| ());
        assert_eq!(verdicts(&fixture, Which::All)[0].1, Verdict::Good);
    }

    #[test]
    fn archives_of_the_seed_are_read_to_their_checksum() {
        let fixture = Fixture::new();
        let disks = fixture.usual_disks();
        let path = fixture.seed("web 1.tar.gz", &disks[1..]);
        assert_eq!(verdicts(&fixture, Which::All)[0].1, Verdict::Good);
        let good = fs::read(&path).unwrap();
        for at in [good.len() / 2, good.len() - 5] {
            let mut bad = good.clone();
            bad[at..at + 4].iter_mut().for_each(|byte| *byte ^= 0xff);
            fs::write(&path, bad).unwrap();
            assert_eq!(verdicts(&fixture, Which::All)[0].1, Verdict::Damaged, "{at}");
        }
        fs::write(&path, &good[..good.len() - 300]).unwrap();
        assert_eq!(verdicts(&fixture, Which::All)[0].1, Verdict::Damaged);
    }

    #[test]
    fn what_a_restore_would_refuse_of_the_seed_is_damage_though_its_checksum_is_right() {
        let fixture = Fixture::new();
        let path = fixture.seed("web 1.tar.gz", &fixture.usual_disks()[..1]);
        let (parts, day) = (fixture.path("parts"), fixture.path("parts/2026-11-15"));
        fs::create_dir(&parts).unwrap();
        run("tar", &["-C", text(&parts), "-xf", text(&path)]);
        let image = fs::read_dir(&day).unwrap().map(|entry| entry.unwrap().path());
        let image = image.into_iter().find(|path| path.extension().is_none_or(|end| end != "xml")).unwrap();
        let good = fs::read(&image).unwrap();
        let xml = fs::read_to_string(day.join("web 1-inactive.xml")).unwrap();
        assert!(xml.contains("'qcow2'"));
        let verdict = |what: &str| {
            run("tar", &["-C", text(&parts), "-czf", text(&path), "2026-11-15"]);
            let archive = fs::File::open(&path).unwrap();
            archive.set_modified(std::time::SystemTime::now()).unwrap();
            (what.to_owned(), verdicts(&fixture, Which::All)[0].1)
        };
        let damaged = |what: &str| (what.to_owned(), Verdict::Damaged);
        let good_one = |what: &str| (what.to_owned(), Verdict::Good);
        assert_eq!(verdict("as it was"), good_one("as it was"));
        for (what, bytes) in [("no qcow2 image", &good[1..]), ("an empty image", &[][..])] {
            fs::write(&image, bytes).unwrap();
            assert_eq!(verdict(what), damaged(what));
        }
        fs::remove_file(&image).unwrap();
        let base = ["-b", "/dev/null", "-F", "raw", text(&image), "1M"];
        run("qemu-img", &[&["create", "-q", "-u", "-f", "qcow2"][..], &base].concat());
        assert_eq!(verdict("a backing file"), damaged("a backing file"));
        fs::write(&image, good).unwrap();
        for (what, other) in [("of another domain", xml.replace("<name>web 1", "<name>web 9")), ("none", String::new())]
        {
            fs::write(day.join("web 1-inactive.xml"), other).unwrap();
            assert_eq!(verdict(what), damaged(what));
        }
        fs::write(day.join("web 1-inactive.xml"), xml).unwrap();
        fs::write(day.join(".hidden"), "").unwrap();
        assert_eq!(verdict("a hidden image"), damaged("a hidden image"));
    }

    #[test]
    fn a_check_that_is_stopped_records_nothing() {
        let fixture = Fixture::new();
        let point = fixture.point("2026-11-20T02:00:00Z", Codec::Zstd(1), &fixture.usual_disks());
        let cancel = Cancel::default();
        cancel.cancel(2);
        let domains = [DOMAIN.to_owned()];
        let stopped =
            verify(&fixture.store, &fixture.path("state"), (&domains, Which::All), &Silent, &cancel, &mut |_| ());
        assert!(matches!(stopped, Err(Error::Cancelled(2))));
        assert!(Verified::load(&fixture.path("state")).unwrap().get(&point).is_none());
    }
}
