//! Tests how findings are combined, and what replaces those that are missing.

use std::path::Path;

use uuid::Uuid;

use super::*;
use crate::engine::fake::{self, Fake};
use crate::hypervisor::{Kind, Overlay, domain_xml};
use crate::model::{Consistency, DomainRef, DomainState, DomainXml, Format, Image, Source};

const CONFIG: &str = "
h:
  backupdir: /b
  quiesce: never
  domains:
    db: {job: databases, day_of_week: [Mon, Thu], rotate: 4, quiesce: require}
    'web-*': {day_of_week: daily, keep: {last: 3, daily: 7}}
    mail: {day_of_week: Sun}
";

fn settings() -> Settings {
    crate::config::parse(CONFIG, Path::new("c.yml"), "h").unwrap()
}

fn guest(name: &str, leftover_overlays: u64) -> (String, Guest) {
    (name.to_owned(), Guest { defined: true, leftover_overlays })
}

fn of_target(up: bool, points: Option<&[&str]>) -> Target {
    let point = |name: &&str| (name.to_string(), Some(SeenPoints { count: 2, bytes: 10, ..SeenPoints::default() }));
    Target {
        repository: SeenRepository { up, ..SeenRepository::default() },
        other: None,
        points: points.map(|names| names.iter().map(point).collect()),
    }
}

#[test]
fn domain_whose_points_cannot_be_listed_keeps_the_previous_ones() {
    let before = join(&settings(), None, of_target(true, Some(&["db", "old"])), None);
    let mut target = of_target(true, Some(&["old"]));
    target.points.as_mut().unwrap().extend([("db".to_owned(), None), ("web-1".to_owned(), None)]);
    let survey = join(&settings(), None, target, Some(&before));
    let count = |name: &str| survey.domains.get(name).map(|seen| seen.points.count);
    assert_eq!((count("db"), count("old"), count("web-1")), (Some(2), Some(2), None));
}

#[test]
fn domains_of_libvirt_configuration_and_target_are_included() {
    let guests = BTreeMap::from([guest("db", 0), guest("web-1", 1), guest("lab", 0)]);
    let survey = join(&settings(), Some(guests), of_target(true, Some(&["db", "old"])), None);
    let names: Vec<_> = survey.domains.keys().map(String::as_str).collect();
    assert_eq!(names, ["db", "lab", "mail", "old", "web-1"]);
    let seen = |name: &str| &survey.domains[name];
    let day = 86_400;
    let (db, web) = (seen("db"), seen("web-1"));
    assert_eq!((db.job.as_deref(), db.wanted, db.points.count), (Some("databases"), Some(Consistency::Filesystem), 2));
    assert_eq!((web.job.as_deref(), web.wanted, web.leftover_overlays), (Some("h"), Some(Consistency::Crash), 1));
    assert_eq!((db.expected_interval_s, web.expected_interval_s), (4 * day, day));
    // Not covered by the configuration; only in the configuration; only on the target.
    assert_eq!((seen("lab").job.clone(), seen("lab").defined, seen("lab").expected_interval_s), (None, true, 0));
    assert_eq!((seen("mail").job.as_deref(), seen("mail").defined), (Some("h"), false));
    assert_eq!((seen("old").job.clone(), seen("old").points.count), (None, 2));
    let job = |expected_interval_s, minimum_restore_points| SeenJob { expected_interval_s, minimum_restore_points };
    let jobs = [("databases".to_owned(), job(4 * day, 4)), ("h".to_owned(), job(day, 7))];
    assert_eq!(survey.jobs, BTreeMap::from(jobs));
    assert!(survey.libvirt_ok && survey.repository.up && survey.repository.stored_bytes == 20);
}

#[test]
fn missing_observations_keep_the_previous_values() {
    let guests = BTreeMap::from([guest("db", 2), guest("lab", 0)]);
    let before = join(&settings(), Some(guests), of_target(true, Some(&["db", "old"])), None);
    let blind = join(&settings(), None, of_target(false, None), Some(&before));
    assert_eq!((&blind.domains, blind.repository.stored_bytes), (&before.domains, 20));
    assert!(!blind.libvirt_ok && !blind.repository.up);
    let seeing = join(&settings(), Some(BTreeMap::new()), of_target(true, Some(&[])), Some(&blind));
    assert_eq!(seeing.domains.keys().collect::<Vec<_>>(), ["db", "mail"]);
    let never = join(&settings(), None, of_target(false, None), None);
    assert_eq!(never.domains.len(), 2);
}

#[test]
fn only_previous_domains_that_may_still_exist_are_kept() {
    let gone = |leftover_overlays| Guest { defined: false, leftover_overlays };
    let guests = BTreeMap::from([guest("lab", 0), ("left".to_owned(), gone(1)), ("bare".to_owned(), gone(0))]);
    let before = join(&settings(), Some(guests), of_target(true, Some(&["old"])), None);
    let names = |survey: Survey| survey.domains.into_keys().filter(|name| !["db", "mail"].contains(&&**name)).collect();
    let names = |survey| -> Vec<String> { names(survey) };
    assert_eq!(names(join(&settings(), None, of_target(true, Some(&[])), Some(&before))), ["lab", "left"]);
    assert_eq!(names(join(&settings(), Some(BTreeMap::new()), of_target(false, None), Some(&before))), ["old"]);
}

