//! `check` as the doctor: it changes nothing, and helps who has no configuration. What it says is in texts.rs, of guests that
//! run in live_hooks.rs.

use crate::host::{Host, NAME};

#[test]
fn a_check_changes_nothing() {
    let host = Host::new(&["a", "b"]);
    let before = host.everything();
    host.run("check").ends(0);
    assert_eq!(host.everything(), before);
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
