//! An example that sets every field of the templates, to test them. It must never be mailed.

use super::view::{DomainView, HookOutput, Notice, UntoldRun, View};

pub(super) fn view() -> View {
    let text = |text: &str| text.to_owned();
    let told = || Notice { message: text("no space left"), hint: Some(text("make room")) };
    View {
        status: "FAILED",
        colour: "#b3261e",
        headline: text("FAILED 1 of 1 on host: guest"),
        host: text("host"),
        version: text(env!("CARGO_PKG_VERSION")),
        run_id: text("00000000-0000-0000-0000-000000000000"),
        started: text("2026-01-01 02:00:00"),
        finished: text("2026-01-01 02:00:01"),
        took: text("1.0 s"),
        report: text("the report"),
        steps: vec![text("pruned: freed 1 GB in 1.0 s")],
        errors: vec![told()],
        late: vec![text("another guest is late")],
        warnings: vec![text("a warning")],
        domains: vec![DomainView {
            name: text("guest"),
            result: "FAILED",
            colour: "#b3261e",
            start: text("02:00:00 UTC"),
            duration: text("1.0 s"),
            read: text("1 kB"),
            read_bytes: 1000,
            changed: Some("1 of 2".to_owned()),
            stored: text("1 kB"),
            stored_bytes: 1000,
            consistency: text("fs"),
            points: 1,
            step: Some(text("copy")),
            error: Some(told()),
            notes: vec![told()],
            outputs: vec![HookOutput { name: text("hook"), phase: text("pre-domain"), text: text("its last line") }],
        }],
        more: 1,
        not_due: text("a third guest"),
        untold: vec![UntoldRun { time: text("2025-12-31 02:00:00"), subject: text("[kvmbackup] OK 1/1 - host") }],
        next: text("Fri 2026-01-02: guest"),
        free: text("1 GB of 2 GB on /mnt/backup"),
        see_log: text("kvmbackup report"),
        restore: text("kvmbackup list"),
    }
}
