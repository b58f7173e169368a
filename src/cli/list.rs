//! Runs the command `list`. Must not read restore points itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, stdout};

use chrono::{DateTime, Local, Utc};

use super::args::{Global, List};
use super::{output, print};
use crate::engine::points::{self, PointInfo};
use crate::model::size::bytes;
use crate::model::{DiskOutcome, Failure, RunResult};
use crate::report::table::{Table, printable};
use crate::{app, engine};

pub(super) fn run(global: &Global, words: &List) -> Result<RunResult, app::Error> {
    let settings = super::settings(global)?;
    let store = engine::target::open(&settings, words.store)?;
    let (points, failures) = points::list(&store, &settings.state_dir, &words.domains)?;
    print(&if words.json { json(&points, &failures)? } else { text(&points, &failures, width()) });
    let damaged = points.iter().any(|point| point.damaged.is_some());
    Ok(match damaged {
        true => RunResult::Damaged,
        false if !failures.is_empty() => RunResult::Target,
        false => RunResult::Good,
    })
}

fn json(points: &[PointInfo], failures: &[Failure]) -> Result<String, engine::Error> {
    let [points, failures] = [serde_json::to_value(points), serde_json::to_value(failures)];
    let (points, failures) = (points.map_err(engine::Error::Json)?, failures.map_err(engine::Error::Json)?);
    Ok(format!("{:#}\n", serde_json::json!({ "schema": 1, "points": points, "failures": failures })))
}

/// Columns for the table; unlimited for a file or a pipe.
fn width() -> usize {
    if stdout().is_terminal() { output::width(stdout()) } else { usize::MAX }
}

fn text(points: &[PointInfo], failures: &[Failure], width: usize) -> String {
    if points.is_empty() {
        return unlisted(failures).unwrap_or_else(|| "no restore points yet\n".to_owned());
    }
    let mut table = Table::new(&[
        "DOMAIN",
        "POINT",
        "STORE",
        "TIME",
        ">SIZE",
        ">RATIO",
        "CONSISTENCY",
        "VERIFIED",
        "PROTECTED",
        "GUEST",
    ]);
    for point in points {
        let ratio = point.details.as_ref().and_then(|details| details.ratio);
        table.row([
            point.domain.clone(),
            point.id.to_string(),
            point.store.name().to_owned(),
            moment(point.time),
            bytes(point.stored_bytes),
            ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.1}")),
            consistency(point).to_owned(),
            verified(point),
            if point.protected { "yes" } else { "-" }.to_owned(),
            point.details.as_ref().map_or("-".to_owned(), |details| details.guest.to_string()),
        ]);
    }
    if points.iter().all(|point| Some(point.store) == points.first().map(|first| first.store)) {
        table.drop_column("STORE");
    }
    if !points.iter().any(|point| point.protected) {
        table.drop_column("PROTECTED");
    }
    if !of_several_guests(points) {
        table.drop_column("GUEST");
    }
    table.fit_by_dropping(&["RATIO", "SIZE"], width);
    table.fit("DOMAIN", width);
    let mut lines = table.lines();
    for point in points {
        let plaintext = point.details.iter().flat_map(|details| &details.plaintext);
        lines.extend(plaintext.map(|target| {
            let (domain, target) = (printable(&point.domain), printable(target));
            format!("{domain} {}: {target}: encrypted by QEMU but not encrypted in this restore point", point.id)
        }));
        if let Some(failure) = &point.damaged {
            lines.push(format!("{} {}: {}", printable(&point.domain), point.id, printable(&failure.message)));
            lines.extend(super::hint("  ", failure));
        }
    }
    lines.extend(points.iter().enumerate().filter_map(|(at, point)| {
        let is_newest = points.get(at + 1).is_none_or(|next| next.domain != point.domain);
        is_newest.then(|| remarks(point))?
    }));
    lines.join("\n") + "\n" + &unlisted(failures).unwrap_or_default()
}

/// Why some domains are missing from a list; `None` if none is.
pub(super) fn unlisted(failures: &[Failure]) -> Option<String> {
    let told = |failure: &Failure| {
        let message = format!("error: {}", printable(&failure.message));
        std::iter::once(message).chain(super::hint("  ", failure)).map(|line| line + "\n").collect::<String>()
    };
    (!failures.is_empty()).then(|| failures.iter().map(told).collect())
}

