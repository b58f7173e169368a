//! Compares the whole text of reports with files in this directory.

use super::*;

#[test]
fn report_of_a_good_run_matches_its_file() {
    assert_eq!(page(&sample::good(), Page::new(Style::Plain, WIDTH), &Utc), include_str!("good.txt"));
}

#[test]
fn report_of_a_bad_run_matches_its_file() {
    assert_eq!(page(&sample::bad(), Page::new(Style::Plain, WIDTH), &Utc), include_str!("bad.txt"));
}

#[test]
fn nothing_due_is_one_line() {
    assert_eq!(text(&sample::empty(), false, WIDTH), "kvmbackup: nothing is due today on cloud1 (not due: 2)\n");
    let interrupted = RunReport { signal: Some(15), ..sample::empty() };
    assert!(
        text(&interrupted, false, WIDTH).starts_with("kvmbackup: INTERRUPTED by signal 15, nothing done on cloud1\n")
    );
}

#[test]
fn headline_names_the_worst_problem() {
    let headline = |report: &RunReport| text(report, false, WIDTH).lines().next().unwrap_or_default().to_owned();
    let mut report = sample::good();
    report.domains[0].leftovers = sample::bad().domains[2].leftovers.clone();
    assert_eq!(headline(&report), "kvmbackup: 2 of 2 good, but cleanup is incomplete on cloud1");
    report.errors = sample::bad().errors;
    assert_eq!(headline(&report), "kvmbackup: 2 of 2 good, but the run had ERRORS on cloud1");
    report.domains[1].outcome = Outcome::Partial;
    assert_eq!(headline(&report), "kvmbackup: 1 of 2 PARTIAL on cloud1");
    report.domains.clear();
    assert_eq!(headline(&report), "kvmbackup: FAILED on cloud1");
}

#[test]
fn long_names_stay_within_the_width() {
    let mut report = sample::bad();
    report.domains.push(sample::saved(&"long-name-".repeat(12)));
    report.not_due = (0..40).map(|n| format!("guest-{n}")).collect();
    report.domains[1].error = Some(Failure { message: "why ".repeat(100), hint: Some("so ".repeat(100)) });
    let text = text(&report, false, WIDTH);
    assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    assert!(text.contains("long-name-…") || text.contains('…'));
}

#[test]
fn colour_does_not_change_the_text() {
    let report = sample::bad();
    let coloured = text(&report, true, WIDTH);
    assert!(coloured.contains("\u{1b}[1;31mFAILED\u{1b}[0m   db1"));
    let mut plain = coloured;
    for code in ["1;31", "0", "1", "32", "33"] {
        plain = plain.replace(&format!("\u{1b}[{code}m"), "");
    }
    assert_eq!(plain, text(&report, false, WIDTH));
}

#[test]
fn failures_with_one_cause_are_grouped() {
    let mut report = sample::bad();
    let failed = report.domains[1].clone();
    report.domains.truncate(1);
    report.errors.clear();
    report.recovered.clear();
    for n in 0..200 {
        let mut domain = failed.clone();
        domain.domain = format!("guest-{n:03}");
        let message = format!("guest-{n:03}: cannot open /images/guest-{n:03}.qcow2: Permission denied");
        domain.error = Some(Failure { message, hint: Some(format!("virsh domblklist guest-{n:03}")) });
        report.domains.push(domain);
    }
    let text = text(&report, false, WIDTH);
    assert!(text.lines().count() <= 60, "{text}");
    assert_eq!(text.matches("Permission denied").count(), 1, "{text}");
    assert!(
        text.contains("  cannot open /images/NAME.qcow2") && text.contains("hint: virsh domblklist NAME"),
        "{text}"
    );
    assert!(text.contains("these 200: guest-000, ") && text.contains("guest-199"), "{text}");
    assert!(text.contains("FAILED: 197 more"), "{text}");
    assert!(text.contains("1 saved: 2.37 GB read, 891 MB stored (ratio 2.66)"), "{text}");
}

#[test]
fn times_are_in_the_hosts_zone_and_name_it() {
    let berlin = chrono::FixedOffset::east_opt(3600).unwrap();
    let text = page(&sample::good(), Page::new(Style::Plain, WIDTH), &berlin);
    assert!(text.contains("\n2026-11-22 03:00:00 +01:00 to 2026-11-22 03:03:07 +01:00, 3m 07s\n"), "{text}");
}

#[test]
fn a_report_fits_a_terminal_of_80_columns() {
    let mut report = sample::bad();
    report.domains.push(sample::saved("a-guest-with-a-name-of-thirty"));
    for width in [80, 90, 100] {
        let text = text(&report, false, width);
        let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(longest <= width, "{text}");
        assert!(text.contains("a-guest-with-a-name") && text.contains("READ"), "{text}");
    }
}

#[test]
fn error_with_windows_line_endings_stays_on_one_line() {
    let mut report = sample::bad();
    let said = "guest agent: cannot freeze:\r\nVSS is busy\r";
    report.domains[0].warnings.push(Failure { message: said.to_owned(), hint: Some("see\r\nit".to_owned()) });
    for text in [text(&report, false, WIDTH), journal(&report), crate::report::json(&report).unwrap()] {
        assert!(text.contains("VSS is busy") && !text.contains('\r'), "{text:?}");
    }
}
