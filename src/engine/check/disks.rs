//! Checks whether a domain's disks can be read and whether its overlays can be created. Must not open an image for
//! writing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::confined::Confined;
use super::{Finding, Severity, place};
use crate::config::{DomainSettings, Incremental};
use crate::engine::backup::members::not_saved;
use crate::engine::capture::{check_room, folder_for};
use crate::engine::{Error, chain, tracking};
use crate::hypervisor::{Guests, StateKind};
use crate::model::command::quoted;
use crate::model::{Domain, DomainRef, Failure, Method, WholeRead};
use crate::plan::{self, CapturePlan, ReadFrom};

pub(super) fn look(
    hypervisor: &dyn Guests,
    domain: &DomainRef,
    (settings, usual): (&DomainSettings, Method),
    findings: &mut Vec<Finding>,
) {
    let about = format!("domain {}", domain.name);
    let problem = |failure: Failure| Finding::failed(&about, Severity::Problem, failure);
    let described = match hypervisor.describe(domain) {
        Ok(described) => described,
        Err(error) => return findings.push(problem(Failure { message: chain(&error), hint: error.hint() })),
    };
    let plan = match plan::capture(&described, settings, usual) {
        Ok(plan) => plan,
        Err(refusal) => {
            return findings.push(problem(Failure { message: refusal.to_string(), hint: refusal.hint() }));
        }
    };
    let before = findings.len();
    findings.extend(plan.warnings.iter().cloned().map(|warning| Finding::failed(&about, Severity::Warning, warning)));
    findings.extend(not_saved(&described).map(|warning| Finding::failed(&about, Severity::Warning, warning)));
    for disk in plan.skipped.iter().filter(|disk| disk.missed) {
        let message = format!("disk {} cannot be backed up: {}", disk.target, disk.reason);
        findings.push(problem(Failure { message, hint: disk.hint.clone() }));
    }
    findings.extend(unreadable(&plan).into_iter().map(problem));
    let confined = Confined::of_host(Path::new("/sys"));
    for (folder, is_asked) in growing(&plan, settings) {
        findings.extend(unfit(&folder, is_asked).map(problem));
        if is_asked {
            findings.extend(
                confined
                    .and_then(|confined| confined.in_the_way(&folder))
                    .map(|(severity, failure)| Finding::failed(&about, severity, failure)),
            );
        }
    }
    if findings.len() == before {
        let targets: Vec<_> = plan.disks.iter().map(|planned| planned.disk.target.as_str()).collect();
        let message = format!("all selected disks are readable: {}", targets.join(", "));
        findings.push(Finding::new(about.clone(), Severity::Good, message, None));
    }
    if usual == Method::Pull {
        findings.extend(changes(hypervisor, (&described, &plan), settings.incremental, &about));
    }
}

/// What backups into a repository will read, and what a checkpoint means for the operator.
fn changes(
    hypervisor: &dyn Guests,
    (domain, plan): (&Domain, &CapturePlan),
    wanted: Incremental,
    about: &str,
) -> Vec<Finding> {
    let states = match hypervisor.saved_states(&domain.id) {
        Ok(states) => states,
        Err(error) => {
            let failure = Failure { message: chain(&error), hint: error.hint() };
            return vec![Finding::failed(about, Severity::Problem, failure)];
        }
    };
    let prospects = tracking::prospects((domain, plan), wanted, &states);
    let (whole, changed): (Vec<_>, Vec<_>) = prospects.into_iter().partition(|(_, why)| why.is_some());
    let mut parts = Vec::new();
    if !changed.is_empty() {
        let targets: Vec<_> = changed.iter().map(|(target, _)| *target).collect();
        parts.push(format!("incremental: {}", targets.join(", ")));
    }
    if !whole.is_empty() {
        let named =
            |(target, why): &(&str, Option<WholeRead>)| format!("{target} ({})", why.map_or("", WholeRead::text));
        parts.push(format!("read whole: {}", whole.iter().map(named).collect::<Vec<_>>().join(", ")));
    }
    let mut findings = vec![Finding::new(about, Severity::Good, parts.join("; "), None)];
    let has_internal = states.iter().any(|state| state.kind == StateKind::InternalSnapshot);
    if has_internal && wanted == Incremental::Always {
        let message = "has internal snapshots, and `virsh snapshot-revert` fails while the guest has a checkpoint";
        let hint = format!("Before you revert: kvmbackup checkpoints remove {}", quoted(&domain.id.name));
        findings.push(Finding::new(about, Severity::Warning, message, Some(&hint)));
    }
    findings
}

