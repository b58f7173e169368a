//! A domain in the lab's libvirtd: starting, stopping, its XML and its disks. Functions of the agent are in `agent.rs`.

use std::path::{Path, PathBuf};

use super::disk::MadeDisk;
use super::disk::SECRET;
use super::leftovers::Baseline;
use super::{BOOT_DEADLINE, DEADLINE, Lab, domain_xml, free_port, qemu_img, run, try_virsh, virsh, wait_until};

/// A domain. Dropping it destroys and undefines it; if the test has failed, its console is printed first.
pub struct Guest {
    pub(super) name: String,
    pub(super) baseline: Baseline,
    _disks: Vec<MadeDisk>,
}

impl Guest {
    pub(super) fn defined(name: &str, disks: Vec<MadeDisk>) -> Self {
        let baseline = Baseline::of(&inactive_xml(name), name);
        Guest { name: name.to_owned(), baseline, _disks: disks }
    }

    pub(super) fn adopt(_lab: &Lab, name: &str) -> Self {
        Guest::defined(name, vec![])
    }

    /// Makes the guest's current disks, files and snapshots the expected state for the end.
    pub fn take_as_it_is(&mut self) {
        self.baseline = Baseline::of(&self.inactive_xml(), &self.name);
    }

    /// The domain was renamed.
    pub fn renamed(&mut self, name: &str) {
        name.clone_into(&mut self.name);
    }

    /// The domain's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts the machine with its CPU stopped: no operating system runs, and its disks change only by
    /// [`Guest::write`].
    pub fn start_paused(&self) {
        virsh(&["start", "--paused", &self.name]);
    }

    /// Starts the lab's operating system and waits until it is up.
    pub fn boot(&self) {
        virsh(&["start", &self.name]);
        self.wait_ready();
    }

    /// Waits until the lab's operating system is up: its agent answers or, without one, its console says so.
    pub fn wait_ready(&self) {
        let what = format!("guest {} to be up", self.name);
        if self.live_xml().contains("kb.noagent") {
            wait_until(BOOT_DEADLINE, &what, || self.console().contains("KB-READY"));
        } else {
            wait_until(BOOT_DEADLINE, &what, || self.try_agent("guest-ping").is_ok());
        }
    }

    /// `running`, `paused`, `shut off`, …: the output of `virsh domstate`.
    pub fn state(&self) -> String {
        virsh(&["domstate", &self.name]).trim().to_owned()
    }

    /// Shuts the system down by its power button and waits until it is off.
    pub fn shutdown(&self) {
        virsh(&["shutdown", "--mode", "acpi", &self.name]);
        wait_until(DEADLINE, &format!("guest {} to turn itself off", self.name), || self.state() == "shut off");
    }

    /// Powers the machine off at once.
    pub fn destroy(&self) {
        virsh(&["destroy", &self.name]);
    }

    /// Starts a backup job in pull mode, as another program would; it lasts until `virsh domjobabort`.
    pub fn begin_pull_of_another(&self, lab: &Lab) {
        let (job, port) = (lab.path("job.xml"), free_port());
        let xml = format!("<domainbackup mode='pull'><server name='127.0.0.1' port='{port}'/></domainbackup>");
        std::fs::write(&job, xml).expect("cannot write a file");
        virsh(&["backup-begin", &self.name, job.to_str().expect("paths are UTF-8")]);
    }

    /// Takes an internal snapshot; returns its name. libvirt 11 names a job of QEMU after it, which must not contain
    /// blanks.
    pub fn snapshot_inside(&self, name: &str) -> String {
        if try_virsh(&["snapshot-create-as", &self.name, name]).is_ok() {
            return name.to_owned();
        }
        let plain = name.replace(' ', "-");
        virsh(&["snapshot-create-as", &self.name, &plain]);
        plain
    }

    /// The current domain XML.
    pub fn live_xml(&self) -> String {
        virsh(&["dumpxml", &self.name])
    }

    /// The domain XML of the next start.
    pub fn inactive_xml(&self) -> String {
        inactive_xml(&self.name)
    }

