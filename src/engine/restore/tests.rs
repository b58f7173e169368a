//! Restores of real archives, against qemu-img; libvirt is a stand-in that only knows domains.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::engine::Silent;
use crate::engine::fixture::{DOMAIN, Disk, Fixture, MIB, run, text};
use crate::model::{Codec, Format};

fn request(to: &Path) -> Request {
    Request {
        domain: DOMAIN.to_owned(),
        when: When::Newest,
        to: Some(to.to_owned()),
        disks: Vec::new(),
        define: None,
        overwrite: false,
    }
}

fn get(fixture: &Fixture, request: &Request) -> Result<Restored, Error> {
    restore(request, &fixture.store, None, &Silent, &Cancel::default())
}

fn is_same(disk: &Disk, restored: &Path) {
    run("qemu-img", &["compare", "-f", "raw", "-F", disk.format.driver(), text(&disk.raw), text(restored)]);
}

/// Everything below a folder.
fn tree(folder: &Path) -> Vec<String> {
    let found = run("find", &[text(folder), "-mindepth", "1", "-printf", "%P\n"]);
    let mut names: Vec<String> = found.lines().map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn a_folder_gets_the_disks_in_their_formats_and_all_beside_them() {
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
        // A third of its data are zeros, and are holes.
        let qcow2 = fs::metadata(out.join("root.qcow2")).unwrap();
        assert!(qcow2.blocks() * 512 < qcow2.len() * 3 / 4, "{} of {}", qcow2.blocks() * 512, qcow2.len());
        assert_eq!(fs::read(out.join("nvram/web 1_VARS.fd")).unwrap(), b"variables");
    }
}

#[test]
fn odd_sizes_and_formats_come_back() {
    let fixture = Fixture::new();
    let mut disks = vec![
        fixture.disk("vda", "images/x.img", Format::Raw, 3 * MIB + 12_345, &[(5, 100_000), (3 * MIB + 12_000, 345)]),
        fixture.disk("vdb", "images/y.vmdk", Format::Other("vmdk".to_owned()), MIB, &[(0, MIB)]),
        fixture.disk("vdc", "other/x.img", Format::Raw, 0, &[]),
        fixture.disk("vdd", "images/domain.xml", Format::Qcow2, 1 << 40, &[((1 << 40) - 512, 512)]),
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
fn damage_is_an_error_that_leaves_nothing() {
    let fixture = Fixture::new();
    let disks = fixture.usual_disks();
    for codec in [Codec::Zstd(1), Codec::Gzip(1), Codec::None] {
        let point = fixture.point("2026-11-20T02:00:00Z", codec, &disks);
        let good = fs::read(&point.path).unwrap();
        for at in [good.len() / 3, good.len() / 2, good.len() * 4 / 5] {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            fs::write(&point.path, bad).unwrap();
            match get(&fixture, &request(&fixture.path("out"))) {
                Err(error) => assert!(error.is_damage(), "{codec:?} {at}: {error:?}"),
                Ok(_) => panic!("{codec:?} {at}: restored"),
            }
            assert!(!fixture.path("out").exists());
        }
        fs::remove_file(&point.path).unwrap();
    }
}

#[test]
fn an_archive_that_lies_is_refused() {
    let fixture = Fixture::new();
    let disks = fixture.usual_disks();
    type Change = fn(&mut crate::archive::Manifest);
    let lies: [(Change, &str); 6] = [
        (|manifest| manifest.disks[0].virtual_bytes += 512, "another size"),
        (|manifest| manifest.disks[0].target = "../../x".to_owned(), "has the name"),
        (|manifest| manifest.nvram.as_mut().unwrap().member = "../../etc/x".to_owned(), "is missing"),
        (|manifest| manifest.nvram.as_mut().unwrap().member = "manifest.json".to_owned(), "two of its files"),
        (|manifest| manifest.disks[0].virtual_bytes = u64::MAX, "another size"),
        (|manifest| manifest.disks[1].member = "domain.xml".to_owned(), "is damaged"),
    ];
    for (lie, text) in lies {
        // The last disk's member is written under the name that the manifest had before the lie.
        let point = fixture.point_with("2026-11-20T02:00:00Z", Codec::None, &disks, "<domain/>", |_| ());
        let mut manifest = Archive::open(&point.path).unwrap().manifest().unwrap();
        lie(&mut manifest);
        rewrite_manifest(&fixture, &point, &manifest);
        let error = get(&fixture, &request(&fixture.path("out"))).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains(text), "{error:?}, not {text}");
        assert!(!fixture.path("out").exists());
        fs::remove_file(&point.path).unwrap();
    }
    // A path that leads elsewhere is not followed: only its last component counts.
    fixture.point_with("2026-11-21T02:00:00Z", Codec::None, &disks, "<domain/>", |manifest| {
        manifest.disks[0].source = crate::model::Source::File("/etc/../../.hidden".into());
        manifest.disks[1].source = crate::model::Source::File("/etc/passwd".into());
    });
    let out = fixture.path("out");
    get(&fixture, &request(&out)).unwrap();
    assert!(out.join("vda.qcow2").exists() && out.join("passwd").exists());
}

/// The same archive with another manifest.
fn rewrite_manifest(fixture: &Fixture, point: &Point, manifest: &crate::archive::Manifest) {
    let old = Archive::open(&point.path).unwrap();
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
    fs::rename(path, &point.path).unwrap();
}

#[test]
fn chosen_disks_only_and_files_that_exist_stay() {
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
    assert!(!out.join("root.qcow2").exists());
    wanted.disks[0].target = "vdz".to_owned();
    let error = get(&fixture, &wanted).unwrap_err();
    assert_eq!(error.to_string(), "disk vdz is not in the restore point: excluded");
    assert_eq!(error.hint().unwrap(), "it holds: vda, vdb");
}

#[test]
fn a_wish_to_stop_leaves_nothing() {
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
        let error = restore(&wanted, &fixture.store, None, &StopsAt(&cancel), &cancel).unwrap_err();
        assert!(matches!(error, Error::Cancelled(15)), "{error:?}");
        assert!(!fixture.path("out").exists());
    }
}

#[test]
fn an_archive_of_the_seed_script_comes_back_as_it_was() {
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
fn an_image_of_the_seed_that_reads_other_files_is_refused() {
    let fixture = Fixture::new();
    let disks = [fixture.disk("vda", "images/root.qcow2", Format::Qcow2, MIB, &[])];
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
