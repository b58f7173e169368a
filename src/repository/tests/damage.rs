//! Tests that damage is an error that names the damaged object and never causes a panic, even if it is deliberate.

use super::super::tree::{Node, Tree};
use super::super::*;
use super::scene::{Image, MIB, Scene, expect_read, objects, put_back};

const FIRST: &str = "2026-11-30T02:00:00Z";

/// Reads the restore point in every way; returns the errors, or none if it is undamaged.
fn read(scene: &Scene, image: &Image) -> Vec<Error> {
    let snapshots = match scene.repository.uncached_snapshots() {
        Ok(snapshots) => snapshots,
        Err(error) => return vec![error],
    };
    let mut errors = snapshots.failures;
    for (id, snapshot) in snapshots.found {
        match scene.open(id, &snapshot) {
            Ok(reader) => {
                let damages = reader.verify(&mut |_| ());
                if damages.is_empty() {
                    expect_read(&reader, image);
                } else {
                    // Data that can still be read is correct.
                    if let Ok(disk) = reader.disk("disks/vda.raw") {
                        let _ = disk.read::<Error>(&mut |offset, bytes| {
                            assert!(bytes == &image.bytes[offset as usize..][..bytes.len()]);
                            Ok(())
                        });
                    }
                    errors.extend(damages);
                }
            }
            Err(error) => errors.push(error),
        }
    }
    errors
}

#[test]
fn errors_name_the_changed_truncated_or_lost_object() {
    let scene = Scene::new();
    let image = Image::new(3 * MIB, &[(0, MIB), (2 * MIB, 300_000)], 9);
    scene.point("web", FIRST, &image);
    assert!(read(&scene, &image).is_empty());
    let saved = objects(&scene);
    let place = scene.restic.place();
    for (object, bytes) in saved.iter().filter(|(object, _)| object.kind != Kind::Key) {
        let end = bytes.len();
        let flips = (0..end).step_by((end / 5).max(1)).chain([end - 1]).map(|at| {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            Some(bad)
        });
        let cuts = [0, 1, end / 2, end - 1].map(|length| Some(bytes[..length].to_vec()));
        for bad in flips.chain(cuts).chain([None]) {
            crate::sys::durable::remove_dir(&scene.options.cache).unwrap();
            match &bad {
                Some(bad) => place.put(*object, bad.clone()).unwrap(),
                None => place.remove(*object).unwrap(),
            }
            let errors = read(&scene, &image);
            assert!(errors.iter().all(|error| error.is_damage() && !error.is_stall()), "{object}: {errors:?}");
            match (object.kind, &bad) {
                // Without its snapshot, a restore point does not exist. The header of a pack is not needed to read it.
                (Kind::Snapshot, None) => assert!(errors.is_empty()),
                (Kind::Pack, Some(bad)) if bad.len() == end => {
                    assert!(errors.iter().all(|error| error.to_string().contains(&object.to_string())), "{errors:?}");
                }
                // Without an index, its blobs are missing.
                (Kind::Index, None) => assert!(errors.iter().any(|error| matches!(error, Error::MissingBlob { .. }))),
                (Kind::Pack, Some(bad)) if bad.len() == end - 1 => {}
                _ => {
                    assert!(!errors.is_empty(), "{object} {:?}", bad.map(|bad| bad.len()));
                    assert!(errors.iter().any(|error| error.to_string().contains(&object.to_string())), "{errors:?}");
                }
            }
        }
        put_back(&scene, &saved);
    }
    assert!(read(&scene, &image).is_empty());
}

#[test]
fn damaged_parent_is_not_used() {
    let scene = Scene::new();
    let image = Image::new(MIB, &[(0, MIB)], 9);
    let (first, snapshot) = scene.point("web", FIRST, &image);
    let (pack, _) = Catalog::open(&scene.repository, &scene.options.cache)
        .unwrap()
        .find(BlobKind::Tree, &snapshot.tree)
        .unwrap()
        .unwrap();
    scene.repository.remove(Object::new(Kind::Pack, pack)).unwrap();
    let writer = scene.begin("web", "2026-12-01T02:00:00Z").unwrap();
    assert_eq!(writer.parent(), None);
    let other = scene.begin("web", "2026-12-01T02:00:00Z").unwrap();
    drop((writer, other));
    assert!(scene.open(first, &snapshot).err().unwrap().is_damage());
}

