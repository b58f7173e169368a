//! Tests restores of real archives, compared by qemu-img. libvirt is a fake that only knows domains.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::archive::Archive;
use crate::engine::Silent;
use crate::engine::points::When;
use crate::hypervisor::{
    self, Agents, BackupJobs, BlockJob, Definitions, Guests, OffKind, Overlay, PullJob, SavedState, Snapshots,
    StateKind, domain_xml,
};
use crate::model::{Codec, Domain, DomainState, DomainXml, Format};
use crate::store::fixture::{DOMAIN, Disk, Fixture, MIB, UUID, run, text};

/// An operator who ignores all output, and accepts everything or nothing.
struct Says(bool);

impl Operator for Says {
    fn plan(&mut self, _: &Restored) {}

    fn tell(&mut self, _: &[String]) {}

    fn accepts(&mut self, _: &[String]) -> bool {
        self.0
    }
}

fn restore(
    fixture: &Fixture,
    request: &Request,
    known: Option<&Known>,
    (monitor, cancel): (&dyn Monitor, &Cancel),
) -> Result<Restored, Error> {
    let hypervisor = known.map(|known| known as &dyn Hypervisor);
    Restore { request, store: &fixture.store, hypervisor, monitor, cancel }.run(&mut Says(false))
}

fn request(to: &Path) -> Request {
    Request {
        domain: DOMAIN.to_owned(),
        when: When::Newest,
        to: Some(to.to_owned()),
        disks: Vec::new(),
        define: None,
        overwrite: false,
        kept_out: Vec::new(),
        dry_run: false,
    }
}

fn get(fixture: &Fixture, request: &Request) -> Result<Restored, Error> {
    restore(fixture, request, None, (&Silent, &Cancel::default()))
}

fn is_same(disk: &Disk, restored: &Path) {
    run("qemu-img", &["compare", "-f", "raw", "-F", disk.format.driver(), text(&disk.raw), text(restored)]);
}

