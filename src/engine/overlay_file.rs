//! Handles an overlay as a file: its name and, while no guest has it open, committing it, checking it for data, and
//! removing it. Must not know domains, or decide whether any of that is right.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use super::Error;
use super::qemu_img::{self, Limits};
use crate::model::{Format, Hasher, Image};
use crate::nbd;
use crate::sys::durable;
use crate::sys::process::Answer;
use crate::sys::program::Stream;
use crate::sys::step::{self, Step};

/// How long `qemu-img` may neither read nor write, and the maximum length of its answer in bytes. The map of a
/// scattered overlay is the longest.
const LIMITS: Limits = Limits { stall: Duration::from_secs(600), answer: 1 << 30 };

/// The end of an overlay's name, after the disk's target. `run` is the beginning of the run's id.
pub(super) fn ending(run: &str) -> String {
    format!("kvmbackup-{run}.qcow2")
}

/// Maximum length of a file name in bytes.
const MAX_NAME: usize = 255;
/// Length of the separator and the digest in a shortened name.
const CUT: usize = 17;

/// `<name>.<ending>`, shortened to the longest allowed file name; a digest replaces what was cut off.
pub(super) fn fitting(name: &str, ending: &str) -> String {
    let room = MAX_NAME.saturating_sub(ending.len() + 1);
    if name.len() <= room {
        return format!("{name}.{ending}");
    }
    let mut hasher = Hasher::new();
    hasher.update(name.as_bytes());
    let digest = hasher.finish().to_string();
    let start = (0..=room.saturating_sub(CUT)).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    format!("{}~{}.{ending}", &name[..start], &digest[..CUT - 1])
}

/// Whether a file is an overlay of ours, according to its name: `….<target>.kvmbackup-<8 digits>.qcow2`, of any
/// release. libvirt omits the extension if it derives the name from that of a snapshot.
pub(super) fn is_ours(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let run = name.strip_suffix(".qcow2").unwrap_or(&name).rsplit_once(".kvmbackup-");
    let is_run = |run: &str| run.len() == 8 && run.bytes().all(|byte| byte.is_ascii_hexdigit());
    run.is_some_and(|(disk, run)| disk.contains('.') && is_run(run))
}

/// Whether a file is a scratch file of ours, according to its name: `….<target>.kvmbackup-<8 digits>.scratch`.
pub(super) fn is_scratch(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "scratch") && is_ours(&path.with_extension("qcow2"))
}

/// Whether the name of an overlay is derived from that of an image.
pub(super) fn is_named_after(overlay: &Path, image: &Path) -> bool {
    let [overlay, image] = [overlay, image].map(|path| path.file_name().unwrap_or_default().to_string_lossy());
    let disk = overlay.rsplit_once(".kvmbackup-").and_then(|(name, _)| name.rsplit_once('.'));
    disk.is_some_and(|(before, _)| fitting(&image, &overlay[before.len() + 1..]) == overlay)
}

/// Whether it exists. A name that no file can have does not exist. Fails if the answer is unknown.
pub(super) fn is_there(path: &Path) -> Result<bool, Error> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if durable::is_absent(&error) => Ok(false),
        Err(source) => Err(Error::file("examine the overlay", path)(source)),
    }
}

/// Whether a missing file was really removed: the directory of a file system that is not mounted is empty or missing,
/// too.
pub(super) fn is_gone_for_good(path: &Path) -> bool {
    let folder = path.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    folder.is_some_and(|mut entries| entries.next().is_some())
}

/// What an overlay contains besides the guest's data.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub snapshots: Vec<String>,
    /// Bitmaps that the image below it does not have.
    pub bitmaps: Vec<String>,
}

/// Asks `qemu-img` for it. A guest may have the overlay open.
pub(super) fn held(path: &Path, base: &Image) -> Result<Held, Error> {
    let names = |info: &serde_json::Value, list: &str| -> Vec<String> {
        let entries = info.pointer(list).and_then(serde_json::Value::as_array).into_iter().flatten();
        entries.filter_map(|entry| entry["name"].as_str().map(str::to_owned)).collect()
    };
    if !is_there(path)? || is_unused(path) {
        return Ok(Held::default());
    }
    let bitmaps = "/format-specific/data/bitmaps";
    let own = qemu_img::info(path, "qcow2", LIMITS)?;
    let mut held = Held { snapshots: names(&own, "/snapshots"), bitmaps: names(&own, bitmaps) };
    if let Some(base) = base.source.path().filter(|_| base.format == Format::Qcow2 && !held.bitmaps.is_empty()) {
        let below = names(&qemu_img::info(base, "qcow2", LIMITS)?, bitmaps);
        held.bitmaps.retain(|name| !below.contains(name));
    }
    Ok(held)
}

