//! Runs the command `verify`. Must not verify anything itself.

use std::time::Duration;

use chrono::Utc;
use uuid::Uuid;

use super::args::{Global, Verify};
use super::list::unlisted;
use super::{monitor, print, when};
use crate::app::mail::MailSetup;
use crate::app::{self, mail, watch};
use crate::engine;
use crate::engine::verify::{self, Checks, Scope, Verdict, Verification, Which};
use crate::model::size::{bytes, duration};
use crate::model::{DamagedPoint, Failure, RunReport, RunResult, Sample};
use crate::report::table::printable;
use crate::sys::signals::Cancel;

pub(super) fn run(global: &Global, words: &Verify) -> Result<RunResult, app::Error> {
    let settings = super::settings(global)?;
    let store = engine::target::open(&settings, words.store)?;
    let cancel = Cancel::on_signals().map_err(engine::Error::Signals)?;
    let which = if words.all { Which::All } else { Which::One(when(words.at)) };
    let monitor = monitor(global, words.json);
    let (mut good, mut damaged) = (Vec::new(), Vec::new());
    let mut tell = |result: &Verification| {
        match result.verdict {
            Verdict::Good => good.push((result.domain.clone(), result.time)),
            Verdict::Damaged => damaged.push(self::damaged(result)),
            Verdict::Sampled | Verdict::Unchecked => {}
        }
        let is_told = !global.quiet || !matches!(result.verdict, Verdict::Good | Verdict::Sampled);
        if is_told && !words.json {
            print(&text(result, words.sample.is_some()));
        }
    };
    let began = Utc::now();
    // Reading all of the data is a full verification.
    let sample = words.sample.filter(|percent| *percent < 100);
    let sample = sample.map(|percent| Sample { percent, seed: words.seed.unwrap_or(began.timestamp_subsec_nanos()) });
    let scope = Scope { domains: &words.domains, which, older_than: words.older_than, limit: words.limit, sample };
    let checks = verify::verify(&store, &settings.state_dir, &scope, (&*monitor, &cancel), &mut tell);
    let told = match good.is_empty() && damaged.is_empty() {
        true => Ok(()),
        false => watch::checked(&settings, &good),
    };
    let result = checks.as_ref().map_or(RunResult::Failed, |checks| judge(&checks.points, &checks.failures));
    let mut result = super::watched(told, result);
    if let Some(setup) = MailSetup::of(&settings) {
        let host = settings.host.clone();
        let report = RunReport { finished: Utc::now(), damaged, ..RunReport::new(host, Uuid::new_v4(), began) };
        result = super::mailed(mail::after_check(setup, report), result);
    }
    let checks = checks?;
    if words.json {
        let mut json = serde_json::to_value(&checks).map_err(engine::Error::Json)?;
        json["schema"] = 1.into();
        print(&format!("{json:#}\n"));
    } else {
        if let Some(unlisted) = unlisted(&checks.failures) {
            print(&unlisted);
        }
        if !global.quiet {
            print(&rest(&checks, words.older_than));
        }
    }
    Ok(result)
}

/// The mailed description of a damaged point: its first error, and the number of others.
fn damaged(result: &Verification) -> DamagedPoint {
    let first = result.failures.first();
    let more = match result.failures.len() {
        0 | 1 => String::new(),
        all => format!(" (and {} more)", all - 1),
    };
    let what = first.map_or("unusable", |failure| &failure.message);
    let message = format!("restore point {} is damaged: {}: {what}{more}", result.id, result.path.display());
    let hint =
        "Do not rely on this restore point. For what to do, see docs/operations.md, \"Damage is found\".".to_owned();
    let failure = Failure { message, hint: Some(hint) };
    DamagedPoint { domain: result.domain.clone(), id: result.id, failure }
}

/// What was not verified, and why.
fn rest(checks: &Checks, older_than: Option<Duration>) -> String {
    let mut text = String::new();
    if let Some(Sample { percent, seed }) = checks.sample
        && !checks.points.is_empty()
    {
        text.push_str(&format!(
            "read {percent}% of the data; to read the same part: --sample {percent}% --seed {seed}\n"
        ));
    }
    if checks.gone > 0 {
        text.push_str(&format!("{} removed during the check, not verified\n", counted(checks.gone)));
    }
    if checks.left > 0 {
        text.push_str(&format!("{} left for the next run\n", counted(checks.left)));
    }
    if text.is_empty() && checks.points.is_empty() && checks.failures.is_empty() {
        text.push_str(match older_than {
            Some(_) => "no restore point needs verification\n",
            None => "no restore points yet\n",
        });
    }
    text
}

fn counted(points: usize) -> String {
    format!("{points} {}", if points == 1 { "restore point" } else { "restore points" })
}

