//! Tests which domains are due, by entries, names and days.

use std::path::Path;

use uuid::Uuid;

use super::*;

const FILE: &str = "
host:
  backupdir: /b
  day_of_week: Sun
  domains:
    db1: {}
    web-1: {day_of_week: [Mon]}
    'web-*': {}
    late: {catch_up: true}
    gone: {}
    'mail?': {}
";
const SUNDAY: &str = "2026-11-22";
const MONDAY: &str = "2026-11-23";

fn known() -> Vec<KnownDomain> {
    domains(&["stray", "web-2", "web-1", "late", "db1"])
}

fn domains(names: &[&str]) -> Vec<KnownDomain> {
    let domain = |name: &&str| KnownDomain {
        id: DomainRef { name: (*name).to_owned(), uuid: Uuid::nil() },
        state: DomainState::Running,
        last_point: None,
    };
    names.iter().map(domain).collect()
}

fn lines_of(known: &[KnownDomain], selection: &Selection, today: &str) -> Vec<String> {
    let settings = crate::config::parse(FILE, Path::new("c.yml"), "host").unwrap();
    let line = |entry: &PlanEntry| match &entry.decision {
        Decision::Due(reason) => format!("+ {}: {reason}", entry.name),
        Decision::NotDue(reason) => format!("- {}: {reason}", entry.name),
        Decision::NotSelected(reason) => format!("  {}: {reason}", entry.name),
        Decision::Unknown(Failure { message, hint }) => {
            format!("! {}: {message} ({})", entry.name, hint.as_deref().unwrap_or("no hint"))
        }
    };
    plan(&settings, known, selection, today.parse().unwrap()).entries.iter().map(line).collect()
}

fn lines(force: bool, names: &[&str], today: &str) -> Vec<String> {
    let selection =
        Selection { force, accept_smaller: false, domains: names.iter().map(|name| (*name).to_owned()).collect() };
    lines_of(&known(), &selection, today)
}

#[test]
fn every_domain_and_entry_has_a_reason() {
    assert_eq!(
        lines(false, &[], MONDAY),
        [
            "- db1: not today: runs on Sun; next 2026-11-29",
            "+ web-1: due: Monday",
            "- web-2: not today: runs on Sun; next 2026-11-29",
            "+ late: catching up: no restore point yet",
            "! gone: domain `gone` (line 10 of the configuration) does not exist (To list the domains: virsh list --all)",
            "! mail?: no existing domain matches `mail?` (line 11 of the configuration) \
             (To list the domains: virsh list --all)",
            "  stray: not in the configuration",
        ]
    );
}

#[test]
fn force_makes_domains_due_and_names_select_them() {
    assert_eq!(
        lines(true, &["web-*", "db1"], MONDAY),
        [
            "+ db1: forced",
            "+ web-1: due: Monday",
            "+ web-2: forced",
            "  late: not named on the command line",
            "  gone: not named on the command line",
            "  mail?: not named on the command line",
            "  stray: not in the configuration",
        ]
    );
    assert_eq!(lines(false, &["db1"], MONDAY)[0], "- db1: not today: runs on Sun; next 2026-11-29");
    assert_eq!(lines(false, &["db1"], SUNDAY)[0], "+ db1: due: Sunday");
}

#[test]
fn unmatched_names_are_reported_once() {
    let due = |lines: Vec<String>| lines.into_iter().filter(|line| line.starts_with('!')).collect::<Vec<_>>();
    assert_eq!(
        due(lines(false, &["db2", "stray", "x*", "db2", "gone", "str*"], SUNDAY)),
        [
            "! db2: domain `db2` (the command line) does not exist (Did you mean `db1`?)",
            "! stray: `stray` is named on the command line but not in the configuration \
             (Add an entry to `domains` of the host `host`.)",
            "! x*: no existing domain matches `x*` (the command line) (To list the domains: virsh list --all)",
            "! str*: `str*` is named on the command line but not in the configuration \
             (Add an entry to `domains` of the host `host`.)",
            "! gone: domain `gone` (line 10 of the configuration) does not exist (To list the domains: virsh list --all)",
        ]
    );
}

