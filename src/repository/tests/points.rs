//! Tests that restore points contain the saved data, need space only for changes, and are readable by kvmbackup and
//! restic.

use super::super::*;
use super::scene::{Image, MIB, Scene, read_file};

const FIRST: &str = "2026-11-30T02:00:00Z";
const SECOND: &str = "2026-12-01T02:00:00Z";

#[test]
fn saved_data_is_read_by_this_program_and_by_restic() {
    for scene in [Scene::new(), Scene::of_restic()] {
        let image = Image::usual();
        let point = scene.point("web 1", FIRST, &image);
        scene.restic.run(&["check", "--read-data"]);
        scene.expect(&point, &image);
        let listed = scene.restic.run(&["ls", "--long", "latest"]);
        for line in
            ["-rw-------     0     0 41943552 2026-11-30 02:00:00 /web 1/disks/vda.raw", "/web 1/nvram/web <1>_VARS.fd"]
        {
            assert!(listed.contains(line), "{listed}");
        }
        scene.restic.run(&["restore", "latest", "--target", "restored"]);
        assert!(read_file(&scene, "restored/web 1/disks/vda.raw") == image.bytes);
        assert_eq!(read_file(&scene, "restored/web 1/nvram/web <1>_VARS.fd"), [0; 3000]);
        let found = &scene.repository.uncached_snapshots().unwrap().found;
        assert_eq!(found, &[point]);
        assert_eq!(scene.repository.list(Kind::Lock).unwrap(), []);
    }
}

#[test]
fn any_range_of_a_disk_is_read() {
    let scene = Scene::new();
    let image = Image::usual();
    let (id, snapshot) = scene.point("web", FIRST, &image);
    let disk = scene.open(id, &snapshot).unwrap().disk("disks/vda.raw").unwrap();
    let size = disk.size();
    let edges = disk.extents().iter().flat_map(|extent| [extent.offset.saturating_sub(5), extent.end() - 5]);
    let places: Vec<u64> = (1..100_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % size).chain(edges).collect();
    for offset in places {
        let length = (size - offset).min(200_000) as usize;
        let mut found = vec![1; length];
        disk.read_at(offset, &mut found).unwrap();
        assert!(found == image.bytes[offset as usize..][..length], "at {offset}");
    }
    for (offset, length) in [(size, 1), (size - 1, 2), (u64::MAX, 1)] {
        assert!(disk.read_at(offset, &mut vec![0; length]).is_err());
    }
    disk.read_at(size, &mut []).unwrap();
}

#[test]
fn disks_of_every_shape_are_restored_identically() {
    let scene = Scene::new();
    let shapes: [(u64, &[(u64, u64)]); 8] = [
        (0, &[]),
        (1, &[(0, 1)]),
        (512, &[]),
        (64 << 10, &[(0, 64 << 10)]),
        ((64 << 10) + 1, &[(64 << 10, 1)]),
        (20 * MIB, &[]),
        (20 * MIB, &[(9 * MIB, 1)]),
        (3 * MIB, &[(0, MIB), (MIB, MIB), (2 * MIB + 1, 65_535), (2 * MIB + 65_536, 65_536)]),
    ];
    for (n, (size, ranges)) in (1..).zip(shapes) {
        let image = Image::new(size, ranges, n);
        let point = scene.point("web", FIRST, &image);
        scene.expect(&point, &image);
        scene.restic.run(&["restore", &point.0.to_string(), "--target", "restored"]);
        assert!(read_file(&scene, "restored/web/disks/vda.raw") == image.bytes);
    }
    scene.restic.run(&["check", "--read-data"]);
}

#[test]
fn restore_point_without_changes_costs_less_than_a_kilobyte() {
    let scene = Scene::new();
    let image = Image::usual();
    let (_, first) = scene.point("web", FIRST, &image);
    let before = scene.stored();
    let point = scene.point("web", SECOND, &image);
    assert_eq!((point.1.tree, point.1.parent.is_some()), (first.tree, true));
    let cost = scene.stored() - before;
    assert!(cost < 1024, "{cost} bytes");
    let summary = point.1.summary.unwrap();
    assert_eq!((summary.files_unmodified, summary.files_new, summary.data_added), (5, 0, 0));
    scene.expect(&point, &image);
}

