//! Files that were edited on Windows, and names with a carriage return: files are read correctly, and no output for
//! scripts contains one.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::host::{self, Host};

fn as_on_windows(text: &str) -> String {
    text.replace('\n', "\r\n")
}

fn script(host: &Host, name: &str, text: &str) -> PathBuf {
    let path = host.path(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

/// Runs the command of a hint.
#[track_caller]
fn types(said: &str, command: &str) {
    let line = said.lines().find_map(|line| Some(&line[line.find(command)?..])).unwrap_or_else(|| panic!("{said}"));
    host::run("sh", &["-ec", line]);
}

#[test]
fn configuration_with_windows_line_endings_is_read() {
    let host = Host::new(&["a"]);
    let log = host.path("log");
    let hook = format!(
        "hooks:\n  - name: note\n    phase: pre-run\n    command:\n      - /bin/sh\n      - -c\n      - |\n        echo one >{0}\n        \
         echo two >>{0}\n",
        log.display()
    );
    let keys = fs::read_to_string({
        host.configure("", "{\"*\": {day_of_week: daily}}");
        host.path("config.yml")
    });
    let hook: String = hook.lines().map(|line| format!("  {line}\n")).collect();
    host.write_config(&as_on_windows(&(keys.unwrap() + &hook)));
    host.run("check --offline").ends(0);
    host.run("backup").ends(0).tells(&["1 of 1 good"]);
    assert_eq!(fs::read_to_string(log).unwrap(), "one\ntwo\n");
    assert_eq!(host.archives("a").len(), 1, "the target has the configured name");
}

#[test]
fn scripts_with_windows_line_endings_are_reported_before_they_are_run() {
    let host = Host::new(&["a"]);
    let hook = script(&host, "it's a hook", "#!/bin/sh\r\nexit 0\r\n");
    let sendmail = script(&host, "sendmail", "#!/usr/bin/env sh\r\nexec cat >/dev/null\r\n");
    let keys = format!(
        "hooks: [{{name: h, phase: pre-run, command: [{:?}]}}]\nmail: {{to: root, sendmail: {}}}",
        hook.display(),
        sendmail.display()
    );
    host.configure(&keys, "{\"*\": {day_of_week: daily}}");
    let failed = host.run("backup");
    assert_eq!(failed.code, 1, "{failed:?}");
    for said in [&failed.out, &failed.err, &host.run("check").out] {
        assert!(said.contains("carriage return"), "{said}");
    }
    types(&host.run("check --offline").ends(1).out, "sed -i");
    let of_mail = host.run("check");
    assert!(of_mail.out.contains("h: ") || of_mail.out.contains("executable"), "{}", of_mail.out);
    types(&of_mail.out, "sed -i");
    host.run("check").tells(&["sendmail", "executable"]);
    host.run("backup").ends(0);
}

#[test]
fn output_contains_no_carriage_return_of_a_name_or_an_error() {
    let host = Host::new(&["a"]);
    let node = host.path("node.xml");
    let xml = fs::read_to_string(&node).unwrap().replace("<name>a</name>", "<name>a&#13;b</name>");
    fs::write(&node, xml).unwrap();
    let [told, textfile] = ["told", "metrics.prom"].map(|name| host.path(name));
    let keys = format!(
        "metrics: {{textfile: {}}}\nhooks: [{{name: h, phase: on-failure, command: [/bin/sh, -c, 'echo \"$KVMBACKUP_ERROR\" >>{}']}}]",
        textfile.display(),
        told.display()
    );
    host.configure(&keys, "{\"*\": {day_of_week: daily}}");
    let clean = |what: &str, text: &str| assert!(!text.is_empty() && !text.contains('\r'), "{what}: {text:?}");
    clean("a report", &host.run("backup").ends(0).out);
    for words in ["list", "list --json", "report", "report --format json", "check", "check --json", "metrics --stdout"]
    {
        clean(words, &host.run(words).out);
    }
    clean("the textfile", &fs::read_to_string(&textfile).unwrap());
    assert!(host.run("list --json").out.contains(r"a\rb"), "JSON contains the exact name");

    fs::remove_file(host.image("a")).unwrap();
    let failed = host.run("backup --force").ends(1);
    clean("the report of a failure", &failed.out);
    clean("what a hook is told", &fs::read_to_string(told).unwrap());
    let unknown = host.run_words(&["restore", "x\ry", "--to", "/nowhere"]);
    clean("an error", &unknown.err);
    clean("the log", &host.run("-vv backup --force").err);
    clean("HTML", &host.run("report --format html").out);
}

#[test]
fn checksums_with_windows_line_endings_are_read() {
    let host = Host::new(&["a"]);
    host.configure("compression: none", "{\"*\": {day_of_week: daily}}");
    host.run("backup").ends(0);
    let (archive, parts) = (host.archives("a").remove(0), host.path("parts"));
    host::unpack(&archive, &parts);
    let script = format!(
        "cd {}; order=$(tar -tf {archive}); sed -i 's/$/\\r/' SHA256SUMS; sha256sum --strict -c SHA256SUMS; \
         tar --format=gnu -b1 --owner=0 --group=0 -P -cf {archive} $order",
        parts.display(),
        archive = archive.display()
    );
    host::run("sh", &["-ec", &script]);
    host.run("verify a").ends(0).tells(&["good"]);
}

#[test]
fn shipped_files_contain_no_carriage_return() {
    fn look(path: &Path, found: &mut usize) {
        if path.is_dir() {
            fs::read_dir(path).unwrap().for_each(|entry| look(&entry.unwrap().path(), found));
        } else if let Ok(text) = fs::read_to_string(path) {
            *found += 1;
            assert!(!text.contains('\r'), "{}", path.display());
        }
    }
    let (root, mut found) = (Path::new(env!("CARGO_MANIFEST_DIR")), 0);
    ["alerts", "dashboards", "docs", "hooks", "packaging", "src"]
        .iter()
        .for_each(|name| look(&root.join(name), &mut found));
    assert!(found > 100, "{found}");
    let host = Host::new(&[]);
    for words in ["completions bash", "completions fish", "completions zsh", "--help", "check --help"] {
        assert!(!host.run(words).ends(0).out.contains('\r'), "{words}");
    }
}
