//! Data of a guest outside its disks is saved, or named as not saved.

use std::path::Path;

use serde_json::{Value, json};

use crate::lab::{Disk, Guest, Lab, LoopDevice, Program, Saved, qemu_img, save_exactly, sha256, virsh};

const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

fn loader() -> String {
    format!("<loader readonly='yes' type='pflash'>{CODE}</loader>")
}

/// Variables that differ from every template.
fn variables(path: &Path) {
    let mut bytes = std::fs::read(VARIABLES).unwrap();
    bytes[70_000..70_008].copy_from_slice(b"variable");
    std::fs::write(path, bytes).unwrap();
}

/// Backs up a guest with this `<os>` and restores it as a copy. The copy is off and can be started.
fn saved_and_copied(lab: &Lab, name: &str, os: &str) -> (Saved, Guest) {
    let guest = lab.guest(name).disk(Disk::qcow2("vda")).os(os).define();
    let saved = save_exactly(lab, &guest, json!({}), &["vda"]);
    assert_eq!(saved.outcome()["warnings"], json!([]), "{:#}", saved.outcome());
    let (copy, to) = (format!("{name}-copy"), lab.path(&format!("{name}-copy")));
    let ran = saved.program.run(&["restore", name, "--define", "--name", &copy, "--to", to.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    // Dropping it would undefine it with its variables, even those on a device.
    virsh(&["undefine", "--keep-nvram", name]);
    let copy = lab.adopt(&copy);
    // It starts with the restored variables.
    copy.start_paused();
    copy.destroy();
    (saved, copy)
}

/// The text of an element.
fn text<'a>(xml: &'a str, element: &str) -> &'a str {
    xml.split_once(&format!("<{element}")).unwrap().1.split(['>', '<']).nth(1).unwrap()
}

#[test]
fn firmware_variables_are_saved_from_files_devices_and_links() {
    let lab = Lab::new();
    let [file, backing, link] = ["file_VARS.fd", "backing.img", "link_VARS.fd"].map(|name| lab.path(name));
    variables(&file);
    variables(&backing);
    let expected = sha256(&file);
    let device = LoopDevice::attach(&backing);
    std::os::unix::fs::symlink(device.path(), &link).unwrap();
    let nvram = [
        ("nvram-file", format!("<nvram type='file'><source file='{}'/></nvram>", file.display())),
        ("nvram-device", format!("<nvram type='block'><source dev='{}'/></nvram>", device.path().display())),
        ("nvram-link", format!("<nvram>{}</nvram>", link.display())),
    ];
    for (name, nvram) in nvram {
        let (saved, copy) = saved_and_copied(&lab, name, &(loader() + &nvram));
        let members = saved.archive.members();
        let member = members.iter().find(|member| member.starts_with("nvram/")).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(sha256(&saved.archive.path(member)), expected, "{name}");
        let entry = &saved.archive.manifest()["nvram"];
        assert_eq!(entry["device"] == true, name != "nvram-file", "{entry:#}");
        let copy = copy.inactive_xml();
        let restored = Path::new(text(&copy, "nvram"));
        assert!(restored.is_file() && !restored.starts_with("/dev"), "{copy}");
        assert_eq!(sha256(restored), expected, "{name}");
    }
}

#[test]
fn firmware_written_by_the_guest_is_saved_and_a_copy_gets_its_own() {
    let lab = Lab::new();
    let combined = lab.path("combined.fd");
    std::fs::write(&combined, [std::fs::read(VARIABLES).unwrap(), std::fs::read(CODE).unwrap()].concat()).unwrap();
    let os = format!("<loader readonly='no' type='pflash'>{}</loader>", combined.display());
    let (saved, copy) = saved_and_copied(&lab, "firmware-combined", &os);
    assert_eq!(sha256(&saved.archive.path("boot/loader")), sha256(&combined));
    let copy = copy.inactive_xml();
    let restored = Path::new(text(&copy, "loader"));
    assert!(restored != combined, "two guests write to the same file: {copy}");
    assert_eq!(sha256(restored), sha256(&combined));
}

