//! Describes a guest and defines it: writes the domain XML.

use std::path::PathBuf;

use super::disk::{Disk, escape};
use super::{Guest, Lab, guest_system, virsh};

/// A guest to define: by default a machine with neither disks nor operating system, and 256 MiB of memory.
pub struct GuestBuilder {
    name: String,
    folder: PathBuf,
    disks: Vec<Disk>,
    system: Option<String>,
    uefi: bool,
    tpm: bool,
    extra: String,
    os: String,
    elements: String,
}

impl GuestBuilder {
    pub(super) fn new(lab: &Lab, name: &str) -> Self {
        let folder = lab.path("images").join(name);
        let name = name.to_owned();
        let (extra, os, elements) = (String::new(), String::new(), String::new());
        GuestBuilder { name, folder, disks: vec![], system: None, uefi: false, tpm: false, extra, os, elements }
    }

    /// Adds a disk. Its image is in `images/<guest's name>` of the lab's directory, named `<target>.<format>`.
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Boots the lab's operating system, directly by kernel and initramfs. `words` are for its kernel command line: see
    /// `guest-root/init`; with `kb.noagent` there is no agent.
    pub fn system(mut self, words: &str) -> Self {
        self.system = Some(words.into());
        self
    }

    /// UEFI firmware, with an NVRAM file at libvirt's default path.
    pub fn uefi(mut self) -> Self {
        self.uefi = true;
        self
    }

    /// A TPM 2.0 by swtpm; libvirt keeps its state.
    pub fn tpm(mut self) -> Self {
        self.tpm = true;
        self
    }

    /// More XML for `<devices>`.
    pub fn devices(mut self, xml: &str) -> Self {
        self.extra.push_str(xml);
        self
    }

    /// More XML for `<os>`: firmware of another kind.
    pub fn os(mut self, xml: &str) -> Self {
        self.os.push_str(xml);
        self
    }

    /// More XML for `<domain>`.
    pub fn elements(mut self, xml: &str) -> Self {
        self.elements.push_str(xml);
        self
    }

    /// Creates the images and defines the domain, which stays off.
    pub fn define(mut self) -> Guest {
        std::fs::create_dir_all(&self.folder).expect("cannot create the image directory");
        let disks: Vec<_> = std::mem::take(&mut self.disks).into_iter().map(|disk| disk.create(&self.folder)).collect();
        let disks_xml: String = disks.iter().map(|disk| disk.xml()).collect();
        let file = tempfile::NamedTempFile::new().expect("cannot create a file");
        std::fs::write(file.path(), self.xml(&disks_xml)).expect("cannot write a file");
        virsh(&["define", "--validate", file.path().to_str().expect("temporary paths are UTF-8")]);
        Guest::defined(&self.name, disks)
    }

    /// [`GuestBuilder::define`], then [`Guest::start_paused`].
    pub fn paused(self) -> Guest {
        let guest = self.define();
        guest.start_paused();
        guest
    }

    /// [`GuestBuilder::define`], then [`Guest::boot`].
    pub fn boot(self) -> Guest {
        let guest = self.define();
        guest.boot();
        guest
    }

    fn xml(&self, disks: &str) -> String {
        format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type>{firmware}{os}{system}</os>\
             <features><acpi/></features><cpu mode='maximum'/>{elements}\
             <devices>{disks}<controller type='scsi' model='virtio-scsi'/>\
             <serial type='stdio'/><memballoon model='none'/>\
             {agent}{tpm}{extra}</devices></domain>",
            name = escape(&self.name),
            firmware = if self.uefi { UEFI } else { "" },
            system = self.system_xml(),
            agent = if self.system.is_some() { AGENT } else { "" },
            tpm = if self.tpm { TPM } else { "" },
            extra = self.extra,
            os = self.os,
            elements = self.elements,
        )
    }

    fn system_xml(&self) -> String {
        let Some(words) = &self.system else { return String::new() };
        let folder = guest_system();
        let folder = escape(folder.to_str().expect("the lab's path is UTF-8"));
        format!(
            "<kernel>{folder}/vmlinuz</kernel><initrd>{folder}/initramfs</initrd>\
             <cmdline>console=ttyS0 quiet panic=1 {EMULATED} {}</cmdline>",
            escape(words)
        )
    }
}

/// Leaves out features that an emulated processor is slow at and no test needs. On a busy machine the check of the
/// timer would fail.
pub(super) const EMULATED: &str = "mitigations=off nokaslr no5lvl no_timer_check";
const UEFI: &str = "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>\
                    <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'/>";
const AGENT: &str = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>";
const TPM: &str = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>";
