//! Hints for overlays that a loop device or a guest has open, that have no base or no disk, or whose commit ended
//! early.

use std::fs;

use serde_json::json;

use super::{command, killed, types};
use crate::guest_back::Scene;
use crate::lab::{DEADLINE, Disk, Lab, LoopDevice, Program, Small, run, virsh, wait_until};

#[test]
fn loop_device_on_the_overlay_is_detached_as_the_hint_says() {
    let (scene, overlay) = killed("hint-loop", 0xd1);
    scene.guest.destroy();
    let _device = LoopDevice::attach(overlay.as_ref());
    let said = scene.recovery_refuses("in use by loop device");
    types(&command(&said, "losetup"));
    scene.recover();
    scene.guest.assert_holds("vda", 0xd1, 1 << 20, 65536);
}

#[test]
fn guest_with_the_overlay_still_open_is_shut_down_as_the_hint_says() {
    let (scene, overlay) = killed("hint-guest-open", 0xd5);
    let name = "hint-guest-opener";
    let other = scene.lab.guest(name).system("").boot();
    scene.guest.destroy();
    run("chmod", &["644", &overlay]);
    let open = format!("drive_add 0 if=none,id=theirs,readonly=on,format=raw,file={overlay}");
    assert_eq!(virsh(&["qemu-monitor-command", name, "--hmp", &open]).trim(), "OK");
    let said = scene.recovery_refuses(&format!("in use by the running guest {name}"));
    types(&command(&said, "virsh shutdown"));
    wait_until(DEADLINE, "the other guest to be off", || other.state() == "shut off");
    scene.recover();
    scene.guest.assert_holds("vda", 0xd5, 1 << 20, 65536);
}

#[test]
fn unused_overlay_without_a_base_is_kept_as_a_copy_as_the_hint_says() {
    let (scene, overlay) = killed("hint-alone", 0xd9);
    let name = scene.guest.name();
    virsh(&["blockpull", name, "vda", "--wait"]);
    scene.guest.destroy();
    virsh(&["undefine", name]);
    let said = scene.recovery_refuses("not over the image of the backup");
    let new = scene.lab.path("new.qcow2");
    types(&command(&said, "qemu-img convert").replace("NEWFILE", new.to_str().unwrap()));
    assert_eq!(scene.program.run(&["recover"]).code, 0);
    run("test", &["!", "-e", &overlay]);
    let read = run("qemu-io", &["-r", "-c", "read -P 0xd9 1M 64k", new.to_str().unwrap()]);
    assert!(read.contains("read 65536/65536") && !read.contains("failed"), "{read}");
    scene.define(&scene.defined);
}

#[test]
fn commit_that_ended_early_is_repeated_as_the_hint_says() {
    let (lab, name) = (Lab::new(), "hint-ended");
    let small = Small::mount(lab.path("small"), "8M");
    fs::create_dir(lab.path("overlays")).unwrap();
    let guest = lab.guest(name).disk(Disk::qcow2("vda").file(small.path().join("vda.qcow2"))).paused();
    let keys = json!({"method": "snapshot", "quiesce": "never", "overlay_dir": lab.path("overlays")});
    let program = Program::new(&lab).domain(name, keys);
    let scene = Scene { defined: guest.inactive_xml(), guest, program, lab };
    scene.kill();
    scene.guest.write("vda", 0xdd, 1 << 20, 4 << 20);
    let filler = small.path().join("filler");
    fs::write(&filler, vec![1; 6 << 20]).unwrap();
    let said = scene.recovery_refuses("its commit ended early");
    let shown = run("sh", &["-ec", &command(&said, "df ")]);
    assert!(shown.contains("100%"), "{shown}");
    fs::remove_file(&filler).unwrap();
    scene.recover();
    scene.guest.assert_holds("vda", 0xdd, 1 << 20, 4 << 20);
}
