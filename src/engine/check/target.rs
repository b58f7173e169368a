//! Checks whether the target can take the next archives: mounted, writable, enough space, no restore points in the
//! future. Must not leave anything there or open an archive.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use chrono::{DateTime, Utc};
use rustix::io::Errno;

use super::{Finding, Severity, place};
use crate::config::Settings;
use crate::engine::{Error, points, survey, target};
use crate::model::size::bytes;
use crate::model::{Failure, StoreKind, is_future};
use crate::store::{self, Point, Store};
use crate::sys::secret::Secret;
use crate::sys::space::{self, Space};

pub(super) fn look(settings: &Settings, now: DateTime<Utc>) -> Vec<Finding> {
    let mut findings: Vec<_> = settings.stores().into_iter().flat_map(|kind| of_store(settings, kind, now)).collect();
    findings.extend(exposed(settings));
    findings
}

fn of_store(settings: &Settings, kind: StoreKind, now: DateTime<Utc>) -> Vec<Finding> {
    let about = format!("target {}", settings.path_of(kind).display());
    if settings.dir_of(kind).is_none() {
        return in_bucket(settings, &about, now);
    }
    let room = match survey::target::ask(settings, kind) {
        Ok(room) => room.unwrap_or_default(),
        Err(error) => return vec![unusable(settings, kind, about, &error)],
    };
    let store = match target::open(settings, Some(kind)).and_then(|store| Ok(store.try_out(true).map(|()| store)?)) {
        Ok(store) => store,
        Err(error) => return vec![Finding::failed(about, Severity::Problem, error.failure())],
    };
    let mut findings = vec![mounted(settings, kind, &about, room)];
    if let Err(error) = target::expect_room(settings, &store) {
        findings.push(Finding::failed(&about, Severity::Problem, error.failure()));
    }
    let (newest, unseen) = newest(settings, &store);
    findings.extend(unseen.into_iter().map(|failure| Finding::failed(&about, Severity::Problem, failure)));
    findings.extend(sizes(&about, room, &newest));
    findings.extend(ahead(&newest, now));
    findings
}

/// A bucket has no size and no mount.
fn in_bucket(settings: &Settings, about: &str, now: DateTime<Utc>) -> Vec<Finding> {
    let opened = target::open(settings, Some(StoreKind::Repository));
    let store = match opened.and_then(|store| Ok(store.try_out(true).map(|()| store)?)) {
        Ok(store) => store,
        Err(error) => return vec![Finding::failed(about, Severity::Problem, error.failure())],
    };
    let mut findings = vec![Finding::new(about, Severity::Good, "writable", None)];
    let (newest, unseen) = newest(settings, &store);
    findings.extend(unseen.into_iter().map(|failure| Finding::failed(about, Severity::Problem, failure)));
    findings.extend(ahead(&newest, now));
    findings
}

/// Warns about restore points in the future.
fn ahead(newest: &[Point], now: DateTime<Utc>) -> Vec<Finding> {
    let ahead = newest.iter().filter(|point| is_future(point.id.time(), now));
    let warning = |point: &Point| {
        let message = format!("its newest restore point {} is in the future", point.id);
        let hint = "Check this host's clock (timedatectl). Retention and `day_of_week` depend on it.";
        Finding::new(format!("domain {}", point.domain), Severity::Warning, message, Some(hint))
    };
    ahead.map(warning).collect()
}

fn unusable(settings: &Settings, kind: StoreKind, about: String, error: &io::Error) -> Finding {
    let dir = settings.path_of(kind);
    let parent_is_there = dir.parent().is_some_and(Path::is_dir);
    if settings.require_mount && !space::is_off_root(dir).unwrap_or(false) {
        return Finding::failed(about, Severity::Problem, Error::Target { path: dir.to_owned() }.failure());
    }
    if error.kind() == io::ErrorKind::ReadOnlyFilesystem {
        let error = store::Error::Target { path: dir.to_owned(), source: Errno::ROFS.into() };
        return Finding::failed(about, Severity::Problem, Error::from(error).failure());
    }
    if error.kind() == io::ErrorKind::NotFound && parent_is_there {
        if let Some(Err(source)) = dir.parent().map(place::writable) {
            let error = store::Error::Target { path: dir.to_owned(), source };
            return Finding::failed(about, Severity::Problem, Error::from(error).failure());
        }
        if kind == StoreKind::Repository {
            let hint = "Create the repository: kvmbackup repository init";
            return Finding::new(about, Severity::Problem, "the repository does not exist", Some(hint));
        }
        return Finding::new(about, Severity::Good, "does not exist yet; the first run creates it", None);
    }
    let shown = dir.display();
    let create =
        if error.kind() == io::ErrorKind::NotFound { format!("create it (mkdir -p {shown}), ") } else { String::new() };
    let hint = format!("Mount it, {create}or correct `backupdir`. To see what is mounted: findmnt -T {shown}");
    Finding::new(about, Severity::Problem, format!("cannot be used: {error}"), Some(&hint))
}

