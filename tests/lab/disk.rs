//! The disks of a guest: creates their images and writes their part of the domain XML.

use std::path::{Path, PathBuf};

use super::command::{qemu_img, run, try_run, virsh};
use super::{DEADLINE, wait_until};

/// The passphrase of every encrypted disk.
pub const LUKS_PASSPHRASE: &str = "open sesame";

/// The same as an object for QEMU's tools, named `lab`.
pub(super) const SECRET: &str = "secret,id=lab,data=open sesame";

/// What stores the contents of a disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Medium {
    Qcow2,
    Raw,
    /// A loop device on a raw file.
    Block,
    /// A qcow2 file encrypted with [`LUKS_PASSPHRASE`].
    Luks,
    Cdrom,
    Floppy,
}

/// A disk to create. Its target decides the bus: `vda` is virtio, `sda` SCSI (SATA for a CD-ROM), `fda` a floppy.
pub struct Disk {
    pub(super) target: String,
    medium: Medium,
    size: String,
    file: Option<PathBuf>,
    backing: Option<PathBuf>,
    flags: Vec<&'static str>,
    snapshot: Option<&'static str>,
}

impl Disk {
    /// A qcow2 file of 64 MiB.
    pub fn qcow2(target: &str) -> Self {
        Disk::new(target, Medium::Qcow2)
    }

    /// A sparse raw file of 64 MiB.
    pub fn raw(target: &str) -> Self {
        Disk::new(target, Medium::Raw)
    }

    /// A block device of 64 MiB: a loop device on a raw file.
    pub fn block(target: &str) -> Self {
        Disk::new(target, Medium::Block)
    }

    /// A qcow2 file of 64 MiB, encrypted; libvirt keeps the secret.
    pub fn luks(target: &str) -> Self {
        Disk::new(target, Medium::Luks)
    }

    /// An empty CD-ROM drive; insert a medium with [`Disk::file`].
    pub fn cdrom(target: &str) -> Self {
        Disk::new(target, Medium::Cdrom)
    }

    /// A floppy of 1440 KiB.
    pub fn floppy(target: &str) -> Self {
        Disk::new(target, Medium::Floppy).size("1440K")
    }

    fn new(target: &str, medium: Medium) -> Self {
        let target = target.to_owned();
        Disk { target, medium, size: "64M".into(), file: None, backing: None, flags: vec![], snapshot: None }
    }

    /// The size that the guest sees, in `qemu-img`'s notation.
    pub fn size(mut self, size: &str) -> Self {
        self.size = size.into();
        self
    }

    /// The image's path, absolute or relative to the guest's image directory. An existing file is used unchanged.
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Puts the (qcow2) image on a backing file, whose format follows from its suffix: `.raw`, else qcow2. The size is
    /// that of the backing file.
    pub fn backing(mut self, path: impl Into<PathBuf>) -> Self {
        self.backing = Some(path.into());
        self
    }

    /// The disk is read-only for the guest.
    pub fn readonly(mut self) -> Self {
        self.flags.push("readonly");
        self
    }

    /// Other guests may use it, too.
    pub fn shareable(mut self) -> Self {
        self.flags.push("shareable");
        self
    }

    /// The guest's writes are dropped when it stops.
    pub fn transient(mut self) -> Self {
        self.flags.push("transient");
        self
    }

    /// The disk's own `snapshot` attribute: `no`, `internal`, `external` or `manual`.
    pub fn snapshot(mut self, word: &'static str) -> Self {
        self.snapshot = Some(word);
        self
    }

    /// Creates the image, unless it exists.
    pub(super) fn create(self, folder: &Path) -> MadeDisk {
        let suffix = match self.medium {
            Medium::Qcow2 | Medium::Luks => "qcow2",
            Medium::Raw | Medium::Block | Medium::Floppy => "raw",
            Medium::Cdrom => "iso",
        };
        let default = (self.medium != Medium::Cdrom).then(|| PathBuf::from(format!("{}.{suffix}", self.target)));
        let file = self.file.clone().or(default).map(|file| folder.join(file));
        if let Some(file) = &file
            && !file.exists()
        {
            std::fs::create_dir_all(file.parent().expect("an image is in a directory"))
                .expect("cannot create a directory");
            self.create_image(file);
        }
        let secret = (self.medium == Medium::Luks).then(define_secret);
        let device = (self.medium == Medium::Block)
            .then(|| LoopDevice::attach(file.as_deref().expect("a block device has a file")));
        MadeDisk { disk: self, file, device, secret }
    }

