//! Disks whose images the domain XML does not name by a path, and other data that a guest needs besides its disks.

use crate::lab;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::lab::{
    Contents, DEADLINE, Disk, Lab, by_each_method, qemu_img, run, save_contents, save_exactly, sha256, virsh,
    wait_until,
};
use serde_json::json;

by_each_method! {
    volume_of_a_storage_pool_is_saved_exactly
}

fn volume_of_a_storage_pool_is_saved_exactly(method: &str) {
    let lab = Lab::new();
    let pool = Pool::new(&lab, &format!("pool-{method}"));
    let volume = pool.volume("disk 1, größe.qcow2");
    let disk = format!(
        "<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>\
         <source pool='{}' volume='disk 1, größe.qcow2'/><target dev='vdb' bus='virtio'/></disk>",
        pool.name
    );
    let guest = lab.guest(&format!("volume-{method}")).disk(Disk::qcow2("vda")).devices(&disk).paused();
    guest.qemu_io("vdb", &["write -P 0x5b 1M 2M", "flush"]);
    let keys = json!({"method": method});
    for state in ["paused", "shut off"] {
        let mut contents = Contents::of(&lab, &guest, &["vda"]);
        contents.add("vdb", &volume, "qcow2");
        save_contents(&lab, &guest, keys.clone(), &["vda", "vdb"], &contents);
        assert_eq!(std::fs::read_dir(&pool.folder).unwrap().count(), 1, "something was left in the pool");
        if state == "paused" {
            assert!(guest.live_xml().contains("volume='disk 1, größe.qcow2'"), "the live disk left its pool");
            guest.destroy();
        }
    }
}

#[test]
fn network_disk_is_pulled() {
    let lab = Lab::new();
    let (image, socket) = (lab.path("served.raw"), lab.path("nbd.sock"));
    qemu_img(&["create", "-q", "-f", "raw", image.to_str().unwrap(), "64M"]);
    let server = NbdServer::start(&image, &socket);
    run("chmod", &["777", socket.to_str().unwrap()]); // QEMU runs as its own user.
    let disk = format!(
        "<disk type='network' device='disk'><driver name='qemu' type='raw'/>\
         <source protocol='nbd' name=''><host transport='unix' socket='{}'/></source>\
         <target dev='vdb' bus='virtio'/></disk>",
        socket.display()
    );
    let guest = lab.guest("network").disk(Disk::qcow2("vda")).devices(&disk).paused();
    guest.write("vda", 0x0a, 1 << 20, 65536);
    guest.qemu_io("vdb", &["write -P 0x0b 3M 5M", "flush"]);
    let mut contents = Contents::of(&lab, &guest, &["vda"]);
    contents.add("vdb", &image, "raw");
    let saved = save_contents(&lab, &guest, json!({}), &["vda", "vdb"], &contents);
    assert_eq!(saved.outcome()["method"], "pull");
    assert!(saved.outcome()["method_reason"].as_str().unwrap().contains("vdb is on the network"));
    drop((guest, server));
}

#[test]
fn firmware_variables_and_tpm_state_are_in_the_archive() {
    let lab = Lab::new();
    let guest = lab.guest("firmware").disk(Disk::qcow2("vda")).uefi().tpm().paused();
    let xml = guest.live_xml();
    let nvram = xml.split_once("<nvram").unwrap().1.split(['>', '<']).nth(1).unwrap();
    // Data that differs from the template.
    let mut variables = std::fs::read(nvram).unwrap();
    variables[70_000..70_008].copy_from_slice(b"variable");
    std::fs::write(nvram, &variables).unwrap();
    let state = Path::new("/var/lib/libvirt/swtpm").join(virsh(&["domuuid", guest.name()]).trim());

    let saved = save_exactly(&lab, &guest, json!({}), &["vda"]);
    let name = Path::new(nvram).file_name().unwrap().to_str().unwrap();
    assert!(std::fs::read(saved.archive.path(&format!("nvram/{name}"))).unwrap() == variables);
    let files = run("find", &[state.to_str().unwrap(), "-type", "f", "-not", "-name", ".lock", "-printf", "%P\n"]);
    assert!(files.lines().count() > 0, "swtpm has no state");
    for file in files.lines() {
        assert_eq!(sha256(&saved.archive.path(&format!("tpm/{file}"))), sha256(&state.join(file)), "{file}");
    }
    assert!(saved.archive.manifest()["nvram"]["path"] == nvram);
}

