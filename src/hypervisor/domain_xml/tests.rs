//! Reads and rewrites definitions from libvirt 9.0. `virsh` with libvirt's test driver checks the results.

use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::model::{Device, DomainRef, DomainState, DomainXml, Format, Image, Source};

const FULL: &str = include_str!("fixtures/full-inactive.xml");
const UEFI: &str = include_str!("fixtures/uefi-inactive.xml");
const SNAPSHOT: &str = include_str!("fixtures/snapshot-live.xml");
const COMMIT: &str = include_str!("fixtures/commit-live.xml");

fn describe(live: &str, inactive: &str, state: DomainState) -> Described {
    let xml = DomainXml { live: live.to_owned(), inactive: inactive.to_owned(), migratable: live.to_owned() };
    read(xml, state, true).unwrap()
}

fn file(path: &str, format: Format) -> Image {
    Image { source: Source::File(PathBuf::from(path)), format }
}

fn copy() -> DomainRef {
    DomainRef { name: "cöpy <2>".to_owned(), uuid: Uuid::from_u128(0x99999999_2222_4333_8444_555555555555) }
}

/// The lines that are only in `old`, and those only in `new`.
fn changed<'a>(old: &'a str, new: &'a str) -> (Vec<&'a str>, Vec<&'a str>) {
    let without = |lines: &'a str, other: &'a str| {
        let mut left: Vec<&str> = other.lines().collect();
        let gone = |line: &&str| match left.iter().position(|other| other == line) {
            Some(at) => {
                left.remove(at);
                false
            }
            None => true,
        };
        lines.lines().filter(gone).map(str::trim).collect()
    };
    (without(old, new), without(new, old))
}

#[test]
fn a_domain_that_is_off_is_read() {
    let Described { domain, volumes, jobs } = describe(FULL, FULL, DomainState::Off);
    assert_eq!(domain.id.name, "wéb 1 & co");
    assert_eq!(domain.id.uuid.to_string(), "11111111-2222-4333-8444-555555555555");
    assert!(domain.agent_channel && volumes.is_empty() && jobs.is_empty());
    let boot: Vec<_> = domain.boot.iter().map(|file| (file.element.as_str(), file.path.to_str().unwrap())).collect();
    assert_eq!(boot, [("kernel", "/srv/images/vmlinuz"), ("initrd", "/srv/images/initrd.img")]);
    assert_eq!(domain.nvram, None);
    let state = "/var/lib/libvirt/swtpm/11111111-2222-4333-8444-555555555555";
    assert_eq!(domain.tpm.as_deref(), Some(std::path::Path::new(state)));

    let targets: Vec<_> = domain.disks.iter().map(|disk| (disk.target.as_str(), disk.device, disk.shareable)).collect();
    let expected = [
        ("vda", Device::Disk, false),
        ("vdb", Device::Disk, false),
        ("sda", Device::Disk, true),
        ("sdb", Device::Cdrom, false),
        ("sdc", Device::Cdrom, false),
    ];
    assert_eq!(targets, expected);
    assert_eq!(domain.disks[0].image, file("/srv/images/root.qcow2", Format::Qcow2));
    assert_eq!(domain.disks[1].image, file("/srv/images/süd dir/da ta & more.img", Format::Raw));
    assert_eq!(domain.disks[3].image.source, Source::Empty);
    assert!(domain.disks[4].readonly && !domain.disks[0].readonly);
}

#[test]
fn chains_and_jobs_of_a_running_domain_are_read() {
    let Described { domain, jobs, .. } = describe(COMMIT, FULL, DomainState::Running);
    let root = &domain.disks[0];
    assert_eq!(root.image, file("/srv/images/root.ov", Format::Qcow2));
    let below = ["/srv/images/root.qcow2", "/srv/images/base.qcow2"].map(|path| file(path, Format::Qcow2));
    assert_eq!(root.backing, below);
    assert_eq!(root.persistent, Some(below[0].clone()));
    assert_eq!(domain.disks[1].backing, [file("/srv/images/süd dir/da ta & more.img", Format::Raw)]);
    assert_eq!(domain.disks[2].persistent, None);
    assert_eq!(jobs, [Job { target: "vda".to_owned(), kind: "active-commit".to_owned() }]);
    assert!(describe(SNAPSHOT, FULL, DomainState::Paused).jobs.is_empty());
}

