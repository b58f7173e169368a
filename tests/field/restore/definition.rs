//! A definition that this host refuses changes nothing, and a hint leads the operator to one that it accepts.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::lab::{Disk, Guest, Lab, LoopDevice, Program, Ran, run, sha256, try_virsh, virsh};

const SAVED: [&str; 2] = ["domain-inactive.xml", "domain-migratable.xml"];

/// A guest that is off, and a restore point of it in which `change` edited the definitions of these names.
fn saved_elsewhere(lab: &Lab, name: &str, members: &[&str], change: impl Fn(String) -> String) -> (Guest, Program) {
    let guest = lab.guest(name).disk(Disk::raw("vda").size("4M")).define();
    guest.write_while_off("vda", 0x31, 0, 65536);
    let program = Program::new(lab).domain(name, json!({"compression": "none"}));
    let report = program.backup_well();
    let archive = program.archive(&report, name);
    let unpacked = program.unpack(&report, name);
    for member in members {
        let path = unpacked.path(member);
        let text = fs::read_to_string(&path).unwrap();
        let changed = change(text.clone());
        assert_ne!(changed, text, "{member}");
        fs::write(path, changed).unwrap();
    }
    // With standard tools, in the order of the format.
    let folder = unpacked.path("");
    let script = "set -e; cd \"$1\"; tar -tf \"$2\" | grep -vx SHA256SUMS >\"$3/list\"; xargs -d '\\n' sha256sum <\"$3/list\" >SHA256SUMS; \
                  echo SHA256SUMS >>\"$3/list\"; tar --format=gnu --owner=0 --group=0 --mode=0600 -b1 -cf \"$3/new\" -T \"$3/list\"; \
                  mv \"$3/new\" \"$2\"; rm \"$3/list\"";
    // The parent of `folder` is shared with other tests.
    run("sh", &["-c", script, "sh", text(&folder), text(&archive), text(&lab.path(""))]);
    (guest, program)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn hint(ran: &Ran) -> &str {
    ran.stderr.split_once("hint: ").expect("there is a hint").1
}

/// The domains of libvirt, running or not, whose names start like this: those of other tests appear and disappear.
fn domains(start: &str) -> Vec<String> {
    let all = virsh(&["list", "--all", "--name"]);
    all.lines().filter(|name| name.starts_with(start)).map(str::to_owned).collect()
}

#[test]
fn refused_definition_changes_no_device_and_no_image() {
    let lab = Lab::new();
    let machine = |xml: String| {
        let (before, after) = xml.split_once("machine='").unwrap();
        format!("{before}machine='pc-q35-99.0'{}", after.split_once('\'').unwrap().1)
    };
    let (guest, program) = saved_elsewhere(&lab, "restore-refused", &SAVED, machine);
    let backing = lab.path("backing.raw");
    fs::write(&backing, vec![0x77; 4 << 20]).unwrap();
    let device = LoopDevice::attach(&backing);
    let into_device = format!("vda={}", device.path().display());
    let image = guest.disk_source("vda").unwrap();
    guest.write_while_off("vda", 0x32, 0, 65536);
    let before = (sha256(&image), sha256(device.path()), guest.inactive_xml(), domains(guest.name()));
    let copy = ["restore", guest.name(), "--define", "--name", "restore-refused-copy", "--disk", &into_device];
    for words in [&copy[..], &["restore", guest.name(), "--define", "--overwrite"]] {
        let ran = program.run(words);
        assert_eq!(ran.code, 1, "{ran:#?}");
        assert!(ran.stderr.contains("pc-q35-99.0") && hint(&ran).contains("--machine TYPE"), "{ran:#?}");
        assert_eq!((sha256(&image), sha256(device.path()), guest.inactive_xml(), domains(guest.name())), before);
    }
    // The hint.
    let ran = program.run(&[&copy[..], &["--machine", "q35"]].concat());
    assert_eq!(ran.code, 0, "{ran:#?}");
    let copy = lab.adopt("restore-refused-copy");
    copy.start_paused();
    copy.assert_holds("vda", 0x31, 0, 65536);
}

#[test]
fn definition_of_a_newer_host_is_replaced_by_the_portable_one() {
    let lab = Lab::new();
    let newer = |xml: String| xml.replace("</devices>", "<watchdog model='newest' action='reset'/></devices>");
    let (guest, program) = saved_elsewhere(&lab, "restore-newer", &SAVED[..1], newer);
    let ran = program.run(&["restore", guest.name(), "--define", "--overwrite"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let tells = [
        "does not accept the saved definition",
        "newest",
        "removed from the definition: watchdog model='newest' action='reset'",
    ];
    assert!(tells.iter().all(|text| ran.stdout.contains(text)), "{ran:#?}");
    assert!(!guest.inactive_xml().contains("newest"));
    guest.start_paused();
    guest.assert_holds("vda", 0x31, 0, 65536);
}

#[test]
fn definition_edited_by_the_operator_is_used() {
    let lab = Lab::new();
    let newer = |xml: String| xml.replace("</devices>", "<watchdog model='newest' action='reset'/></devices>");
    let (guest, program) = saved_elsewhere(&lab, "restore-edited", &SAVED, newer);
    let words = ["restore", guest.name(), "--define", "--overwrite"];
    let ran = program.run(&words);
    assert_eq!(ran.code, 1, "{ran:#?}");
    // The hint: the command that prints the definition.
    let file = lab.path("edited.xml");
    let command = hint(&ran).split_once("--xml FILE: ").unwrap().1.lines().next().unwrap();
    run("sh", &["-c", &command.replace("FILE", text(&file))]);
    let saved = fs::read_to_string(&file).unwrap();
    let with_file = [&words[..], &["--xml", text(&file)]].concat();
    let ran = program.run(&with_file);
    assert!(ran.code == 1 && hint(&ran).contains(&format!("Edit {}", text(&file))), "{ran:#?}");
    fs::write(&file, saved.replace("newest", "i6300esb").replace("<name>restore-edited", "<name>other")).unwrap();
    let ran = program.run(&with_file);
    assert!(ran.code == 1 && ran.stderr.contains("defines other") && hint(&ran).contains("--name NEW"), "{ran:#?}");
    fs::write(&file, saved.replace("newest", "i6300esb")).unwrap();
    let ran = program.run(&with_file);
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert!(guest.inactive_xml().contains("i6300esb"));
    guest.start_paused();
}

#[test]
fn resources_missing_on_this_host_are_named_before_anything_is_written() {
    let lab = Lab::new();
    let guest = lab
        .guest("restore-lacks")
        .disk(Disk::qcow2("vda").size("4M"))
        .devices(
            "<interface type='network'><source network='nowhere-net'/></interface>\
             <interface type='bridge'><source bridge='nowhere-br'/><filterref filter='nowhere-filter'/></interface>\
             <disk type='volume' device='cdrom'><source pool='nowhere-pool' volume='a.iso'/><target dev='sda' bus='sata'/></disk>",
        )
        .define();
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    program.backup_well();
    let ran = program.run(&["restore", guest.name(), "--define", "--overwrite"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let before = ran.stdout.split_once("\nrestored ").expect("the domain was restored").0;
    for name in ["network nowhere-net", "network device nowhere-br", "filter nowhere-filter", "pool nowhere-pool"] {
        let is_told = before.lines().any(|line| line.starts_with("note: missing on this host") && line.contains(name));
        assert!(is_told, "{name} is not named: {ran:#?}");
    }
}

#[test]
fn killed_restore_defines_nothing() {
    let lab = Lab::new();
    let guest = lab.guest("restore-killed").disk(Disk::qcow2("vda").size("64M")).define();
    for at in 0..8 {
        guest.write_while_off("vda", 0x41 + at, u64::from(at) * (8 << 20), 8 << 20);
    }
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    program.backup_well();
    virsh(&["undefine", guest.name()]);
    let image = guest_image(&lab, guest.name());
    fs::remove_file(&image).unwrap();
    let part = image.with_file_name(".vda.qcow2.kvmbackup-part");
    // No definition records any more that the images are there.
    let folder = image.parent().unwrap().to_str().unwrap();
    virsh(&["pool-create-as", guest.name(), "dir", "--target", folder]);
    let mut restore = program.command().args(["restore", guest.name(), "--define"]).spawn().unwrap();
    crate::lab::wait_until(crate::lab::DEADLINE, "the restore to write", || {
        part.exists() || restore.try_wait().unwrap().is_some()
    });
    restore.kill().unwrap();
    restore.wait().unwrap();
    assert!(try_virsh(&["domuuid", guest.name()]).is_err() || image.exists(), "the domain is defined without its disk");
    // Restores of other tests in the same lab define trial domains, too.
    crate::lab::wait_until(crate::lab::DEADLINE, "the end of all trials", || domains("kvmbackup-trial").is_empty());
    let ran = program.run(&["restore", guest.name(), "--define", "--overwrite"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    guest.start_paused();
    virsh(&["pool-destroy", guest.name()]);
}

fn guest_image(lab: &Lab, name: &str) -> std::path::PathBuf {
    lab.path("images").join(name).join("vda.qcow2")
}

#[test]
fn disk_attached_only_to_the_running_guest_is_restored_but_not_defined() {
    let lab = Lab::new();
    let mut guest = lab.guest("restore-live-only").disk(Disk::raw("vda").size("4M")).paused();
    let image = lab.path("images/restore-live-only/extra.raw");
    fs::write(&image, vec![0x5c; 1 << 20]).unwrap();
    virsh(&["attach-disk", guest.name(), text(&image), "vdb", "--driver", "qemu", "--subdriver", "raw", "--live"]);
    guest.take_as_it_is();
    let program = Program::new(&lab).domain(guest.name(), json!({"quiesce": "never"}));
    let report = program.backup_well();
    assert_eq!(report.disks(guest.name()), ["vda", "vdb"]);
    guest.destroy();
    let to = lab.path("to");
    let ran = program.run(&["restore", guest.name(), "--define", "--name", "live-only-copy", "--to", text(&to)]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let copy = lab.adopt("live-only-copy");
    let note = ran.stdout.lines().find(|line| line.contains("vdb is not in the definition")).expect("a note");
    let command = note.split_once("To attach it: ").unwrap().1;
    run("sh", &["-ec", command]);
    let restored = to.join("live-only-copy-vdb.raw");
    assert_eq!(fs::read(&restored).unwrap(), fs::read(&image).unwrap());
    assert!(copy.inactive_xml().contains(text(&restored)), "{}", copy.inactive_xml());
    copy.start_paused();
}