/// Writes the overlay's data into the image below it. The overlay keeps the data, too. QEMU opens only the named chain,
/// whatever headers name; `top` and `base` are open in `qemu-img` as standard input and output.
pub(super) fn commit(path: &Path, chain: &[Image], top: File, base: File) -> Result<(), Error> {
    step::reached(Step::OverlayCommit).map_err(Error::file("commit the overlay", path))?;
    let options = options(chain).map_err(|error| qemu_img::failed(super::chain(&error)))?;
    // `-d`: QEMU must not empty the overlay, because a guest may be started on it before the definition is corrected.
    let arguments = ["commit", "-q", "-d", "--image-opts"].map(OsStr::new);
    let streams = (Stream::File(top.into()), Answer::File(base.into()));
    qemu_img::run(arguments, &options, streams, LIMITS.stall).map(drop)
}

/// A whole chain as options for QEMU, with every image named.
pub(super) fn options(chain: &[Image]) -> Result<OsString, nbd::Error> {
    nbd::image_options(chain, nbd::Options { chain_ends: true, ..nbd::Options::default() }, false)
}

/// Whether the file is as we created it, without a header: no guest was ever on it.
pub(super) fn is_unused(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.len() == 0)
}

/// Whether it holds any data that the image below it may lack.
pub(super) fn holds_data(path: &Path) -> Result<bool, Error> {
    // Without the image below it, which may be in use and locked.
    let image = serde_json::json!({
        "driver": "qcow2", "backing": null, "file": {"driver": "file", "filename": path.to_string_lossy()},
    });
    let arguments = ["map", "--output=json"].map(OsStr::new);
    let map = qemu_img::ask(arguments, format!("json:{image}").as_ref(), LIMITS)?;
    let map: Vec<serde_json::Value> = serde_json::from_slice(&map).map_err(Error::Json)?;
    // QEMU before 6.1 does not report `present`; then every extent counts as data.
    Ok(map.iter().any(|extent| extent["present"] != false))
}

pub(super) fn remove(path: &Path) -> Result<(), Error> {
    let removed = step::reached(Step::OverlayRemove).and_then(|()| durable::remove(path));
    removed.map_err(Error::file("remove the overlay", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Source;
    use crate::store::fixture::{run, text};

    #[test]
    fn overlays_are_recognized_by_their_names() {
        let ours = |name: &str| is_ours(Path::new(name));
        assert!(ours(&format!("/v/a.qcow2.vda.{}", ending("0123abcd"))) && ours("/v/x.vda.kvmbackup-01234567.qcow2"));
        for other in ["/v/a.qcow2", "/v/a.vda.kvmbackup-0123.qcow2", "/v/a.vda.kvmbackup-01234567.scratch", "/"] {
            assert!(!ours(other), "{other}");
        }
    }

    #[test]
    fn overlay_is_named_after_its_image() {
        let long = "ä".repeat(124);
        for name in ["a.qcow2", "a.vda.b", &long] {
            let overlay = fitting(name, &format!("vda.{}", ending("0123abcd")));
            let is_of = |image: &str| is_named_after(&Path::new("/v").join(&overlay), Path::new(image));
            assert!(is_of(&format!("/v/{name}")) && !is_of("/v/b.qcow2") && !is_of("/v/a") && !is_of("/"), "{name}");
        }
    }

    #[test]
    fn written_zeros_count_as_data_of_the_overlay_but_its_base_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let [base, overlay] = ["it's \"b\".raw", "o 1.qcow2"].map(|name| dir.path().join(name));
        run("qemu-img", &["create", "-q", "-f", "raw", text(&base), "4M"]);
        run("qemu-io", &["-f", "raw", "-c", "write -P 1 0 1M", text(&base)]);
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", text(&base), "-F", "raw", text(&overlay)]);
        assert!(!holds_data(&overlay).unwrap());
        run("qemu-io", &["-f", "qcow2", "-c", "write -z 0 64k", text(&overlay)]);
        assert!(holds_data(&overlay).unwrap());
        let files = [&overlay, &base].map(|path| File::open(path).unwrap());
        let chain = [(&*overlay, Format::Qcow2), (&*base, Format::Raw)];
        let chain = chain.map(|(path, format)| Image { source: Source::File(path.to_owned()), format });
        let [top, lower] = files;
        commit(&overlay, &chain, top, lower).unwrap();
        let read = run("qemu-io", &["-f", "raw", "-r", "-c", "read -P 0 0 64k", text(&base)]);
        assert!(!read.contains("verification failed"), "{read}");
        assert!(holds_data(&overlay).unwrap());
        std::fs::write(&overlay, "damaged").unwrap();
        assert!(holds_data(&overlay).is_err());
    }
}
