//! Tests the key `copies`.

use super::super::*;
use super::{complaints, read};
use std::time::Duration;

fn with(copies: &str) -> String {
    format!(
        "h:\n  repository: {{url: /r, password_file: /p, copies: {copies}}}\n  domains: {{d: {{day_of_week: Sun}}}}\n"
    )
}

#[test]
fn copy_requires_a_name_an_address_and_a_password() {
    let settings = read(&with("[{name: far, to: 'sftp:b@far:/srv', password_env: P}]"));
    let usual = CopySettings {
        name: "far".to_owned(),
        to: "sftp:b@far:/srv".parse().unwrap(),
        password: Secret::Env("P".to_owned()),
        every: Duration::from_secs(86_400),
        keep: None,
        timeout: Duration::from_secs(12 * 3600),
    };
    assert_eq!(settings.copies(), [usual]);
    assert!(read(&with("[]")).copies().is_empty());
    assert!(read("h: {backupdir: /b, domains: {d: {day_of_week: Sun}}}").copies().is_empty());
    let said = complaints(&with("[{every: 1h}]")).join("\n");
    for missing in ["`name` is missing", "`to` is missing", "requires a password"] {
        assert!(said.contains(missing), "{said}");
    }
}

#[test]
fn wrong_copies_are_reported_without_their_password() {
    let one = |more: &str| with(&format!("[{{name: n, password_file: /q, {more}}}]"));
    for (text, part) in [
        (with("{name: n}"), "must be a list"),
        (one("to: srv/copy"), "is not the address of a repository"),
        (one("to: 'rest:https://u:sec/ret@h/'"), "is not the address of a repository"),
        (one("to: /r/"), "has the address of the repository itself"),
        (one("to: /c, keep: 0"), "bad number"),
        (one("to: /c, every: 30m"), "from 1h to 366d"),
        (one("to: /c, password_env: P"), "cannot be combined with `password_file`"),
        (with("[{name: n, to: /c, password_file: /q}, {name: n, to: /d, password_file: /q}]"), "`n` is given twice"),
        (
            with(
                "[{name: a, to: 'rest:https://u:sec@h/', password_file: /q}, {name: b, to: 'rest:https://u:sec@h', password_file: /q}]",
            ),
            "`b` has the address of another copy: rest:https://u:***@h",
        ),
    ] {
        let said = complaints(&text).join("\n");
        assert!(said.contains(part) && !said.contains("sec"), "{text}: {said}");
    }
}
