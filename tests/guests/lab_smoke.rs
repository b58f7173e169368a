//! Checks the lab itself: its guests boot, answer, freeze, write and keep what was written; each kind of disk starts.

use crate::lab;
use std::os::unix::fs::MetadataExt as _;

use crate::lab::{DEADLINE, Disk, Host, Lab, LoopDevice, qemu_img, virsh, wait_until};

#[test]
fn guest_boots_writes_and_freezes() {
    let lab = Lab::new();
    let disks = [Disk::qcow2("vda").size("256M"), Disk::raw("sda").size("256M")];
    let guest =
        disks.into_iter().fold(lab.guest("smoke boot"), |guest, disk| guest.disk(disk)).system("kb.writer").boot();

    assert_eq!(guest.agent_exec("echo out; echo err >&2; exit 3").stdout, "out\n");
    for target in ["vda", "sda"] {
        let written = || guest.agent_exec(&format!("grep -c . /mnt/{target}/writer/SUMS")).stdout != "0\n";
        wait_until(DEADLINE, "the writer's first file", written);
        let newest = guest.check_writer_sums(target);
        wait_until(DEADLINE, "the writer to go on", || guest.check_writer_sums(target) > newest);
    }

    virsh(&["domfsfreeze", guest.name()]);
    assert!(guest.is_frozen());
    virsh(&["domfsthaw", guest.name()]);
    assert!(!guest.is_frozen());
    guest.assert_no_leftovers();
    guest.shutdown();
    guest.assert_no_leftovers();
}

#[test]
fn paused_machine_keeps_writes_to_each_kind_of_disk() {
    let lab = Lab::new();
    let disks = [Disk::qcow2("vda"), Disk::raw("vdb"), Disk::block("vdc"), Disk::luks("vdd"), Disk::qcow2("sda")];
    let disks = disks.map(|disk| disk.size("4M"));
    let guest = disks.into_iter().fold(lab.guest("smoke 日本 & <paused>"), |guest, disk| guest.disk(disk)).paused();
    assert_eq!(guest.state(), "paused");

    for target in ["vda", "vdb", "vdc", "vdd", "sda"] {
        guest.write(target, 0xbb, 2 << 20, 65536);
        guest.assert_holds(target, 0xbb, 2 << 20, 65536);
        guest.assert_holds(target, 0, 0, 65536);
        let copy = lab.path(target);
        guest.copy_contents(target, &copy);
        let bytes = std::fs::read(&copy).unwrap();
        let mut expected = vec![0; 4 << 20];
        expected[2 << 20..(2 << 20) + 65536].fill(0xbb);
        assert!(bytes == expected, "{target}");
    }
    guest.assert_no_leftovers();
}

#[test]
fn unusual_disks_start() {
    let lab = Lab::new();
    let base = lab.path("the base.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", base.to_str().unwrap(), "32M"]);
    let iso = lab.path("medium.iso");
    std::fs::write(&iso, vec![0; 65536]).unwrap();
    let guest = lab
        .guest("smoke-disks")
        .disk(Disk::qcow2("vda").backing(&base))
        .disk(Disk::qcow2("vdb").file("a/bild ä, 1.qcow2"))
        .disk(Disk::qcow2("vdc").file("b/bild ä, 1.qcow2"))
        .disk(Disk::raw("vdd").readonly())
        .disk(Disk::raw("vde").shareable())
        .disk(Disk::qcow2("vdf").transient())
        .disk(Disk::qcow2("vdg").snapshot("no"))
        .disk(Disk::cdrom("sdx"))
        .disk(Disk::cdrom("sdy").file(&iso))
        .disk(Disk::floppy("fda"))
        .paused();
    assert_eq!(guest.disk_source("sdx"), None);
    assert_eq!(guest.disk_source("sdy"), Some(iso));
    guest.write("vda", 0xcc, 0, 512);
    assert!(guest.live_xml().contains("<backingStore type='file'"));
    guest.assert_no_leftovers();
}

#[test]
fn machine_with_firmware_and_tpm_starts() {
    let lab = Lab::new();
    let guest = lab.guest("smoke-uefi").disk(Disk::qcow2("vda")).uefi().tpm().paused();
    let xml = guest.live_xml();
    let (_, after) = xml.split_once("<nvram").unwrap();
    let nvram = after.split(['>', '<']).nth(1).unwrap();
    assert!(std::fs::metadata(nvram).unwrap().len() > 0, "{nvram}");
    assert!(std::fs::read_dir("/var/lib/libvirt/swtpm").unwrap().count() > 0);
}

#[test]
fn leftovers_are_detected() {
    let lab = Lab::new();
    let guest = lab.guest("smoke-leftovers").disk(Disk::qcow2("vda")).paused();
    let found = || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| guest.assert_no_leftovers())).is_err();
    assert!(!found());

    let image = guest.disk_source("vda").unwrap();
    let overlay = image.with_extension("overlay");
    let spec = format!("vda,snapshot=external,file={}", overlay.display());
    virsh(&["snapshot-create-as", guest.name(), "--disk-only", "--no-metadata", "--diskspec", &spec]);
    assert!(found(), "an overlay");
    virsh(&["blockcommit", guest.name(), "vda", "--shallow", "--active", "--pivot", "--wait"]);
    assert!(found(), "the overlay's file");
    std::fs::remove_file(overlay).unwrap();
    assert!(!found());
}