#[test]
fn layer_of_a_volume_below_the_active_image_is_known() {
    let live = UEFI.replace(
        "<source pool='default' volume='db.qcow2'/>",
        "<source file='/overlay'/><backingStore type='file'><format type='qcow2'/><source file='/middle'/>\
         <backingStore type='volume'><format type='raw'/><source pool='p' volume='v'/><backingStore/></backingStore>\
         </backingStore>",
    );
    let live = live.replace("<disk type='volume'", "<disk type='file'");
    let volume = Volume { target: "vdc".to_owned(), layer: 2, pool: "p".to_owned(), volume: "v".to_owned() };
    assert_eq!(describe(&live, UEFI, DomainState::Running).volumes, [volume]);
}

#[test]
fn every_kind_of_disk_is_read() {
    let Described { domain, volumes, .. } = describe(UEFI, UEFI, DomainState::Off);
    let disk = |target: &str| domain.disks.iter().find(|disk| disk.target == target).unwrap();
    assert!(disk("vda").encrypted && !disk("vdb").encrypted);
    assert_eq!(disk("vdb").image.source, Source::Network("rbd:pool/image".to_owned()));
    assert_eq!(disk("vdc").image, Image { source: Source::Unsupported("volume".to_owned()), format: Format::Qcow2 });
    let volume =
        Volume { target: "vdc".to_owned(), layer: 0, pool: "default".to_owned(), volume: "db.qcow2".to_owned() };
    assert_eq!(volumes, [volume]);
    assert!(disk("vdd").transient);
    assert_eq!(disk("sda").device, Device::Lun);
    assert_eq!(disk("sda").image.source, Source::Block(PathBuf::from("/dev/sdz")));
}

#[test]
fn nvram_is_found_in_both_forms() {
    for nvram in ["<nvram template='/t'>/srv/v.fd</nvram>", "<nvram type='file'><source file='/srv/v.fd'/></nvram>"] {
        let xml = UEFI.replace("<boot dev='hd'/>", nvram);
        // libvirt 9.0 chooses the path when the guest starts, so only the live XML may have it.
        let domain = describe(&xml, UEFI, DomainState::Running).domain;
        assert_eq!(domain.nvram.unwrap().path, Path::new("/srv/v.fd"));
    }
}

#[test]
fn incomplete_and_contradictory_xml_is_an_error() {
    let read = |xml: &str| {
        let xml = DomainXml { live: xml.to_owned(), inactive: xml.to_owned(), migratable: String::new() };
        read(xml, DomainState::Off, true)
    };
    let domain = |devices: &str| {
        format!("<domain><name>a</name><uuid>{}</uuid><devices>{devices}</devices></domain>", Uuid::nil())
    };
    assert!(read(&domain("")).is_ok());
    assert!(matches!(read("<domain><name>a</name></domain>"), Err(Error::Missing { .. })));
    assert!(matches!(read("<domain><name>a</name><uuid>b</uuid></domain>"), Err(Error::Unknown { .. })));
    assert!(matches!(read(&domain("<disk/>")), Err(Error::Missing { .. })));
    assert!(matches!(read(&domain("<disk device='tape'><target dev='a'/></disk>")), Err(Error::Unknown { .. })));
    let twice = "<disk><target dev='a'/></disk>".repeat(2);
    assert!(matches!(read(&domain(&twice)), Err(Error::SameTarget { .. })));
    let chain = "<backingStore type='file'>".repeat(200) + &"</backingStore>".repeat(200);
    let long = read(&domain(&format!("<disk><target dev='a'/>{chain}</disk>"))).unwrap();
    assert_eq!(long.domain.disks[0].backing.len(), 200);
}

#[test]
fn rewrite_without_changes_preserves_every_byte() {
    for xml in [FULL, UEFI, SNAPSHOT, COMMIT] {
        assert_eq!(rewrite(xml, &Changes::default()).unwrap().xml, xml);
    }
}

