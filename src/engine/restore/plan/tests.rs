//! Tests plans without a host.

use std::collections::BTreeMap;

use super::super::{Define, DiskChoice};
use super::*;
use crate::archive::manifest::FileEntry;
use crate::engine::points::When;
use crate::hypervisor::domain_xml::TpmState;
use crate::model::{Device, Disk, Domain, DomainRef, DomainState, DomainXml, Owner};

fn saved(disks: &[(&str, Source, Format)]) -> Contents {
    let disks: Vec<SavedDisk> = disks
        .iter()
        .map(|(target, source, format)| SavedDisk {
            target: (*target).to_owned(),
            member: format!("disks/{target}.qcow2"),
            source: source.clone(),
            format: format.clone(),
            virtual_bytes: Some(4096),
            owner: None,
            encrypted: false,
        })
        .collect();
    Contents {
        location: "/b/a.tar.zst".into(),
        domain: DomainRef { name: "web".to_owned(), uuid: uuid::Uuid::nil() },
        lengths: disks.iter().map(|disk| (disk.member.clone(), 7)).collect(),
        disks,
        skipped: BTreeMap::new(),
        nvram: None,
        boot: Vec::new(),
        not_saved: Vec::new(),
        tpm: Vec::new(),
        tpm_missing: None,
        documents: Vec::new(),
    }
}

const QEMU: Option<Owner> = Some(Owner { uid: 64055, gid: 64055, mode: 0o600 });
const SWTPM: Option<Owner> = Some(Owner { uid: 104, gid: 108, mode: 0o600 });

fn file(path: &str) -> Source {
    Source::File(path.into())
}

fn block(path: &str) -> Source {
    Source::Block(path.into())
}

fn request(to: Option<&str>) -> Request {
    Request {
        domain: "web".to_owned(),
        when: When::Newest,
        to: to.map(PathBuf::from),
        disks: Vec::new(),
        define: Some(Define::default()),
        overwrite: false,
        kept_out: Vec::new(),
        dry_run: false,
    }
}

/// The plan for a domain `name` with the saved disks.
fn plan(saved: &Contents, request: &Request, name: &str, there: &[&str]) -> Result<Plan, Error> {
    let disks = saved.disks.iter().map(|disk| Disk {
        target: disk.target.clone(),
        device: Device::Disk,
        image: Image { source: disk.source.clone(), format: disk.format.clone() },
        backing: Vec::new(),
        chain_ends: false,
        persistent: None,
        readonly: false,
        shareable: false,
        transient: false,
        encrypted: false,
        only_qemu: None,
        unknown: None,
    });
    let described = Domain {
        id: saved.domain.clone(),
        suspended: false,
        state: DomainState::Off,
        persistent: true,
        xml: DomainXml { live: String::new(), inactive: String::new(), migratable: String::new() },
        disks: disks.collect(),
        nvram: None,
        boot: Vec::new(),
        tpm: None,
        agent_channel: false,
        outside: Vec::new(),
    };
    let uuid = if name == "web" { uuid::Uuid::nil() } else { uuid::Uuid::max() };
    let exists = |path: &Path| there.iter().any(|there| path == Path::new(there));
    let same = BTreeSet::new();
    let leads_to = |path: &Path| path.starts_with("/link").then(|| Path::new("/real").join(path.file_name().unwrap()));
    let host = Host {
        exists: &exists,
        leads_to: &leads_to,
        may_lie_in: &|folder| !["/etc/cron.d", "/root/.ssh", "", "/srv/../etc"].map(Path::new).contains(&folder),
        may_be_on: &|device| device != Path::new("/dev/vg/others"),
        same: &same,
        swtpm: Path::new("/tpm"),
        qemu_owner: QEMU,
        swtpm_owner: SWTPM,
    };
    domain(saved, request, &described, &DomainRef { name: name.to_owned(), uuid }, &host)
}

fn targets(plan: &Plan) -> Vec<String> {
    let how = |how: &How| match how {
        How::Copy | How::Tpm => "copy",
        How::Qcow2(_) => "qcow2",
        How::Raw(_) => "raw",
        How::Device(_) => "device",
        How::Image(_) => "image",
    };
    plan.writes.iter().map(|write| format!("{} {}", how(&write.how), write.to.display())).collect()
}

