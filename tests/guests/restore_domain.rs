//! A domain is restored in place, or as a copy beside the original, with all of its parts: disks, UEFI variables, TPM
//! state, definition.

use crate::lab;
use std::fs;
use std::path::{Path, PathBuf};

use crate::lab::{Contents, Disk, Guest, Lab, Program, sha256, virsh};
use serde_json::json;

const TARGETS: [&str; 2] = ["vda", "vdb"];

/// A machine with two disks, firmware and a TPM, whose state was created by starting it once.
fn machine(lab: &Lab, name: &str) -> Guest {
    let guest = lab
        .guest(name)
        .disk(Disk::qcow2("vda").size("8M"))
        .disk(Disk::raw("vdb").size("4M"))
        .uefi()
        .tpm()
        .devices("<interface type='user'/><interface type='user'/>")
        .paused();
    guest.write("vda", 0xa1, 1 << 20, 300_032);
    guest.write("vdb", 0xb1, 65536, 65536);
    guest.destroy();
    // As the firmware would write.
    let nvram = nvram(&guest);
    let mut variables = fs::read(&nvram).unwrap();
    variables[300_000..300_016].copy_from_slice(b"a boot variable.");
    fs::write(nvram, variables).unwrap();
    guest
}

fn nvram(guest: &Guest) -> PathBuf {
    let xml = guest.inactive_xml();
    let (_, after) = xml.split_once("<nvram").expect("the machine has UEFI variables");
    PathBuf::from(after.split(['>', '<']).nth(1).unwrap())
}

fn uuid(guest: &Guest) -> String {
    virsh(&["domuuid", guest.name()]).trim().to_owned()
}

fn tpm(guest: &Guest) -> PathBuf {
    Path::new("/var/lib/libvirt/swtpm").join(uuid(guest)).join("tpm2/tpm2-00.permall")
}

fn macs(guest: &Guest) -> Vec<String> {
    let xml = guest.inactive_xml();
    xml.split("<mac address='").skip(1).map(|rest| rest.split('\'').next().unwrap().to_owned()).collect()
}

fn starts_with_the_host(guest: &Guest) -> bool {
    let info = virsh(&["dominfo", guest.name()]);
    info.lines().any(|line| line.starts_with("Autostart:") && line.contains("enable"))
}

