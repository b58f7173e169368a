//! `check` as the doctor: what is wrong with a host before the night, and what to type. Guests that run are in live_hooks.rs.

use crate::host::{Host, NAME};

#[test]
fn a_host_in_order_passes_and_nothing_is_changed() {
    let host = Host::new(&["a", "b"]);
    let before = host.everything();
    let ran = host.run("check").ends(0).tells(&["ok", "configuration", "right"]).tells(&["ok", "libvirt", "libvirt "]);
    let ran = ran.tells(&["ok", "domain a", "vda"]).tells(&["ok", "domain b"]).tells(&[
        "ok",
        "target",
        "first run creates it",
    ]);
    assert!(!ran.out.contains("PROBLEM"), "{}", ran.out);
    assert_eq!(host.everything(), before);
    host.run("backup").ends(0);
    host.run("check").ends(0).tells(&["target", " free"]).tells(&["ok", "earlier runs", "left nothing behind"]);
}

#[test]
fn every_problem_of_a_host_is_told_at_once_with_what_to_type() {
    let host = Host::new(&["a", "gone"]);
    std::fs::remove_file(host.image("gone")).unwrap();
    let overlays = host.path("nowhere").display().to_string();
    let domains = format!(
        "{{gone: {{day_of_week: daily}}, nosuch: {{day_of_week: daily}}, a: {{day_of_week: daily, overlay_dir: {overlays}}}}}"
    );
    host.configure("require_mount: true\nbackupdir: /nowhere/backups\nmetrics: {textfile: /nowhere/a.prom}", &domains);
    let ran = host.run("check").ends(1);
    let ran = ran.tells(&["PROBLEM", "domain gone", "vda", "No such file"]).tells(&["PROBLEM", "domain nosuch"]);
    let ran = ran.tells(&["PROBLEM", "target /nowhere/backups"]).tells(&["WARNING", "textfile /nowhere/a.prom"]);
    let told = ran.out.lines().filter(|line| line.starts_with("PROBLEM") || line.starts_with("WARNING")).count();
    let hints = ran.out.lines().filter(|line| line.contains("hint: ")).count();
    assert_eq!((told, hints), (4, 4), "{}", ran.out);
    // A run says the same of the image, and nothing of what its tools say.
    host.configure("", "{gone: {day_of_week: daily}}");
    let ran = host.run("backup").ends(1);
    assert!(ran.out.contains("No such file") && ran.out.contains("`exclude_disks`"), "{}", ran.out);
    assert!(!ran.out.contains("qemu-nbd"), "{}", ran.out);
    // Nothing but the file itself is looked at.
    host.run("check --offline").ends(0).tells(&["ok", "configuration"]);
}

#[test]
fn without_libvirt_the_rest_is_told_all_the_same() {
    let host = Host::new(&["a"]);
    host.configure("libvirt_uri: test:///nowhere/at/all.xml", "{\"*\": {day_of_week: daily}}");
    host.run("check").ends(4).tells(&["PROBLEM", "libvirt", "/nowhere/at/all.xml"]).tells(&["ok", "target"]);
}

#[test]
fn who_has_no_configuration_is_told_what_to_write() {
    let host = Host::new(&["a"]);
    for text in [None, Some(""), Some("# later\n\n")] {
        std::fs::remove_file(host.path("config.yml")).unwrap();
        text.into_iter().for_each(|text| host.write_config(text));
        let ran = host.run("check").ends(2);
        let (_, rest) = ran.out.split_once(":\n\n").unwrap();
        let (example, _) = rest.split_once("\n\n").unwrap();
        assert!(example.contains(NAME), "{example}");
        // What is told is right as it stands.
        host.write_config(example);
        host.run("check --offline").ends(0);
    }
    host.write_config("desk: {backupdr: /x}\n");
    let ran = host.run("check").ends(2);
    assert!(ran.out.is_empty() && ran.err.contains("backupdir"), "{ran:?}");
}
