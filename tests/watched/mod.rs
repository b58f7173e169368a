//! State directories of hosts that never existed: the contents of a status page, from a quiet night to a hostile one.
#![allow(dead_code, reason = "every test binary compiles this and uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use kvmbackup::ledger::{
    Attempt, Channel, Delivery, DomainRecord, DomainResult, HookRecord, JobRecord, JobResult, Ledger, Seen, SeenJob,
    SeenPoints, SeenRepository, Stage, Survey, Tally,
};
use kvmbackup::model::{Consistency, HookStatus, PointId};
use uuid::Uuid;

const GB: u64 = 1_000_000_000;
const DAY: u64 = 86_400;

/// The recorded state of one host.
pub struct Watched {
    pub ledger: Ledger,
    pub survey: Option<Survey>,
}

impl Watched {
    /// Writes it as a state directory.
    pub fn save(&self, dir: &std::path::Path) {
        kvmbackup::ledger::update(dir, |ledger| ledger.clone_from(&self.ledger)).unwrap();
        if let Some(survey) = &self.survey {
            survey.save(dir).unwrap();
        }
    }

    fn guest(&mut self, name: &str) -> &mut DomainRecord {
        self.ledger.domains.get_mut(name).unwrap()
    }

    pub fn seen(&mut self, name: &str) -> &mut Seen {
        self.survey.as_mut().unwrap().domains.get_mut(name).unwrap()
    }
}

/// A host without any records, whose configuration was never readable.
pub fn nothing() -> Watched {
    Watched { ledger: Ledger::default(), survey: None }
}

/// A host that was set up a minute ago: the configuration is valid, libvirt was surveyed, no run has started.
pub fn fresh(now: DateTime<Utc>) -> Watched {
    let mut watched = healthy(now, &["db1", "mail", "web-1"]);
    watched.ledger = Ledger { config_ok: true, ..Ledger::default() };
    let survey = watched.survey.as_mut().unwrap();
    survey.domains.values_mut().for_each(|seen| seen.points = SeenPoints::default());
    survey.repository.stored_bytes = 0;
    watched
}

/// A host with six guests and no problems.
pub fn quiet(now: DateTime<Utc>) -> Watched {
    healthy(now, &["db1", "DockerNode1", "files", "mail", "web-1", "web-2"])
}

/// A host of twelve guests after a bad night.
pub fn bad_night(now: DateTime<Utc>) -> Watched {
    let names =
        ["build", "db1", "db2", "DockerNode1", "files", "ldap", "mail", "monitor", "proxy", "vpn", "web-1", "web-2"];
    let mut watched = healthy(now, &names);
    let failed = |guest: &mut DomainRecord, times: u64, error: &str| {
        guest.last_result = Some(DomainResult::Failure);
        guest.last_error = Some(error.to_owned());
        guest.consecutive_failures = times;
        guest.last_success = Some(now - TimeDelta::hours(5 + 24 * times as i64));
        for attempt in guest.history.iter_mut().rev().take(times as usize) {
            attempt.result = DomainResult::Failure;
            attempt.stored_bytes = 0;
        }
    };
    failed(
        watched.guest("db1"),
        3,
        "disk vda: cannot write the archive: /mnt/backup/cloud1/db1/.db1-20261123T020412Z.tar.zst.partial: No space left on device \
         (os error 28)",
    );
    failed(watched.guest("mail"), 1, "hook `mailstore` failed: exit status 1");
    watched.guest("vpn").last_success = Some(now - TimeDelta::days(3));
    watched.guest("web-2").consistency = Some(Consistency::Crash);
    watched.guest("proxy").last_result = Some(DomainResult::Warning);
    watched.guest("proxy").last_warning =
        Some("disk vdb is transient: data written since the guest started is not backed up (and 1 more)".to_owned());
    watched.guest("ldap").last_result = Some(DomainResult::Skipped);
    watched.seen("files").leftover_overlays = 2;
    watched.guest("monitor").last_verify = None;
    let survey = watched.survey.as_mut().unwrap();
    survey.repository.available_bytes = 61 * GB;
    for name in ["sandbox", "old-ci"] {
        survey.domains.insert(name.to_owned(), Seen { defined: true, ..Seen::default() });
    }
    let points = SeenPoints {
        count: 4,
        bytes: 31 * GB,
        oldest: Some(now - TimeDelta::days(400)),
        newest: Some(now - TimeDelta::days(90)),
        ..SeenPoints::default()
    };
    survey.domains.insert("retired".to_owned(), Seen { points, ..Seen::default() });
    let hook = HookRecord {
        runs: [(HookStatus::Ok, 118), (HookStatus::Failed, 3), (HookStatus::Timeout, 1)].into(),
        last_ms: None,
    };
    watched.ledger.hooks.insert("mailstore".to_owned(), hook);
    watched.guest("mail").hooks_ms.insert("mailstore".to_owned(), 30_020);
    let delivery = Delivery { last_success: Some(now - TimeDelta::days(2)), failures: 2 };
    watched.ledger.reports.insert(Channel::Smtp, delivery);
    let job = watched.ledger.jobs.get_mut("cloud1").unwrap();
    job.domains = [(Tally::Selected, 12), (Tally::Success, 8), (Tally::Failure, 2)].into();
    job.domains.extend([(Tally::Skipped, 1), (Tally::NotRun, 1)]);
    job.last_success = Some(now - TimeDelta::days(4));
    watched
}

