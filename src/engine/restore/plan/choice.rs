//! Owns: which disks are meant, and what their files are called. Pure. Must not: choose folders.

use std::path::Path;

use super::super::names::file_name;
use super::super::{Error, Request};
use super::suspect;
use crate::model::is_plain;
use crate::store::{Contents, SavedDisk};

/// The disks of the request, each with the device it goes to, if any.
pub fn choose<'a>(saved: &'a Contents, request: &'a Request) -> Result<Vec<(&'a SavedDisk, Option<&'a Path>)>, Error> {
    if let Some(bad) = saved.disks.iter().find(|disk| !is_plain(&disk.target)) {
        return Err(suspect(saved, &format!("a disk has the name {:?}", bad.target)));
    }
    if request.disks.is_empty() {
        return Ok(saved.disks.iter().map(|disk| (disk, None)).collect());
    }
    let mut chosen: Vec<(&SavedDisk, Option<&Path>)> = Vec::new();
    for choice in &request.disks {
        let Some(disk) = saved.disks.iter().find(|disk| disk.target == choice.target) else {
            let why = saved.skipped.get(&choice.target).map_or(String::new(), |reason| format!(": {reason}"));
            let targets: Vec<&str> = saved.disks.iter().map(|disk| disk.target.as_str()).collect();
            return Err(Error::Rejected {
                message: format!("disk {} is not in the restore point{why}", choice.target),
                hint: Some(format!("it holds: {}", targets.join(", "))),
            });
        };
        if chosen.iter().any(|(other, _)| other.target == disk.target) {
            return Err(Error::Rejected { message: format!("disk {} is given twice", disk.target), hint: None });
        }
        let device = choice.device.as_deref();
        if device.is_some() && chosen.iter().any(|(_, other)| *other == device) {
            let message = format!("disk {}: another disk is restored to the same device", disk.target);
            return Err(Error::Rejected { message, hint: None });
        }
        chosen.push((disk, device));
    }
    Ok(chosen)
}

/// A name for the file of each disk: the one it had; where all go to one folder, with the target before it if need be.
pub fn names(saved: &Contents, chosen: &[(&SavedDisk, Option<&Path>)], one_folder: bool) -> Vec<String> {
    let plain: Vec<String> = chosen.iter().map(|(disk, _)| file_name(disk)).collect();
    let is_taken = |name: &String| {
        plain.iter().filter(|other| *other == name).count() > 1
            || saved.documents.iter().any(|(_, document)| document == name)
            || ["nvram", "boot", "tpm"].contains(&name.as_str())
    };
    let name = |(name, (disk, _)): (&String, &(&SavedDisk, _))| {
        if one_folder && is_taken(name) { format!("{}-{name}", disk.target) } else { name.clone() }
    };
    plain.iter().zip(chosen).map(name).collect()
}