/// Whether any domain has points of several guests. Only then does the table have a column for the guest.
fn of_several_guests(points: &[PointInfo]) -> bool {
    let mut guests = BTreeMap::<_, BTreeSet<_>>::new();
    for point in points {
        guests.entry(&point.domain).or_default().extend(point.details.as_ref().map(|details| details.guest));
    }
    guests.values().any(|guests| guests.len() > 1)
}

/// What an operator should know about a restore point before it is needed.
fn remarks(point: &PointInfo) -> Option<String> {
    let details = point.details.as_ref()?;
    let disks =
        |told: fn(&DiskOutcome) -> bool| details.disks.iter().filter(move |disk| told(disk)).map(|disk| &*disk.target);
    let part = |what: &str, of: Vec<&str>| (!of.is_empty()).then(|| format!("{what} {}", printable(&of.join(", "))));
    let parts = [
        part("disks with much less data than before:", disks(|disk| disk.shrunk).collect()),
        part("not included:", details.not_saved.iter().map(|not_saved| &*not_saved.what).collect()),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("{} {}: {}", printable(&point.domain), point.id, parts.join("; ")))
}

/// A time in the time zone of the host.
pub(super) fn moment(time: DateTime<Utc>) -> String {
    time.with_timezone(&Local).format("%Y-%m-%d %H:%M").to_string()
}

fn consistency(point: &PointInfo) -> &'static str {
    match &point.details {
        _ if point.damaged.is_some() => "DAMAGED",
        None => "unknown (script)",
        Some(details) if details.skipped.iter().any(|disk| disk.missed) => "partial",
        Some(details) => details.consistency.name(),
    }
}

fn verified(point: &PointInfo) -> String {
    match &point.verified {
        None => "never".to_owned(),
        Some(checked) if checked.good => moment(checked.time),
        Some(checked) => format!("DAMAGED {}", moment(checked.time)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::points::Details;
    use crate::engine::verified::Checked;
    use crate::model::Consistency;
    use crate::model::Method;

    fn point(id: &str) -> PointInfo {
        let id: crate::model::PointId = id.parse().unwrap();
        PointInfo {
            domain: "web\u{1b}[2J".to_owned(),
            id,
            time: id.time(),
            path: "/b/x".into(),
            stored_bytes: 950_700_000,
            store: crate::model::StoreKind::Archive,
            origin: "kvmbackup",
            details: None,
            protected: false,
            verified: None,
            damaged: None,
        }
    }

    #[test]
    fn each_point_has_a_line_and_damage_has_a_cause() {
        let mut good = point("20261122T020000Z");
        good.details = Some(Details {
            guest: uuid::Uuid::from_u128(1),
            read_bytes: 2_370_000_000,
            ratio: Some(2.49),
            consistency: Consistency::Filesystem,
            method: Method::Snapshot,
            disks: Vec::new(),
            skipped: Vec::new(),
            not_saved: Vec::new(),
            plaintext: vec!["vdb".to_owned()],
        });
        good.verified = Some(Checked { time: good.time, good: true, bytes: 950_700_000 });
        let mut bad = point("20261123T020000Z");
        bad.damaged = Some(Failure { message: "cut off".to_owned(), hint: Some("look".to_owned()) });
        let text = text(&[good.clone(), bad, point("20261124T020000Z")], &[], usize::MAX);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 7, "{text}");
        assert!(!text.contains('\u{1b}'));
        assert!(lines[1].contains("951 MB    2.5  filesystem"), "{text}");
        assert!(lines[2].contains("DAMAGED") && lines[2].ends_with("never"), "{text}");
        assert!(lines[3].contains("unknown (script)"), "{text}");
        assert!(lines[5].ends_with("20261123T020000Z: cut off") && lines[6] == "  hint: look", "{text}");
        assert!(lines[4].contains("20261122T020000Z: vdb: encrypted"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&json(&[good], &[]).unwrap()).unwrap();
        assert_eq!((&json["schema"], &json["points"][0]["ratio"]), (&1.into(), &2.49.into()));
    }
}
