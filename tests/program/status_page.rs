//! The status page: its contents after quiet, bad and hostile nights, and its rendering by Chromium.

use crate::browser;
use crate::serving;
use crate::watched;
use crate::watched::Watched;
use chrono::{DateTime, TimeDelta, Utc};
use kvmbackup::exporter::page;
use kvmbackup::ledger::{DiskRecord, DomainResult, Ledger, Seen, SeenPoints, SeenRepository};
use kvmbackup::model::RunReport;

fn now() -> DateTime<Utc> {
    "2026-11-23T08:00:00Z".parse().unwrap()
}

fn html(watched: &Watched) -> String {
    page::html(&watched.ledger, watched.survey.as_ref(), false, now()).unwrap()
}

/// Every text between two marks of a page.
fn between<'a>(html: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    html.split(open).skip(1).map(|rest| rest.split(close).next().unwrap()).collect()
}

fn headline(watched: &Watched) -> String {
    let html = html(watched);
    let headline = between(&html, "<h1>", "</h1>")[0].to_owned();
    assert!(html.contains(&format!("<title>{headline} – kvmbackup</title>")));
    headline
}

#[test]
fn headline_shows_the_overall_status() {
    assert_eq!(headline(&watched::quiet(now())), "All 6 guests are backed up");
    assert_eq!(headline(&watched::bad_night(now())), "4 of 12 guests need attention");
    assert_eq!(headline(&watched::fresh(now())), "No backup has run yet");
    assert_eq!(headline(&watched::nothing()), "No backup has run yet, and no valid configuration was found");
    let mut empty = watched::fresh(now());
    empty.survey.as_mut().unwrap().domains.clear();
    assert_eq!(headline(&empty), "No guests are configured");
    let mut down = watched::quiet(now());
    down.survey.as_mut().unwrap().repository.up = false;
    assert_eq!(headline(&down), "All 6 guests are backed up, but: the target /mnt/backup/cloud1 is not writable");
    let mut broken = watched::quiet(now());
    broken.ledger.config_ok = false;
    assert_eq!(headline(&broken), "All 6 guests are backed up, but: the configuration cannot be read");
}

#[test]
fn headline_is_red_if_anything_is_red() {
    let mut covered = watched::fresh(now());
    covered.survey.as_mut().unwrap().domains.get_mut("db1").unwrap().leftover_overlays = 1;
    let mut uncovered = watched::quiet(now());
    let seen = Seen { defined: true, leftover_overlays: 1, ..Seen::default() };
    for name in ["old-1", "old-2", "old-3", "old-4"] {
        uncovered.survey.as_mut().unwrap().domains.insert(name.to_owned(), seen.clone());
    }
    let mut unreachable = watched::fresh(now());
    unreachable.survey.as_mut().unwrap().libvirt_ok = false;
    let mut empty = watched::fresh(now());
    empty.survey.as_mut().unwrap().domains = [("old-1".to_owned(), seen)].into();
    for (watched, said) in [
        (covered, "1 of 3 guests needs attention"),
        (uncovered, "All 6 guests are backed up, but: 4 other guests need attention"),
        (unreachable, "No backup has run yet, but: libvirt does not respond"),
        (empty, "No guests are configured, but: 1 other guest needs attention"),
    ] {
        assert_eq!(headline(&watched), said);
        let html = html(&watched);
        assert!(html.contains("<header class=\"top bad\">") && html.contains("<li class=\"bad\">"), "{said}");
    }
}

#[test]
fn page_mail_and_metrics_show_the_restore_points_after_a_lost_ledger() {
    let mut watched = watched::quiet(now());
    let (saved, unsaved) = ("db1", "mail");
    watched.ledger = Ledger { config_ok: true, ..Ledger::default() };
    watched.seen(unsaved).points = SeenPoints::default();
    watched.seen(unsaved).since = Some(now() - TimeDelta::days(9));
    watched.seen(saved).points.newest = Some(now() - TimeDelta::hours(31));
    let told = |watched: &Watched| {
        let survey = watched.survey.as_ref().unwrap();
        let report = RunReport::new("desk".to_owned(), uuid::Uuid::nil(), now());
        let late = kvmbackup::mail::late(&watched.ledger, survey, &report);
        let metrics = kvmbackup::metrics::text(&watched.ledger, Some(survey), false).unwrap();
        let never = |name: &str| {
            let (start, end) = ("kvmbackup_domain_last_success_timestamp_seconds{", format!("domain=\"{name}\"}} 0"));
            metrics.lines().any(|line| line.starts_with(start) && line.ends_with(&end))
        };
        (headline(watched), late, [saved, unsaved].map(never))
    };
    let (page, late, never) = told(&watched);
    assert_eq!(
        (page.as_str(), late, never),
        ("1 of 6 guests needs attention", vec![unsaved.to_owned()], [false, true])
    );
    let html = html(&watched);
    assert_eq!(
        between(&html, "class=\"troubles\">", "</ul></section>")[0].matches("was never backed up").count(),
        1,
        "{html}"
    );
    watched.seen(saved).points.newest = Some(now() - TimeDelta::hours(32));
    assert_eq!((told(&watched).0.as_str(), told(&watched).1.len()), ("2 of 6 guests need attention", 2));
}