/// A snapshot of trees that an attacker with the key has forged.
fn forged(scene: &Scene, root: &Tree, below: &[Tree]) -> (Id, Snapshot) {
    let catalog = std::sync::Arc::new(Catalog::open(&scene.repository, &scene.options.cache).unwrap());
    let lock = SharedLock::take(&scene.repository, scene.options.timing, &scene.options.cancel).unwrap();
    let mut blobs = blobs::Blobs::new(lock.locked(), &catalog, 1).unwrap();
    blobs.store_now(b"abc").unwrap();
    for tree in below {
        blobs.store_tree(tree).unwrap();
    }
    let tree = blobs.store_tree(root).unwrap();
    blobs.finish().unwrap();
    let snapshot = Snapshot {
        time: FIRST.parse().unwrap(),
        parent: None,
        tree,
        paths: vec!["/web".to_owned()],
        hostname: "web".to_owned(),
        username: "root".to_owned(),
        tags: vec!["kvmbackup".to_owned(), "uuid:web".to_owned()],
        program_version: None,
        summary: None,
        facts: None,
    };
    (scene.repository.save(Kind::Snapshot, &snapshot).unwrap(), snapshot)
}

fn id_of(tree: &Tree) -> Id {
    tree.write(std::io::sink()).unwrap().0
}

#[test]
fn forged_restore_points_are_errors() {
    let scene = Scene::new();
    let abc = Id::of(b"abc");
    let tree = |nodes: Vec<Node>| Tree { nodes };
    let open = |domain: Vec<Node>| {
        let below = tree(domain);
        let root = tree(vec![Node::dir("web", "t", id_of(&below))]);
        let (id, snapshot) = forged(&scene, &root, &[below]);
        scene.open(id, &snapshot)
    };
    let file = |name: &str, size: u64, content: &[Id]| Node::file(name, "t", size, content.to_vec());
    let good = open(vec![file("a", 6, &[abc, abc])]).unwrap();
    assert_eq!(good.read("a").unwrap(), b"abcabc");

    for name in ["..", ".", "", "a/b", "/etc/passwd", "a\0b"] {
        let error = open(vec![file(name, 0, &[])]).err().unwrap();
        assert!(error.is_damage(), "{name}: {error}");
    }
    assert!(open(vec![file("a", 0, &[]), file("a", 0, &[])]).is_err());
    assert!(open(vec![Node { kind: tree::NodeKind::Other, ..file("a", 0, &[]) }]).is_err());
    assert!(open(vec![Node { subtree: None, ..Node::dir("d", "t", abc) }]).is_err());
    // A directory whose tree does not exist, or is not a tree.
    assert!(matches!(open(vec![Node::dir("d", "t", abc)]), Err(Error::MissingBlob { kind: BlobKind::Tree, .. })));
    // False lengths and missing blobs.
    for (size, content) in [(5, vec![abc, abc]), (u64::MAX, vec![abc]), (1 << 60, vec![]), (0, vec![abc])] {
        let reader = open(vec![file("a", size, &content)]).unwrap();
        assert!(matches!(reader.disk("a"), Err(Error::Suspect { .. })));
        assert!(reader.read("a").is_err() && reader.verify(&mut |_| ()).len() == 1);
    }
    let reader = open(vec![file("a", 3, &[Id::of(b"nothing")])]).unwrap();
    assert!(matches!(reader.disk("a"), Err(Error::MissingBlob { .. })) && reader.verify(&mut |_| ()).len() == 1);
    // Nested directories.
    let mut deep = vec![tree(Vec::new())];
    for _ in 0..20 {
        deep.push(tree(vec![Node::dir("d", "t", id_of(&deep[deep.len() - 1]))]));
    }
    let root = tree(vec![Node::dir("web", "t", id_of(&deep[20]))]);
    let (id, snapshot) = forged(&scene, &root, &deep);
    assert!(matches!(scene.open(id, &snapshot), Err(Error::Suspect { .. })));
    for paths in [
        vec![],
        vec!["/web".to_owned(), "/db".to_owned()],
        vec!["web".into()],
        vec!["/../web".into()],
        vec!["/db".into()],
    ] {
        assert!(scene.open(id, &Snapshot { paths, ..snapshot.clone() }).is_err());
    }
}

#[test]
fn false_index_causes_neither_a_panic_nor_excessive_memory() {
    let scene = Scene::new();
    let image = Image::new(MIB, &[(0, MIB)], 9);
    let (id, snapshot) = scene.point("web", FIRST, &image);
    let catalog = Catalog::open(&scene.repository, &scene.options.cache).unwrap();
    let (pack, good) = catalog.find(BlobKind::Tree, &snapshot.tree).unwrap().unwrap();
    let saved = objects(&scene);
    for bad in [
        pack::Entry { raw: Some(u32::MAX), ..good },
        pack::Entry { raw: Some(0), ..good },
        pack::Entry { raw: None, ..good },
        pack::Entry { length: u32::MAX, ..good },
        pack::Entry { length: 0, ..good },
        pack::Entry { length: 31, ..good },
        pack::Entry { offset: u32::MAX, ..good },
        pack::Entry { offset: u32::MAX, length: u32::MAX, ..good },
        pack::Entry { offset: good.offset + 1, ..good },
    ] {
        scene
            .repository
            .list(Kind::Index)
            .unwrap()
            .iter()
            .for_each(|(id, _)| scene.repository.remove(Object::new(Kind::Index, *id)).unwrap());
        let mut index = index::Index::default();
        index.add(pack, &[bad]);
        index.save(&scene.repository).unwrap();
        let error = scene.open(id, &snapshot).err();
        // For trees, the length before compression is only a hint; the decompressed contents count.
        let is_hint = bad.raw == Some(0);
        assert!(error.is_none_or(|error| error.is_damage()) || is_hint, "{bad:?}");
    }
    put_back(&scene, &saved);
    expect_read(&scene.open(id, &snapshot).unwrap(), &image);
}