#[test]
fn original_block_device_is_overwritten_only_on_request() {
    let saved = saved(&[("vda", block("/dev/vg/web"), Format::Raw)]);
    let mut asked = request(None);
    let error = plan(&saved, &asked, "web", &[]).unwrap_err();
    assert!(error.hint().unwrap().contains("--overwrite"), "{error}");
    asked.overwrite = true;
    assert_eq!(targets(&plan(&saved, &asked, "web", &[]).unwrap()), ["device /dev/vg/web"]);
    // A device that the domain does not have here may belong to anyone.
    let others = self::saved(&[("vda", block("/dev/vg/others"), Format::Raw)]);
    let error = plan(&others, &asked, "web", &[]).unwrap_err();
    assert!(error.hint().unwrap().contains("--disk vda=/dev/"), "{error}");
    // Never for a copy: the device is the original's.
    assert!(plan(&saved, &asked, "copy", &[]).is_err());
    asked.disks = vec![DiskChoice { target: "vda".to_owned(), device: Some("/dev/vg/new".into()) }];
    assert_eq!(targets(&plan(&saved, &asked, "copy", &[]).unwrap()), ["device /dev/vg/new"]);
    asked.disks.clear();
    asked.to = Some("/r".into());
    assert_eq!(targets(&plan(&saved, &asked, "copy", &[]).unwrap()), ["raw /r/copy-vda.raw"]);
    asked.disks = vec![DiskChoice { target: "vda".to_owned(), device: Some("/dev/vg/copy".into()) }];
    let plan = plan(&saved, &asked, "copy", &[]).unwrap();
    assert_eq!(targets(&plan), ["device /dev/vg/copy"]);
    assert_eq!(plan.changes.disks["vda"], Image { source: block("/dev/vg/copy"), format: Format::Raw });
}

#[test]
fn network_disk_needs_a_destination() {
    let saved = saved(&[("vda", Source::Network("rbd:pool/web".to_owned()), Format::Raw)]);
    assert!(plan(&saved, &request(None), "web", &[]).unwrap_err().hint().unwrap().contains("--to"));
    assert_eq!(targets(&plan(&saved, &request(Some("/r")), "web", &[]).unwrap()), ["raw /r/vda.raw"]);
}

#[test]
fn disks_that_are_not_selected_stay_with_the_original() {
    let saved = saved(&[
        ("vda", file("/srv/a.qcow2"), Format::Qcow2),
        ("vdb", file("/srv/b.qcow2"), Format::Qcow2),
        ("vdc", file("/srv/c.qcow2"), Format::Qcow2),
    ]);
    let mut asked = request(None);
    asked.disks = vec![DiskChoice { target: "vda".to_owned(), device: None }];
    let same_name = plan(&saved, &asked, "web", &["/srv/b.qcow2"]).unwrap();
    assert_eq!(targets(&same_name), ["qcow2 /srv/a.qcow2"]);
    assert_eq!(same_name.changes.drop_disks, BTreeSet::from(["vdc".to_owned()]));
    assert_eq!(same_name.notes.len(), 2, "{:?}", same_name.notes);
    let copy = plan(&saved, &asked, "copy", &["/srv/b.qcow2"]).unwrap();
    assert_eq!(targets(&copy), ["qcow2 /srv/copy-vda.qcow2"]);
    assert_eq!(copy.changes.drop_disks, BTreeSet::from(["vdb".to_owned(), "vdc".to_owned()]));
}

#[test]
fn disks_with_the_same_file_name_do_not_clash() {
    let saved = saved(&[("vda", file("/a/x.img"), Format::Raw), ("vdb", file("/b/x.img"), Format::Raw)]);
    let to_one = plan(&saved, &request(Some("/r")), "web", &[]).unwrap();
    assert_eq!(targets(&to_one), ["raw /r/vda-x.img", "raw /r/vdb-x.img"]);
    let in_place = plan(&saved, &request(None), "web", &[]).unwrap();
    assert_eq!(targets(&in_place), ["raw /a/x.img", "raw /b/x.img"]);
}

#[test]
fn archive_cannot_choose_a_system_directory() {
    for path in ["/etc/cron.d/x", "/root/.ssh/authorized_keys", "x.img", "/srv/../etc/x"] {
        let saved = saved(&[("vda", file(path), Format::Raw)]);
        assert!(plan(&saved, &request(None), "web", &[]).is_err(), "{path}");
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        let to = plan(&saved, &request(Some("/r")), "web", &[]).unwrap();
        assert_eq!(targets(&to), [format!("raw /r/{name}")]);
    }
    let nvram = |path: &str| {
        let mut saved = saved(&[("vda", file("/srv/a.img"), Format::Raw)]);
        saved.lengths.insert("nvram/x".to_owned(), 5);
        saved.nvram = Some(FileEntry { member: "nvram/x".to_owned(), path: path.into(), device: false });
        targets(&plan(&saved, &request(None), "web", &["/etc/cron.d", "/var/lib/libvirt/qemu/nvram"]).unwrap())
    };
    assert_eq!(nvram("/etc/cron.d/x")[1], "copy /srv/x");
    assert_eq!(nvram("/var/lib/libvirt/qemu/nvram/w.fd")[1], "copy /var/lib/libvirt/qemu/nvram/w.fd");
}

