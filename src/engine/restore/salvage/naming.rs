//! Chooses a safe and unique file name for each salvaged member. Must not access the directory.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::{REPORT, SALVAGED};
use crate::model::is_plain;

/// Most path components of a name.
const DEPTH: usize = 8;

pub struct Naming {
    /// In lower case, because some file systems ignore case.
    taken: HashSet<String>,
    /// Directory names, which no file may have.
    folders: HashSet<String>,
}

impl Naming {
    /// Reserves the name of the report.
    pub fn new() -> Naming {
        Naming { taken: HashSet::from([REPORT.to_owned()]), folders: HashSet::new() }
    }

    /// A file name: `wanted` with this ending, unless that is unsafe or taken.
    pub fn file(&mut self, wanted: &str, ending: &str) -> PathBuf {
        let wanted = if is_harmless(wanted) { wanted } else { "unnamed" };
        // Without directories, because one of these names may already be a file.
        let flat = Some(wanted.replace('/', "-")).filter(|flat| is_plain(flat)).unwrap_or_else(|| "unnamed".to_owned());
        let numbered = (2_u32..).map(|number| format!("{flat}-{number}{SALVAGED}{ending}"));
        let mut names = std::iter::once(format!("{wanted}{ending}")).chain(numbered);
        names.find(|name| self.take(name)).map(PathBuf::from).unwrap_or_default()
    }

    fn take(&mut self, name: &str) -> bool {
        let name = name.to_lowercase();
        let parents = || Path::new(&name).ancestors().skip(1).filter_map(Path::to_str).filter(|name| !name.is_empty());
        if self.folders.contains(&name) || self.taken.contains(&name) || parents().any(|it| self.taken.contains(it)) {
            return false;
        }
        self.folders.extend(parents().map(str::to_owned));
        self.taken.insert(name)
    }
}

fn is_harmless(name: &str) -> bool {
    name.split('/').all(is_plain) && name.split('/').count() <= DEPTH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn salvaged_names_are_safe_and_unique() {
        let mut naming = Naming::new();
        let mut named = |wanted: &str, ending: &str| naming.file(wanted, ending).to_str().unwrap().to_owned();
        for (wanted, ending, name) in [
            ("manifest.json", "", "manifest.json"),
            ("salvage.json", "", "salvage.json-2.salvaged"),
            ("Salvage.JSON", "", "Salvage.JSON-3.salvaged"),
            ("vda", ".salvaged.qcow2", "vda.salvaged.qcow2"),
            ("vda", ".salvaged.qcow2", "vda-2.salvaged.salvaged.qcow2"),
            ("nvram/x", "", "nvram/x"),
            ("nvram", "", "nvram-2.salvaged"),
            ("nvram/x/y", "", "nvram-x-y-2.salvaged"),
            ("a\u{1b}[2J", "", "unnamed"),
            ("a/../b", "", "unnamed-2.salvaged"),
            (".ssh/x", ".salvaged", "unnamed.salvaged"),
            ("a\u{202e}b", ".salvaged", "unnamed-2.salvaged.salvaged"),
        ] {
            assert_eq!(named(wanted, ending), name, "{wanted:?}");
        }
    }
}
