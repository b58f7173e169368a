//! Owns: an overlay as a file: its name and, while no guest has it open, committing it, asking whether it holds data, removing
//! it.
//! Must not: know domains, or decide whether any of that is right.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use super::Error;
use crate::sys::durable;
use crate::sys::step::{self, Step};

/// What the name of an overlay of ours ends with, after the disk's target; `run` is the beginning of the run's id.
pub(super) fn ending(run: &str) -> String {
    format!("kvmbackup-{run}.qcow2")
}

/// Whether a file is an overlay of ours for a disk, by its name.
pub(super) fn is_ours(path: &Path, target: &str) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let run = name.strip_suffix(".qcow2").and_then(|name| name.rsplit_once(&format!(".{target}.kvmbackup-")));
    run.is_some_and(|(_, run)| run.len() == 8 && run.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Writes what the overlay holds into the image below it; the overlay keeps it, too.
pub(super) fn commit(path: &Path) -> Result<(), Error> {
    step::reached(Step::OverlayCommit).map_err(Error::file("commit the overlay", path))?;
    // `-d`: emptied by QEMU, it would be useless to a guest that is started on it before the definition is right.
    qemu_img(["commit", "-q", "-d", "-f", "qcow2", "--"].map(OsStr::new), path.as_os_str()).map(drop)
}

/// Whether it is as we have made it, without even a header: no guest was ever on it.
pub(super) fn is_unused(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.len() == 0)
}

/// Whether it holds anything at all that the image below it may not.
pub(super) fn holds_data(path: &Path) -> Result<bool, Error> {
    // Alone, without what is below: that may be in use, and locked.
    let image = serde_json::json!({
        "driver": "qcow2", "backing": null, "file": {"driver": "file", "filename": path.to_string_lossy()},
    });
    let map = qemu_img(["map", "--output=json"].map(OsStr::new), format!("json:{image}").as_ref())?;
    let map: Vec<serde_json::Value> = serde_json::from_slice(&map).map_err(Error::json)?;
    // QEMU before 6.1 does not tell what is present: then everything counts as data.
    Ok(map.iter().any(|extent| extent["present"] != false))
}

/// Removes it.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    let removed = step::reached(Step::OverlayRemove).and_then(|()| durable::remove(path));
    removed.map_err(Error::file("remove the overlay", path))
}

fn qemu_img<const N: usize>(arguments: [&OsStr; N], image: &OsStr) -> Result<Vec<u8>, Error> {
    let output = Command::new("qemu-img")
        .args(arguments)
        .arg(image)
        .output()
        .map_err(|error| Error::Program { program: "qemu-img", message: error.to_string() })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().chars().take(1000).collect();
    Err(Error::Program { program: "qemu-img", message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fixture::{run, text};

    #[test]
    fn overlays_are_known_by_their_names() {
        let ours = |name: &str| is_ours(Path::new(name), "vda");
        assert!(ours(&format!("/v/a.qcow2.vda.{}", ending("0123abcd"))) && ours("/v/x.vda.kvmbackup-01234567.qcow2"));
        for other in [
            "/v/a.qcow2",
            "/v/a.vdb.kvmbackup-01234567.qcow2",
            "/v/a.vda.kvmbackup-0123.qcow2",
            "/v/a.vda.kvmbackup-01234567.scratch",
            "/",
        ] {
            assert!(!ours(other), "{other}");
        }
    }

    #[test]
    fn zeros_are_data_and_what_lies_below_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let [base, overlay] = ["it's \"b\".raw", "o 1.qcow2"].map(|name| dir.path().join(name));
        run("qemu-img", &["create", "-q", "-f", "raw", text(&base), "4M"]);
        run("qemu-io", &["-f", "raw", "-c", "write -P 1 0 1M", text(&base)]);
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", text(&base), "-F", "raw", text(&overlay)]);
        assert!(!holds_data(&overlay).unwrap());
        run("qemu-io", &["-f", "qcow2", "-c", "write -z 0 64k", text(&overlay)]);
        assert!(holds_data(&overlay).unwrap());
        commit(&overlay).unwrap();
        let read = run("qemu-io", &["-f", "raw", "-r", "-c", "read -P 0 0 64k", text(&base)]);
        assert!(!read.contains("verification failed"), "{read}");
        assert!(holds_data(&overlay).unwrap());
        std::fs::write(&overlay, "damaged").unwrap();
        assert!(holds_data(&overlay).is_err());
    }
}