/// A host whose names attack every program that displays them, and are as long as libvirt accepts.
pub fn hostile(now: DateTime<Utc>) -> Watched {
    let long = "a-very-long-name-of-a-guest-that-somebody-generated-".repeat(4);
    let names = [
        "<script>document.title='owned'</script>",
        "\"><img src=x onerror=alert(1)>",
        "</style></title><h1>gone</h1>",
        "& &amp; &lt;b&gt;",
        "it's; rm -rf $(echo \u{202e}gpj.txt)",
        "مضيف-النسخ-الاحتياطي",
        long.as_str(),
        &"W".repeat(200),
    ];
    let mut watched = healthy(now, &names);
    for (at, name) in names.iter().enumerate() {
        let guest = watched.guest(name);
        guest.last_result = Some(DomainResult::Failure);
        guest.last_error = Some(format!("<b>{at}</b> {}\n\0\u{1b}[31mred</p></main>", "x".repeat(400)));
        guest.consecutive_failures = u64::MAX;
        guest.job = "<i>job</i>".to_owned();
        guest.last_stored_bytes = u64::MAX;
        guest.last_duration_ms = u64::MAX;
        guest.last_read_bytes = 1;
        guest.history.iter_mut().for_each(|attempt| attempt.stored_bytes = u64::MAX);
    }
    watched
        .ledger
        .hooks
        .insert("<u>hook</u>".repeat(20), HookRecord { runs: [(HookStatus::Lost, u64::MAX)].into(), last_ms: Some(1) });
    let job = JobRecord { running: Some(Uuid::nil()), last_duration_ms: u64::MAX, ..JobRecord::default() };
    watched.ledger.jobs.insert("<i>job</i>".repeat(30), job);
    let survey = watched.survey.as_mut().unwrap();
    survey.host = "<h1>host</h1>".to_owned();
    survey.repository.path = format!("/mnt/<s>{}</s>", "deep/".repeat(60)).into();
    survey.repository.available_bytes = u64::MAX;
    survey.jobs.insert("<i>job</i>".to_owned(), SeenJob { expected_interval_s: u64::MAX, minimum_restore_points: 0 });
    for seen in survey.domains.values_mut() {
        seen.expected_interval_s = u64::MAX;
        seen.leftover_overlays = u64::MAX;
        seen.points.oldest = Some(DateTime::<Utc>::MIN_UTC);
    }
    for name in ["<a href=//evil>", &"unprotected".repeat(20)] {
        survey.domains.insert(name.to_owned(), Seen { defined: true, ..Seen::default() });
    }
    watched
}