#[test]
fn a_restored_disk_is_flat_and_nothing_else_changes() {
    let block = Image { source: Source::Block(PathBuf::from("/dev/vg/a&b")), format: Format::Raw };
    let mut changes = Changes::default();
    changes.disks.insert("vda".to_owned(), block);
    changes.disks.insert("sdb".to_owned(), file("/new/it's.iso", Format::Raw));
    changes.eject.insert("sdc".to_owned());
    changes.drop_disks.insert("sda".to_owned());
    let new = rewrite(COMMIT, &changes).unwrap().xml;
    let (gone, come) = changed(COMMIT, &new);
    assert_eq!(
        come,
        [
            "<disk type='block' device='disk'>",
            "<driver name='qemu' type='raw' cache='none' discard='unmap'/>",
            "<source dev='/dev/vg/a&amp;b'/>",
            "<driver type='raw' name='qemu'/>",
            "<source file='/new/it&apos;s.iso'/>",
        ]
    );
    assert!(gone.contains(&"<mirror type='file' job='active-commit'>"));
    assert!(gone.contains(&"<source file='/srv/images/cd.iso' index='1'/>"));
    assert!(!new.contains("'sda'") && new.contains("'sdc'") && new.contains("da ta &amp; more.img"));

    let disks = describe(&new, &new, DomainState::Off).domain.disks;
    assert_eq!(disks.iter().map(|disk| disk.target.as_str()).collect::<Vec<_>>(), ["vda", "vdb", "sdb", "sdc"]);
    assert!(disks[0].backing.is_empty());
    assert_eq!(disks[2].image, file("/new/it's.iso", Format::Raw));
    assert_eq!(disks[3].image.source, Source::Empty);
}

#[test]
fn network_lun_and_encrypted_disks_become_files() {
    let mut changes = Changes { nvram: Some(PathBuf::from("/new/vars.fd")), ..Changes::default() };
    for target in ["vda", "vdb", "vdc", "sda"] {
        changes.disks.insert(target.to_owned(), file(&format!("/new/{target}.qcow2"), Format::Qcow2));
    }
    let new = rewrite(UEFI, &changes).unwrap().xml;
    let domain = describe(&new, &new, DomainState::Off).domain;
    for disk in domain.disks.iter().filter(|disk| disk.target != "vdd") {
        assert_eq!(disk.image, file(&format!("/new/{}.qcow2", disk.target), Format::Qcow2));
        assert!(!disk.encrypted && disk.device == Device::Disk);
    }
    assert_eq!(domain.nvram.unwrap().path, Path::new("/new/vars.fd"));
    assert!(!new.contains("<encryption") && !new.contains("mon1"));
}

#[test]
fn a_copy_shares_no_identity_with_the_original() {
    let mut changes = Changes { rename: Some(copy()), ..Changes::default() };
    changes.disks.insert("vda".to_owned(), file("/new/a", Format::Qcow2));
    changes.disks.insert("vdb".to_owned(), file("/new/b", Format::Raw));
    changes.boot.insert("kernel".to_owned(), PathBuf::from("/new/kernel"));
    let Rewritten { xml: new, notes, reaches } = rewrite(FULL, &changes).unwrap();
    let (gone, come) = changed(FULL, &new);
    assert_eq!(
        come,
        [
            "<name>cöpy &lt;2&gt;</name>",
            "<uuid>99999999-2222-4333-8444-555555555555</uuid>",
            "<entry name='uuid'>99999999-2222-4333-8444-555555555555</entry>",
            "<kernel>/new/kernel</kernel>",
            "<source file='/new/a'/>",
            "<source file='/new/b'/>",
            "<source path='/var/log/cöpy &lt;2&gt;-serial.log'/>",
            "<source path='/var/log/cöpy &lt;2&gt;-serial.log'/>",
            "<graphics type='vnc' autoport='yes' listen='127.0.0.1' passwd='secret'>",
            "<cid auto='yes'/>",
        ]
    );
    assert!(gone.contains(&"<mac address='52:54:00:aa:bb:cc'/>") && gone.contains(&"<target dev='tap0'/>"));
    assert_eq!(notes, ["graphics: port 5999 belongs to the original guest; libvirt will choose another"]);
    assert_eq!(
        texts(&reaches),
        [
            "os: initrd='/srv/images/initrd.img'",
            "disk sda: file='/srv/images/shared.raw'",
            "disk sdc: file='/srv/images/cd.iso'",
            "serial: type='file' path='/var/log/cöpy <2>-serial.log'",
            "commandline of http://libvirt.org/schemas/domain/qemu/1.0: value='-name' value='debug-threads=on'",
        ]
    );
}

