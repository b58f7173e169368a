//! The requested restore point is restored completely, or nothing is. The guests are off, and known to libvirt's test
//! driver.

use std::path::{Path, PathBuf};

use crate::host::{Host, run};

/// A guest `a` with a point of three days ago and one of now, and copies of the image at those times.
fn with_two_points(host: &Host) -> [PathBuf; 2] {
    let copy = |name: &str| {
        let copy = host.path(name);
        std::fs::copy(host.image("a"), &copy).unwrap();
        copy
    };
    host.run("backup").ends(0);
    host.age("a", &[3]);
    let old = copy("old.qcow2");
    run("qemu-io", &["-c", "write -P 0xcd 2M 64k", text(&host.image("a"))]);
    host.run("backup --force").ends(0);
    [old, copy("new.qcow2")]
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The names in a directory.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn assert_same(a: &Path, b: &Path) {
    run("qemu-img", &["compare", "-q", "-f", "qcow2", "-F", "qcow2", text(a), text(b)]);
}

#[test]
fn newest_point_is_restored_without_an_id_or_a_time() {
    let host = Host::new(&["a"]);
    let [old, new] = with_two_points(&host);
    let archives = host.archives("a");
    let [first, second] = &archives[..] else { panic!("{archives:?}") };
    let id = |archive: &Path| text(archive).rsplit_once("a-").unwrap().1.split_once('.').unwrap().0.to_owned();
    let two_days_ago = (chrono::Utc::now() - chrono::TimeDelta::days(2)).format("%Y-%m-%dT%H:%M:%SZ").to_string();
    for (number, (at, image)) in
        [(id(first), &old), (two_days_ago, &old), (id(second), &new), ("2999-01-01".to_owned(), &new)]
            .iter()
            .enumerate()
    {
        let to = host.path(&format!("to-{number}"));
        host.run(&format!("restore a --at {at} --to {}", to.display())).ends(0).tells(&["restored a as of"]);
        assert_same(image, &to.join("a.qcow2"));
    }
    let to = host.path("newest");
    host.run(&format!("restore a --to {}", to.display())).ends(0);
    assert_same(&new, &to.join("a.qcow2"));

    let never = host.path("never");
    for at in ["2001-01-01", "20010101T000000Z"] {
        let ran = host.run(&format!("restore a --at {at} --to {}", never.display())).ends(1);
        assert!(ran.err.contains("no restore point") && ran.err.contains(&id(first)), "{}", ran.err);
    }
    assert!(!never.exists());
}

#[test]
fn damaged_point_is_6_leaves_nothing_and_does_not_affect_the_other() {
    let host = Host::new(&["a"]);
    let [old, _] = with_two_points(&host);
    let newest = host.archives("a").pop().unwrap();
    let whole = std::fs::read(&newest).unwrap();
    let (to, image) = (host.path("to"), std::fs::read(host.image("a")).unwrap());
    for at in [whole.len() / 4, whole.len() / 2, whole.len() - 5] {
        let mut bytes = whole.clone();
        // A decoder may ignore a single bit.
        bytes[at..at + 4].iter_mut().for_each(|byte| *byte ^= 0xff);
        std::fs::write(&newest, bytes).unwrap();
        for words in [format!("restore a --to {}", to.display()), "restore a --define --overwrite".to_owned()] {
            let ran = host.run(&words).ends(6);
            assert!(ran.err.contains(text(&newest)) && ran.err.contains("hint"), "{words}: {}", ran.err);
        }
        assert!(!to.exists());
        assert!(std::fs::read(host.image("a")).unwrap() == image, "the image was changed");
        assert!(!names(&host.path("")).iter().any(|name| name.contains("kvmbackup-")), "{:?}", names(&host.path("")));
    }
    host.run(&format!("restore a --at 2999-01-01 --to {}", to.display())).ends(6);
    let two_days_ago = (chrono::Utc::now() - chrono::TimeDelta::days(2)).format("%Y-%m-%dT%H:%M:%SZ");
    host.run(&format!("restore a --at {two_days_ago} --to {}", to.display())).ends(0);
    assert_same(&old, &to.join("a.qcow2"));
}

#[test]
fn existing_file_stays_unless_it_may_be_replaced() {
    let host = Host::new(&["a"]);
    let [_, new] = with_two_points(&host);
    let to = host.path("to");
    std::fs::create_dir(&to).unwrap();
    std::fs::write(to.join("a.qcow2"), "theirs").unwrap();
    let words = format!("restore a --to {}", to.display());
    let ran = host.run(&words).ends(1);
    assert!(ran.err.contains("a.qcow2: already exists") && ran.err.contains("--overwrite"), "{}", ran.err);
    assert_eq!(names(&to), ["a.qcow2"]);
    assert_eq!(std::fs::read(to.join("a.qcow2")).unwrap(), b"theirs");
    host.run(&format!("{words} --overwrite")).ends(0);
    assert_same(&new, &to.join("a.qcow2"));
}

#[test]
fn chosen_disk_is_restored_alone_except_for_the_definition() {
    let mut host = Host::new(&[]);
    host.add_with_encrypted_disk("a");
    host.run("backup --force");
    let to = host.path("to");
    let ran = host.run(&format!("restore a --disk vda --to {}", to.display())).ends(0);
    assert_eq!(names(&to), ["a.qcow2", "domain-inactive.xml", "domain-migratable.xml", "domain.xml"]);
    assert!(!ran.out.contains("note:"), "the other disk was not requested: {}", ran.out);
    let ran = host.run(&format!("restore a --disk vdb --to {}", host.path("other").display())).ends(1);
    assert!(
        ran.err.contains("disk vdb is not in the restore point") && ran.err.contains("Select from its disks: vda"),
        "{}",
        ran.err
    );
}

#[test]
fn names_may_be_patterns_and_the_nearest_name_is_suggested_for_a_wrong_one() {
    let names: Vec<String> = (0..12).map(|n| format!("web-{n}")).chain(["db".to_owned()]).collect();
    let host = Host::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    host.run("backup").ends(0);
    let listed = |words: &str| {
        let json = host.run(&format!("list --json {words}")).ends(0).json();
        json["points"]
            .as_array()
            .unwrap()
            .iter()
            .map(|point| point["domain"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(listed("web-1*"), ["web-1", "web-10", "web-11"]);
    assert_eq!(
        listed("db web-? db"),
        ["db", "web-0", "web-1", "web-2", "web-3", "web-4", "web-5", "web-6", "web-7", "web-8", "web-9"]
    );
    host.run("verify web-1*").ends(0);
    host.run("prune --dry-run d*").ends(0);
    let ran = host.run("list web_11").ends(1);
    assert!(ran.err.contains("Did you mean `web-11`?") && !ran.err.contains("web-3"), "{ran:?}");
    host.run("verify nosuch*").ends(1);
}
