//! Tests the exact text of every complaint.

use std::path::Path;

use super::super::*;
use super::complaints;

/// The complaints about some lines of a domain, without file and line.
fn about(lines: &str) -> Vec<String> {
    let lines = lines.replace('\n', "\n      ");
    let text = format!("h:\n  backupdir: /b\n  day_of_week: Sun\n  domains:\n    d:\n      {lines}\n");
    complaints(&text).into_iter().map(|line| line.splitn(3, ':').last().unwrap().trim().to_owned()).collect()
}

#[test]
fn all_problems_are_named_at_once() {
    let text = "\
defaults:
  backupdir: /b
  compresion: zstd
h:
  backupdir: mnt/b
  parallel: 65
  quiesce: perhaps
  metrics: {}
  domains:
    web1:
      day_of_week: [Sonday, Mon]
      rotate: 0
      rotat: 3
    web.2:
      rotate: 3
      keep: {last: 2, dayly: 7}
      min_free: 10%
    web1: {}
other:
  domains: {a: {day_of_week: Sun, method: snap}}
";
    let all = "job, day_of_week, catch_up, priority, store, rotate, keep, compression, quiesce, freeze_timeout, method, incremental, exclude_disks, \
               overlay_dir, scratch_dir, allow_plaintext, hooks";
    let host = "repository, require_mount, min_free, stall_timeout, state_dir, libvirt_uri, parallel, metrics, mail";
    assert_eq!(
        complaints(text),
        [
            "c.yml:2: defaults.backupdir: is not allowed in `defaults`, only in a host section",
            &format!("c.yml:3: defaults.compresion: unknown key; valid: {host}, {all}; did you mean `compression`?"),
            "c.yml:5: h.backupdir: bad path \"mnt/b\"; valid: an absolute path",
            "c.yml:6: h.parallel: bad number \"65\"; valid: a whole number from 1 to 64",
            "c.yml:7: h.quiesce: bad value \"perhaps\"; valid: require, prefer, never",
            "c.yml:8: h.metrics: no place given; valid: textfile, listen, hosts",
            "c.yml:11: h.domains.web1.day_of_week: bad day \"Sonday\"; valid: Mon, Tue, Wed, Thu, Fri, Sat, Sun, their \
             long names, daily; did you mean `Sunday`?",
            "c.yml:12: h.domains.web1.rotate: bad number \"0\"; valid: a whole number from 1",
            &format!("c.yml:13: h.domains.web1.rotat: unknown key; valid: {all}, exclude; did you mean `rotate`?"),
            "c.yml:14: h.domains.\"web.2\": `day_of_week` is missing here, in the host's section and in `defaults`; \
             valid: days such as Mon or Sunday, or daily",
            "c.yml:16: h.domains.\"web.2\".keep.dayly: unknown key; valid: last, daily, weekly, monthly, yearly; did you \
             mean `daily`?",
            "c.yml:16: h.domains.\"web.2\".keep: cannot be combined with `rotate` on line 15; valid: one of rotate, keep",
            "c.yml:17: h.domains.\"web.2\".min_free: is not allowed in a domain, only in `defaults` or a host section",
            "c.yml:18: h.domains.web1: is given twice; first on line 10",
            "c.yml:19: other: `backupdir` is missing; valid: an absolute path",
            "c.yml:20: other.domains.a.method: bad value \"snap\"; valid: auto, snapshot, pull",
        ]
    );
}