/// All paths below a directory.
fn tree(folder: &Path) -> Vec<String> {
    let found = run("find", &[text(folder), "-mindepth", "1", "-printf", "%P\n"]);
    let mut names: Vec<String> = found.lines().map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn restore_to_a_directory_writes_all_members_with_disks_in_their_formats() {
    for codec in [Codec::Zstd(1), Codec::Gzip(1), Codec::None] {
        let fixture = Fixture::new();
        let disks = fixture.usual_disks();
        fixture.point("2026-11-20T02:00:00Z", codec, &disks);
        let out = fixture.path("out/deep");
        let restored = get(&fixture, &request(&out)).unwrap();
        assert_eq!(
            tree(&out),
            [
                "boot",
                "boot/kernel",
                "da ta.img",
                "domain-inactive.xml",
                "domain-migratable.xml",
                "domain.xml",
                "manifest.json",
                "nvram",
                "nvram/web 1_VARS.fd",
                "root.qcow2",
                "tpm",
                "tpm/tpm2",
                "tpm/tpm2/tpm2-00.permall",
            ]
        );
        assert_eq!(restored.files.len(), 9);
        assert_eq!(restored.notes, ["disk vdz is not in the restore point: excluded"]);
        is_same(&disks[0], &out.join("root.qcow2"));
        is_same(&disks[1], &out.join("da ta.img"));
        let check = run("qemu-img", &["check", "-f", "qcow2", text(&out.join("root.qcow2"))]);
        assert!(check.contains("No errors were found"), "{check}");
        let raw = fs::metadata(out.join("da ta.img")).unwrap();
        assert_eq!((raw.len(), raw.mode() & 0o777), (10 * MIB + 512, 0o600));
        assert!(raw.blocks() * 512 < 200_000, "{}", raw.blocks());
        // A third of its data is zeros, which become holes.
        let qcow2 = fs::metadata(out.join("root.qcow2")).unwrap();
        assert!(qcow2.blocks() * 512 < qcow2.len() * 3 / 4, "{} of {}", qcow2.blocks() * 512, qcow2.len());
        assert_eq!(fs::read(out.join("nvram/web 1_VARS.fd")).unwrap(), b"variables");
    }
}

#[test]
fn odd_sizes_and_formats_are_restored() {
    let fixture = Fixture::new();
    let mut disks = vec![
        fixture.disk("vda", "images/x.img", Format::Raw, (3 * MIB + 12_345, &[(5, 100_000), (3 * MIB + 12_000, 345)])),
        fixture.disk("vdb", "images/y.vmdk", Format::Other("vmdk".to_owned()), (MIB, &[(0, MIB)])),
        fixture.disk("vdc", "other/x.img", Format::Raw, (0, &[])),
        fixture.disk("vdd", "images/domain.xml", Format::Qcow2, (1 << 40, &[((1 << 40) - 512, 512)])),
    ];
    fixture.point("2026-11-20T02:00:00Z", Codec::Zstd(1), &disks);
    let out = fixture.path("out");
    get(&fixture, &request(&out)).unwrap();
    disks[1].format = Format::Qcow2;
    for (disk, name) in disks.iter().zip(["vda-x.img", "y.qcow2", "vdc-x.img", "vdd-domain.xml"]) {
        is_same(disk, &out.join(name));
    }
    assert_eq!(fs::metadata(out.join("vda-x.img")).unwrap().len(), 3 * MIB + 12_345);
}

#[test]
fn damage_is_an_error_and_leaves_no_files() {
    let fixture = Fixture::new();
    let disks = fixture.usual_disks();
    for codec in [Codec::Zstd(1), Codec::Gzip(1), Codec::None] {
        let point = fixture.point("2026-11-20T02:00:00Z", codec, &disks);
        let good = fs::read(point.location()).unwrap();
        for at in [good.len() / 3, good.len() / 2, good.len() * 4 / 5] {
            let mut bad = good.clone();
            // A single byte may be one that no decoder checks.
            bad[at..at + 4].iter_mut().for_each(|byte| *byte ^= 0xff);
            fs::write(point.location(), bad).unwrap();
            match get(&fixture, &request(&fixture.path("out"))) {
                Err(error) => assert!(error.is_damage(), "{codec:?} {at}: {error:?}"),
                Ok(_) => panic!("{codec:?} {at}: restored"),
            }
            assert!(!fixture.path("out").exists());
        }
        fs::remove_file(point.location()).unwrap();
    }
}

#[test]
fn forged_manifest_is_refused() {
    let fixture = Fixture::new();
    let disks = fixture.usual_disks();
    type Change = fn(&mut crate::archive::Manifest);
    let lies: [(Change, &str); 6] = [
        (|manifest| manifest.disks[0].virtual_bytes += 512, "does not match the manifest"),
        (|manifest| manifest.disks[0].target = "../../x".to_owned(), "has the invalid name"),
        (|manifest| manifest.nvram.as_mut().unwrap().member = "../../etc/x".to_owned(), "is missing"),
        (|manifest| manifest.nvram.as_mut().unwrap().member = "manifest.json".to_owned(), "two of its files"),
        (|manifest| manifest.disks[0].virtual_bytes = u64::MAX, "does not match the manifest"),
        (|manifest| manifest.disks[1].member = "domain.xml".to_owned(), "is damaged"),
    ];
    for (lie, text) in lies {
        // The disk's member keeps the name from before the manifest was changed.
        let point = fixture.point_with("2026-11-20T02:00:00Z", Codec::None, (&disks, "<domain/>"), |_| ());
        let mut manifest = Archive::open(point.location()).unwrap().manifest().unwrap();
        lie(&mut manifest);
        rewrite_manifest(&fixture, &point, &manifest);
        let error = get(&fixture, &request(&fixture.path("out"))).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains(text), "{error:?}, not {text}");
        assert!(!fixture.path("out").exists());
        fs::remove_file(point.location()).unwrap();
    }
    // Only the last component of the recorded path is used.
    fixture.point_with("2026-11-21T02:00:00Z", Codec::None, (&disks, "<domain/>"), |manifest| {
        manifest.disks[0].source = crate::model::Source::File("/etc/../../.hidden".into());
        manifest.disks[1].source = crate::model::Source::File("/etc/passwd".into());
    });
    let out = fixture.path("out");
    get(&fixture, &request(&out)).unwrap();
    assert!(out.join("vda.qcow2").exists() && out.join("passwd").exists());
}

/// Replaces the manifest of an archive.
fn rewrite_manifest(fixture: &Fixture, point: &Point, manifest: &crate::archive::Manifest) {
    let old = Archive::open(point.location()).unwrap();
    let path = fixture.path("rewritten");
    let mut writer = crate::archive::Writer::new(File::create(&path).unwrap(), Codec::None, 1).unwrap();
    for member in old.members().unwrap() {
        match member.name.as_str() {
            crate::archive::SUMS => {}
            crate::archive::MANIFEST => writer.add(&member.name, &manifest.to_json().unwrap()).unwrap(),
            name => writer.add(name, &old.read(member).unwrap()).unwrap(),
        }
    }
    writer.finish().unwrap();
    fs::rename(path, point.location()).unwrap();
}

