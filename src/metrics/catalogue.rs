//! Owns: every metric there is: name, type, labels, help. Textfile, HTTP page and `docs/metrics.md` come from here.
//! Must not: know values.

/// Whether a metric only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// May grow and fall.
    Gauge,
    /// Only grows; its name ends in `_total`.
    Counter,
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name, in base units: <https://prometheus.io/docs/practices/naming/>.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The names of its labels; never `job` or `instance`, which Prometheus sets itself.
    pub labels: &'static [&'static str],
    /// What it says, in one sentence. It never varies: of two files that disagree, Prometheus would lose one.
    pub help: &'static str,
}

/// Declares the constants, and [`ALL`] of them in the order in which they are written.
macro_rules! catalogue {
    ($($kind:ident $constant:ident = $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric =
                Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )*
        /// All of them, in the order in which they are written.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

catalogue! {
    Gauge BUILD_INFO = "kvmbackup_build_info" ["version", "revision"]
        "Program that wrote these metrics; always 1.";
    Gauge CONFIG_LOAD_SUCCESS = "kvmbackup_config_load_success" []
        "Whether the configuration could be read when that was last tried.";
    Gauge SURVEY_TIMESTAMP_SECONDS = "kvmbackup_survey_timestamp_seconds" []
        "Unix time at which libvirt and the repository were last looked at; 0 for never.";
    Gauge SURVEY_LIBVIRT_UP = "kvmbackup_survey_libvirt_up" []
        "Whether libvirt answered then.";
    Gauge JOB_EXPECTED_INTERVAL_SECONDS = "kvmbackup_job_expected_interval_seconds" ["backup_job"]
        "Longest time between two days on which a run of the job has something to do.";
    Gauge JOB_MINIMUM_RESTORE_POINTS = "kvmbackup_job_minimum_restore_points" ["backup_job"]
        "Restore points that retention keeps of a domain of the job once there are enough; 0 if it keeps all.";
    Gauge JOB_LAST_START_TIMESTAMP_SECONDS = "kvmbackup_job_last_start_timestamp_seconds" ["backup_job"]
        "Unix time at which the last run began; 0 for never.";
    Gauge JOB_LAST_COMPLETION_TIMESTAMP_SECONDS = "kvmbackup_job_last_completion_timestamp_seconds" ["backup_job"]
        "Unix time at which the last run ended, however it did; 0 for never.";
    Gauge JOB_LAST_SUCCESS_TIMESTAMP_SECONDS = "kvmbackup_job_last_success_timestamp_seconds" ["backup_job"]
        "Unix time at which a run last ended with all that was due saved; 0 for never.";
    Gauge JOB_LAST_DURATION_SECONDS = "kvmbackup_job_last_duration_seconds" ["backup_job"]
        "How long the last run took.";
    Gauge JOB_RUNNING = "kvmbackup_job_running" ["backup_job"]
        "Whether a run is on.";
    Counter JOB_RUNS_TOTAL = "kvmbackup_job_runs_total" ["backup_job", "result"]
        "Runs, by how they ended: success, partial, failure, aborted.";
    Gauge JOB_DOMAINS = "kvmbackup_job_domains" ["backup_job", "state"]
        "Domains of the last run: selected, and of these success, failure, skipped, not_run.";
    Gauge DOMAIN_EXPECTED_INTERVAL_SECONDS = "kvmbackup_domain_expected_interval_seconds" ["backup_job", "domain"]
        "Longest time between two days on which the domain is due.";
    Gauge DOMAIN_LAST_ATTEMPT_TIMESTAMP_SECONDS = "kvmbackup_domain_last_attempt_timestamp_seconds" ["backup_job", "domain"]
        "Unix time at which the last attempt began; 0 for never.";
    Gauge DOMAIN_LAST_SUCCESS_TIMESTAMP_SECONDS = "kvmbackup_domain_last_success_timestamp_seconds" ["backup_job", "domain"]
        "Unix time at which the domain was last saved whole; 0 for never.";
    Gauge DOMAIN_FIRST_SUCCESS_TIMESTAMP_SECONDS = "kvmbackup_domain_first_success_timestamp_seconds" ["backup_job", "domain"]
        "Unix time at which the domain was first saved whole; 0 for never.";
    Gauge DOMAIN_LAST_RESULT = "kvmbackup_domain_last_result" ["backup_job", "domain", "result"]
        "How the last attempt ended: 1 for one of success, warning, failure, skipped, 0 for the others.";
    Gauge DOMAIN_CONSECUTIVE_FAILURES = "kvmbackup_domain_consecutive_failures" ["backup_job", "domain"]
        "Attempts that failed since the last that did not.";
    Counter DOMAIN_FAILURES_TOTAL = "kvmbackup_domain_failures_total" ["backup_job", "domain", "reason"]
        "Attempts that failed, by what failed: hook, quiesce, snapshot, copy, commit, verify, repository, timeout, other.";
    Gauge DOMAIN_LAST_DURATION_SECONDS = "kvmbackup_domain_last_duration_seconds" ["backup_job", "domain"]
        "How long the last attempt took.";
    Gauge DOMAIN_LAST_STAGE_DURATION_SECONDS = "kvmbackup_domain_last_stage_duration_seconds" ["backup_job", "domain", "stage"]
        "How long each part of the last attempt took: hooks, frozen, snapshot, copy, commit, prune. They overlap.";
    Gauge DOMAIN_LAST_READ_BYTES = "kvmbackup_domain_last_read_bytes" ["backup_job", "domain", "mode"]
        "Bytes read for the last restore point, by its mode: full.";
    Gauge DOMAIN_LAST_STORED_BYTES = "kvmbackup_domain_last_stored_bytes" ["backup_job", "domain", "mode"]
        "Bytes of the last restore point as it is stored, by its mode: full.";
    Gauge DOMAIN_VIRTUAL_BYTES = "kvmbackup_domain_virtual_bytes" ["domain"]
        "Size of the disks as the guest sees them.";
    Gauge DOMAIN_LAST_CONSISTENCY_INFO = "kvmbackup_domain_last_consistency_info" ["backup_job", "domain", "level", "wanted"]
        "What the last restore point reached (application, filesystem, crash, offline) and what was wanted; always 1.";
    Gauge DOMAIN_RESTORE_POINTS = "kvmbackup_domain_restore_points" ["backup_job", "domain"]
        "Restore points there are.";
    Gauge DOMAIN_DAMAGED_RESTORE_POINTS = "kvmbackup_domain_damaged_restore_points" ["backup_job", "domain"]
        "Restore points there are whose last check found damage.";
    Gauge DOMAIN_RETAINED_BYTES = "kvmbackup_domain_retained_bytes" ["backup_job", "domain"]
        "Bytes of all restore points of the domain.";
    Gauge DOMAIN_OLDEST_RESTORE_POINT_TIMESTAMP_SECONDS = "kvmbackup_domain_oldest_restore_point_timestamp_seconds" ["backup_job", "domain"]
        "Unix time at which the oldest restore point was taken; 0 if there is none.";
    Gauge DOMAIN_LAST_VERIFY_SUCCESS_TIMESTAMP_SECONDS = "kvmbackup_domain_last_verify_success_timestamp_seconds" ["backup_job", "domain"]
        "Unix time at which a restore point was last found good, every byte; 0 for never.";
    Gauge DOMAIN_LAST_RESTORE_TEST_SUCCESS_TIMESTAMP_SECONDS = "kvmbackup_domain_last_restore_test_success_timestamp_seconds" ["backup_job", "domain"]
        "Unix time at which a restore last succeeded; 0 for never.";
    Gauge DOMAIN_PROTECTED = "kvmbackup_domain_protected" ["domain"]
        "Whether an entry of the configuration covers the domain.";
    Gauge DOMAIN_EXCLUDED = "kvmbackup_domain_excluded" ["domain"]
        "Whether the configuration says that the domain is not backed up.";
    Gauge DOMAIN_DEFINED = "kvmbackup_domain_defined" ["domain"]
        "Whether libvirt has the domain; 0 where only restore points or the configuration name it.";
    Gauge DOMAIN_LEFTOVER_OVERLAYS = "kvmbackup_domain_leftover_overlays" ["domain"]
        "Disks that are on an overlay of a backup; expected while one runs.";
    Counter HOOK_RUNS_TOTAL = "kvmbackup_hook_runs_total" ["hook", "result"]
        "Runs of hooks, by how they ended: ok, failed, timeout, skipped, lost.";
    Gauge HOOK_LAST_DURATION_SECONDS = "kvmbackup_hook_last_duration_seconds" ["hook", "domain"]
        "How long the hook last ran; without a domain, for the run as a whole.";
    Gauge REPOSITORY_UP = "kvmbackup_repository_up" ["repository"]
        "Whether the repository answered in time, is mounted where it has to be, and may be written to.";
    Gauge REPOSITORY_CAPACITY_BYTES = "kvmbackup_repository_capacity_bytes" ["repository"]
        "Size of the file system of the repository.";
    Gauge REPOSITORY_AVAILABLE_BYTES = "kvmbackup_repository_available_bytes" ["repository"]
        "What may still be written to the repository.";
    Gauge REPOSITORY_STORED_BYTES = "kvmbackup_repository_stored_bytes" ["repository"]
        "Bytes of all restore points.";
    Gauge REPOSITORY_LAST_PRUNE_SUCCESS_TIMESTAMP_SECONDS = "kvmbackup_repository_last_prune_success_timestamp_seconds" ["repository"]
        "Unix time at which old points were last removed without an error; 0 for never.";
    Gauge REPORT_LAST_SUCCESS_TIMESTAMP_SECONDS = "kvmbackup_report_last_success_timestamp_seconds" ["channel"]
        "Unix time at which a report was last delivered; 0 for never.";
    Counter REPORT_FAILURES_TOTAL = "kvmbackup_report_failures_total" ["channel"]
        "Reports that could not be delivered.";
    Gauge EXPORTER_STATE_READ_SUCCESS = "kvmbackup_exporter_state_read_success" []
        "Whether the state directory could be read for this answer. Over HTTP only.";
    Gauge EXPORTER_SCRAPE_DURATION_SECONDS = "kvmbackup_exporter_scrape_duration_seconds" []
        "How long this answer took to make. Over HTTP only.";
}

/// Those that only the exporter tells, of itself.
pub const EXPORTER: &[Metric] = &[EXPORTER_STATE_READ_SUCCESS, EXPORTER_SCRAPE_DURATION_SECONDS];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_labels_are_as_prometheus_wants_them() {
        let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len(), "a name comes twice");
        for Metric { name, kind, labels, help } in ALL {
            assert!(name.starts_with("kvmbackup_"), "{name}");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            // Prometheus sets these itself, and renames ours.
            assert!(!labels.iter().any(|label| ["job", "instance"].contains(label)), "{name}");
            // Then nothing in it has to be escaped, here, in a table or in a file.
            assert!(!help.contains(['\\', '\n', '|', '`']) && help.ends_with('.'), "{name}: {help}");
        }
    }
}