#[test]
fn complaints_name_the_valid_values() {
    let time = "valid: a number with its unit, from 1s to 1h, such as 30s or 2m";
    let long = format!("job: {}", "ä".repeat(65));
    let cases = [
        ("rotate: many", "rotate: bad number \"many\"; valid: a whole number from 1".to_owned()),
        ("rotate: -1", "rotate: bad number \"-1\"; valid: a whole number from 1".to_owned()),
        ("rotate: 4294967296", "rotate: bad number \"4294967296\"; valid: a whole number from 1".to_owned()),
        ("rotate: '4'", "rotate: bad number \"4\"; valid: a whole number from 1".to_owned()),
        ("rotate:", "rotate: has no value".to_owned()),
        ("rotate: [4]", "rotate: must be one value, not a list".to_owned()),
        ("freeze_timeout: 30", format!("freeze_timeout: bad time \"30\"; {time}")),
        ("freeze_timeout: 0s", format!("freeze_timeout: bad time \"0s\"; {time}")),
        (
            "freeze_timeout: 99999999999999999999h",
            format!("freeze_timeout: bad time \"99999999999999999999h\"; {time}"),
        ),
        ("method: pul", "method: bad value \"pul\"; valid: auto, snapshot, pull; did you mean `pull`?".to_owned()),
        ("catch_up: ja", "catch_up: bad value \"ja\"; valid: true, false".to_owned()),
        ("overlay_dir: ''", "overlay_dir: is empty".to_owned()),
        (
            "keep: {last: 0}",
            "keep: keeps nothing; valid: one of last, daily, weekly, monthly, yearly above 0".to_owned(),
        ),
        ("keep: 4", "keep: must be a mapping (`key: value` lines below it)".to_owned()),
        (
            "day_of_week: []",
            "day_of_week: no day given; valid: Mon, Tue, Wed, Thu, Fri, Sat, Sun, their long names, daily".to_owned(),
        ),
        (
            "compression: zst",
            "compression: bad value \"zst\"; valid: zstd, gzip, none; did you mean `zstd`?".to_owned(),
        ),
        ("compression: {level: 3}", "compression: `method` is missing; valid: zstd, gzip, none".to_owned()),
        (
            "compression: {method: zstd, level: 20}",
            "compression.level: bad number \"20\"; valid: a whole number from 1 to 19".to_owned(),
        ),
        ("job: ''", "job: is empty".to_owned()),
        ("job: \"a\\nb\"", "job: bad name \"a\\nb\"; valid: 1 to 64 printable characters".to_owned()),
        (long.as_str(), format!("job: bad name {:?}; valid: 1 to 64 printable characters", "ä".repeat(65))),
        ("compression: {method: none, level: 1}", "compression.level: compression `none` has no level".to_owned()),
    ];
    for (line, complaint) in cases {
        assert_eq!(about(line), [format!("h.domains.d.{complaint}")], "{line}");
    }
    let host =
        |line: &str| complaints(&format!("h:\n  backupdir: /b\n  {line}\n  domains: {{d: {{day_of_week: Sun}}}}\n"));
    for amount in ["10 %%", "101%", "-1%", "1.5GB", "10Q", "NaN%", "99999999TB", "GB"] {
        let start = format!(
            "c.yml:3: h.min_free: bad amount {amount:?}; valid: a percentage from 0% to 100%, or a whole number"
        );
        assert!(host(&format!("min_free: '{amount}'"))[0].starts_with(&start), "{amount}");
    }
}

#[test]
fn blob_size_is_a_power_of_two_within_bounds() {
    let with =
        |size: &str| format!("h: {{repository: {{url: /r, password_file: /p, blob_size: {size}}}, domains: {{}}}}");
    let valid = "valid: 64KiB, 128KiB, 256KiB, 512KiB, 1MiB, 2MiB, 4MiB, 8MiB";
    for size in ["32KiB", "16MiB", "96KiB", "64KB", "0", "x", "1.5MiB"] {
        let complaint = format!("c.yml:1: h.repository.blob_size: bad size {size:?}; {valid}");
        assert!(complaints(&with(size)).contains(&complaint), "{size}: {:?}", complaints(&with(size)));
    }
    for (size, bytes) in [("64KiB", 64 << 10), ("1 MiB", 1 << 20), ("8mib", 8 << 20), ("65536", 64 << 10)] {
        let text = with(size).replace("{}}", "{d: {day_of_week: Sun}}}");
        assert_eq!(super::read(&text).repository.unwrap().blob_size, Some(bytes), "{size}");
    }
}

#[test]
fn libvirt_of_another_host_is_refused_with_its_line() {
    for uri in ["qemu+ssh://root@host/system", "qemu+ext:///system?command=/via", "qemu+tcp://localhost/system"] {
        let text = format!("h:\n  backupdir: /b\n  libvirt_uri: {uri}\n  domains: {{d: {{day_of_week: Sun}}}}\n");
        let start = format!("c.yml:3: h.libvirt_uri: {uri:?} may be the libvirt of another host");
        let complaint = complaints(&text).remove(0);
        assert!(complaint.starts_with(&start) && complaint.contains("run kvmbackup on the host"), "{complaint}");
    }
}

#[test]
fn metrics_paths_and_addresses_are_checked() {
    let about = |value: &str| {
        complaints(&format!("h: {{backupdir: /b, metrics: {value}, domains: {{d: {{day_of_week: Sun}}}}}}")).remove(0)
    };
    let place = "valid: HOST:PORT, such as 127.0.0.1:9763 or [::1]:9763, or unix:/PATH";
    for (value, complaint) in [
        ("{textfile: k.prom}", ".textfile: bad path \"k.prom\"; valid: an absolute path".to_owned()),
        ("{listen: 9763}", format!(".listen: bad address \"9763\"; {place}")),
        ("{listen: 'unix:run'}", format!(".listen: bad address \"unix:run\"; {place}")),
        ("{textfil: /k}", ".textfil: unknown key; valid: textfile, listen, hosts; did you mean `textfile`?".to_owned()),
        (
            "{hosts: [a, 'b:1']}",
            ".hosts: bad host \"b:1\"; valid: a host name or an address without a port, such as cloud1.example.org"
                .to_owned(),
        ),
        ("/k", ": must be a mapping (`key: value` lines below it)".to_owned()),
    ] {
        assert_eq!(about(value), format!("c.yml:1: h.metrics{complaint}"), "{value}");
    }
}