#[test]
fn a_copy_loses_sockets_ports_and_variables_of_the_original() {
    let devices = "<devices>
    <channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/channel/target/x'/><target type='virtio'/></channel>
    <channel type='unix'><source mode='bind' path='/srv/mine'/></channel>
    <interface type='bridge'><virtualport type='openvswitch'><parameters interfaceid='1' profileid='p'/></virtualport></interface>
    <graphics type='spice'><listen type='socket' socket='/run/libvirt/qemu/s'/></graphics>
    </devices>";
    let xml =
        format!("<domain><name>a</name><genid>b</genid><os><nvram template='/t'>/v</nvram></os>{devices}</domain>");
    let new = rewrite(&xml, &Changes { rename: Some(copy()), ..Changes::default() }).unwrap().xml;
    let expected = devices
        .replace("<source mode='bind' path='/var/lib/libvirt/qemu/channel/target/x'/>", "")
        .replace(" interfaceid='1'", "")
        .replace(" socket='/run/libvirt/qemu/s'", "");
    let head = "<domain><name>cöpy &lt;2&gt;</name><uuid>99999999-2222-4333-8444-555555555555</uuid><genid/>";
    assert_eq!(new, format!("{head}<os><nvram template='/t'/></os>{expected}</domain>"));
}

#[test]
fn a_copy_never_uses_a_disk_of_the_original() {
    let mut changes = Changes { rename: Some(copy()), ..Changes::default() };
    changes.disks.insert("vda".to_owned(), file("/new/a", Format::Qcow2));
    assert!(matches!(rewrite(FULL, &changes), Err(Error::SharedDisk { target }) if target == "vdb"));
    changes.drop_disks.insert("vdb".to_owned());
    assert!(rewrite(FULL, &changes).is_ok());
    changes.eject.insert("vdz".to_owned());
    assert!(matches!(rewrite(FULL, &changes), Err(Error::NoSuchDisk { target }) if target == "vdz"));
    let escape = Changes { nvram: Some(PathBuf::from("/a\u{1b}b")), ..Changes::default() };
    assert!(matches!(rewrite(FULL, &escape), Err(Error::Path(_))));
}

fn texts(reaches: &[Reach]) -> Vec<String> {
    reaches.iter().map(|reach| reach.text.clone()).collect()
}

#[test]
fn uses_of_the_host_are_reported_and_safe_to_print() {
    let notes = texts(&rewrite(UEFI, &Changes::default()).unwrap().reaches);
    for part in [
        "filesystem: type='mount' accessmode='passthrough' dir='/srv/share'",
        "interface: bridge='br0'",
        "hostdev: mode='subsystem' type='pci' managed='yes' domain='0x0000' bus='0x01'",
    ] {
        assert!(notes.iter().any(|note| note.starts_with(part)), "{part} is not in {notes:?}");
    }
    let hostile = "<domain><devices><emulator>/usr/bin/qemu-/../../tmp/x</emulator>\
        <interface><script path='evil&#x9b;2J'/></interface><shmem name='theirs'/>\
        <disk><source protocol='http'><cookies><cookie name='id'>secret</cookie></cookies></source></disk></devices></domain>";
    let notes = texts(&rewrite(hostile, &Changes::default()).unwrap().reaches);
    let expected = [
        "emulator: emulator='/usr/bin/qemu-/../../tmp/x'",
        "interface: path='evil\u{fffd}2J'",
        "shmem: name='theirs'",
        "disk: protocol='http' name='id'",
    ];
    assert_eq!(notes, expected);
}

