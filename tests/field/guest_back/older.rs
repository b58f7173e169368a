//! Journal entries of older releases, recovered after an upgrade.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::Scene;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The fields of this sample that its release knew.
fn only(entry: &Value, sample: &Value) -> Value {
    match (entry, sample) {
        (Value::Object(entry), Value::Object(sample)) => {
            let known = entry.iter().filter_map(|(key, value)| Some((key.clone(), only(value, sample.get(key)?))));
            Value::Object(known.collect())
        }
        (Value::Array(entries), Value::Array(samples)) => {
            let each = |entry: &Value| samples.first().map_or_else(|| entry.clone(), |sample| only(entry, sample));
            Value::Array(entries.iter().map(each).collect())
        }
        _ => entry.clone(),
    }
}

#[test]
fn entries_of_every_release_are_recovered() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/journal");
    let mut samples: Vec<_> = fs::read_dir(samples).unwrap().map(|entry| entry.unwrap().path()).collect();
    samples.sort();
    let mut sizes = Vec::new();
    for (number, sample) in samples.iter().enumerate() {
        let scene = Scene::new(&format!("journal-{number}"));
        let base = scene.guest.disk_source("vda");
        scene.kill();
        scene.guest.write("vda", 0x5a, 1 << 20, 65536);
        let entry = fs::read_dir(scene.program.state().join("journal")).unwrap().next().unwrap().unwrap().path();
        let older = only(&json(&entry), &json(sample)).to_string();
        sizes.push(older.len());
        fs::write(&entry, older).unwrap();
        let ran = scene.program.run(&["recover"]);
        assert_eq!(ran.code, 0, "{}: {ran:#?}", sample.display());
        assert!(!entry.exists(), "{}", sample.display());
        assert_eq!(scene.guest.disk_source("vda"), base, "{}", sample.display());
        scene.guest.assert_holds("vda", 0x5a, 1 << 20, 65536);
        scene.guest.assert_no_leftovers();
    }
    // The field of 1.4, a checkpoint, does not occur in a backup by snapshot.
    assert!(sizes.len() >= 5 && sizes[..4].is_sorted_by(|a, b| a < b), "each release adds fields: {sizes:?}");
}