#[test]
fn a_named_domain_without_an_entry_keeps_its_uuid() {
    let settings = crate::config::parse(FILE, Path::new("c.yml"), "host").unwrap();
    let known: Vec<_> = known()
        .into_iter()
        .zip(1..)
        .map(|(mut domain, number)| {
            domain.id.uuid = Uuid::from_u128(number);
            domain
        })
        .collect();
    let selection =
        Selection { force: false, accept_smaller: false, domains: vec!["stray".to_owned(), "x".to_owned()] };
    let entries = plan(&settings, &known, &selection, SUNDAY.parse().unwrap()).entries;
    let unknown = entries.iter().filter(|entry| matches!(entry.decision, Decision::Unknown(_)));
    let ids: Vec<_> = unknown.map(|entry| (entry.name.as_str(), entry.domain.clone())).collect();
    assert_eq!(ids, [("stray", Some(known[0].id.clone())), ("x", None)]);
}

#[test]
fn catching_up_depends_on_the_last_missed_day() {
    let cases = [
        (Some("2026-11-21"), MONDAY, "+ late: catching up: nothing since Sun 2026-11-22"),
        (Some("2026-11-22"), MONDAY, "- late: not today: runs on Sun; next 2026-11-29"),
        (Some("2026-11-23"), "2026-11-28", "- late: not today: runs on Sun; next 2026-11-29"),
        (Some("2030-01-01"), MONDAY, "- late: not today: runs on Sun; next 2026-11-29"),
        (Some("2026-11-21"), SUNDAY, "+ late: due: Sunday"),
        (None, "2026-11-28", "+ late: catching up: no restore point yet"),
    ];
    for (last, today, line) in cases {
        let mut known = known();
        known
            .iter_mut()
            .for_each(|domain| domain.last_point = last.map(|day| format!("{day}T12:00:00").parse().unwrap()));
        assert!(lines_of(&known, &Selection::default(), today).contains(&line.to_owned()), "{line}");
    }
}

#[test]
fn an_excluded_domain_is_reported_and_never_due() {
    let text = "host:\n  backupdir: /b\n  day_of_week: Sun\n  domains: {'test-*': {exclude: true}, gone: {exclude: true}, '*': {}}\n";
    let settings = crate::config::parse(text, Path::new("c.yml"), "host").unwrap();
    let known = domains(&["test-1", "web"]);
    let decide = |names: &[&str]| {
        let domains = names.iter().map(|name| (*name).to_owned()).collect();
        let selection = Selection { force: true, accept_smaller: false, domains };
        plan(&settings, &known, &selection, SUNDAY.parse().unwrap())
    };
    let all = decide(&[]);
    assert_eq!(all.queue().len(), 1);
    let said = |plan: &Plan, name: &str| {
        let entry = plan.entries.iter().find(|entry| entry.name == name).unwrap();
        format!("{:?}", entry.decision)
    };
    assert!(said(&all, "test-1").contains("excluded by `test-*`, line 4"), "{all:?}");
    assert!(!all.entries.iter().any(|entry| entry.name == "gone"), "an exclusion may match no domain");
    let named = decide(&["test-1"]);
    assert!(said(&named, "test-1").starts_with("Unknown") && named.queue().is_empty(), "{named:?}");
    let matched = decide(&["*"]);
    assert_eq!(matched.queue().len(), 1);
    assert!(!matched.entries.iter().any(|entry| matches!(entry.decision, Decision::Unknown(_))), "{matched:?}");
}

#[test]
fn domains_are_ordered_by_priority_then_by_age_of_the_newest_point() {
    let text = "host:\n  backupdir: /b\n  day_of_week: Sun\n  domains: {first: {priority: 51}, last: {priority: 0}, '?': {}}\n";
    let settings = crate::config::parse(text, Path::new("c.yml"), "host").unwrap();
    let mut known = domains(&["a", "b", "c", "first", "last"]);
    for (domain, last) in
        known.iter_mut().zip(["2026-11-22T04:30:00", "2026-11-22T04:20:00", "", "2026-11-22T05:00:00", ""])
    {
        domain.last_point = last.parse().ok();
    }
    let plan = plan(&settings, &known, &Selection::default(), SUNDAY.parse().unwrap());
    let names: Vec<_> = plan.queue().into_iter().map(|(domain, _)| domain.name).collect();
    assert_eq!(names, ["first", "c", "b", "a", "last"]);
}

#[test]
fn every_entry_is_an_error_if_no_domain_exists() {
    let lines = lines_of(&[], &Selection::default(), SUNDAY);
    assert_eq!(lines.len(), 6);
    assert!(lines.iter().all(|line| line.ends_with("(No domain exists. Check `libvirt_uri`.)")));
}