#[test]
fn guest_whose_first_backup_is_not_due_yet_is_not_red() {
    let told = |since: Option<DateTime<Utc>>, interval_days: u64| {
        let mut watched = watched::quiet(now());
        let seen = watched.survey.as_mut().unwrap().domains.get_mut("db1").unwrap();
        (seen.since, seen.expected_interval_s, seen.points) = (since, interval_days * 86_400, SeenPoints::default());
        watched.ledger.domains.remove("db1");
        (headline(&watched), html(&watched).contains("was never backed up"))
    };
    let days_ago = |days| Some(now() - TimeDelta::days(days));
    let waiting = ("5 of 6 guests are backed up, 1 is not due yet".to_owned(), false);
    let missing = ("1 of 6 guests needs attention".to_owned(), true);
    assert_eq!(told(days_ago(6), 7), waiting);
    assert_eq!(told(days_ago(9), 7), missing);
    assert_eq!(told(days_ago(2), 1), missing);
    assert_eq!(told(None, 7), missing, "its waiting time is unknown");
    assert_eq!(told(days_ago(400), 0), waiting, "it has no schedule");
}

#[test]
fn each_problem_is_shown_with_the_command_to_run() {
    let html = html(&watched::bad_night(now()));
    let troubles = between(&html, "<section><h2>Needs attention</h2>", "</section>")[0];
    for words in [
        "db1</bdi> has 3 failed backups in a row",
        "No space left on device",
        "kvmbackup backup --force db1",
        "files</bdi> still uses 2 overlays of an interrupted backup",
        "kvmbackup recover",
        "vpn</bdi> is late: last backup 3 d ago, due every 24 h",
        "web-2</bdi> is only crash-consistent, not filesystem-consistent as configured",
        "proxy</bdi> was backed up with a warning",
        "disk vdb is transient: data written since the guest started is not backed up (and 1 more)",
        "ldap</bdi> was skipped by a hook last time",
        "The target /mnt/backup/cloud1 is almost full: 61.0 GB left",
    ] {
        assert!(troubles.contains(words), "{words} is not in {troubles}");
    }
    let order: Vec<_> = between(troubles, "<li class=\"", "\"");
    assert!(order.windows(2).all(|pair| pair[0] <= pair[1]), "bad before note: {order:?}");
    assert!(!html.contains("web-1</bdi> "), "healthy items are not listed");
}

#[test]
fn damaged_restore_points_are_red_and_named() {
    let mut watched = watched::healthy(now(), &["db1", "web-1"]);
    let id: kvmbackup::model::PointId = "20261122T020000Z".parse().unwrap();
    watched.seen("db1").points.damaged = vec![id];
    let page = html(&watched);
    assert_eq!(headline(&watched), "1 of 2 guests needs attention");
    assert!(page.contains(&format!("has a damaged restore point, {id}")), "{page}");
    assert!(page.contains(&format!("kvmbackup verify db1 --at {id}")), "{page}");
    watched.seen("db1").points.damaged.clear();
    assert!(!html(&watched).contains("damaged"));
}

#[test]
fn every_command_shown_is_valid() {
    let pages = [watched::nothing(), watched::fresh(now()), watched::bad_night(now()), watched::hostile(now())];
    let mut checked = 0;
    for html in pages.iter().map(html) {
        for line in between(&html, "<code>", "</code>").into_iter().filter(|line| line.starts_with("kvmbackup ")) {
            let plain = line.replace("&#39;", "'").replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">");
            let plain = plain.replace("&#x27;", "'").replace("&#x3D;", "=").replace("&#x60;", "`");
            let script = format!("printf '%s\\0' {}", plain.replace("&amp;", "&"));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let words: Vec<_> = text.split_terminator('\0').collect();
            kvmbackup::cli::args::parse(&words).unwrap_or_else(|error| panic!("{line}: {error}"));
            checked += 1;
        }
    }
    assert!(checked > 15);
}

