//! Tests complete configuration files, and that every key is documented.

mod complaints;
mod copies;
mod hooks;
mod hostile;
mod mail;

use std::path::Path;
use std::time::Duration;

use chrono::Weekday;

use super::key::Level;
use super::*;
use crate::model::{Codec, Listen, StoreKind};
use crate::retention::Policy;

const DOC: &str = include_str!("../../docs/config.md");
const EXAMPLE: &str = include_str!("../../packaging/config.example.yml");

fn read(text: &str) -> Settings {
    parse(text, Path::new("c.yml"), "h").unwrap()
}

/// The complaints about a file, one per line.
fn complaints(text: &str) -> Vec<String> {
    parse(text, Path::new("c.yml"), "h").unwrap_err().to_string().lines().map(str::to_owned).collect()
}

#[test]
fn file_of_the_legacy_script_works_unchanged() {
    let text = "
cloud1 :
    domains:
        DockerNode1:
            day_of_week: [Sun]
            rotate: 4
        DockerNode2:
            day_of_week: [Mon, thu]
            rotate: 2
    backupdir: /mnt/cloud/kvm_backup/cloud1
cloud2 :
    domains:
        other:
            day_of_week: [Fri]
            rotate: 1
    backupdir: /mnt/cloud/kvm_backup/cloud2
";
    let settings = parse(text, Path::new("c.yml"), "cloud1").unwrap();
    let domain = |days, last| DomainSettings {
        job: "cloud1".to_owned(),
        days,
        catch_up: false,
        priority: 50,
        store: StoreChoice::Archive,
        retention: Some(Policy::rotate(last)),
        compression: Codec::Zstd(3),
        quiesce: Quiesce::Prefer,
        freeze_timeout: Duration::from_secs(30),
        method: MethodChoice::Auto,
        exclude_disks: Vec::new(),
        overlay_dir: None,
        incremental: Incremental::Auto,
        scratch_dir: None,
        allow_plaintext: false,
        hooks: Vec::new(),
    };
    let rule = |pattern: &str, line, domain| Rule { pattern: pattern.to_owned(), line, domain };
    assert_eq!(
        settings,
        Settings {
            repository: None,
            host: "cloud1".to_owned(),
            backupdir: Some("/mnt/cloud/kvm_backup/cloud1".into()),
            require_mount: false,
            min_free: MinFree::Bytes(0),
            stall_timeout: Duration::from_secs(300),
            state_dir: "/var/lib/kvmbackup".into(),
            libvirt_uri: "qemu:///system".to_owned(),
            parallel: 1,
            metrics: Metrics::default(),
            mail: None,
            hooks: Vec::new(),
            excluded: Vec::new(),
            rules: vec![
                rule("DockerNode1", 4, domain(vec![Weekday::Sun], 4)),
                rule("DockerNode2", 7, domain(vec![Weekday::Mon, Weekday::Thu], 2)),
            ],
        }
    );
}

#[test]
fn every_key_is_read() {
    let settings = read(
        "
h:
  backupdir: /b
  require_mount: true
  min_free: 12.5%
  state_dir: /s
  libvirt_uri: qemu:///session
  parallel: 64
  metrics: {textfile: /t/k.prom, listen: '[::1]:9763', hosts: [mon.example.org, '[::2]']}
  domains:
    d:
      job: nightly full
      day_of_week: [SUNDAY, mon, Sun]
      catch_up: True
      keep: {last: 1, daily: 2, weekly: 3, monthly: 4, yearly: 5}
      compression: {method: gzip, level: 12}
      quiesce: never
      freeze_timeout: 2m
      method: pull
      exclude_disks: vdb
      overlay_dir: /o
      scratch_dir: /x
      incremental: never
      allow_plaintext: true
",
    );
    assert_eq!(settings.min_free, MinFree::Percent(12.5));
    assert_eq!((settings.require_mount, settings.parallel), (true, 64));
    assert_eq!((settings.state_dir.as_path(), &*settings.libvirt_uri), (Path::new("/s"), "qemu:///session"));
    let listen = Some(Listen::Tcp { host: "::1".to_owned(), port: 9763 });
    assert_eq!(
        settings.metrics,
        Metrics { textfile: Some("/t/k.prom".into()), listen, hosts: vec!["mon.example.org".into(), "::2".into()] }
    );
    assert_eq!(
        settings.rules[0].domain,
        DomainSettings {
            job: "nightly full".to_owned(),
            days: vec![Weekday::Mon, Weekday::Sun],
            catch_up: true,
            priority: 50,
            store: StoreChoice::Archive,
            retention: Some(Policy { last: 1, daily: 2, weekly: 3, monthly: 4, yearly: 5 }),
            compression: Codec::Gzip(12),
            quiesce: Quiesce::Never,
            freeze_timeout: Duration::from_secs(120),
            method: MethodChoice::Pull,
            exclude_disks: vec!["vdb".to_owned()],
            overlay_dir: Some("/o".into()),
            incremental: Incremental::Never,
            scratch_dir: Some("/x".into()),
            allow_plaintext: true,
            hooks: Vec::new(),
        }
    );
}