#[test]
fn only_selected_disks_are_restored_and_existing_files_are_kept() {
    let fixture = Fixture::new();
    let disks = fixture.usual_disks();
    fixture.point("2026-11-20T02:00:00Z", Codec::Zstd(1), &disks);
    let out = fixture.path("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("da ta.img"), "theirs").unwrap();
    let mut wanted = request(&out);
    wanted.disks = vec![DiskChoice { target: "vdb".to_owned(), device: None }];
    let error = get(&fixture, &wanted).unwrap_err();
    assert!(error.hint().unwrap().contains("--overwrite"));
    assert_eq!(tree(&out), ["da ta.img"]);
    wanted.overwrite = true;
    get(&fixture, &wanted).unwrap();
    is_same(&disks[1], &out.join("da ta.img"));
    assert_eq!(tree(&out), ["da ta.img", "domain-inactive.xml", "domain-migratable.xml", "domain.xml"]);
    wanted.disks[0].target = "vdz".to_owned();
    let error = get(&fixture, &wanted).unwrap_err();
    assert_eq!(error.to_string(), "disk vdz is not in the restore point: excluded");
    assert_eq!(error.hint().unwrap(), "Select from its disks: vda, vdb");
}

#[test]
fn cancelled_restore_leaves_no_files() {
    struct StopsAt<'a>(&'a Cancel);
    impl Monitor for StopsAt<'_> {
        fn advance(&self, _: &str, _: u64) {
            self.0.cancel(15);
        }
    }
    let fixture = Fixture::new();
    let disks = fixture.usual_disks();
    fixture.point("2026-11-20T02:00:00Z", Codec::Zstd(1), &disks);
    fixture.seed("web 1.tar.gz", &disks);
    for when in ["20261120T020000Z".parse().map(When::Id).unwrap(), When::Newest] {
        let cancel = Cancel::default();
        let wanted = Request { when, ..request(&fixture.path("out")) };
        let error = restore(&fixture, &wanted, None, (&StopsAt(&cancel), &cancel)).unwrap_err();
        assert!(matches!(error, Error::Cancelled(15)), "{error:?}");
        assert!(!fixture.path("out").exists());
    }
}

#[test]
fn archive_of_the_legacy_script_is_restored_unchanged() {
    let fixture = Fixture::new();
    let disks = fixture.usual_disks();
    let archive = fixture.seed("web 1.tar.gz.1", &disks);
    let out = fixture.path("out");
    get(&fixture, &request(&out)).unwrap();
    let xml = ["web 1-inactive.xml", "web 1-migratable.xml", "web 1.xml"];
    assert_eq!(tree(&out), [&["da ta.img", "root.qcow2"][..], &xml].concat());
    is_same(&disks[0], &out.join("root.qcow2"));
    is_same(&disks[1], &out.join("da ta.img"));
    fs::remove_dir_all(&out).unwrap();

    let good = fs::read(&archive).unwrap();
    let mut bad = good.clone();
    let at = bad.len() - 6;
    bad[at] ^= 1;
    for damaged in [&bad, &good[..good.len() / 2].to_vec()] {
        fs::write(&archive, damaged).unwrap();
        assert!(get(&fixture, &request(&out)).unwrap_err().is_damage());
        assert!(!out.exists());
    }
}

#[test]
fn image_of_the_legacy_script_that_reads_other_files_is_refused() {
    let fixture = Fixture::new();
    let disks = [fixture.disk("vda", "images/root.qcow2", Format::Qcow2, (MIB, &[]))];
    let day = fixture.path("2026-11-15");
    fs::create_dir_all(&day).unwrap();
    fs::write(day.join("web 1-inactive.xml"), fixture.xml(&disks)).unwrap();
    fs::write(fixture.path("secret"), [1; 512]).unwrap();
    let (base, image) = (fixture.path("secret"), day.join("root.qcow2"));
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", text(&base), "-F", "raw", text(&image)]);
    fs::create_dir_all(fixture.path("backup/web 1")).unwrap();
    let archive = fixture.path("backup/web 1/web 1.tar.gz");
    run("tar", &["-C", text(fixture.dir.path()), "-czf", text(&archive), "2026-11-15"]);
    let error = get(&fixture, &request(&fixture.path("out"))).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("has a backing file"), "{error:?}");
    assert!(!fixture.path("out").exists());
}

/// The calls of libvirt that a restore needs.
#[derive(Default)]
struct Known {
    domains: Vec<(DomainRef, DomainState)>,
    off_kind: Option<OffKind>,
    /// A definition that contains this is rejected.
    refuses: Option<&'static str>,
    states: Vec<SavedState>,
    /// The disk elements of domains, by name.
    disks: BTreeMap<String, String>,
    tried: Mutex<Vec<String>>,
    defined: Mutex<Vec<String>>,
    autostart: Mutex<Vec<bool>>,
}