/// Warns about files with secrets that other users can read.
fn exposed(settings: &Settings) -> Vec<Finding> {
    let Some(repository) = &settings.repository else { return Vec::new() };
    let own = [("password", Some(&repository.password)), ("secret access key", repository.secret_access_key.as_ref())];
    let secrets = own.into_iter().chain(repository.copies.iter().map(|copy| ("password", Some(&copy.password))));
    let warning = |(what, secret): (&str, Option<&Secret>)| {
        let path = secret.filter(|secret| secret.is_exposed())?.path()?;
        let hint = format!("Restrict its mode: chmod 600 {}", path.display());
        let about = format!("{what} {}", path.display());
        Some(Finding::new(about, Severity::Warning, "other users can read it", Some(&hint)))
    };
    secrets.filter_map(warning).collect()
}

fn mounted(settings: &Settings, kind: StoreKind, about: &str, room: Space) -> Finding {
    let told = format!("writable, {} of {} free", bytes(room.free), bytes(room.total));
    if settings.require_mount || space::is_off_root(settings.path_of(kind)).unwrap_or(true) {
        return Finding::new(about, Severity::Good, told, None);
    }
    let hint = "If the target should be a mount, mount it and set `require_mount: true`. Otherwise a run fills / when the \
         mount is missing.";
    Finding::new(about, Severity::Warning, format!("{told}, on the root file system"), Some(hint))
}

/// The newest restore point of each covered domain, and what cannot be read on the target.
fn newest(settings: &Settings, store: &Store) -> (Vec<Point>, Vec<Failure>) {
    let found = match points::found(store, &[]) {
        Ok(found) => found,
        Err(error) => return (Vec::new(), vec![error.failure()]),
    };
    let covered = found.domains.into_iter().filter(|(domain, _)| settings.rule_for(domain).is_some());
    (covered.filter_map(|(_, mut points)| points.pop()).collect(), found.failures)
}

/// Old points are removed only after the new ones are published, so both must fit.
fn sizes(about: &str, room: Space, newest: &[Point]) -> Vec<Finding> {
    let hint = "Free space, or keep fewer restore points; see docs/operations.md, \"The target is full\".";
    let large = newest.iter().filter(|point| point.bytes > room.free);
    let mut findings: Vec<_> = large
        .map(|point| {
            let (last, free) = (bytes(point.bytes), bytes(room.free));
            let message = format!("its last restore point has {last}, but only {free} is free");
            Finding::new(format!("domain {}", point.domain), Severity::Problem, message, Some(hint))
        })
        .collect();
    let all: u64 = newest.iter().map(|point| point.bytes).sum();
    if findings.is_empty() && all > room.free {
        let (last, free) = (bytes(all), bytes(room.free));
        let message = format!("the last restore points of all domains have {last} together, but only {free} is free");
        findings.push(Finding::new(about, Severity::Warning, message, Some(hint)));
    }
    findings
}

/// Warns if a store and the images of these domains are on the same file system.
pub(super) fn shared(settings: &Settings, kind: StoreKind, with_images: &[String]) -> Option<Finding> {
    let dir = settings.path_of(kind).display();
    let hint = format!("Move the target to another disk or another host. To see what is mounted: findmnt -T {dir}");
    let names = match with_images {
        [] => return None,
        [first, second, third, rest @ ..] if !rest.is_empty() => {
            format!("{first}, {second}, {third} and {} more", rest.len())
        }
        few => few.join(", "),
    };
    let message = format!(
        "on the same file system as images of {names}: a failed disk loses both guests and backups, and a full one stops the guests"
    );
    Some(Finding::new(format!("target {dir}"), Severity::Warning, message, Some(&hint)))
}

/// The device number of a store's file system, if its directory exists.
pub(super) fn device(settings: &Settings, kind: StoreKind) -> Option<u64> {
    std::fs::metadata(settings.dir_of(kind)?).ok().map(|found| found.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_space_is_reported_per_domain_and_in_total() {
        let judged = |free, sizes: &[u64]| {
            let points: Vec<_> = sizes.iter().map(|bytes| Point::sample("a", *bytes)).collect();
            let found = super::sizes("target", Space { total: 1000, free }, &points);
            found.into_iter().map(|finding| finding.severity).collect::<Vec<_>>()
        };
        assert_eq!(judged(100, &[60, 40]), []);
        assert_eq!(judged(99, &[60, 40]), [Severity::Warning]);
        assert_eq!(judged(50, &[60, 40]), [Severity::Problem]);
    }
}