#[test]
fn state_that_is_not_saved_is_named_in_report_and_output() {
    let lab = Lab::new();
    let more = lab.path("more.raw");
    std::fs::File::create(&more).unwrap().set_len(1 << 20).unwrap();
    let share = lab.path("share");
    std::fs::create_dir(&share).unwrap();
    let devices = format!(
        "<filesystem type='mount' accessmode='passthrough'><source dir='{}'/><target dir='share'/></filesystem>\
         <hostdev mode='subsystem' type='usb'><source startupPolicy='optional'><vendor id='0x1234'/><product id='0xbeef'/>\
         </source></hostdev>\
         <tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>",
        share.display()
    );
    let arguments = format!(
        "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
         <qemu:arg value='-drive'/><qemu:arg value='file={},format=raw,if=none,id=more'/></qemu:commandline>",
        more.display()
    );
    let guest = lab.guest("outside").disk(Disk::qcow2("vda")).devices(&devices).elements(&arguments).define();
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    let report = program.backup_well();
    let outcome = report.domain(guest.name());
    assert_eq!(outcome["outcome"], "success");
    let [usb, folder] = ["host device usb 0x1234:0xbeef".to_owned(), format!("shared directory {}", share.display())];
    let [tpm, drive] =
        ["TPM of the host /dev/tpm0".to_owned(), format!("storage in QEMU arguments: -drive {}", more.display())];
    let named = |value: &Value| -> Vec<(String, bool)> {
        let list = value.as_array().unwrap().iter();
        list.map(|not| (not["what"].as_str().unwrap().to_owned(), not["data"].as_bool().unwrap())).collect()
    };
    let expected = [(usb.clone(), false), (folder, false), (tpm.clone(), true), (drive.clone(), true)];
    assert_eq!(named(&outcome["not_saved"]), expected);
    assert_eq!(named(&program.unpack(&report, guest.name()).manifest()["not_saved"]), expected);
    // State that may contain data of the guest is a warning; anything else is only listed.
    let warnings: Vec<&str> =
        outcome["warnings"].as_array().unwrap().iter().map(|warning| warning["message"].as_str().unwrap()).collect();
    assert!(warnings.len() == 2 && warnings[0].contains(&tpm) && warnings[1].contains(&drive), "{warnings:#?}");
    let to = lab.path("to");
    for told in [
        program.run(&["report"]),
        program.run(&["list"]),
        program.run(&["restore", guest.name(), "--to", to.to_str().unwrap()]),
    ] {
        // Long lines of the report are wrapped.
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        let said = words(&(told.stdout + &told.stderr));
        for (what, _) in &expected {
            assert!(said.contains(&words(what)), "{what} is not in {said}");
        }
    }
    let check = program.run(&["check"]);
    assert!(check.stdout.contains(&drive), "{check:#?}");
}

#[test]
fn internal_snapshots_are_named_as_not_saved() {
    let lab = Lab::new();
    let guest = lab.guest("internal-snapshots").disk(Disk::qcow2("vda")).disk(Disk::qcow2("vdb")).define();
    let image = guest.disk_source("vdb").unwrap();
    for name in ["first", "second"] {
        qemu_img(&["snapshot", "-c", name, image.to_str().unwrap()]);
    }
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    // Off, and running with a snapshot.
    for _ in 0..2 {
        let report = program.backup_well();
        let outcome = report.domain(guest.name());
        assert_eq!((&outcome["outcome"], &outcome["warnings"]), (&json!("success"), &json!([])), "{outcome:#}");
        let manifest = program.unpack(&report, guest.name()).manifest();
        for not_saved in [&outcome["not_saved"], &manifest["not_saved"]] {
            assert_eq!(not_saved.as_array().unwrap().len(), 1, "{not_saved:#}");
            assert_eq!(not_saved[0]["what"], "internal snapshots of disk vdb: first, second");
        }
        if guest.state() == "shut off" {
            guest.start_paused();
        }
    }
}

#[test]
fn contents_of_an_encrypted_disk_are_reported_as_saved_unencrypted() {
    let lab = Lab::new();
    let guest = lab.guest("plain").disk(Disk::luks("vda")).paused();
    let program = Program::new(&lab).domain(guest.name(), json!({"allow_plaintext": true}));
    let report = program.backup_well();
    assert_eq!(report.domain(guest.name())["disks"][0]["encrypted"], true, "{report:#?}");
    let archive = program.unpack(&report, guest.name());
    assert_eq!(archive.manifest()["disks"][0]["encrypted"], true);
    let list = program.run(&["list"]);
    assert!(list.stdout.contains("vda: encrypted by QEMU but not encrypted in this restore point"), "{list:#?}");
    let list: Value = serde_json::from_str(&program.run(&["list", "--json"]).stdout).unwrap();
    assert_eq!(list["points"][0]["disks"][0]["encrypted"], true, "{list:#}");
}