    /// The machine's output on its serial console, with QEMU's own messages, since its last start.
    pub fn console(&self) -> String {
        let log = format!("/var/log/libvirt/qemu/{}.log", self.name);
        let log = std::fs::read(log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        // libvirt writes QEMU's command line first, and these are its last arguments.
        log.rsplit("-msg timestamp=on\n").next().unwrap_or_default().to_owned()
    }

    /// The file or device of a disk now. None: an empty drive.
    pub fn disk_source(&self, target: &str) -> Option<PathBuf> {
        self.source_in(&self.live_xml(), target)
    }

    fn source_in(&self, xml: &str, target: &str) -> Option<PathBuf> {
        let sources = domain_xml::disk_sources(xml);
        sources.get(target).unwrap_or_else(|| panic!("guest {} has no disk {target}", self.name)).clone()
    }

    /// Writes `len` bytes of `pattern` at `offset` to a disk of the started machine, and flushes them.
    pub fn write(&self, target: &str, pattern: u8, offset: u64, len: u64) {
        self.qemu_io(target, &[&format!("write -P {pattern:#x} {offset} {len}"), "flush"]);
        self.assert_holds(target, pattern, offset, len);
    }

    /// Makes the started machine itself run commands of `qemu-io` on a disk. QEMU prints their results only to its log,
    /// so a caller should check the image.
    pub fn qemu_io(&self, target: &str, commands: &[&str]) {
        let commands: Vec<_> = commands.iter().map(|command| (target, (*command).to_owned())).collect();
        self.qemu_io_at_once(&commands);
    }

    /// [`Guest::qemu_io`] with pairs of a disk and a command, one right after the other.
    ///
    /// The device's path is needed: node names conflict with the guest's own permissions.
    pub fn qemu_io_at_once(&self, commands: &[(&str, String)]) {
        let xml = self.live_xml();
        let monitor = |(target, command): &(&str, String)| {
            let alias = domain_xml::disk_alias(&xml, target);
            let backend = if alias.starts_with("virtio-") { "/virtio-backend" } else { "" };
            let line = format!("qemu-io -d /machine/peripheral/{alias}{backend} \"{command}\"");
            format!("qemu-monitor-command {} --hmp {}", quoted(&self.name), quoted(&line))
        };
        let script: Vec<_> = commands.iter().map(monitor).collect();
        let answer = virsh(&[&script.join("; ")]);
        assert_eq!(answer.trim(), "", "{commands:?}");
    }

    /// Writes `len` bytes of `pattern` at `offset` to a disk of the machine while that is off.
    pub fn write_while_off(&self, target: &str, pattern: u8, offset: u64, len: u64) {
        let write = format!("write -P {pattern:#x} {offset} {len}");
        run(
            "qemu-io",
            &["--object", SECRET, "--image-opts", &self.image_options(&self.live_xml(), target), "-c", &write],
        );
        self.assert_holds(target, pattern, offset, len);
    }

    /// Panics unless a disk contains `len` bytes of `pattern` at `offset`. Data that the operating system of a running
    /// guest has not written yet is not seen.
    pub fn assert_holds(&self, target: &str, pattern: u8, offset: u64, len: u64) {
        let read = format!("read -P {pattern:#x} {offset} {len}");
        let image = self.image_options(&self.live_xml(), target);
        let answer = run("qemu-io", &["-r", "-U", "--object", SECRET, "--image-opts", &image, "-c", &read]);
        assert!(answer.contains(&format!("read {len}/{len} bytes")), "cannot read {target}: {answer}");
        assert!(!answer.contains("Pattern verification failed"), "{target} contains something else: {answer}");
    }

    /// Copies a disk's current contents to a new raw file `to`, for comparison. The machine must be off, paused or
    /// frozen, because unwritten data is not included.
    pub fn copy_contents(&self, target: &str, to: &Path) {
        let image = self.image_options(&self.live_xml(), target);
        let to = to.to_str().expect("paths are UTF-8");
        qemu_img(&["convert", "--object", SECRET, "-U", "--image-opts", &image, "-O", "raw", to]);
    }

    /// A disk's image as an argument of QEMU's tools, which may use [`SECRET`].
    fn image_options(&self, xml: &str, target: &str) -> String {
        let source = self.source_in(xml, target).unwrap_or_else(|| panic!("{target} is empty"));
        let (format, encrypted) = domain_xml::disk_format(xml, target);
        let source = source.to_str().expect("paths are UTF-8").replace(',', ",,");
        let key = if encrypted { ",encrypt.key-secret=lab" } else { "" };
        format!("driver={format},file.filename={source}{key}")
    }
}

/// A word quoted for `virsh` in a line of several commands.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn inactive_xml(name: &str) -> String {
    virsh(&["dumpxml", "--inactive", name])
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- console of guest {} ----\n{}\n----", self.name, self.console());
        }
        let _ = try_virsh(&["destroy", &self.name]);
        let options = ["--nvram", "--managed-save", "--snapshots-metadata", "--checkpoints-metadata"];
        let _ = try_virsh(&[&["undefine", &self.name], &options[..]].concat());
    }
}