/// A host that backs up these guests every night at two, three hours ago.
pub fn healthy(now: DateTime<Utc>, names: &[&str]) -> Watched {
    let domains: BTreeMap<_, _> =
        names.iter().enumerate().map(|(at, name)| ((*name).to_owned(), domain(now, at))).collect();
    let count = names.len() as u64;
    let job = JobRecord {
        last_start: Some(now - TimeDelta::hours(6)),
        last_completion: Some(now - TimeDelta::hours(5)),
        last_success: Some(now - TimeDelta::hours(5)),
        last_duration_ms: 2_841_000,
        running: None,
        runs: [(JobResult::Success, 61), (JobResult::Partial, 2), (JobResult::Aborted, 1)].into(),
        domains: [(Tally::Selected, count), (Tally::Success, count)].into(),
    };
    let hook = |ok: u64| HookRecord { runs: [(HookStatus::Ok, ok)].into(), last_ms: None };
    let ledger = Ledger {
        config_ok: true,
        jobs: [("cloud1".to_owned(), job)].into(),
        domains,
        hooks: [("mariadb".to_owned(), hook(64)), ("ping-healthchecks".to_owned(), hook(128))].into(),
        last_prune: Some(now - TimeDelta::hours(5)),
        ..Ledger::default()
    };
    let seen = |at: usize| Seen {
        job: Some("cloud1".to_owned()),
        excluded: false,
        defined: true,
        leftover_overlays: 0,
        since: None,
        expected_interval_s: if at % 4 == 3 { 7 * DAY } else { DAY },
        store: None,
        wanted: Some(Consistency::Filesystem),
        points: SeenPoints {
            count: 14,
            bytes: (12 + at as u64 * 31) * GB,
            oldest: Some(now - TimeDelta::days(180)),
            newest: Some(now - TimeDelta::hours(5)),
            ..SeenPoints::default()
        },
    };
    let survey = Survey {
        time: now - TimeDelta::seconds(20),
        host: "cloud1".to_owned(),
        domains: names.iter().enumerate().map(|(at, name)| ((*name).to_owned(), seen(at))).collect(),
        jobs: [("cloud1".to_owned(), SeenJob { expected_interval_s: DAY, minimum_restore_points: 7 })].into(),
        repository: SeenRepository {
            path: "/mnt/backup/cloud1".into(),
            up: true,
            capacity_bytes: 8_000 * GB,
            available_bytes: 2_950 * GB,
            stored_bytes: 4_380 * GB,
            deduplicated: false,
        },
        other: None,
        libvirt_ok: true,
        hooks: Default::default(),
        copies: Default::default(),
    };
    Watched { ledger, survey: Some(survey) }
}

fn domain(now: DateTime<Utc>, at: usize) -> DomainRecord {
    let size = [4_200_000_000, 61_000_000_000, 880_000_000, 23_700_000_000, 1_950_000_000][at % 5];
    let history = (0..40_u64).map(|ago| {
        let time = now - TimeDelta::hours(6) - TimeDelta::days(39 - ago as i64);
        // Neither flat nor random: sizes grow and vary, and no two guests look the same.
        let wave = 1.0 + 0.18 * ((ago as f64 + at as f64 * 3.0) / 3.0).sin() + ago as f64 * 0.012;
        Attempt {
            time,
            result: if (ago + at as u64) % 29 == 7 { DomainResult::Warning } else { DomainResult::Success },
            point: Some(PointId::at(time)),
            duration_ms: (size as f64 * wave / 200_000.0) as u64 + (ago * 7 + at as u64) % 5 * size / 3_000_000,
            read_bytes: (size as f64 * wave * 2.6) as u64,
            stored_bytes: (size as f64 * wave) as u64,
        }
    });
    let history: std::collections::VecDeque<_> = history.collect();
    let last = history.back().unwrap().clone();
    DomainRecord {
        job: "cloud1".to_owned(),
        last_attempt: Some(last.time),
        last_success: Some(last.time),
        last_result: Some(DomainResult::Success),
        last_duration_ms: last.duration_ms,
        last_stages_ms: [(Stage::Frozen, 240), (Stage::Copy, last.duration_ms)].into(),
        last_read_bytes: last.read_bytes,
        last_stored_bytes: last.stored_bytes,
        virtual_bytes: 100 * GB,
        consistency: Some(if at == 0 { Consistency::Application } else { Consistency::Filesystem }),
        wanted: Some(Consistency::Filesystem),
        last_verify: Some(now - TimeDelta::days(2 + at as i64)),
        history,
        ..DomainRecord::default()
    }
}