/// libvirt validates the definitions against its schema and reads the same disks from them.
#[test]
fn libvirt_accepts_rewritten_definitions() {
    let dir = tempfile::tempdir().unwrap();
    let mut changes = Changes { rename: Some(copy()), ..Changes::default() };
    for target in ["vda", "vdb", "vdc", "vdd", "sda"] {
        changes.disks.insert(target.to_owned(), file(&format!("/new/{target}"), Format::Qcow2));
    }
    let mut full = changes.clone();
    full.disks.retain(|target, _| target != "vdc" && target != "vdd");
    full.eject.insert("sdc".to_owned());
    for (xml, changes) in [(FULL, &full), (UEFI, &changes)] {
        let new = rewrite(xml, changes).unwrap().xml.replace("<domain type='qemu'", "<domain type='test'");
        let path = dir.path().join("new.xml");
        std::fs::write(&path, &new).unwrap();
        let uuid = copy().uuid;
        let script = format!("define --validate {}; domblklist --details {uuid}; domname {uuid}", path.display());
        let output = Command::new("virsh").args(["-q", "-c", "test:///default", &script]).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
        assert!(stdout.contains(&copy().name));
        for target in changes.disks.keys() {
            let row = stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let expected = ["file", "disk", target, &format!("/new/{target}")];
            assert!(row.into_iter().any(|row| row == expected), "{target} in {stdout}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_xml_never_panics(at in 0..FULL.len(), junk in "[<>'\"&;/ a-z\u{0}-\u{7f}]{0,8}", length in 0usize..40) {
        let start = (0..=at).rev().find(|at| FULL.is_char_boundary(*at)).unwrap();
        let end = (start..=(at + length).min(FULL.len())).rev().find(|at| FULL.is_char_boundary(*at)).unwrap();
        let damaged = format!("{}{junk}{}", &FULL[..start], &FULL[end..]);
        let xml = DomainXml { live: damaged.clone(), inactive: FULL.to_owned(), migratable: String::new() };
        let _ = read(xml, DomainState::Running, true);
        let mut changes = Changes { rename: Some(copy()), ..Changes::default() };
        changes.disks.insert("vda".to_owned(), file("/new/a", Format::Raw));
        changes.disks.insert("vdb".to_owned(), file("/new/b", Format::Raw));
        let _ = rewrite(&damaged, &changes);
    }

    #[test]
    fn any_name_and_path_is_preserved(name in "[^/\u{0}-\u{1f}\u{7f}-\u{9f}\u{fffe}\u{ffff}]{1,20}") {
        let mut changes = Changes { rename: Some(DomainRef { name: name.clone(), uuid: Uuid::nil() }), ..Changes::default() };
        changes.disks.insert("vda".to_owned(), file(&format!("/n/{name}"), Format::Raw));
        changes.drop_disks.insert("vdb".to_owned());
        let new = rewrite(FULL, &changes).unwrap().xml;
        let domain = describe(&new, &new, DomainState::Off).domain;
        prop_assert_eq!(&domain.id.name, &name);
        prop_assert_eq!(&domain.disks[0].image, &file(&format!("/n/{name}"), Format::Raw));
    }
}

#[test]
fn the_path_of_tpm_state_changes_only_if_the_definition_has_one() {
    let xml = "<domain><devices><tpm><backend type='emulator'><source type='file' path='/a'/><x/></backend></tpm></devices></domain>";
    let changed = |xml: &str, tpm| rewrite(xml, &Changes { tpm: Some(tpm), ..Changes::default() }).unwrap().xml;
    assert_eq!(changed(xml, TpmState::Own), xml.replace("<source type='file' path='/a'/>", ""));
    assert_eq!(changed(xml, TpmState::File("/b".into())), xml.replace("'/a'", "'/b'"));
    let without = xml.replace("<source type='file' path='/a'/>", "");
    assert_eq!(changed(&without, TpmState::File("/b".into())), without);
}