#[test]
fn overlays_of_guests_and_of_the_journal_are_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { state_dir: dir.path().join("state"), ..settings() };
    let [ours, other] = ["vda", "vdb"].map(|target| dir.path().join(format!("a.{target}.kvmbackup-0123abcd.qcow2")));
    let fake = Fake::new(DomainState::Running, "vda", &[&ours, Path::new("/v/a")]);
    let look = |previous: Option<&Survey>| guests(&settings, &fake, previous);
    let count = |found: Option<BTreeMap<String, Guest>>| -> Vec<(String, bool, u64)> {
        found.unwrap().into_iter().map(|(name, guest)| (name, guest.defined, guest.leftover_overlays)).collect()
    };
    let web = |overlays| (fake::id().name, true, overlays);
    std::fs::create_dir(&settings.state_dir).unwrap();
    assert_eq!(count(look(None)), [web(1)]);

    let journal = Journal::open(&settings.state_dir).unwrap();
    let gone = DomainRef { name: "gone".to_owned(), uuid: Uuid::new_v4() };
    for (domain, targets) in [(fake::id(), &["vda", "vdb"][..]), (gone, &["vdb"])] {
        let mut record = journal.begin(Uuid::new_v4(), Utc::now(), "test:///default", &domain).unwrap();
        let base = Image { source: Source::File("/v/a".into()), format: Format::Raw };
        let path = |target: &str| if target == "vda" { ours.clone() } else { other.clone() };
        let overlay = |target: &&str| Overlay {
            target: (*target).into(),
            path: path(target),
            base: base.clone(),
            saved: None,
            marks: None,
        };
        record.update(|entry| entry.overlays = targets.iter().map(overlay).collect()).unwrap();
    }
    // An overlay in the journal may not exist yet.
    assert_eq!(count(look(None)), [web(1)]);
    std::fs::write(&other, "").unwrap();
    assert_eq!(count(look(None)), [("gone".to_owned(), false, 1), web(2)]);

    let before = join(&settings, Some(BTreeMap::from([guest(&fake::id().name, 7)])), Target::default(), None);
    fake.when(|call, _, _| (call == "describe").then_some(Kind::Other));
    assert_eq!(count(look(Some(&before)))[1], web(7));
    fake.when(|call, _, _| (call == "domains").then_some(Kind::Unreachable));
    assert_eq!(look(None), None);
}

#[test]
fn since_is_kept_while_the_guest_is_covered() {
    let see = |names: &[&str], previous: Option<&Survey>| {
        let guests = names.iter().map(|name| guest(name, 0)).collect();
        join(&settings(), Some(guests), of_target(true, Some(&[])), previous)
    };
    let first = see(&["db", "lab"], None);
    let second = see(&["db", "mail"], Some(&first));
    let since = |survey: &Survey, name: &str| survey.domains[name].since;
    assert_eq!((since(&first, "db"), since(&second, "db")), (Some(first.time), Some(first.time)));
    assert_eq!((since(&first, "lab"), since(&first, "mail"), since(&second, "mail")), (None, None, Some(second.time)));
    assert_eq!(since(&see(&[], Some(&second)), "db"), None);
    // A clock that was ahead must not postpone the first expected backup of a guest by years.
    let mut ahead = second;
    ahead.domains.get_mut("mail").unwrap().since = Some(ahead.time + chrono::TimeDelta::days(400));
    let third = see(&["db", "mail"], Some(&ahead));
    assert_eq!((since(&third, "db"), since(&third, "mail")), (Some(first.time), Some(third.time)));
}

#[test]
fn our_overlays_are_found_anywhere_in_a_disks_chains() {
    let ours = |target: &str| format!("/v/{target}.img.{target}.kvmbackup-0123abcd.qcow2");
    let disk = |target: &str, file: &str, below: &str| {
        let below = format!("<backingStore type='file'><format type='qcow2'/><source file='{below}'/></backingStore>");
        format!("<disk type='file' device='disk'><source file='{file}'/>{below}<target dev='{target}'/></disk>")
    };
    let xml = |devices: &str| {
        format!(
            "<domain><name>a</name><uuid>11111111-2222-4333-8444-555555555555</uuid><devices>{devices}</devices></domain>"
        )
    };
    let live = [
        disk("vda", &ours("vda"), "/v/vda.img"),
        disk("vdb", "/v/theirs.qcow2", &ours("vdb")),
        disk("vdc", "/v/vdc.img", "/v/template.qcow2"),
        disk("vdd", "/v/vdd.img", "/v/template.qcow2"),
    ];
    let inactive = disk("vdc", &ours("vdc"), "/v/vdc.img");
    let xml = DomainXml { live: xml(&live.concat()), inactive: xml(&inactive), migratable: String::new() };
    let domain = domain_xml::read(xml, DomainState::Running, true).unwrap().domain;
    assert_eq!(on_overlays(&domain), BTreeSet::from(["vda", "vdb", "vdc"].map(str::to_owned)));
}
