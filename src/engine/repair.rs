//! Removes damaged packs from a repository. The next backups store their data again if the guests still have it, because data
//! that the index does not contain counts as changed. Must not change restore points.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Error;
use super::restic::Restic;
use super::target::open_repository;
use crate::config::Settings;
use crate::sys::signals::Cancel;

/// The first version of restic that saves the intact data of a damaged pack.
const FIRST: (u32, u32) = (0, 16);
/// Digits of the ID of a pack.
const DIGITS: usize = 64;
/// Maximum number of packs in one command line.
const BATCH: usize = 500;

/// The packs that a check named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BadPacks {
    /// IDs of packs with damaged contents.
    pub damaged: BTreeSet<String>,
    /// IDs of packs that do not exist.
    pub missing: BTreeSet<String>,
}

impl BadPacks {
    /// Finds the packs in the messages of `restic check`.
    pub(super) fn of(messages: &[String]) -> BadPacks {
        let mut bad = BadPacks::default();
        for line in messages {
            let is_about_packs = ["pack ", "Pack ID does not match", "restic repair packs "];
            if !is_about_packs.iter().any(|start| line.starts_with(start)) {
                continue;
            }
            let words = line.split(|c: char| !c.is_ascii_alphanumeric());
            let is_id = |word: &&str| {
                word.len() == DIGITS && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            };
            let mut ids = words.filter(is_id).map(str::to_owned);
            match line {
                line if line.ends_with("does not exist") => bad.missing.extend(ids),
                line if line.starts_with("restic ") => bad.damaged.extend(ids),
                // The IDs after the first one are those of blobs, or of other contents.
                _ => bad.damaged.extend(ids.next()),
            }
        }
        bad.damaged.retain(|id| !bad.missing.contains(id));
        bad
    }

    /// Whether a check named none.
    pub fn is_empty(&self) -> bool {
        self.damaged.is_empty() && self.missing.is_empty()
    }
}

/// Removes these packs from the repository. Intact data of damaged packs stays.
///
/// # Errors
/// The repository cannot be opened, restic is too old, or it failed.
pub fn repair(settings: &Settings, packs: &BadPacks, cancel: &Cancel) -> Result<(), Error> {
    let (repository, store) = open_repository(settings)?;
    let restic = Restic::new(repository, &store, cancel)?;
    let (major, minor) = restic.version();
    let is_new = (major, minor) >= FIRST;
    if !packs.damaged.is_empty() && !is_new {
        return Err(Error::Rejected {
            message: format!("restic {major}.{minor} cannot save the intact data of damaged packs"),
            hint: Some(
                "Install restic 0.16 or newer, or see docs/operations.md, \"Damage in a repository\".".to_owned(),
            ),
        });
    }
    let damaged: Vec<&String> = packs.damaged.iter().collect();
    for batch in damaged.chunks(BATCH) {
        let words = std::iter::once("packs").chain(batch.iter().map(|id| id.as_str()));
        restic.expect("repair", &words.map(str::to_owned).collect::<Vec<_>>())?;
    }
    match packs.missing.is_empty() {
        true => Ok(()),
        false if is_new => restic.expect("repair", &["index".to_owned()]),
        false => restic.expect("rebuild-index", &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_are_found_in_the_messages_of_every_version() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|digit| digit.repeat(DIGITS));
        let lines = [
            format!("pack {a} contains 2 errors: [blob {d}: decrypting blob <data/{d}> from aaaa failed]"),
            format!("Pack ID does not match, want {b}, got {d}"),
            format!("pack {c}: does not exist"),
            format!("pack {c} failed to download: StreamPack: open r/data/cc/{c}: no such file or directory"),
            format!("tree {d}: file \"vda.raw\" blob {d} not found in index"),
            format!("restic repair packs {a} {b}"),
            "pack 1234 is short".to_owned(),
        ];
        let found = BadPacks::of(&lines);
        assert_eq!(found.damaged.into_iter().collect::<Vec<_>>(), [a, b]);
        assert_eq!(found.missing.into_iter().collect::<Vec<_>>(), [c]);
        assert!(BadPacks::of(&[]).is_empty());
    }
}