#[test]
fn damage_of_config_and_locks_is_an_error_with_a_hint_and_restoring_them_is_enough() {
    let scene = Scene::new();
    let image = Image::new(MIB, &[(0, MIB)], 9);
    let point = scene.point("web", FIRST, &image);
    let place = scene.restic.place();
    let config = place.read_all(Object::CONFIG, 1 << 20).unwrap();
    for bad in changes(&config) {
        place.put(Object::CONFIG, bad).unwrap();
        let error = Repository::open(place.clone(), fixture::Restic::PASSWORD).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains("config") && error.hint().is_some(), "{error}");
    }
    // Without its config, a repository can be created again with its key, and nothing is lost.
    place.remove(Object::CONFIG).unwrap();
    let again = Repository::init(place.clone(), fixture::Restic::PASSWORD).unwrap();
    assert_ne!(again.id(), scene.repository.id());
    scene.restic.run(&["check", "--read-data"]);
    scene.expect(&point, &image);

    let timing = scene.options.timing;
    let take = || SharedLock::take(&scene.repository, timing, &scene.options.cancel);
    let lock = take().unwrap();
    let (id, size) = place.list(Kind::Lock).unwrap()[0];
    let bytes = place.read(Object::new(Kind::Lock, id), 0..size).unwrap();
    lock.release().unwrap();
    let object = Object::new(Kind::Lock, id);
    for bad in changes(&bytes).into_iter().chain([vec![0; bytes.len()]]) {
        place.put(object, bad.clone()).unwrap();
        // An empty lock is that of a writer that did not finish. Any other one may be exclusive.
        if bad.is_empty() {
            take().unwrap().release().unwrap();
            continue;
        }
        let error = take().unwrap_err();
        assert!(error.is_damage() && error.to_string().contains(&object.to_string()), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("unlock --remove-all")), "{:?}", error.hint());
    }
    scene.restic.run(&["unlock", "--remove-all"]);
    take().unwrap().release().unwrap();
}

/// The bytes with a bit flipped, truncated, and none of them.
fn changes(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut flipped = bytes.to_vec();
    flipped[bytes.len() / 2] ^= 1;
    vec![flipped, bytes[..bytes.len() / 2].to_vec(), Vec::new()]
}

#[test]
fn damage_affects_only_the_points_that_need_the_object_and_the_next_backup_stores_it_again() {
    let scene = Scene::new();
    let (image, other) = (Image::new(2 * MIB, &[(0, MIB)], 9), Image::new(2 * MIB, &[(0, MIB)], 3));
    let kept = scene.point("db", FIRST, &other);
    let before = objects(&scene);
    let lost = scene.point("web", FIRST, &image);
    let saved = objects(&scene);
    let own: Vec<Object> = saved.iter().filter(|object| !before.contains(object)).map(|(object, _)| *object).collect();
    assert_eq!(own.len(), 4, "two packs, an index and a snapshot: {own:?}");
    let mut recovered = 0;
    for object in own.into_iter().filter(|object| object.kind != Kind::Snapshot) {
        scene.repository.remove(object).unwrap();
        scene.expect(&kept, &other);
        let damages = match scene.open(lost.0, &lost.1) {
            Ok(reader) => reader.verify(&mut |_| ()),
            Err(error) => vec![error],
        };
        assert!(!damages.is_empty() && damages.iter().all(Error::is_damage), "{object}");
        // As docs/operations.md says: the index lists what exists, and then every guest is backed up.
        scene.restic.run(&["rebuild-index"]);
        let again = scene.point("web", "2026-12-01T02:00:00Z", &image);
        scene.expect(&again, &image);
        // Its blobs are those of the damaged point, except that directories contain the times of their files.
        match scene.open(lost.0, &lost.1) {
            Ok(_) => {
                scene.expect(&lost, &image);
                recovered += 1;
            }
            Err(error) => {
                assert!(matches!(error, Error::MissingBlob { kind: BlobKind::Tree, .. }), "{error}");
                scene.repository.forget(lost.0).unwrap();
            }
        }
        scene.restic.run(&["check", "--read-data"]);
        put_back(&scene, &saved);
    }
    assert_eq!(recovered, 2, "without the index, and without the data");
}
