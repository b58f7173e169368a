//! Owns: the folders that a restore makes, and whether QEMU can enter those that are there. Must not: write files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Request;
use super::plan::{How, Plan, Write};
use super::staging::{PASSABLE, PRIVATE, Rights, Staging};
use crate::engine::Error;
use crate::engine::rights::Places;
use crate::sys::trust;

/// Fails if another user could replace the chosen folder while files are written to it.
pub fn expect_trusted(folder: &Path, staging: &Staging) -> Result<(), Error> {
    let path = folder.to_owned();
    staging.call("access", folder, move || {
        let what = "the directory to restore to";
        trust::future_folder(&path).map_err(|source| Error::Untrusted { what, source })
    })
}

/// Makes the chosen folder, what lies in it, and the folders of TPM state; no other folder is made. What guests use must be
/// passable for their users: its files are private.
pub fn make(plan: &Plan, request: &Request, places: &Places, staging: &mut Staging) -> Result<(), Error> {
    let mode = if request.define.is_some() { PASSABLE } else { PRIVATE };
    if let Some(folder) = &request.to {
        staging.folder(folder, mode)?;
    }
    for write in &plan.writes {
        let (base, mode) = match (&write.how, &request.to) {
            (How::Device(_), _) => continue,
            (How::Tpm, _) if !write.to.starts_with(&places.swtpm) => {
                make_tpm_folder(write, request, staging)?;
                continue;
            }
            (How::Tpm, _) => (places.swtpm.as_path(), PASSABLE),
            (_, Some(folder)) => (folder.as_path(), mode),
            _ => continue,
        };
        let Some(inner) = write.to.parent().and_then(|parent| parent.strip_prefix(base).ok()) else { continue };
        let mut folder = base.to_owned();
        for part in inner.components() {
            folder.push(part);
            // The folder of the state itself belongs to swtpm alone.
            let is_last = folder.as_path() == write.to.parent().unwrap_or(base);
            let mode = if write.how == How::Tpm && is_last { PRIVATE } else { mode };
            staging.folder_within(&folder, mode)?;
        }
        if let (How::Tpm, Rights::Kept(owner)) = (&write.how, write.rights) {
            staging.own_folder(&folder, owner);
        }
    }
    Ok(())
}

/// The folder of TPM state where a definition names it, unless the state is one file among others.
fn make_tpm_folder(write: &Write, request: &Request, staging: &mut Staging) -> Result<(), Error> {
    let Some(folder) = write.to.parent().filter(|folder| request.to.as_deref() != Some(*folder)) else { return Ok(()) };
    folder.parent().map_or(Ok(()), |above| staging.folder(above, PASSABLE))?;
    staging.folder_within(folder, PRIVATE)?;
    if let Rights::Kept(owner) = write.rights {
        staging.own_folder(folder, owner);
    }
    Ok(())
}

/// The folders of restored files that QEMU cannot enter.
pub fn barred(plan: &Plan, places: &Places, staging: &Staging) -> BTreeSet<String> {
    let files = plan.writes.iter().filter(|write| !matches!(write.how, How::Device(_) | How::Tpm));
    let folders: BTreeSet<PathBuf> = files.filter_map(|write| Some(write.to.parent()?.to_owned())).collect();
    let note = |folder: PathBuf| {
        let places = places.clone();
        let (barred, user) = staging.patience().call(move || places.barred(&folder)).ok().flatten()?;
        let (path, user) = (barred.display(), user.uid);
        Some(format!(
            "QEMU (user {user}) cannot enter {path}, so the guest cannot start; to allow it: chmod o+x '{path}'"
        ))
    };
    folders.into_iter().filter_map(note).collect()
}