    fn create_image(&self, file: &Path) {
        let file = file.to_str().expect("image paths are UTF-8");
        let create = |arguments: &[&str]| drop(qemu_img(&[&["create", "-q", "-f"], arguments].concat()));
        match (self.medium, &self.backing) {
            (Medium::Qcow2, Some(backing)) => {
                let format = if backing.extension().is_some_and(|suffix| suffix == "raw") { "raw" } else { "qcow2" };
                let backing = backing.to_str().expect("image paths are UTF-8");
                create(&["qcow2", "-b", backing, "-F", format, file]);
            }
            (Medium::Qcow2, None) => create(&["qcow2", file, &self.size]),
            (Medium::Luks, _) => {
                let options = "encrypt.format=luks,encrypt.key-secret=lab,encrypt.iter-time=10";
                create_encrypted(&["create", "-q", "--object", SECRET, "-f", "qcow2", "-o", options, file, &self.size]);
            }
            (_, _) => create(&["raw", file, &self.size]),
        }
    }
}

/// A disk with an existing image. Dropping it detaches its loop device and removes its secret; the image stays.
pub(super) struct MadeDisk {
    disk: Disk,
    file: Option<PathBuf>,
    device: Option<LoopDevice>,
    secret: Option<String>,
}

impl MadeDisk {
    /// The `<disk>` element.
    pub(super) fn xml(&self) -> String {
        let Disk { target, medium, flags, snapshot, .. } = &self.disk;
        let (device, bus) = match (medium, &target[..1]) {
            (Medium::Cdrom, _) => ("cdrom", "sata"),
            (Medium::Floppy, _) => ("floppy", "fdc"),
            (_, "s") => ("disk", "scsi"),
            (_, _) => ("disk", "virtio"),
        };
        let format = if matches!(medium, Medium::Qcow2 | Medium::Luks) { "qcow2" } else { "raw" };
        let kind = if self.device.is_some() { "block" } else { "file" };
        let snapshot = snapshot.map(|word| format!(" snapshot='{word}'")).unwrap_or_default();
        let flags: String = flags.iter().map(|flag| format!("<{flag}/>")).collect();
        format!(
            "<disk type='{kind}' device='{device}'{snapshot}><driver name='qemu' type='{format}' discard='unmap'/>\
             {}<target dev='{target}' bus='{bus}'/>{flags}</disk>",
            self.source_xml()
        )
    }

    fn source_xml(&self) -> String {
        let Some(file) = &self.file else { return String::new() };
        let (attribute, path) = match &self.device {
            Some(device) => ("dev", device.path()),
            None => ("file", file.as_path()),
        };
        let path = escape(path.to_str().expect("image paths are UTF-8"));
        let encryption = match &self.secret {
            Some(uuid) => {
                format!("<encryption format='luks'><secret type='passphrase' uuid='{uuid}'/></encryption>")
            }
            None => String::new(),
        };
        format!("<source {attribute}='{path}'>{encryption}</source>")
    }
}

impl Drop for MadeDisk {
    fn drop(&mut self) {
        if let Some(uuid) = &self.secret {
            let _ = super::try_virsh(&["secret-undefine", uuid]);
        }
    }
}

/// For LUKS, qemu-img measures the speed of the machine, and fails if that is too busy.
fn create_encrypted(create: &[&str]) {
    wait_until(DEADLINE, "QEMU to make an encrypted image", || {
        let output = try_run("qemu-img", create);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || error.contains("accurate CPU usage"), "qemu-img {create:?}: {error}");
        output.status.success()
    });
}

/// Stores the passphrase in libvirt; returns the secret's UUID.
fn define_secret() -> String {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").expect("the kernel makes UUIDs");
    let uuid = uuid.trim().to_owned();
    let xml = tempfile::NamedTempFile::new().expect("cannot create a file");
    let text = format!("<secret ephemeral='no' private='no'><uuid>{uuid}</uuid></secret>");
    std::fs::write(xml.path(), text).expect("cannot write a file");
    virsh(&["secret-define", xml.path().to_str().expect("temporary paths are UTF-8")]);
    let value = tempfile::NamedTempFile::new().expect("cannot create a file");
    std::fs::write(value.path(), LUKS_PASSPHRASE).expect("cannot write a file");
    virsh(&["secret-set-value", &uuid, "--plain", "--file", value.path().to_str().expect("temporary paths are UTF-8")]);
    uuid
}

/// A loop device; detached when dropped.
pub struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    /// Attaches a raw file to a free loop device.
    pub fn attach(file: &Path) -> Self {
        let file = file.to_str().expect("image paths are UTF-8");
        LoopDevice { path: run("losetup", &["--find", "--show", file]).trim().into() }
    }

    /// The device's path, `/dev/loopN`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = super::try_run("losetup", &[Path::new("--detach"), &self.path]);
    }
}

/// Text escaped for XML, including attributes.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&apos;").replace('"', "&quot;")
}