impl Known {
    fn with(name: &str, uuid: Uuid, state: DomainState) -> Known {
        Known { domains: vec![(DomainRef { name: name.to_owned(), uuid }, state)], ..Known::default() }
    }

    fn off_as(self, kind: OffKind) -> Known {
        Known { off_kind: Some(kind), ..self }
    }

    fn xml(&self) -> String {
        self.defined.lock().unwrap().last().unwrap().clone()
    }
}

fn refusal() -> hypervisor::Error {
    hypervisor::Error::Agent { domain: "x".to_owned(), answer: "no".to_owned() }
}

impl Guests for Known {
    fn version(&self) -> Result<String, hypervisor::Error> {
        unreachable!()
    }

    fn domains(&self) -> Result<Vec<(DomainRef, DomainState)>, hypervisor::Error> {
        Ok(self.domains.clone())
    }

    fn pools(&self) -> Result<Vec<PathBuf>, hypervisor::Error> {
        Ok(Vec::new())
    }

    fn saved_states(&self, _: &DomainRef) -> Result<Vec<SavedState>, hypervisor::Error> {
        Ok(self.states.clone())
    }

    fn describe(&self, domain: &DomainRef) -> Result<Domain, hypervisor::Error> {
        let disks = self.disks.get(&domain.name).map_or("", String::as_str);
        let DomainRef { name, uuid } = domain;
        Ok(described(&format!("<domain><name>{name}</name><uuid>{uuid}</uuid><devices>{disks}</devices></domain>")))
    }

    fn persistent(&self, domain: &DomainRef) -> Result<Option<Domain>, hypervisor::Error> {
        self.describe(domain).map(Some)
    }

    fn state(&self, _: &DomainRef) -> Result<DomainState, hypervisor::Error> {
        unreachable!()
    }

    fn off_kind(&self, _: &DomainRef) -> Result<OffKind, hypervisor::Error> {
        Ok(self.off_kind.unwrap_or(OffKind::Plain))
    }

    fn io_errors(&self, _: &DomainRef) -> Result<Option<Vec<String>>, hypervisor::Error> {
        unreachable!()
    }

    fn job(&self, _: &DomainRef) -> Result<Option<String>, hypervisor::Error> {
        unreachable!()
    }

    fn resume(&self, _: &DomainRef) -> Result<(), hypervisor::Error> {
        unreachable!()
    }
}

impl Agents for Known {
    fn freeze(&self, _: &DomainRef, _: Duration) -> Result<(), hypervisor::Error> {
        unreachable!()
    }

    fn thaw(&self, _: &DomainRef) -> Result<(), hypervisor::Error> {
        unreachable!()
    }

    fn is_frozen(&self, _: &DomainRef) -> Result<bool, hypervisor::Error> {
        unreachable!()
    }

    fn agent(&self, _: &DomainRef, _: &serde_json::Value) -> Result<serde_json::Value, hypervisor::Error> {
        unreachable!()
    }
}

impl Snapshots for Known {
    fn disk_size(&self, _: &DomainRef, _: &str) -> Result<u64, hypervisor::Error> {
        unreachable!()
    }

    fn snapshot(&self, _: &DomainRef, _: &[Overlay], _: &[String]) -> Result<(), hypervisor::Error> {
        unreachable!()
    }

    fn start_commit(&self, _: &DomainRef, _: &str, _: &Path) -> Result<(), hypervisor::Error> {
        unreachable!()
    }

    fn block_job(&self, _: &DomainRef, _: &str) -> Result<Option<BlockJob>, hypervisor::Error> {
        unreachable!()
    }

    fn pivot(&self, _: &DomainRef, _: &str) -> Result<(), hypervisor::Error> {
        unreachable!()
    }

    fn cancel_commit(&self, _: &DomainRef, _: &str) -> Result<(), hypervisor::Error> {
        unreachable!()
    }
}

impl BackupJobs for Known {
    fn socket_path(&self, _: &DomainRef, _: &str) -> Result<Option<PathBuf>, hypervisor::Error> {
        unreachable!()
    }

    fn begin_pull(&self, _: &DomainRef, _: &PullJob, _: &[String]) -> Result<(), hypervisor::Error> {
        unreachable!()
    }

    fn pull_socket(&self, _: &DomainRef) -> Result<Option<PathBuf>, hypervisor::Error> {
        unreachable!()
    }

    fn end_pull(&self, _: &DomainRef) -> Result<(), hypervisor::Error> {
        unreachable!()
    }

    fn remove_bitmap(&self, _: &DomainRef, _: &str) -> Result<(), hypervisor::Error> {
        unreachable!()
    }