#[test]
fn restore_point_costs_only_its_changes_and_does_not_need_its_parent() {
    let scene = Scene::of_restic();
    let first = Image::usual();
    let old = scene.point("web", FIRST, &first);
    let mut second = first.clone();
    second.fill(30 * MIB + 70_000, 10, 77);
    let new = scene.point("web", SECOND, &second);
    let summary = new.1.summary.unwrap();
    assert_eq!((summary.data_blobs, summary.files_changed, summary.files_unmodified), (1, 1, 4));
    assert!(summary.data_added < (64 << 10) + 60_000, "{summary:?}");
    let listed = scene.restic.run(&["ls", "--long", "latest"]);
    assert!(listed.contains("2026-11-30 02:00:00 /web/domain.xml"), "an unchanged file keeps its time: {listed}");
    assert!(listed.contains("2026-12-01 02:00:00 /web/disks/vda.raw"), "{listed}");
    scene.restic.run(&["forget", "--group-by", "host,tags", "--keep-last", "1", "--prune"]);
    assert_eq!(scene.repository.uncached_snapshots().unwrap().found, std::slice::from_ref(&new));
    assert!(scene.open(old.0, &old.1).is_err(), "the directories of the point were pruned");
    scene.restic.run(&["check", "--read-data"]);
    scene.expect(&new, &second);
    // The cache follows the prune, so the pruned blobs are stored again.
    let again = scene.point("web", "2026-12-02T02:00:00Z", &first);
    scene.expect(&again, &first);
}

#[test]
fn second_guest_of_a_template_needs_little_space() {
    let scene = Scene::new();
    let image = Image::usual();
    scene.point("web", FIRST, &image);
    let one = scene.stored();
    let point = scene.point("db", FIRST, &image);
    assert!(point.1.parent.is_none() && scene.stored() < one * 11 / 10);
    scene.expect(&point, &image);
}

#[test]
fn grown_or_shrunk_disk_has_its_new_size() {
    let scene = Scene::new();
    for (n, size) in (1..).zip([2 * MIB, 4 * MIB + 512, 3 * MIB]) {
        let image = Image::new(size, &[(0, MIB), (size - 70_000, 70_000)], 5);
        let point = scene.point("web", &format!("2026-11-{n:02}T02:00:00Z"), &image);
        scene.expect(&point, &image);
    }
}

#[test]
fn files_saved_by_restic_are_readable() {
    let scene = Scene::of_restic();
    let image = Image::new(9 * MIB + 77, &[(0, 4 * MIB), (8 * MIB, MIB + 77)], 3);
    std::fs::create_dir_all(scene.restic.path("web/disks")).unwrap();
    std::fs::write(scene.restic.path("web/disks/vda.raw"), &image.bytes).unwrap();
    let archive = scene.restic.path("web");
    scene.restic.run(&["backup", "--tag", "kvmbackup", archive.to_str().unwrap()]);
    let (id, snapshot) = scene.repository.uncached_snapshots().unwrap().found.pop().unwrap();
    assert!(matches!(scene.open(id, &snapshot), Err(Error::Suspect { .. })), "the path is not that of a domain");
    // Use the first directory of that path like that of a domain.
    let root = archive.iter().nth(1).unwrap().to_str().unwrap();
    let snapshot = Snapshot { paths: vec![format!("/{root}")], ..snapshot };
    let reader = scene.open(id, &snapshot).unwrap();
    let (name, size) = reader.names().find(|(name, _)| name.ends_with("/web/disks/vda.raw")).unwrap();
    assert_eq!(size, image.bytes.len() as u64);
    let (disk, mut all) = (reader.disk(name).unwrap(), vec![1; image.bytes.len()]);
    disk.read_at(0, &mut all).unwrap();
    assert!(all == image.bytes && reader.verify(&mut |_| ()).is_empty());
}