#[test]
fn image_in_place_keeps_its_saved_owner_and_others_belong_to_qemu() {
    let mut saved = saved(&[("vda", file("/srv/a.img"), Format::Raw), ("vdb", file("/srv/b.img"), Format::Raw)]);
    let theirs = Owner { uid: 7, gid: 8, mode: 0o640 };
    saved.disks[0].owner = Some(theirs);
    saved.lengths.insert("tpm/tpm2/x".to_owned(), 5);
    saved.tpm = vec![FileEntry { member: "tpm/tpm2/x".to_owned(), path: "/y".into(), device: false }];
    let rights = |request: &Request, name: &str| -> Vec<Rights> {
        plan(&saved, request, name, &[]).unwrap().writes.iter().map(|write| write.rights).collect()
    };
    assert_eq!(rights(&request(None), "web"), [Some(theirs), QEMU, SWTPM].map(Rights::Kept));
    assert_eq!(rights(&request(Some("/r")), "web"), [QEMU, QEMU, SWTPM].map(Rights::Kept));
    assert_eq!(rights(&request(None), "copy"), [QEMU, QEMU, SWTPM].map(Rights::Kept));
}

#[test]
fn linked_image_is_written_through_the_link_and_the_definition_keeps_it() {
    let saved = saved(&[("vda", file("/link/a.img"), Format::Raw), ("vdb", block("/dev/vg/b"), Format::Raw)]);
    let error = plan(&saved, &request(None), "web", &[]).unwrap_err();
    assert!(error.hint().unwrap().contains("--disk vda --disk vdb=/dev/…;"), "{error:?}");
    let plan = plan(&saved, &Request { overwrite: true, ..request(None) }, "web", &[]).unwrap();
    assert_eq!(targets(&plan), ["raw /real/a.img", "device /dev/vg/b"]);
    assert_eq!(plan.changes.disks["vda"].source, file("/link/a.img"));
}

#[test]
fn tpm_state_goes_to_the_defined_path_and_for_a_copy_to_libvirts_directory() {
    let restored = |member: &str, path: &str, name: &str| {
        let mut saved = saved(&[("vda", file("/srv/a.img"), Format::Raw)]);
        saved.lengths.insert(member.to_owned(), 5);
        saved.tpm = vec![FileEntry { member: member.to_owned(), path: path.into(), device: false }];
        let plan = plan(&saved, &request(None), name, &[])?;
        Ok::<_, Error>((plan.writes[1].to.to_str().unwrap().to_owned(), plan.changes.tpm))
    };
    let [nil, max] = [uuid::Uuid::nil(), uuid::Uuid::max()];
    let own = "/var/lib/libvirt/swtpm/x/tpm2/tpm2-00.permall";
    let member = "tpm/tpm2/tpm2-00.permall";
    assert_eq!(restored(member, own, "web").unwrap(), (format!("/tpm/{nil}/tpm2/tpm2-00.permall"), None));
    assert_eq!(restored(member, own, "copy").unwrap(), (format!("/tpm/{max}/tpm2/tpm2-00.permall"), None));
    let (member, named) = ("tpm/tpm2-00.permall", "/srv/tpm/tpm2-00.permall");
    assert_eq!(restored(member, named, "web").unwrap(), (named.to_owned(), None));
    let copied = (format!("/tpm/{max}/tpm2/tpm2-00.permall"), Some(TpmState::Own));
    assert_eq!(restored(member, named, "copy").unwrap(), copied);
    // An archive must not choose a system directory.
    let moved = (format!("/tpm/{nil}/tpm2/tpm2-00.permall"), Some(TpmState::Own));
    assert_eq!(restored(member, "/etc/cron.d/tpm2-00.permall", "web").unwrap(), moved);
    assert_eq!(restored("tpm/state", "/srv/tpm.state", "web").unwrap(), ("/srv/tpm.state".to_owned(), None));
    let copied = ("/srv/copy-tpm".to_owned(), Some(TpmState::File("/srv/copy-tpm".into())));
    assert_eq!(restored("tpm/state", "/srv/tpm.state", "copy").unwrap(), copied);
    assert!(restored(member, "/srv/.hidden", "copy").unwrap_err().is_damage());
}