    fn delete_checkpoint(&self, _: &DomainRef, _: &str, _: bool) -> Result<(), hypervisor::Error> {
        unreachable!()
    }
}

impl Definitions for Known {
    fn define_disk(&self, _: &DomainRef, _: &str) -> Result<(), hypervisor::Error> {
        unreachable!()
    }

    fn define(&self, xml: &str) -> Result<DomainRef, hypervisor::Error> {
        self.defined.lock().unwrap().push(xml.to_owned());
        Ok(described(xml).id)
    }

    fn try_define(&self, xml: &str) -> Result<(), hypervisor::Error> {
        let known = described(xml).id;
        assert!(known.uuid != UUID && known.name != DOMAIN, "the trial must not use an existing domain");
        self.tried.lock().unwrap().push(xml.to_owned());
        if self.refuses.is_some_and(|word| xml.contains(word)) { Err(refusal()) } else { Ok(()) }
    }

    fn missing(&self, _: &str) -> Result<Vec<String>, hypervisor::Error> {
        Ok(vec!["the network lan".to_owned()])
    }

    fn start(&self, _: &DomainRef) -> Result<(), hypervisor::Error> {
        Err(refusal())
    }

    fn set_autostart(&self, _: &DomainRef, autostart: bool) -> Result<(), hypervisor::Error> {
        self.autostart.lock().unwrap().push(autostart);
        Ok(())
    }
}

fn described(xml: &str) -> Domain {
    let xml = DomainXml { live: xml.to_owned(), inactive: xml.to_owned(), migratable: xml.to_owned() };
    domain_xml::read(xml, DomainState::Off, true).unwrap().domain
}

/// A host with one restore point and the directories of its guest.
fn host() -> (Fixture, Vec<Disk>) {
    let fixture = Fixture::new();
    for folder in ["images", "nvram", "swtpm"] {
        fs::create_dir(fixture.path(folder)).unwrap();
    }
    let disks = fixture.usual_disks();
    fixture.point("2026-11-20T02:00:00Z", Codec::Zstd(1), &disks);
    (fixture, disks)
}

fn define(fixture: &Fixture, known: &Known, name: Option<&str>, overwrite: bool) -> Result<Restored, Error> {
    define_as(fixture, known, Define { name: name.map(str::to_owned), start: true, ..Define::default() }, overwrite)
}

fn define_as(fixture: &Fixture, known: &Known, how: Define, overwrite: bool) -> Result<Restored, Error> {
    let request = Request { to: None, define: Some(how), overwrite, ..request(Path::new("")) };
    let point = points::find(&fixture.store, DOMAIN, When::Newest)?;
    let images = ["images", "nvram"].map(|folder| fixture.path(folder)).to_vec();
    let places = Places { swtpm: fixture.path("swtpm"), qemu: fixture.path("images"), images };
    let restore = Restore {
        request: &request,
        store: &fixture.store,
        hypervisor: Some(known),
        monitor: &Silent,
        cancel: &Cancel::default(),
    };
    restore.point(&point, &places, &mut Says(true))
}

#[test]
fn domain_is_restored_in_place() {
    let (fixture, disks) = host();
    fs::write(fixture.path("images/vmlinuz"), "kernel").unwrap();
    let known = Known::default();
    let restored = define(&fixture, &known, None, false).unwrap();
    let tpm = format!("swtpm/{UUID}/tpm2/tpm2-00.permall");
    for (path, bytes) in [("nvram/web 1_VARS.fd", "variables"), (&tpm, "state")] {
        assert_eq!(fs::read_to_string(fixture.path(path)).unwrap(), bytes);
    }
    is_same(&disks[0], &fixture.path("images/root.qcow2"));
    is_same(&disks[1], &fixture.path("images/da ta.img"));
    let domain = described(&known.xml());
    let targets: Vec<_> = domain.disks.iter().map(|disk| (disk.target.as_str(), disk.image.source.path())).collect();
    let (root, data) = (fixture.path("images/root.qcow2"), fixture.path("images/da ta.img"));
    assert_eq!(targets, [("vda", Some(&*root)), ("vdb", Some(&*data)), ("sda", None)]);
    assert_eq!(domain.boot[0].path, fixture.path("images/vmlinuz"));
    assert_eq!(domain.id, restored.defined.unwrap());
    assert_eq!(*known.autostart.lock().unwrap(), [false]);
    assert!(!restored.started && restored.start_failure.is_some());
    let notes = restored.notes.join("\n");
    assert!(notes.contains("drive sda is empty") && notes.contains("the domain has no disk vdz"), "{notes}");
}