#[test]
fn invalid_names_and_data_are_refused() {
    let scene = Scene::new();
    for folder in ["", "..", "a/b"] {
        assert!(matches!(scene.begin(folder, FIRST), Err(Error::Invalid { .. })));
    }
    let mut writer = scene.begin("web", FIRST).unwrap();
    writer.add("a/b", b"x").unwrap();
    for name in ["", "/a", "a/", "../a", "a/../b", "a/b", "a/b/c", "a"] {
        assert!(writer.add(name, b"x").is_err(), "{name}");
    }
    let read = |bytes: &'static [u8]| {
        let mut bytes = bytes;
        move |out: &mut [u8]| std::io::Read::read(&mut bytes, out).map_err(|_| unreachable!())
    };
    for length in [2, 4] {
        assert!(writer.file::<Error>("file", length, &mut read(b"abc")).is_err());
    }
    writer.file::<Error>("file", 3, &mut read(b"abc")).unwrap();
    let disk = Disk { size: 100, extents: vec![crate::model::Extent { offset: 10, length: 20 }], changed: None };
    for (offset, length) in [(10, 19), (95, 10), (u64::MAX, 1)] {
        let bytes = vec![1; length];
        assert!(writer.disk::<Error>("disk", &disk, &mut |_, sink| sink(offset, &bytes)).is_err(), "{offset}");
    }
    assert_eq!(writer.stats().data_blobs, 2, "the blobs of `x` and `abc`");
    let backwards =
        writer.disk::<Error>("disk", &disk, &mut |_, sink| sink(20, &[1; 10]).and_then(|()| sink(10, &[1; 10])));
    assert!(backwards.is_err());
    assert!(writer.disk::<Error>("disk", &Disk { size: u64::MAX, ..Disk::default() }, &mut |_, _| Ok(())).is_err());
    let facts = serde_json::Value::String("x".repeat(100_000));
    assert!(writer.commit(Some(facts)).is_err());
    assert!(scene.repository.uncached_snapshots().unwrap().found.is_empty());
    assert_eq!(scene.repository.list(Kind::Lock).unwrap(), [], "the lock is removed");
}

#[test]
fn blob_size_applies_to_new_disks_and_existing_ones_keep_theirs() {
    for (size, other) in [(64 << 10, 8 * MIB), (128 << 10, 64 << 10), (MIB, 64 << 10), (8 * MIB, 64 << 10)] {
        let mut scene = Scene::new();
        scene.options.blob_size = Some(size);
        let first = Image::new(40 * MIB + 512, &[(0, 9 * MIB), (30 * MIB, 2 * MIB), (40 * MIB, 512)], 1);
        let (_, snapshot) = scene.point("web", FIRST, &first);
        let stored = snapshot.summary.unwrap().data_blobs;
        let expected = (9 * MIB).div_ceil(size) + (2 * MIB).div_ceil(size);
        assert!(stored >= expected.min(2) && stored <= expected + 10, "{size}: {stored} blobs");

        scene.options.blob_size = Some(other);
        let mut second = first.clone();
        second.fill(30 * MIB + 70_000, 10, 77);
        let changed = vec![crate::model::Extent { offset: 30 * MIB + 70_000, length: 10 }];
        let mut writer = scene.begin("web", SECOND).unwrap();
        let disk = Disk { changed: Some(changed), ..second.disk() };
        let mut read = 0;
        let added = writer.disk::<Error>("disks/vda.raw", &disk, &mut |extents, sink| {
            read += extents.iter().map(|extent| extent.length).sum::<u64>();
            second.read(extents, sink)
        });
        assert!(added.unwrap().only_changed && read <= size, "{size}: {read} bytes read");
        let (id, snapshot) = writer.commit(None).unwrap();
        assert_eq!(snapshot.summary.as_ref().unwrap().data_blobs, 1, "{size}");
        let disk = scene.open(id, &snapshot).unwrap().disk("disks/vda.raw").unwrap();
        let mut all = vec![1; second.bytes.len()];
        disk.read_at(0, &mut all).unwrap();
        assert!(all == second.bytes, "{size}");
        scene.restic.run(&["check", "--read-data"]);
    }
}