#[test]
fn restore_in_place_recreates_the_domain_exactly() {
    let lab = Lab::new();
    let guest = machine(&lab, "in place");
    let contents = Contents::of(&lab, &guest, &TARGETS);
    let beside = [nvram(&guest), tpm(&guest)];
    let sums = beside.each_ref().map(|file| sha256(file));
    let definition = guest.inactive_xml();
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    program.backup_well();

    guest.write_while_off("vda", 0xee, 1 << 20, 65536);
    guest.write_while_off("vdb", 0xee, 0, 4 << 20);
    for file in &beside {
        let length = fs::metadata(file).unwrap().len();
        fs::write(file, vec![0xee; length as usize]).unwrap();
    }
    virsh(&["setmaxmem", guest.name(), "300M", "--config"]);
    virsh(&["autostart", guest.name()]);
    assert!(starts_with_the_host(&guest) && guest.inactive_xml() != definition);

    let ran = program.run(&["restore", guest.name(), "--define", "--overwrite"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    contents.assert_still_on(&guest);
    assert_eq!([nvram(&guest), tpm(&guest)], beside);
    assert_eq!(beside.each_ref().map(|file| sha256(file)), sums);
    assert_eq!(guest.inactive_xml(), definition);
    assert!(!starts_with_the_host(&guest), "it has autostart, which was not requested");
    assert_eq!(guest.state(), "shut off");
    program.assert_no_leftovers(&guest);
    for file in &beside {
        assert!(!fs::read_dir(file.parent().unwrap()).unwrap().any(|entry| is_ours(&entry.unwrap().path())));
    }
    guest.start_paused();
    assert_eq!(guest.state(), "paused");
}

/// Whether it is a temporary name of a restore.
fn is_ours(path: &Path) -> bool {
    path.to_string_lossy().contains(".kvmbackup-")
}

#[test]
fn copy_shares_only_the_directory_of_the_original() {
    let lab = Lab::new();
    let guest = machine(&lab, "original");
    let contents = Contents::of(&lab, &guest, &TARGETS);
    let sums = [nvram(&guest), tpm(&guest)].map(|file| sha256(&file));
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    program.backup_well();
    virsh(&["autostart", guest.name()]);
    guest.start_paused();
    let definition = guest.inactive_xml();

    let ran = program.run(&["restore", guest.name(), "--define", "--name", "the copy"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let copy = lab.adopt("the copy");
    for target in TARGETS {
        let [theirs, own] = [&guest, &copy].map(|guest| guest.disk_source(target).unwrap());
        assert!(theirs != own && theirs.parent() == own.parent(), "{theirs:?} {own:?}");
    }
    contents.assert_still_on(&copy);
    let beside = [nvram(&copy), tpm(&copy)];
    assert_eq!(beside.each_ref().map(|file| sha256(file)), sums);
    assert!(beside[0] != nvram(&guest) && uuid(&copy) != uuid(&guest));
    let (own, theirs) = (macs(&copy), macs(&guest));
    assert!(own.len() == 2 && theirs.len() == 2 && !own.iter().any(|mac| theirs.contains(mac)), "{own:?} {theirs:?}");
    assert!(!starts_with_the_host(&copy) && starts_with_the_host(&guest));
    assert_eq!((copy.state().as_str(), guest.state().as_str()), ("shut off", "paused"));
    assert_eq!(guest.inactive_xml(), definition);

    // Both at the same time: QEMU would refuse an image that both have, and swtpm a shared state.
    copy.start_paused();
    copy.write("vda", 0xcc, 0, 65536);
    guest.write("vdb", 0xdd, 0, 512);
    copy.assert_holds("vdb", 0, 0, 512);
    guest.assert_holds("vda", 0, 0, 65536);
}

#[test]
fn disk_on_a_device_is_restored_there_only_on_request() {
    let lab = Lab::new();
    let guest = lab.guest("on a device").disk(Disk::block("vda").size("4M")).define();
    guest.write_while_off("vda", 0x11, 1 << 20, 65536);
    let contents = Contents::of(&lab, &guest, &["vda"]);
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    program.backup_well();
    guest.write_while_off("vda", 0xee, 0, 4 << 20);
    virsh(&["undefine", guest.name()]);

    let device = guest_device(&lab);
    let ran = program.run(&["restore", guest.name(), "--define"]);
    assert!(ran.code == 1 && ran.stderr.contains("--overwrite") && ran.stderr.contains(&device), "{ran:#?}");
    assert!(lab::try_virsh(&["domuuid", guest.name()]).is_err(), "the domain was defined");
    // Only the archive says that the device belongs to the domain, not a definition of this host.
    let ran = program.run(&["restore", guest.name(), "--define", "--overwrite"]);
    assert!(ran.code == 1 && ran.stderr.contains("--disk vda=/dev/") && ran.stderr.contains(&device), "{ran:#?}");
    let ran = program.run(&["restore", guest.name(), "--define", "--disk", &format!("vda={device}")]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    contents.assert_still_on(&guest);
    guest.write_while_off("vda", 0xee, 0, 4 << 20);
    let ran = program.run(&["restore", guest.name(), "--define", "--overwrite"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert_eq!(guest.disk_source("vda").unwrap().to_str().unwrap(), device);
    contents.assert_still_on(&guest);
    guest.start_paused();
}

/// The only loop device of a lab.
fn guest_device(lab: &Lab) -> String {
    let devices = lab::run("losetup", &["--list", "--noheadings", "--raw", "--output", "NAME,BACK-FILE"]);
    let of_lab = devices.lines().filter_map(|line| line.split_once(' '));
    let mut of_lab = of_lab.filter(|(_, file)| file.starts_with(lab.dir().to_str().unwrap()));
    of_lab.next().expect("the lab has a loop device").0.to_owned()
}

#[test]
fn copy_on_a_named_device_starts_from_it() {
    let lab = Lab::new();
    let guest = lab.guest("to a device").disk(Disk::qcow2("vda").size("4M")).paused();
    guest.write("vda", 0x22, 1 << 20, 65536);
    let contents = Contents::of(&lab, &guest, &["vda"]);
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    program.backup_well();
    let backing = lab.path("backing.raw");
    fs::write(&backing, vec![0x77; 6 << 20]).unwrap();
    let device = lab::LoopDevice::attach(&backing);
    let choice = format!("vda={}", device.path().display());

    // Naming the device is consent: no --overwrite is needed.
    let ran = program.run(&["restore", guest.name(), "--disk", &choice]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let held = fs::read(device.path()).unwrap();
    assert!(held[1 << 20..(1 << 20) + 65536].iter().all(|byte| *byte == 0x22), "it lacks the guest's bytes");
    assert!(held[..1 << 20].iter().all(|byte| *byte == 0), "the former contents are visible");
    assert!(held[4 << 20..].iter().all(|byte| *byte == 0x77), "more than the disk was written");

    let ran = program.run(&["restore", guest.name(), "--define", "--name", "on the device", "--disk", &choice]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let copy = lab.adopt("on the device");
    assert_eq!(copy.disk_source("vda").unwrap(), device.path());
    copy.start_paused();
    copy.assert_holds("vda", 0x22, 1 << 20, 65536);
    let ran = program.run(&["restore", guest.name(), "--disk", &choice]);
    assert!(
        ran.code == 1 && ran.stderr.contains("in use by domain on the device"),
        "a running guest has the device: {ran:#?}"
    );
    copy.destroy();
    contents.assert_still_on(&guest);
}