#[test]
fn copy_shares_nothing_with_the_original() {
    let (fixture, disks) = host();
    for file in ["vmlinuz", "install.iso", "scratch.img", "root.qcow2"] {
        fs::write(fixture.path("images").join(file), "theirs").unwrap();
    }
    let known = Known::with(DOMAIN, UUID, DomainState::Running);
    let restored = define(&fixture, &known, Some("web 2"), false).unwrap();
    let domain = described(&known.xml());
    assert_eq!(domain.id.name, "web 2");
    assert_ne!(domain.id.uuid, UUID);
    let images = ["images/web 2-vda.qcow2", "images/web 2-vdb.img"].map(|name| fixture.path(name));
    is_same(&disks[0], &images[0]);
    is_same(&disks[1], &images[1]);
    let paths: Vec<_> = domain.disks.iter().filter_map(|disk| disk.image.source.path()).collect();
    assert_eq!(paths, [&*images[0], &*images[1], &*fixture.path("images/install.iso")]);
    assert_eq!(domain.nvram.unwrap().path, fixture.path("nvram/web 2_VARS.fd"));
    assert_eq!(domain.boot[0].path, fixture.path("images/web 2-kernel"));
    assert_eq!(fs::read_to_string(fixture.path("images/web 2-kernel")).unwrap(), "kernel");
    assert!(fixture.path(&format!("swtpm/{}/tpm2/tpm2-00.permall", domain.id.uuid)).exists());
    assert_eq!(fs::read_to_string(fixture.path("images/vmlinuz")).unwrap(), "theirs");
    assert!(restored.notes.iter().any(|note| note.contains("the domain has no disk vdz")), "{:?}", restored.notes);
}

#[test]
fn existing_domain_is_not_replaced_without_request() {
    let (fixture, _) = host();
    let cases = [
        (Known::with(DOMAIN, UUID, DomainState::Running), true, "already exists and is running"),
        (Known::with(DOMAIN, UUID, DomainState::Paused), true, "already exists and is running"),
        (Known::with(DOMAIN, UUID, DomainState::Off), false, "already exists"),
        (Known::with(DOMAIN, Uuid::nil(), DomainState::Off), true, "another domain"),
        (Known::with("other", UUID, DomainState::Off), true, "another domain"),
        (Known::with(DOMAIN, UUID, DomainState::Off).off_as(OffKind::Saved), true, "has a saved state"),
        (Known::with(DOMAIN, UUID, DomainState::Off).off_as(OffKind::Migrated), true, "was migrated"),
    ];
    let before = tree(fixture.dir.path());
    for (known, overwrite, text) in cases {
        let error = define(&fixture, &known, None, overwrite).unwrap_err();
        assert!(error.to_string().contains(text) && error.hint().is_some(), "{error}");
        assert_eq!(tree(fixture.dir.path()), before);
    }
    define(&fixture, &Known::with(DOMAIN, UUID, DomainState::Off), None, true).unwrap();
}

#[test]
fn base_of_a_leftover_overlay_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let domain = DomainRef { name: DOMAIN.to_owned(), uuid: UUID };
    let mut record = journal.begin(Uuid::nil(), chrono::Utc::now(), "test:///default", &domain).unwrap();
    let overlay = dir.path().join("a.vda.kvmbackup-0123abcd.qcow2");
    let image = crate::model::Image { source: crate::model::Source::File("/srv/a".into()), format: Format::Raw };
    let overlays =
        vec![Overlay { target: "vda".to_owned(), path: overlay.clone(), base: image, saved: None, marks: None }];
    record.update(|entry| entry.overlays = overlays).unwrap();

    let named = |name: Option<&str>| Define { name: name.map(str::to_owned), ..Define::default() };
    let in_place = Request { define: Some(named(None)), ..request(dir.path()) };
    let device = DiskChoice { target: "vda".to_owned(), device: Some("/dev/x".into()) };
    let into_device = Request { disks: vec![device], ..request(dir.path()) };
    let copy = Request { define: Some(named(Some("web 2"))), ..request(dir.path()) };
    let of_another = Request { domain: "other".to_owned(), ..in_place.clone() };
    // A journal entry without its overlay does not block a restore.
    expect_settled(&in_place, &journal).unwrap();
    fs::write(&overlay, "what the guest wrote").unwrap();
    for refused in [&in_place, &into_device, &Request { define: Some(named(Some(DOMAIN))), ..in_place.clone() }] {
        let error = expect_settled(refused, &journal).unwrap_err();
        assert!(
            error.to_string().contains("overlay") && error.hint().unwrap().contains("kvmbackup recover"),
            "{error}"
        );
    }
    for good in [&copy, &of_another] {
        expect_settled(good, &journal).unwrap();
    }
}