#[test]
fn inner_levels_override_outer_ones_key_by_key() {
    let settings = read(
        "
defaults: {job: all, metrics: {textfile: /t/k.prom}, day_of_week: daily, keep: {daily: 7}, compression: gzip, parallel: 2, min_free: 1GiB}
h:
  backupdir: /b
  compression: none
  metrics: {listen: 'unix:/run/k'}
  min_free: 20 GB
  domains:
    a: {rotate: 4, day_of_week: Tue, job: own}
    b:
    c: {compression: {method: zstd}}
",
    );
    let domain = |i: usize| &settings.rules[i].domain;
    assert_eq!(settings.metrics, Metrics { listen: Some(Listen::Unix("/run/k".into())), ..Metrics::default() });
    assert_eq!([0, 1].map(|i| domain(i).job.as_str()), ["own", "all"]);
    assert_eq!((settings.parallel, settings.min_free), (2, MinFree::Bytes(20_000_000_000)));
    assert_eq!((domain(0).days.len(), domain(1).days.len()), (1, 7));
    assert_eq!(domain(0).retention, Some(Policy::rotate(4)));
    assert_eq!(domain(1).retention, Some(Policy { daily: 7, ..Policy::default() }));
    assert_eq!([0, 1, 2].map(|i| domain(i).compression), [Codec::None, Codec::None, Codec::Zstd(3)]);
}

#[test]
fn names_stay_as_written_and_merge_keys_are_applied() {
    let settings = read(
        "
h:
  backupdir: /b
  domains:
    007: &base {day_of_week: Sun, rotate: 2}
    1e3: {<<: *base, rotate: 3}
    on: *base
    'a b.ü': *base
",
    );
    let names: Vec<_> = settings.rules.iter().map(|rule| rule.pattern.as_str()).collect();
    assert_eq!(names, ["007", "1e3", "on", "a b.ü"]);
    let retention: Vec<_> = settings.rules.iter().map(|rule| rule.domain.retention.unwrap().last).collect();
    assert_eq!(retention, [2, 3, 2, 2]);
}

#[test]
fn an_exact_name_wins_over_globs_and_the_first_glob_over_later_ones() {
    let settings = read(
        "
h:
  backupdir: /b
  day_of_week: Sun
  domains: {'web-*': , 'web-[12]': , web-1: , 'odd[1]': }
",
    );
    let line = |name| settings.rule_for(name).map(|rule| rule.pattern.as_str());
    assert_eq!(line("web-1"), Some("web-1"));
    assert_eq!(line("web-2"), Some("web-*"));
    assert_eq!(line("odd[1]"), Some("odd[1]"));
    assert_eq!(line("db"), None);
}

#[test]
fn jobs_of_all_or_of_the_named_entries_are_listed() {
    let settings = read(
        "
h:
  backupdir: /b
  day_of_week: Sun
  domains: {db: {job: databases}, 'web-*': {job: web}, 'web-1': {job: one}, mail: , news: }
",
    );
    let jobs = |names: &[&str]| settings.jobs(&names.iter().map(|name| name.to_string()).collect::<Vec<_>>());
    assert_eq!(jobs(&[]), ["databases", "h", "one", "web"]);
    assert_eq!(
        (jobs(&["web-1"]), jobs(&["web-2", "db"])),
        (vec!["one".into()], vec!["databases".into(), "web".into()])
    );
    assert_eq!((jobs(&["web-*"]), jobs(&["?ail"])), (vec!["one".into(), "web".into()], vec!["h".into()]));
    assert!(jobs(&["nosuch"]).is_empty());
}

#[test]
fn windows_line_endings_and_a_byte_order_mark_are_accepted() {
    let text = "\u{feff}h:\r\n  backupdir: /b\r\n  domains:\r\n    d: {day_of_week: Sun}\r\n";
    assert_eq!(read(text).rules[0].line, 4);
}