/// The result of the command: damage first.
fn judge(results: &[Verification], failures: &[Failure]) -> RunResult {
    let any = |verdict| results.iter().any(|result| result.verdict == verdict);
    match (any(Verdict::Damaged), any(Verdict::Unchecked)) {
        (true, _) => RunResult::Damaged,
        (false, true) if results.iter().any(|result| result.is_stall) => RunResult::Target,
        (false, _) if !failures.is_empty() => RunResult::Target,
        (false, true) => RunResult::Failed,
        (false, false) => RunResult::Good,
    }
}

fn text(result: &Verification, wants_sample: bool) -> String {
    let verdict = match result.verdict {
        Verdict::Good => "good",
        Verdict::Sampled => "sampled",
        Verdict::Damaged => "DAMAGED",
        Verdict::Unchecked => "UNCHECKED",
    };
    let (domain, id, size) = (printable(&result.domain), result.id, bytes(result.stored_bytes));
    let took = duration(Duration::from_millis(result.duration_ms));
    let read = match result.sample {
        Some(read) => format!(", read {} of {}", bytes(read.read_bytes), bytes(read.data_bytes)),
        None if wants_sample && result.verdict == Verdict::Good => ", read whole".to_owned(),
        None => String::new(),
    };
    let mut text = format!("{verdict:<9}  {domain}  {id}  {size} in {took}{read}\n");
    if !matches!(result.verdict, Verdict::Good | Verdict::Sampled) {
        text.push_str(&format!("  {}\n", printable(&result.path.display().to_string())));
    }
    for failure in &result.failures {
        text.push_str(&format!("  {}\n", printable(&failure.message)));
    }
    if let Some(hint) = result.failures.iter().find_map(|failure| super::hint("  ", failure)) {
        text.push_str(&format!("{hint}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::verify::SampledData;

    fn result(verdict: Verdict) -> Verification {
        let failure = |text: &str| Failure { message: text.to_owned(), hint: Some("look".to_owned()) };
        let id: crate::model::PointId = "20261122T020000Z".parse().unwrap();
        Verification {
            domain: "web".to_owned(),
            id,
            path: "/b/web.tar.zst".into(),
            stored_bytes: 2_370_000_000,
            time: id.time(),
            duration_ms: 3_400,
            verdict,
            sample: None,
            failures: if verdict == Verdict::Good { Vec::new() } else { vec![failure("a"), failure("b\u{1b}")] },
            is_stall: false,
        }
    }

    #[test]
    fn damage_is_printed_with_its_path_errors_and_hint() {
        assert_eq!(text(&result(Verdict::Good), false), "good       web  20261122T020000Z  2.37 GB in 3.4 s\n");
        let expected =
            "DAMAGED    web  20261122T020000Z  2.37 GB in 3.4 s\n  /b/web.tar.zst\n  a\n  b\u{fffd}\n  hint: look\n";
        assert_eq!(text(&result(Verdict::Damaged), false), expected);
        let whole = text(&result(Verdict::Good), true);
        assert_eq!(whole, "good       web  20261122T020000Z  2.37 GB in 3.4 s, read whole\n");
        let sample = Some(SampledData { read_bytes: 119_000_000, data_bytes: 2_370_000_000 });
        let sampled = Verification { sample, failures: Vec::new(), ..result(Verdict::Sampled) };
        let expected = "sampled    web  20261122T020000Z  2.37 GB in 3.4 s, read 119 MB of 2.37 GB\n";
        assert_eq!(text(&sampled, true), expected);
    }

    #[test]
    fn unverified_points_are_counted() {
        let checks = |gone, left| Checks { gone, left, ..Checks::default() };
        assert_eq!(rest(&checks(0, 0), None), "no restore points yet\n");
        assert_eq!(rest(&checks(0, 0), Some(Duration::ZERO)), "no restore point needs verification\n");
        let both = "1 restore point removed during the check, not verified\n2 restore points left for the next run\n";
        assert_eq!(rest(&checks(1, 2), None), both);
    }

    #[test]
    fn the_worst_verdict_is_the_result() {
        use Verdict::*;
        let code = |verdicts: &[Verdict]| super::judge(&verdicts.iter().map(|v| result(*v)).collect::<Vec<_>>(), &[]);
        assert_eq!(code(&[]), RunResult::Good);
        assert_eq!(code(&[Good, Unchecked]), RunResult::Failed);
        assert_eq!(code(&[Damaged, Unchecked, Good]), RunResult::Damaged);
        let hangs = Verification { is_stall: true, ..result(Unchecked) };
        assert_eq!(super::judge(&[result(Good), hangs.clone(), result(Unchecked)], &[]), RunResult::Target);
        assert_eq!(super::judge(&[hangs, result(Damaged)], &[]), RunResult::Damaged);
        let unlisted = [Failure { message: "closed".to_owned(), hint: None }];
        assert_eq!(super::judge(&[result(Good), result(Unchecked)], &unlisted), RunResult::Target);
        assert_eq!(super::judge(&[result(Damaged)], &unlisted), RunResult::Damaged);
    }
}