#[test]
fn rejected_definition_changes_nothing() {
    let (fixture, _) = host();
    fs::write(fixture.path("images/root.qcow2"), "theirs").unwrap();
    let before = tree(fixture.dir.path());
    let known = Known { refuses: Some("<domain"), ..Known::default() };
    let error = define(&fixture, &known, None, true).unwrap_err();
    assert!(error.to_string().contains("does not accept the definition"), "{error}");
    assert!(error.hint().unwrap().contains("--xml FILE: tar --zstd -xOf "), "{error:?}");
    assert!(known.defined.lock().unwrap().is_empty());
    assert_eq!(tree(fixture.dir.path()), before);
    assert_eq!(fs::read_to_string(fixture.path("images/root.qcow2")).unwrap(), "theirs");
    assert!(matches!(define(&fixture, &Known::default(), None, false), Err(Error::Exists { .. })));
}

#[test]
fn migratable_definition_is_used_if_the_saved_one_is_rejected() {
    let (fixture, _) = host();
    let known = Known { refuses: Some("type='qemu'"), ..Known::default() };
    let file = fixture.path("edited.xml");
    let edited = fixture.xml(&fixture.usual_disks()).replace("type='qemu'", "type='kvm'");
    fs::write(&file, edited).unwrap();
    let how = Define { xml: Some(file), machine: Some("q35".to_owned()), ..Define::default() };
    let restored = define_as(&fixture, &known, how, false).unwrap();
    assert!(known.xml().contains("machine='q35'") && known.tried.lock().unwrap().len() == 1);
    assert!(restored.notes.contains(&"missing on this host: the network lan".to_owned()), "{:?}", restored.notes);
}

#[test]
fn lost_snapshots_and_lost_encryption_are_reported() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("images")).unwrap();
    let disks = fixture.usual_disks();
    fixture.point_with("2026-11-20T02:00:00Z", Codec::None, (&disks, &fixture.xml(&disks)), |manifest| {
        manifest.disks[1].encrypted = true;
    });
    let state = |name: &str, kind| SavedState { name: name.to_owned(), kind };
    let states = vec![state("a b", StateKind::InternalSnapshot), state("c", StateKind::Checkpoint)];
    let known = Known { states, ..Known::with(DOMAIN, UUID, DomainState::Off) };
    let notes = define(&fixture, &known, None, true).unwrap().notes.join("\n");
    for text in [
        "virsh snapshot-delete 'web 1' 'a b' --metadata",
        "virsh checkpoint-delete 'web 1' c --metadata",
        "disk vdb was encrypted and is restored UNENCRYPTED: ",
    ] {
        assert!(notes.contains(text), "{notes}");
    }
    assert!(!notes.contains("disk vda was encrypted"), "{notes}");
}

#[test]
fn image_of_another_domain_is_never_replaced() {
    let (fixture, _) = host();
    let image = fixture.path("images/root.qcow2");
    fs::write(&image, "theirs").unwrap();
    let disk = format!("<disk type='file'><source file='{}'/><target dev='vdq'/></disk>", text(&image));
    let mut known = Known::with(DOMAIN, UUID, DomainState::Off);
    known.domains.push((DomainRef { name: "other".to_owned(), uuid: Uuid::nil() }, DomainState::Off));
    known.disks.insert("other".to_owned(), disk.clone());
    let error = define(&fixture, &known, None, true).unwrap_err();
    assert!(error.to_string().contains("in use by domain other (disk vdq)"), "{error}");
    let files = Request { overwrite: true, ..request(&fixture.path("images")) };
    let into_files = |known: &Known| restore(&fixture, &files, Some(known), (&Silent, &Cancel::default()));
    assert!(into_files(&known).unwrap_err().to_string().contains("domain other"));
    assert_eq!(fs::read_to_string(&image).unwrap(), "theirs");
    // The domain's own definition does not block the restore.
    let mut known = Known::with(DOMAIN, UUID, DomainState::Off);
    known.disks.insert(DOMAIN.to_owned(), disk);
    into_files(&known).unwrap();
    define(&fixture, &known, None, true).unwrap();
}

