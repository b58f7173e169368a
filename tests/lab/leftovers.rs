//! Checks that a backup leaves a guest's disks, jobs and image directories unchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::domain_xml::disk_sources;
use super::guest::quoted;
use super::{DEADLINE, Guest, try_virsh, virsh_all, wait_until};

/// The state of the guest when it was defined.
pub(super) struct Baseline {
    sources: BTreeMap<String, Option<PathBuf>>,
    files: BTreeSet<PathBuf>,
    snapshots: String,
}

impl Baseline {
    pub(super) fn of(xml: &str, name: &str) -> Self {
        let sources = disk_sources(xml);
        let files = files_beside(&sources);
        Baseline { sources, files, snapshots: snapshots(name) }
    }
}

impl Guest {
    /// Panics unless everything is as it was when the guest was defined: each disk on its own image, no additional file
    /// in the directories of the images, no block job, no backup job, no `qemu-nbd` on any of its images, and the guest
    /// not frozen.
    pub fn assert_no_leftovers(&self) {
        let name = &self.name;
        // The kernel sends a signal to those of a killed program, and they end when they handle it.
        wait_until(DEADLINE, &format!("the end of every qemu-nbd of {name}"), || {
            qemu_nbd_on(&self.baseline.sources).is_empty()
        });
        let word = quoted(name);
        let [inactive, snapshots, state] = virsh_all([
            &format!("dumpxml --inactive {word}"),
            &format!("snapshot-list --name {word}"),
            &format!("domstate {word}"),
        ]);
        assert_eq!(disk_sources(&inactive), self.baseline.sources, "{name}: the definition's disks changed");
        let more: Vec<_> = files_beside(&self.baseline.sources).difference(&self.baseline.files).cloned().collect();
        assert!(more.is_empty(), "{name}: files were left beside the images: {more:?}");
        assert_eq!(snapshots, self.baseline.snapshots, "{name}: the snapshots changed");
        if state.trim() == "shut off" {
            return;
        }
        let [xml, job] = virsh_all([&format!("dumpxml {word}"), &format!("domjobinfo {word}")]);
        assert_eq!(sources_below(&xml), self.baseline.sources, "{name}: the running guest's disks changed");
        assert!(!xml.contains("<mirror"), "{name}: a block job is still running: {xml}");
        assert!(job.contains("None"), "{name}: a job is still running: {job}");
        let asked = xml.contains("state='connected'") && state.trim() == "running";
        assert!(!asked || !self.is_frozen(), "{name}: the file systems are frozen");
    }
}

/// The names of the snapshots that libvirt keeps of a domain.
fn snapshots(name: &str) -> String {
    try_virsh(&["snapshot-list", "--name", name]).unwrap_or_default()
}

/// libvirt's name for the file with a guest's writes to a `<transient/>` disk: `IMAGE.TRANSIENT-DOMAIN`.
const TRANSIENT: &str = ".TRANSIENT-";

/// The source of each disk, or its backing image if the disk is transient.
fn sources_below(xml: &str) -> BTreeMap<String, Option<PathBuf>> {
    let mut sources = disk_sources(xml);
    for source in sources.values_mut().flatten() {
        if let Some((image, _)) = source.to_str().and_then(|path| path.split_once(TRANSIENT)) {
            *source = PathBuf::from(image);
        }
    }
    sources
}

/// All files in the directories of the images, except for devices and libvirt's files for transient disks.
fn files_beside(sources: &BTreeMap<String, Option<PathBuf>>) -> BTreeSet<PathBuf> {
    let folders: BTreeSet<_> = sources.values().flatten().filter_map(|source| source.parent()).collect();
    let folders = folders.into_iter().filter(|folder| !folder.starts_with("/dev"));
    let entries = folders.flat_map(|folder| std::fs::read_dir(folder).expect("the image directory exists"));
    let files = entries.map(|entry| entry.expect("the image directory is readable").path());
    files.filter(|file| !file.to_string_lossy().contains(TRANSIENT)).collect()
}

/// The command lines of `qemu-nbd` processes that name one of these images.
fn qemu_nbd_on(sources: &BTreeMap<String, Option<PathBuf>>) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("/proc exists").flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    let names_image = |line: &String| {
        let mut paths = sources.values().flatten().filter_map(|path| path.to_str());
        line.split(' ').next().is_some_and(|program| program.ends_with("qemu-nbd"))
            && paths.any(|path| line.contains(path))
    };
    lines.filter(names_image).collect()
}
