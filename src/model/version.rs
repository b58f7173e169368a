//! The format versions of JSON files that outlive the program that wrote them. Must not read a file, or know its
//! contents.
//!
//! A file has its version in `schema`; without it, the version is 1. A program reads every older version, because later
//! fields have defaults. It refuses a newer version, and must not overwrite it either.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::command::quoted;

/// A file that this program cannot understand.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A newer program wrote it.
    #[error("written by a newer kvmbackup: format version {found}; this program reads up to {known}")]
    Newer {
        /// The file's version.
        found: u64,
        /// The newest version that this program reads.
        known: u32,
    },
    /// It is not JSON of the expected structure.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl Unreadable {
    /// What the operator can do about this file.
    pub fn hint(&self, path: &Path) -> Option<String> {
        matches!(self, Unreadable::Newer { .. }).then(|| {
            let [path, away] = ["", ".newer"].map(|end| quoted(&format!("{}{end}", path.display())));
            format!(
                "Install the newer kvmbackup again. To continue with this one, move the file away: mv {path} {away}"
            )
        })
    }
}

#[derive(Deserialize)]
struct Head {
    #[serde(default = "first")]
    schema: u64,
}

fn first() -> u64 {
    1
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    schema: u32,
    #[serde(flatten)]
    value: &'a T,
}

/// Reads a file of any version up to this one.
///
/// # Errors
/// It is newer, or not JSON of this structure.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], known: u32) -> Result<T, Unreadable> {
    let found = serde_json::from_slice::<Head>(bytes)?.schema;
    match found > u64::from(known) {
        true => Err(Unreadable::Newer { found, known }),
        false => Ok(serde_json::from_slice(bytes)?),
    }
}

/// The text of a file of this version. `value` must not have the field `schema`.
///
/// # Errors
/// The value cannot be written as JSON.
pub fn text(value: &impl Serialize, schema: u32) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec_pretty(&Versioned { schema, value })
}

#[cfg(test)]
/// Tests that every released version can be read.
pub mod history {
    use std::fs;
    use std::path::{Path, PathBuf};

    use serde_json::Value;

    /// Panics unless every sample of a file in `tests/formats` can be read, and the newest equals what is written
    /// today.
    pub fn assert_read<T, E: std::fmt::Debug>(
        file: &str,
        read: impl Fn(&[u8]) -> Result<T, E>,
        write: impl Fn(&T) -> Vec<u8>,
    ) {
        let number = |path: &PathBuf| -> Vec<u32> {
            path.file_stem().unwrap().to_str().unwrap().split('.').map(|part| part.parse().unwrap()).collect()
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(file);
        let mut samples: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        samples.sort_by_key(number);
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let last = samples.len() - 1;
        for (at, path) in samples.iter().enumerate() {
            let bytes = fs::read(path).unwrap();
            let value = read(&bytes).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
            let written = json(&write(&value));
            let path = path.display();
            assert!(
                at < last || written == json(&bytes),
                "{path} differs from what is written today; docs/versions.md says what to do"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Kept {
        old: u32,
        #[serde(default)]
        new: u32,
    }

    #[test]
    fn older_versions_are_read_and_newer_ones_refused() {
        for text in [r#"{"old": 1}"#, r#"{"schema": 1, "old": 1}"#, r#"{"schema": 2, "old": 1, "new": 0}"#] {
            assert_eq!(parse::<Kept>(text.as_bytes(), 2).unwrap(), Kept { old: 1, new: 0 });
        }
        let newer = parse::<Kept>(br#"{"schema": 3, "unheard": []}"#, 2).unwrap_err();
        assert!(matches!(newer, Unreadable::Newer { found: 3, known: 2 }), "{newer}");
        assert!(newer.hint(Path::new("/s/f.json")).unwrap().ends_with("mv /s/f.json /s/f.json.newer"));
        assert!(newer.hint(Path::new("/s/a b.json")).unwrap().ends_with("mv '/s/a b.json' '/s/a b.json.newer'"));
        let other = parse::<Kept>(br#"{"schema": "x"}"#, 2).unwrap_err();
        assert!(matches!(other, Unreadable::Json(_)) && other.hint(Path::new("/f")).is_none());
    }

    #[test]
    fn written_files_can_be_read() {
        let bytes = text(&Kept { old: 1, new: 2 }, 1).unwrap();
        assert!(bytes.starts_with(b"{\n  \"schema\": 1,"));
        assert_eq!(parse::<Kept>(&bytes, 1).unwrap(), Kept { old: 1, new: 2 });
    }
}