#[test]
fn missing_tpm_state_is_reported() {
    let lab = Lab::new();
    let guest = lab.guest("no-tpm-state").disk(Disk::qcow2("vda")).tpm().define();
    let saved = save_exactly(&lab, &guest, json!({}), &["vda"]);
    assert!(saved.outcome()["warnings"].to_string().contains("the TPM state is not backed up"));
    assert!(saved.archive.manifest()["tpm_missing"].is_string());
}

#[test]
fn kernel_and_initrd_of_a_direct_boot_guest_are_in_the_archive() {
    let lab = Lab::new();
    let guest = lab.guest("direct-boot").disk(Disk::qcow2("vda")).system("").paused();
    let saved = save_exactly(&lab, &guest, json!({}), &["vda"]);
    for (element, file) in [("kernel", "vmlinuz"), ("initrd", "initramfs")] {
        let original = lab::guest_system().join(file);
        assert_eq!(sha256(&saved.archive.path(&format!("boot/{element}"))), sha256(&original));
        let boot = saved.archive.manifest()["boot"].to_string();
        assert!(boot.contains(original.to_str().unwrap()), "{boot}");
    }
}

/// The three forms of the XML, as libvirt prints them, including secrets.
#[test]
fn all_forms_of_the_xml_are_in_the_archive() {
    let lab = Lab::new();
    let graphics = "<graphics type='vnc' autoport='yes' listen='127.0.0.1' passwd='geheim'/>";
    let guest = lab.guest("xml").disk(Disk::qcow2("vda")).devices(graphics).paused();
    let saved = save_exactly(&lab, &guest, json!({"method": "pull"}), &["vda"]);
    let forms = [("domain.xml", ""), ("domain-inactive.xml", "--inactive"), ("domain-migratable.xml", "--migratable")];
    for (member, form) in forms {
        let words = ["dumpxml", "--security-info", form, guest.name()];
        let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let member = std::fs::read_to_string(saved.archive.path(member)).unwrap();
        assert_eq!(member.trim(), virsh(&words).trim());
        assert!(member.contains("passwd='geheim'"));
    }
}

/// A storage pool on a directory, with qcow2 volumes.
struct Pool {
    name: String,
    folder: PathBuf,
}

impl Pool {
    fn new(lab: &Lab, name: &str) -> Self {
        let folder = lab.path("the pool");
        std::fs::create_dir(&folder).unwrap();
        virsh(&["pool-create-as", name, "dir", "--target", folder.to_str().unwrap()]);
        Pool { name: name.to_owned(), folder }
    }

    fn volume(&self, name: &str) -> PathBuf {
        virsh(&["vol-create-as", &self.name, name, "32M", "--format", "qcow2"]);
        self.folder.join(name)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = lab::try_virsh(&["pool-destroy", &self.name]);
    }
}

/// A storage server: `qemu-nbd` on a unix socket.
struct NbdServer(Child);

impl NbdServer {
    fn start(image: &Path, socket: &Path) -> Self {
        let mut command = Command::new("qemu-nbd");
        command.args(["--persistent", "--shared=8", "--discard=unmap", "--format=raw", "--socket"]);
        let server = NbdServer(command.arg(socket).arg(image).spawn().unwrap());
        // The socket has a name before the server listens.
        wait_until(DEADLINE, "qemu-nbd to listen", || UnixStream::connect(socket).is_ok());
        server
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
