//! Runs the command `prune`. Must not judge restore points.

use chrono::{Local, Utc};

use super::args::{Global, Prune};
use super::list::{moment, unlisted};
use super::print;
use crate::app::{self, watch};
use crate::engine;
use crate::engine::prune::{self, Judged, Rotation};
use crate::model::RunResult;
use crate::model::size::bytes;
use crate::report::table::{Table, printable};

pub(super) fn run(global: &Global, words: &Prune) -> Result<RunResult, app::Error> {
    let settings = super::settings(global)?;
    // Not during a run, which applies retention itself. A dry run changes nothing.
    let _lock = (!words.dry_run).then(|| app::lock(&settings.state_dir)).transpose()?;
    let store = engine::target::open(&settings, words.store)?;
    let (rotations, failures) = prune::prune(&settings, &store, &words.domains, words.dry_run, Local::now())?;
    let failed = rotations.iter().any(|rotation| rotation.failures().next().is_some());
    if words.json {
        let domains = serde_json::to_value(&rotations).map_err(engine::Error::Json)?;
        let json = serde_json::json!({
            "schema": 1, "dry_run": words.dry_run, "domains": domains,
            "failures": serde_json::to_value(&failures).map_err(engine::Error::Json)?,
        });
        print(&format!("{json:#}\n"));
    } else {
        if !global.quiet || failed {
            print(&text(&rotations, words.dry_run));
        }
        print(&unlisted(&failures).unwrap_or_default());
    }
    match (failed, failures.is_empty()) {
        (_, false) => return Ok(RunResult::Target),
        (true, _) => return Ok(RunResult::Untidy),
        (false, true) if words.dry_run => return Ok(RunResult::Good),
        (false, true) => {}
    }
    let told = watch::tell(&settings, |ledger| ledger.pruned(Utc::now())).and_then(|()| watch::look(&settings));
    Ok(super::watched(told, RunResult::Good))
}

fn text(rotations: &[Rotation], dry_run: bool) -> String {
    let mut table = Table::new(&["DOMAIN", "POINT", "STORE", "TIME", ">SIZE", "VERDICT", "WHY"]);
    for rotation in rotations {
        for point in &rotation.points {
            table.row([
                rotation.domain.clone(),
                point.id.to_string(),
                point.store.name().to_owned(),
                moment(point.id.time()),
                bytes(point.stored_bytes),
                verdict(point, dry_run).to_owned(),
                point.reasons.join(", "),
            ]);
        }
    }
    let mut stores = rotations.iter().flat_map(|rotation| &rotation.points).map(|point| point.store);
    let first = stores.next();
    if stores.all(|store| Some(store) == first) {
        table.drop_column("STORE");
    }
    let mut lines = table.lines();
    for rotation in rotations {
        let domain = printable(&rotation.domain);
        lines.extend(rotation.note.iter().map(|note| format!("{domain}: {}", printable(note))));
        for failure in rotation.left_alone.iter().chain(rotation.failures()) {
            lines.push(format!("{domain}: {}", printable(&failure.message)));
            lines.extend(super::hint("  ", failure));
        }
    }
    lines.push(summary(rotations, dry_run));
    lines.join("\n") + "\n"
}

fn verdict(point: &Judged, dry_run: bool) -> &'static str {
    match (point.keep, point.removed) {
        (true, _) => "keep",
        (false, true) => "removed",
        (false, false) if dry_run => "would remove",
        (false, false) => "NOT REMOVED",
    }
}

fn summary(rotations: &[Rotation], dry_run: bool) -> String {
    let all = || rotations.iter().flat_map(|rotation| &rotation.points);
    let goes = |point: &&Judged| point.removed || (dry_run && !point.keep);
    let gone: u64 = all().filter(goes).map(|point| point.stored_bytes).sum();
    let (count, total) = (all().filter(goes).count(), all().count());
    let verb = if dry_run { "would be removed" } else { "removed" };
    format!("{count} of {total} restore points {verb}, {}", bytes(gone))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Failure;

    fn rotation(domain: &str, note: Option<&str>) -> Rotation {
        let point = |id: &str, keep, reason: &str| Judged {
            id: id.parse().unwrap(),
            store: crate::model::StoreKind::Archive,
            stored_bytes: 1_000_000,
            keep,
            reasons: vec![reason.to_owned()],
            removed: false,
            failure: None,
            of_another_guest: false,
        };
        let points =
            vec![point("20261122T020000Z", true, "last 1 of 1"), point("20261121T020000Z", false, "no rule keeps it")];
        Rotation { domain: domain.to_owned(), points, note: note.map(str::to_owned), left_alone: Vec::new() }
    }

    #[test]
    fn every_point_has_its_reason() {
        let text = text(&[rotation("web", None)], true);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].ends_with("1.00 MB  keep          last 1 of 1"), "{text}");
        assert!(lines[2].ends_with("1.00 MB  would remove  no rule keeps it"), "{text}");
        assert_eq!(lines[3], "1 of 2 restore points would be removed, 1.00 MB");
    }

    #[test]
    fn failed_removal_is_reported() {
        let mut rotation = rotation("web", Some("a note"));
        rotation.points[1].failure = Some(Failure { message: "read-only".to_owned(), hint: Some("mount".to_owned()) });
        let text = text(&[rotation], false);
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert!(lines[0].contains("NOT REMOVED"), "{text}");
        assert_eq!(
            lines[1..],
            ["web: a note", "web: read-only", "  hint: mount", "0 of 2 restore points removed, 0 B"]
        );
    }
}