#[test]
fn host_can_have_both_stores_and_a_domain_uses_one_or_both() {
    let repository = "repository: {url: /r, password_file: /p}";
    let stores = |defaults: &str, host: &str| {
        let domains = "{a: {store: repository}, b: {store: archive}, c: {store: both}, d: {}}";
        let text = format!("defaults: {{day_of_week: Sun, {defaults}}}\nh: {{{host}, domains: {domains}}}\n");
        let settings = read(&text);
        let kinds: Vec<_> = settings.rules.iter().map(|rule| rule.domain.store).collect();
        (settings.stores(), kinds)
    };
    let both = StoreKind::ALL.to_vec();
    let [archive, repo, all] = [StoreChoice::Archive, StoreChoice::Repository, StoreChoice::Both];
    let here = format!("backupdir: /b, {repository}");
    assert_eq!(stores("catch_up: true", &here), (both.clone(), vec![repo, archive, all, archive]));
    assert_eq!(stores(repository, "backupdir: /b"), (both.clone(), vec![repo, archive, all, archive]));
    assert_eq!(stores("store: both", &here), (both, vec![repo, archive, all, all]));

    // The repository of `defaults` is for other hosts.
    let archives = format!("defaults: {{{repository}}}\nh: {{backupdir: /b, domains: {{a: {{day_of_week: Sun}}}}}}");
    assert_eq!(read(&archives).stores(), [StoreKind::Archive]);
    let host = format!("h: {{{repository}, day_of_week: Sun, domains: {{a: {{}}}}}}");
    assert_eq!((read(&host).stores(), read(&host).rules[0].domain.store), (vec![StoreKind::Repository], repo));
    let complaint = "c.yml:1: h.domains.a: its `store` requires `backupdir` in the host's section";
    assert_eq!(complaints(&host.replace("{}", "{store: both}")), [complaint]);
    let complaint = "c.yml:1: h.domains.a: its `store` requires `repository` in the host's section or in `defaults`";
    let host = "h: {backupdir: /b, day_of_week: Sun, domains: {a: {store: repository}}}";
    assert_eq!(complaints(host), [complaint]);
    assert_eq!(
        complaints(&host.replace("repository", "repo")),
        ["c.yml:1: h.domains.a.store: bad value \"repo\"; valid: archive, repository, both"]
    );
}

#[test]
fn every_key_is_in_the_documentation_and_in_the_example() {
    let all = |keys: Vec<&'static str>| keys.into_iter().filter(|key| *key != "exclude");
    let levels = Level::ALL.iter().flat_map(|level| all(key::names(keys::KEYS, *level)));
    let inside = [key::names(keys::KEEP, Level::Host), key::names(keys::COMPRESSION, Level::Host)].concat();
    for key in levels.chain(inside).chain(key::names(keys::METRICS, Level::Host)) {
        assert!(DOC.contains(&format!("`{key}`")) || DOC.contains(&format!("`{key}: N`")), "{key} in docs/config.md");
        assert!(EXAMPLE.contains(&format!("{key}:")), "{key} in the example");
    }
    let section = |title: &str| DOC.split(title).nth(1).unwrap().split("\n## ").next().unwrap();
    let of_domains = all(key::names(keys::KEYS, Level::Domain)).map(|key| ("\n## Keys of a domain", key));
    let is_of_domains = |key: &str| key::names(keys::KEYS, Level::Domain).contains(&key);
    let of_hosts = all(key::names(keys::KEYS, Level::Host)).filter(|key| !is_of_domains(key));
    let of_hooks = all(key::names(keys::HOOK, Level::Host)).map(|key| ("\n## Hooks", key));
    for (title, key) in of_domains.chain(of_hosts.map(|key| ("\n## Keys of a host", key))).chain(of_hooks) {
        assert!(section(title).contains(&format!("\n| `{key}` |")), "{key} has no row in docs/config.md, {title}");
    }
}

#[test]
fn the_examples_work() {
    parse(EXAMPLE, Path::new("config.example.yml"), "cloud1").unwrap();
    // Commented lines must be valid, too.
    let bare = |line: &str| {
        if line.starts_with("  ") {
            line.replacen("  # ", "  ", usize::from(line.trim_start().starts_with('#')))
        } else {
            line.to_owned()
        }
    };
    let all: String = EXAMPLE
        .lines()
        .map(|line| {
            bare(line)
                + "
"
        })
        .collect();
    parse(&all, Path::new("config.example.yml"), "cloud1").unwrap();
    let blocks: Vec<_> = DOC.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 4);
    for block in blocks {
        parse(block, Path::new("docs/config.md"), "cloud1").unwrap();
    }
}

#[test]
fn exclusions_take_precedence_like_other_entries() {
    let settings = read(
        "h:\n  backupdir: /b\n  day_of_week: daily\n  domains:\n    'web-*': {}\n    'web-t*': {}\n    'test-*': {exclude: true}\n    \
         test-1: {exclude: false}\n    '*': {}\n    db: {exclude: true}\n",
    );
    for (domain, rule) in
        [("web-t", Some("web-*")), ("test-1", Some("test-1")), ("test-2", None), ("db", None), ("other", Some("*"))]
    {
        assert_eq!(settings.rule_for(domain).map(|rule| rule.pattern.as_str()), rule, "{domain}");
        assert_eq!(settings.exclusion_of(domain).is_some(), rule.is_none(), "{domain}");
    }
    assert_eq!(settings.exclusion_of("test-2").unwrap().line, 7);
    let first = read("h: {backupdir: /b, day_of_week: daily, domains: {'t*': {exclude: true}, 'te*': {}, tea: {}}}");
    assert!(first.rule_for("test").is_none() && first.rule_for("tea").is_some());
}