#[test]
fn ages_are_compared_with_the_schedule() {
    let told = |hours: i64| {
        let mut watched = watched::quiet(now());
        watched.ledger.domains.get_mut("db1").unwrap().last_success = Some(now() - TimeDelta::hours(hours));
        let html = html(&watched);
        let row =
            between(&html, "<tr role=\"row\" class=", "</tr>").into_iter().find(|row| row.contains(">db1<")).unwrap();
        between(row, "<small class=\"beside\">", "</small>")[0].to_owned()
    };
    assert_eq!(told(5), "of 24 h, on time");
    assert_eq!(told(30), "of 24 h, due");
    assert_eq!(told(32), "of 24 h, late");
}

#[test]
fn bytes_read_are_shown_without_an_absurd_ratio() {
    let told = |read: u64, stored: u64, in_repository: bool| {
        let mut watched = watched::quiet(now());
        watched.ledger.domains.retain(|name, _| name == "db1");
        watched.survey.as_mut().unwrap().domains.retain(|name, _| name == "db1");
        let guest = watched.ledger.domains.get_mut("db1").unwrap();
        (guest.last_read_bytes, guest.last_stored_bytes) = (read, stored);
        if in_repository {
            guest.disks.insert("vda".to_owned(), DiskRecord::default());
        }
        let html = html(&watched);
        between(&html, "data-label=\"Stored\"><div>", "</div>")[0].to_owned()
    };
    let two = 2_100_000_000;
    assert_eq!(told(two, 700_000_000, false), "700 MB<small>of 2.10 GB, ratio\u{a0}3.00</small>");
    assert_eq!(told(two, 1, true), "1 B<small>read 2.10 GB</small>");
    assert_eq!(told(two, 0, true), "0 B<small>read 2.10 GB</small>");
    assert_eq!(told(0, 9_000, true), "9.00 kB<small>read 0 B</small>");
    assert_eq!(told(0, 9_000, false), "9.00 kB<small>read 0 B</small>");
    assert!(!told(0, 0, false).contains("ratio"), "it has no backup");
}

#[test]
fn run_in_progress_is_no_problem() {
    let mut watched = watched::quiet(now());
    watched.ledger.jobs.get_mut("cloud1").unwrap().running = Some(uuid::Uuid::nil());
    watched.survey.as_mut().unwrap().domains.get_mut("db1").unwrap().leftover_overlays = 1;
    let on = page::html(&watched.ledger, watched.survey.as_ref(), true, now()).unwrap();
    assert!(on.contains("A run is in progress.") && on.contains("<h1>All 6 guests"), "{on}");
    let killed = html(&watched);
    assert!(
        killed.contains("the last run was killed") && killed.contains("<h1>1 of 6 guests needs attention"),
        "{killed}"
    );
}

#[test]
fn guest_without_a_matching_entry_is_shown_as_such() {
    let html = html(&watched::bad_night(now()));
    assert!(html.contains("2 guests are not in the configuration."));
    let section = between(&html, "<section><h2>Not in the configuration</h2>", "</section>")[0];
    assert!(section.contains("sandbox") && section.contains("old-ci") && !section.contains("retired"));
    assert!(between(&html, "<section><h2>Removed guests</h2>", "</section>")[0].contains("retired"));
    assert_eq!(between(&html, "<tr role=\"row\" class=", "</tr>").len(), 12);
}

#[test]
fn hostile_names_are_shown_as_text_only() {
    let html = html(&watched::hostile(now()));
    for word in
        ["<script", "<img", "<b>", "<i>", "<u>", "<s>", "<a href=//", "onerror=alert(1)>", "\0", "\x1b", "\u{202e}"]
    {
        assert!(!html.contains(word), "{word:?} is in the page");
    }
    assert_eq!(html.matches("<h1>").count(), 1);
    assert_eq!(html.matches("</style>").count(), 1);
    assert_eq!(html.matches("</main>").count(), 1);
}

#[test]
fn page_loads_no_resources_and_fits_every_screen() {
    let html = html(&watched::bad_night(now()));
    for word in ["src=", "url(", "@import", "<script", "<link", "style=\""] {
        assert!(!html.contains(word), "{word}");
    }
    for word in
        ["name=\"viewport\"", "http-equiv=\"refresh\" content=\"60\"", "lang=\"en\"", "prefers-color-scheme: dark"]
    {
        assert!(html.contains(word), "{word}");
    }
    let drawings = between(&html, "<svg class=\"a", "</svg>");
    assert!(drawings.len() > 20);
    for drawing in drawings {
        assert!(drawing.contains("role=\"img\"><title>"), "{drawing}");
    }
}