#[test]
fn hanging_freeze_hook_hangs_and_a_guest_without_agent_has_none() {
    let lab = Lab::new();
    let hanging = lab.guest("smoke-hang").disk(Disk::qcow2("vda")).system("kb.freezehang=8").boot();
    let silent = lab.guest("smoke-silent").system("kb.noagent").boot();
    assert!(!silent.live_xml().contains("state='connected'"));
    virsh(&["guest-agent-timeout", "--timeout", "4", hanging.name()]);
    assert!(lab::try_virsh(&["domfsfreeze", hanging.name()]).is_err());
    wait_until(DEADLINE, "the late freeze", || {
        hanging.try_agent("guest-fsfreeze-status").is_ok_and(|s| s.contains("frozen"))
    });
    virsh(&["guest-agent-timeout", "--timeout", "30", hanging.name()]);
    virsh(&["domfsthaw", hanging.name()]);
    assert!(!hanging.is_frozen());
}

#[test]
fn loop_device_is_detached_with_its_guard() {
    let lab = Lab::new();
    let file = lab.path("loop.raw");
    qemu_img(&["create", "-q", "-f", "raw", file.to_str().unwrap(), "1M"]);
    let device = LoopDevice::attach(&file);
    let attached = || !lab::run("losetup", &["--associated", file.to_str().unwrap()]).is_empty();
    assert!(attached() && device.path().starts_with("/dev"));
    drop(device);
    wait_until(DEADLINE, "the loop device to be let go of", || !attached());
}

#[test]
fn qemu_has_the_default_setup_of_debian() {
    let lab = Lab::new();
    let guest = lab.guest("smoke-stock").disk(Disk::qcow2("vda")).paused();
    let pid = std::fs::read_to_string("/run/libvirt/qemu/smoke-stock.pid").unwrap();
    let process = std::path::Path::new("/proc").join(pid.trim());
    let qemu = std::fs::metadata(&process).unwrap().uid();
    assert_ne!(qemu, 0, "QEMU runs as its own user");
    let namespace = |process: &std::path::Path| std::fs::read_link(process.join("ns/mnt")).unwrap();
    assert_ne!(namespace(&process), namespace("/proc/self".as_ref()), "QEMU has its own /dev");
    let image = guest.disk_source("vda").unwrap();
    let owner = || std::fs::metadata(&image).unwrap().uid();
    assert_eq!(owner(), qemu, "libvirt gives the image to QEMU's user");
    guest.destroy();
    wait_until(DEADLINE, "libvirt to give the image back", || owner() == 0);
}

#[test]
fn guest_is_migrated_to_a_second_host() {
    let lab = Lab::new();
    let host = Host::start(&lab);
    let guest = lab.guest("smoke-away").disk(Disk::qcow2("vda")).paused();
    guest.write("vda", 0xaa, 0, 512);
    let image = guest.disk_source("vda").unwrap();
    assert_eq!(try_on(&host, guest.name()), "", "a separate host does not know it yet");
    // The disks of a paused guest stay inactive on the destination host, and QEMU dies when they are written to.
    virsh(&["resume", guest.name()]);
    virsh(&["migrate", "--live", "--unsafe", guest.name(), &host.uri(), "tcp://127.0.0.1"]);
    assert_eq!(guest.state(), "shut off");
    assert_eq!(try_on(&host, guest.name()), "running");
    host.on(|| guest.assert_holds("vda", 0xaa, 0, 512));
    host.on(|| guest.write("vda", 0xbb, 512, 512));
    drop(host);
    let read = "read -P 0xbb 512 512";
    assert!(!lab::run("qemu-io", &["-r", "-f", "qcow2", "-c", read, image.to_str().unwrap()]).contains("failed"));
}

fn try_on(host: &Host, guest: &str) -> String {
    host.on(|| lab::try_virsh(&["domstate", guest])).unwrap_or_default().trim().to_owned()
}

#[test]
fn host_can_leave_the_owners_of_images_unchanged() {
    let lab = Lab::new();
    let host = Host::with(&lab, "dynamic_ownership = 0");
    host.on(|| {
        let guest = lab.guest("smoke-owned").disk(Disk::qcow2("vda")).define();
        let image = guest.disk_source("vda").unwrap();
        let refused = lab::try_virsh(&["start", "--paused", guest.name()]).unwrap_err();
        assert!(refused.contains("Permission denied"), "{refused}");
        lab::run("chown", &["libvirt-qemu".as_ref(), image.as_os_str()]);
        guest.start_paused();
        guest.destroy();
        assert_ne!(std::fs::metadata(&image).unwrap().uid(), 0);
    });
}