/// Whether an image of a domain is on the file system with this device number.
pub(super) fn lies_on(hypervisor: &dyn Guests, domain: &DomainRef, device: u64) -> bool {
    // Another check reports a domain that cannot be described.
    let Ok(described) = hypervisor.describe(domain) else { return false };
    let paths = described.disks.iter().filter_map(|disk| disk.image.source.path());
    let found = paths.filter_map(|path| std::fs::metadata(path).ok());
    found.into_iter().any(|found| found.is_file() && found.dev() == device)
}

/// Failures of images that cannot be opened or are empty.
fn unreadable(plan: &CapturePlan) -> Vec<Failure> {
    let images = plan.disks.iter().map(|planned| (&planned.disk.target, planned.image()));
    let failed = images.filter_map(|(target, image)| {
        let path = image.source.path()?.to_owned();
        let opened = File::open(&path).and_then(|mut file| file.seek(SeekFrom::End(0)));
        match opened {
            Ok(0) => Some(Error::Empty { target: target.clone() }.failure()),
            Ok(_) => None,
            Err(source) => Some(Error::Unreadable { target: target.clone(), path, source }.failure()),
        }
    });
    failed.collect()
}

/// The directories with files that grow while the guest writes, and whether the configuration names them.
fn growing(plan: &CapturePlan, settings: &DomainSettings) -> BTreeSet<(std::path::PathBuf, bool)> {
    let asked = match plan.method {
        Method::Snapshot => settings.overlay_dir.as_deref(),
        Method::Pull => settings.scratch_dir.as_deref(),
        Method::Direct => return BTreeSet::new(),
    };
    let captured = plan.disks.iter().filter(|planned| planned.how == ReadFrom::Capture);
    captured.map(|planned| (folder_for(&planned.disk, asked).to_owned(), asked.is_some())).collect()
}

/// Why a directory cannot take an overlay. QEMU's own user must be able to enter it; for the directory of an image, it
/// can.
fn unfit(folder: &Path, is_asked: bool) -> Option<Failure> {
    let hint = "Make it writable, or set another one with `overlay_dir` (`scratch_dir` for `method: pull`).";
    if let Err(error) = place::writable(folder) {
        let message = format!("{}: cannot create an overlay there: {error}", folder.display());
        return Some(Failure { message, hint: Some(hint.to_owned()) });
    }
    if let Err(error) = check_room(folder) {
        return Some(Error::failure(&error));
    }
    let closed = folder.ancestors().find(|dir| {
        // Another owner than root may be QEMU's user.
        std::fs::metadata(dir).is_ok_and(|found| found.mode() & 0o001 == 0 && found.uid() == 0)
    })?;
    is_asked.then(|| Failure {
        message: format!("{}: QEMU's user cannot enter {}", folder.display(), closed.display()),
        hint: Some(format!("Let QEMU's user enter it: chmod o+x {}", closed.display())),
    })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn directory_that_qemu_cannot_enter_is_refused() {
        // Not below `TMPDIR`, which QEMU may not be able to enter.
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let [closed, folder] = ["closed", "closed/in"].map(|name| dir.path().join(name));
        std::fs::create_dir_all(&folder).unwrap();
        let close = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        close(dir.path(), 0o755);
        close(&closed, 0o755);
        assert_eq!(unfit(&folder, true), None);
        if !rustix::process::geteuid().is_root() {
            return; // only root's directories are judged
        }
        close(&closed, 0o700);
        let said = unfit(&folder, true).unwrap();
        assert_eq!(said.hint.unwrap(), format!("Let QEMU's user enter it: chmod o+x {}", closed.display()));
        assert_eq!(unfit(&folder, false), None);
        let missing = unfit(&dir.path().join("nowhere"), false).unwrap();
        assert!(missing.message.contains("No such file"), "{}", missing.message);
    }
}
