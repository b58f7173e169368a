//! `check` as the doctor: it changes nothing, and helps an operator without a configuration. Its output is in texts.rs,
//! for running guests in live_hooks.rs.

use crate::host::{Host, NAME};

#[test]
fn check_changes_nothing() {
    let host = Host::new(&["a", "b"]);
    let before = host.everything();
    host.run("check").ends(0);
    assert_eq!(host.everything(), before);
}

#[test]
fn operator_without_a_configuration_is_shown_an_example() {
    let host = Host::new(&["a"]);
    for text in [None, Some(""), Some("# later\n\n")] {
        std::fs::remove_file(host.path("config.yml")).unwrap();
        text.into_iter().for_each(|text| host.write_config(text));
        let ran = host.run("check").ends(2);
        let (_, rest) = ran.out.split_once(":\n\n").unwrap();
        let (example, _) = rest.split_once("\n\n").unwrap();
        assert!(example.contains(NAME), "{example}");
        // The printed example is valid as it is.
        host.write_config(example);
        host.run("check --offline").ends(0);
    }
    host.write_config("desk: {backupdr: /x}\n");
    let ran = host.run("check").ends(2);
    assert!(ran.out.is_empty() && ran.err.contains("backupdir"), "{ran:?}");
}