#[test]
fn readable_part_of_an_invalid_file_is_salvaged() {
    let salvaged = |text: &str| {
        let Salvaged { state_dir, textfile, .. } = parse(text, Path::new("c.yml"), "h").unwrap_err().salvaged;
        [state_dir, textfile].map(|path| path.map(|path| path.display().to_string()).unwrap_or_default())
    };
    let defaults = "defaults: {state_dir: /d, metrics: {textfile: /d/t}}\n";
    assert_eq!(salvaged("h: {state_dir: /s, metrics: {textfile: /t, listen: wrong}}"), ["/s", "/t"]);
    assert_eq!(salvaged("h: {state_dir: s, metrics: {textfile: t}}"), ["", ""]);
    // The paths of an inner level replace those of an outer one.
    assert_eq!(salvaged(&format!("{defaults}h: {{state_dir: /s}}")), ["/s", "/d/t"]);
    assert_eq!(salvaged(&format!("{defaults}h: {{metrics: {{listen: 'a:1'}}}}")), ["/d", ""]);
    // Without a section for this host, the defaults are used.
    assert_eq!(salvaged(&format!("{defaults}other: {{state_dir: /o}}")), ["/d", "/d/t"]);
    // The mistake does not affect these paths.
    assert_eq!(salvaged("h: {state_dir: /s, backupdir: /b, domains: {d: {day_of_week: Sun}}}\no: {}"), ["/s", ""]);
    assert_eq!(salvaged("h: {state_dir: /s\n"), ["", ""]);
}

#[test]
fn missing_section_is_reported_with_the_existing_ones() {
    let section = |name: &str| format!("{name}: {{backupdir: /b, domains: {{d: {{day_of_week: Sun}}}}}}\n");
    assert_eq!(
        complaints(&(section("cloud1") + &section("H"))),
        ["c.yml:1: no section for the host `h`; valid: cloud1, H; did you mean `H`?"].map(str::to_owned)
    );
    let error = parse(&section("cloud1"), Path::new("c.yml"), "cloud2").unwrap_err();
    assert_eq!(error.to_string(), "c.yml:1: no section for the host `cloud2`; valid: cloud1; did you mean `cloud1`?");
    assert_eq!(complaints(""), ["c.yml:1: no section for the host `h`"]);
    assert_eq!(
        complaints("h:\n"),
        ["c.yml:1: h: `backupdir` is missing; valid: an absolute path", "c.yml:1: h: `domains` is missing",]
    );
    assert_eq!(complaints("h: {backupdir: /b, domains: }\n"), ["c.yml:1: h.domains: no domain given"]);
    assert_eq!(
        complaints("h: {backupdir: /b, domains: [a]}\n"),
        ["c.yml:1: h.domains: must be a mapping (`key: value` lines below it)"]
    );
    assert_eq!(complaints("- h\n")[0], "c.yml:1: must be a mapping (`key: value` lines below it)");
}

#[test]
fn broken_yaml_names_its_line() {
    for (text, line) in [
        ("h:\n  a: [1\n", 3),
        ("h:\n\ta: 1\n", 2),
        ("h:\n  a: 'x\n", 2),
        ("h: 1\n---\nh: 2\n", 2),
        ("h:\n  a: !tag 1\n", 2),
        ("h:\n  [a]: 1\n", 2),
        ("h:\n  a: *none\n", 2),
        ("h: &h\n  a: *h\n", 2),
    ] {
        let start = format!("c.yml:{line}: not valid YAML: ");
        let complaint = complaints(text).remove(0);
        assert!(complaint.starts_with(&start) && complaint.len() > start.len(), "{text:?}: {complaint}");
    }
}

#[test]
fn unreadable_files_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yml");
    let load = || load(&file, "h").unwrap_err().to_string().replace(&file.display().to_string(), "F");
    assert_eq!(load(), "F: cannot be read: No such file or directory (os error 2)");
    std::fs::write(&file, b"h:\n  a: \xff\n").unwrap();
    assert_eq!(load(), "F:2: not valid UTF-8");
    std::fs::write(&file, vec![b'#'; 2 << 20]).unwrap();
    assert_eq!(load(), "F: cannot be read: it is larger than 1048576 bytes; valid: a file of at most 1 MiB");
    std::fs::write(&file, "h: {backupdir: /b, domains: {d: {day_of_week: Sun}}}").unwrap();
    assert_eq!(super::load(&file, "h").unwrap().host, "h");
}

#[test]
fn problem_of_a_domain_is_reported_once() {
    let text = "h:\n  backupdir: /b\n  day_of_week: daily\n  domains:\n    a: {rotate: 1, rotate: 2}\n    b: {exclude: true, rotate: 1}\n    \
                c: {exclude: maybe}\n";
    assert_eq!(
        complaints(text),
        [
            "c.yml:5: h.domains.a.rotate: is given twice; first on line 5",
            "c.yml:6: h.domains.b.rotate: has no effect with `exclude: true`",
            "c.yml:7: h.domains.c.exclude: bad value \"maybe\"; valid: true, false",
        ]
    );
}