#[test]
fn image_in_use_is_never_replaced() {
    let (fixture, _) = host();
    let image = fixture.path("images/root.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "1M"]);
    // QEMU holds its own locks until its standard input ends.
    let mut holder = Command::new("qemu-io").arg(&image).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut answer = [0; 1];
    holder.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
    let error = define(&fixture, &Known::default(), None, true).unwrap_err();
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert!(error.to_string().contains("in use by process"), "{error}");
    define(&fixture, &Known::default(), None, true).unwrap();
}

#[test]
fn definition_and_image_paths_are_not_trusted() {
    let (fixture, disks) = host();
    let xml = fixture.xml(&disks).replace("<name>web 1", "<name>web 9");
    fixture.point_with("2026-11-21T02:00:00Z", Codec::None, (&disks, &xml), |_| ());
    let error = define(&fixture, &Known::default(), None, false).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("another domain"), "{error}");

    fixture.point_with("2026-11-22T02:00:00Z", Codec::None, (&disks, &fixture.xml(&disks)), |manifest| {
        manifest.disks[0].source = crate::model::Source::File("/etc/cron.d/x".into());
    });
    let error = define(&fixture, &Known::default(), None, false).unwrap_err();
    assert!(error.to_string().contains("no active storage pool"), "{error}");
    assert!(!Path::new("/etc/cron.d/x").exists());
}

#[test]
fn domain_of_the_legacy_script_is_restored_as_a_copy() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("images")).unwrap();
    let disks = fixture.usual_disks();
    fixture.seed("web 1.tar.gz", &disks);
    let known = Known::default();
    define(&fixture, &known, Some("old web"), false).unwrap();
    let images = ["images/old web-vda.qcow2", "images/old web-vdb.img"].map(|name| fixture.path(name));
    is_same(&disks[0], &images[0]);
    is_same(&disks[1], &images[1]);
    let domain = described(&known.xml());
    assert_eq!(domain.id.name, "old web");
    let paths: Vec<_> = domain.disks.iter().filter_map(|disk| disk.image.source.path()).collect();
    assert_eq!(paths, images);
}

/// A loop device over a file, detached on drop.
struct Loop(PathBuf);

impl Loop {
    /// `None` if this user cannot create one; in the lab that is a failure.
    fn over(file: &Path) -> Option<Loop> {
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        let name = made.as_ref().ok().filter(|made| made.status.success()).map(|made| made.stdout.trim_ascii());
        let name = name.and_then(|name| str::from_utf8(name).ok()).map(PathBuf::from);
        assert!(name.is_some() || std::env::var_os("KVMBACKUP_LAB").is_none(), "the lab has no loop device: {made:?}");
        name.map(Loop)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn block_device_contains_exactly_the_disk() {
    let (fixture, disks) = host();
    let backing = fixture.path("backing");
    let fill = |bytes: u64| fs::write(&backing, vec![7; bytes as usize]).unwrap();
    fill(9 * MIB);
    let Some(small) = Loop::over(&backing) else {
        println!("skipped: this user cannot make loop devices");
        return;
    };
    let wanted = |device: &Loop| Request {
        to: None,
        disks: vec![DiskChoice { target: "vdb".to_owned(), device: Some(device.0.clone()) }],
        ..request(Path::new(""))
    };
    assert!(matches!(get(&fixture, &wanted(&small)), Err(Error::Room { .. })));
    drop(small);

    fill(12 * MIB);
    let device = Loop::over(&backing).unwrap();
    let before = tree(fixture.dir.path());
    let restored = get(&fixture, &wanted(&device)).unwrap();
    assert_eq!((restored.devices, restored.files), (vec![device.0.clone()], vec![]));
    assert_eq!(tree(fixture.dir.path()), before, "a restore to a device also wrote files");
    let held = fs::read(&device.0).unwrap();
    let disk = fs::read(&disks[1].raw).unwrap();
    assert!(held[..disk.len()] == disk[..], "the device differs from the disk");
    assert!(held[disk.len()..].iter().all(|&byte| byte == 7), "bytes after the disk were overwritten");

    let (held, alias) = (fs::read(&device.0).unwrap(), fixture.path("alias"));
    std::os::unix::fs::symlink(&device.0, &alias).unwrap();
    for (second, text) in [(&device.0, "the same device"), (&alias, "in use")] {
        let mut twice = wanted(&device);
        twice.disks.push(DiskChoice { target: "vda".to_owned(), device: Some(second.clone()) });
        let error = get(&fixture, &twice).unwrap_err();
        assert!(error.to_string().contains(text) && !error.is_damage(), "{error}");
    }
    assert!(fs::read(&device.0).unwrap() == held, "a device that is given twice was overwritten");

    // An in-kernel user, such as a mount, opens the device exclusively.
    let flags = rustix::fs::OFlags::EXCL.bits() as i32;
    let user = std::os::unix::fs::OpenOptionsExt::custom_flags(File::options().read(true), flags).open(&device.0);
    let error = get(&fixture, &wanted(&device)).unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    drop(user);

    let mut none = wanted(&device);
    none.disks[0].device = Some(disks[0].raw.clone());
    assert!(get(&fixture, &none).unwrap_err().to_string().contains("not a block device"));
}
