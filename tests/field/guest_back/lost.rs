//! Overlays that the journal does not know, and journal entries of overlays that cannot exist.

use std::fs;

use serde_json::json;

use super::Scene;
use crate::lab::Disk;

#[test]
fn guest_on_an_overlay_of_a_lost_state_directory_is_found_and_recovered() {
    for (name, command, runs) in
        [("lost-recover", "recover", true), ("lost-off", "recover", false), ("lost-backup", "backup", true)]
    {
        let scene = Scene::new(name);
        scene.kill();
        scene.guest.write("vda", 0x71, 1 << 20, 65536);
        fs::remove_dir_all(scene.program.state()).unwrap();
        if !runs {
            scene.guest.destroy();
        }
        let checked = scene.program.run(&["check"]);
        assert!(checked.code != 0 && checked.stdout.contains("the journal has no entry for it"), "{checked:#?}");
        let ran = scene.program.run(&[command]);
        assert_eq!(ran.code, 0, "{ran:#?}");
        assert!(ran.stdout.contains("vda was on an overlay without a journal entry"), "{ran:#?}");
        assert_eq!(scene.guest.inactive_xml(), scene.defined, "{name}");
        scene.guest.assert_holds("vda", 0x71, 1 << 20, 65536);
        scene.guest.assert_no_leftovers();
        let checked = scene.program.run(&["check"]);
        assert!(!checked.stdout.contains("the journal has no entry for it"), "{checked:#?}");
    }
}

#[test]
fn image_with_the_longest_possible_name_is_backed_up() {
    let image = format!("{}.qcow2", "ä".repeat(124));
    for keys in [json!({}), json!({"overlay_dir": "/var/lib/libvirt/images"}), json!({"method": "pull"})] {
        let name = "long-name";
        let scene = Scene::with(name, |guest| guest.disk(Disk::qcow2("vda").file(&image)));
        let mut all = json!({"method": "snapshot", "quiesce": "never"});
        all.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let scene = Scene { program: scene.program.domain(name, all), ..scene };
        scene.program.backup_well();
        scene.program.assert_no_leftovers(&scene.guest);
        if keys["method"] != "pull" {
            scene.kill();
            scene.recover();
        }
    }
}

#[test]
fn entry_of_an_overlay_with_an_impossible_name_is_closed() {
    let scene = Scene::new("name-too-long");
    scene.kill_at("Snapshot", "backup");
    let journal = fs::read_dir(scene.program.state().join("journal")).unwrap().next().unwrap().unwrap().path();
    let entry = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, entry.replace(".vda.kvmbackup-", &format!("{}.vda.kvmbackup-", "x".repeat(250)))).unwrap();
    // The real overlay does not exist, because the snapshot never took place.
    for file in fs::read_dir(scene.guest.disk_source("vda").unwrap().parent().unwrap()).unwrap().flatten() {
        if file.file_name().to_string_lossy().contains("kvmbackup") {
            fs::remove_file(file.path()).unwrap();
        }
    }
    scene.recover();
}