#[test]
fn chromium_renders_the_page_as_intended() {
    let browser = browser::Browser::new();
    for (name, watched, headline) in [
        ("quiet", watched::quiet(Utc::now()), "All 6 guests are backed up"),
        ("bad-night", watched::bad_night(Utc::now()), "4 of 12 guests need attention"),
        ("fresh", watched::fresh(Utc::now()), "No backup has run yet"),
        ("hostile", watched::hostile(Utc::now()), "8 of 8 guests need attention"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let served = serving::Exporter::of(&watched, dir.path());
        let dom = browser.dom(&served.url("/"));
        assert_eq!(between(&dom, "<h1>", "</h1>"), [headline], "{name}");
        assert_eq!(between(&dom, "<title>", " – kvmbackup</title>").first(), Some(&headline), "{name}");
        assert_eq!(dom.matches("<script").count() + dom.matches("<img").count(), 0, "{name}");
        // `--page` of the style. The policy lets a browser use the style only by its hash, so this checks the hash,
        // too.
        for (light, background) in [(true, [0xf5, 0xf6, 0xf8]), (false, [0x11, 0x16, 0x1d])] {
            let picture = browser.picture(&served.url("/"), 1400, 900, light);
            assert_eq!((picture.size, picture.corner), ((1400, 900), background), "{name}, light: {light}");
        }
    }
}

/// With archives and a repository in a bucket that does not respond.
fn with_two_targets() -> Watched {
    let mut watched = watched::bad_night(now());
    let bucket = "s3:https://storage.example.org/backups/of/all/hosts/in/the/second/room".into();
    let survey = watched.survey.as_mut().unwrap();
    survey.other = Some(SeenRepository { path: bucket, deduplicated: true, ..SeenRepository::default() });
    watched
}

#[test]
fn both_targets_are_shown_and_one_that_does_not_respond_is_red() {
    let mut watched = with_two_targets();
    let page = html(&watched);
    assert!(page.contains("/mnt/backup/cloud1") && page.contains("s3:https://storage"), "{page}");
    assert!(page.contains("second/room is not writable") && page.contains("refuses the access key"), "{page}");
    watched.survey.as_mut().unwrap().other.as_mut().unwrap().up = true;
    let page = html(&watched);
    assert!(page.contains("no limit known") && !page.contains("not writable"), "{page}");
    if let Some(file) = std::env::var_os("KVMBACKUP_LOOK") {
        std::fs::write(file, html(&with_two_targets())).unwrap();
    }
}

#[test]
fn last_result_is_one_word_for_every_result() {
    for (result, word) in [
        (DomainResult::Success, "ok"),
        (DomainResult::Warning, "warning"),
        (DomainResult::Failure, "failed"),
        (DomainResult::Skipped, "skipped"),
    ] {
        let mut watched = watched::quiet(now());
        watched.ledger.domains.get_mut("mail").unwrap().last_result = Some(result);
        let html = html(&watched);
        let row =
            between(&html, "<tr role=\"row\" class=", "</tr>").into_iter().find(|row| row.contains(">mail<")).unwrap();
        assert!(row.contains(&format!("</svg>{word}</span>")), "{row}");
    }
}

/// Widths of phones, tablets, windows and screens; 1341 is the narrowest at which guests are a table.
const WIDTHS: [u32; 10] = [320, 360, 800, 1024, 1120, 1200, 1280, 1341, 1440, 1920];

#[test]
fn nothing_overflows_and_no_word_is_broken_at_any_width() {
    let nights = [
        watched::quiet(now()),
        watched::bad_night(now()),
        watched::fresh(now()),
        watched::hostile(now()),
        with_two_targets(),
    ];
    let nights = nights.each_ref().map(html);
    // With the default font, and with the widest one that many systems have.
    let wide = nights.each_ref().map(|html| html.replace("</style>", "body{font-family:\"DejaVu Sans\"}</style>"));
    let pages: Vec<&str> = nights.iter().chain(&wide).map(String::as_str).collect();
    for seen in browser::Browser::new().measure(&pages, &WIDTHS) {
        let is_whole = seen.scroll_width <= seen.width && seen.outside.is_empty() && seen.broken.is_empty();
        assert!(is_whole, "{seen:#?}");
    }
}
