//! Splits the manifest of a snapshot into what stays the same from point to point and what does not. Must not lose what a
//! restore needs.
//!
//! The first part is the file `manifest.json`; while nothing changes, all points of a domain share its blob and trees.
//! The second part is in the snapshot itself, where restic ignores it; `restic copy` and `restic tag` drop it.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use crate::archive::{self, Manifest};
use crate::model::PointId;

/// Longest second part in bytes; a longer one is in the file too.
const MAX_CHANGING: usize = 32 << 10;

/// The key of the note. It is not part of the manifest.
const NOTE: &str = "next_backup";

/// The keys of the second part, and what the file contains instead.
fn neutral() -> [(&'static str, Option<Value>); 5] {
    [
        ("run_id", Some(Value::from(uuid::Uuid::nil().to_string()))),
        ("point", Some(Value::from(PointId::at(DateTime::UNIX_EPOCH).to_string()))),
        ("frozen_ms", None),
        ("warnings", Some(Value::Array(Vec::new()))),
        ("hooks", Some(Value::Array(Vec::new()))),
    ]
}

/// The bytes of `manifest.json`, and the facts of the snapshot.
pub(super) fn split(manifest: &Manifest) -> Result<(Vec<u8>, Value), archive::Error> {
    let failed = |source| archive::Error::MakeManifest { source };
    let mut stable = serde_json::to_value(manifest).map_err(failed)?;
    let mut changing = Map::new();
    if let Some(stable) = stable.as_object_mut() {
        for (key, value) in neutral() {
            changing.extend(stable.remove(key).map(|found| (key.to_owned(), found)));
            stable.extend(value.map(|value| (key.to_owned(), value)));
        }
    }
    if Value::Object(changing.clone()).to_string().len() > MAX_CHANGING {
        return Ok((manifest.to_json()?, Value::Null));
    }
    let mut json = serde_json::to_vec_pretty(&stable).map_err(failed)?;
    json.push(b'\n');
    Ok((json, Value::Object(changing)))
}

/// The manifest from both parts. Without the second one, the time of the snapshot is that of the point.
pub(super) fn join(json: &[u8], facts: Option<&Value>, time: DateTime<Utc>) -> Result<Manifest, archive::Error> {
    let failed = |source| archive::Error::Manifest { source };
    let mut whole: Value = serde_json::from_slice(json).map_err(failed)?;
    if let (Some(whole), Some(changing)) = (whole.as_object_mut(), facts.and_then(Value::as_object)) {
        let is_known = |key: &str| neutral().iter().any(|(known, _)| *known == key);
        whole.extend(changing.clone().into_iter().filter(|(key, _)| is_known(key)));
    }
    let mut manifest = Manifest::from_json(whole.to_string().as_bytes())?;
    manifest.point = PointId::at(time);
    Ok(manifest)
}

/// The facts with a note for the backup that builds on this point.
pub(super) fn with_note(facts: Value, note: Value) -> Value {
    let mut facts = match facts {
        Value::Object(facts) => facts,
        _ => Map::new(),
    };
    facts.insert(NOTE.to_owned(), note);
    Value::Object(facts)
}

/// The note in the facts of a snapshot.
pub(super) fn note(facts: &Value) -> Option<Value> {
    facts.get(NOTE).cloned()
}
