//! The catalogue of all metrics: name, type, labels and help. The textfile, the HTTP endpoint and `docs/metrics.md` follow it.
//! It must not know values.

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// May rise and fall.
    Gauge,
    /// Only rises; its name ends in `_total`.
    Counter,
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name, with base units: <https://prometheus.io/docs/practices/naming/>.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The names of its labels; never `job` or `instance`, which Prometheus sets itself.
    pub labels: &'static [&'static str],
    /// Its help text, which must be constant: if two sources disagree, Prometheus drops one of them.
    pub help: &'static str,
}

/// Declares the constants, and [`ALL`] in the order of their declaration.
macro_rules! catalogue {
    ($($kind:ident $constant:ident = $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric =
                Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )*
        /// All metrics, in the order of their declaration.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

catalogue! {
    Gauge BUILD_INFO = "kvmbackup_build_info" ["version", "revision"]
        "Program that wrote these metrics; always 1.";
    Gauge CONFIG_LOAD_SUCCESS = "kvmbackup_config_load_success" []
        "Whether the last attempt to read the configuration succeeded.";
    Gauge SURVEY_TIMESTAMP_SECONDS = "kvmbackup_survey_timestamp_seconds" []
        "Unix time of the last survey of libvirt and the target; 0 if never.";
    Gauge SURVEY_LIBVIRT_UP = "kvmbackup_survey_libvirt_up" []
        "Whether libvirt responded in the last survey.";
    Gauge JOB_EXPECTED_INTERVAL_SECONDS = "kvmbackup_job_expected_interval_seconds" ["backup_job"]
        "Longest time between two days on which a domain of the job is due.";
    Gauge JOB_MINIMUM_RESTORE_POINTS = "kvmbackup_job_minimum_restore_points" ["backup_job"]
        "Restore points per domain that retention keeps once there are enough; 0 if it keeps all.";
    Gauge JOB_LAST_START_TIMESTAMP_SECONDS = "kvmbackup_job_last_start_timestamp_seconds" ["backup_job"]
        "Unix time at which the last run started; 0 if never.";
    Gauge JOB_LAST_COMPLETION_TIMESTAMP_SECONDS = "kvmbackup_job_last_completion_timestamp_seconds" ["backup_job"]
        "Unix time at which the last run ended, with any result; 0 if never.";
    Gauge JOB_LAST_SUCCESS_TIMESTAMP_SECONDS = "kvmbackup_job_last_success_timestamp_seconds" ["backup_job"]
        "Unix time at which the last run that backed up all due domains ended; 0 if never.";
    Gauge JOB_LAST_DURATION_SECONDS = "kvmbackup_job_last_duration_seconds" ["backup_job"]
        "Duration of the last run.";
    Gauge JOB_RUNNING = "kvmbackup_job_running" ["backup_job"]
        "Whether a run is in progress.";
    Counter JOB_RUNS_TOTAL = "kvmbackup_job_runs_total" ["backup_job", "result"]
        "Runs by result: success, partial, failure, aborted.";
    Gauge JOB_DOMAINS = "kvmbackup_job_domains" ["backup_job", "state"]
        "Domains of the last run by state: selected, and of these success, failure, skipped, not_run.";
    Gauge DOMAIN_EXPECTED_INTERVAL_SECONDS = "kvmbackup_domain_expected_interval_seconds" ["backup_job", "domain"]
        "Longest time between two days on which the domain is due.";
    Gauge DOMAIN_LAST_ATTEMPT_TIMESTAMP_SECONDS = "kvmbackup_domain_last_attempt_timestamp_seconds" ["backup_job", "domain"]
        "Unix time at which the last backup attempt started; 0 if never.";
    Gauge DOMAIN_LAST_SUCCESS_TIMESTAMP_SECONDS = "kvmbackup_domain_last_success_timestamp_seconds" ["backup_job", "domain"]
        "Unix time of the last complete backup of the domain; 0 if never.";
    Gauge DOMAIN_FIRST_SUCCESS_TIMESTAMP_SECONDS = "kvmbackup_domain_first_success_timestamp_seconds" ["backup_job", "domain"]
        "Unix time of the first complete backup of the domain; 0 if never.";
    Gauge DOMAIN_LAST_RESULT = "kvmbackup_domain_last_result" ["backup_job", "domain", "result"]
        "Result of the last backup attempt: 1 for one of success, warning, failure, skipped, and 0 for the others.";
    Gauge DOMAIN_CONSECUTIVE_FAILURES = "kvmbackup_domain_consecutive_failures" ["backup_job", "domain"]
        "Failed backup attempts since the last attempt that did not fail.";
    Counter DOMAIN_FAILURES_TOTAL = "kvmbackup_domain_failures_total" ["backup_job", "domain", "reason"]
        "Failed backup attempts by cause: hook, quiesce, snapshot, copy, commit, verify, repository, timeout, other.";
    Gauge DOMAIN_LAST_DURATION_SECONDS = "kvmbackup_domain_last_duration_seconds" ["backup_job", "domain"]
        "Duration of the last backup attempt.";
    Gauge DOMAIN_LAST_STAGE_DURATION_SECONDS = "kvmbackup_domain_last_stage_duration_seconds" ["backup_job", "domain", "stage"]
        "Duration of each stage of the last backup attempt: hooks, frozen, snapshot, copy, commit, prune. Stages overlap.";
    Gauge DOMAIN_LAST_READ_BYTES = "kvmbackup_domain_last_read_bytes" ["backup_job", "domain", "mode"]
        "Bytes read for the last restore point, by mode: full, or incremental in a repository.";
    Gauge DOMAIN_LAST_STORED_BYTES = "kvmbackup_domain_last_stored_bytes" ["backup_job", "domain", "mode"]
        "Stored size of the last restore point, by mode: full, or incremental in a repository.";
    Gauge DOMAIN_CONSECUTIVE_WHOLE_READS = "kvmbackup_domain_consecutive_whole_reads" ["backup_job", "domain"]
        "Restore points in a row for which a disk was read whole even though only its changes should have been read. Repositories only.";
    Gauge DOMAIN_VIRTUAL_BYTES = "kvmbackup_domain_virtual_bytes" ["domain"]
        "Total size of the disks as seen by the guest.";
    Gauge DOMAIN_LAST_CONSISTENCY_INFO = "kvmbackup_domain_last_consistency_info" ["backup_job", "domain", "level", "wanted"]
        "Consistency of the last restore point (application, filesystem, crash, offline) and the wanted one; always 1.";
    Gauge DOMAIN_RESTORE_POINTS = "kvmbackup_domain_restore_points" ["backup_job", "domain"]
        "Number of restore points.";
    Gauge DOMAIN_DAMAGED_RESTORE_POINTS = "kvmbackup_domain_damaged_restore_points" ["backup_job", "domain"]
        "Number of restore points whose last verification found damage.";
    Gauge DOMAIN_RETAINED_BYTES = "kvmbackup_domain_retained_bytes" ["backup_job", "domain"]
        "Stored size of all restore points of the domain.";
    Gauge DOMAIN_OLDEST_RESTORE_POINT_TIMESTAMP_SECONDS = "kvmbackup_domain_oldest_restore_point_timestamp_seconds" ["backup_job", "domain"]
        "Unix time of the oldest restore point; 0 if there is none.";
    Gauge DOMAIN_LAST_VERIFY_SUCCESS_TIMESTAMP_SECONDS = "kvmbackup_domain_last_verify_success_timestamp_seconds" ["backup_job", "domain"]
        "Unix time at which a full verification last found a restore point good; 0 if never.";
    Gauge DOMAIN_LAST_RESTORE_TEST_SUCCESS_TIMESTAMP_SECONDS = "kvmbackup_domain_last_restore_test_success_timestamp_seconds" ["backup_job", "domain"]
        "Unix time of the last successful restore; 0 if never.";
    Gauge DOMAIN_PROTECTED = "kvmbackup_domain_protected" ["domain"]
        "Whether an entry of the configuration covers the domain.";
    Gauge DOMAIN_EXCLUDED = "kvmbackup_domain_excluded" ["domain"]
        "Whether the configuration excludes the domain from backups.";
    Gauge DOMAIN_DEFINED = "kvmbackup_domain_defined" ["domain"]
        "Whether libvirt defines the domain; 0 if only restore points or the configuration name it.";
    Gauge DOMAIN_LEFTOVER_OVERLAYS = "kvmbackup_domain_leftover_overlays" ["domain"]
        "Number of disks on a backup overlay; normal during a backup.";
    Gauge DISK_LAST_DATA_BYTES = "kvmbackup_disk_last_data_bytes" ["backup_job", "domain", "disk"]
        "Bytes of the allocated ranges of the disk at the last restore point. Repositories only.";
    Gauge DISK_LAST_CHANGED_BYTES = "kvmbackup_disk_last_changed_bytes" ["backup_job", "domain", "disk"]
        "Bytes that the guest changed on the disk between the last two restore points; absent if unknown. Repositories only.";
    Gauge DISK_LAST_READ_BYTES = "kvmbackup_disk_last_read_bytes" ["backup_job", "domain", "disk"]
        "Bytes read from the disk for the last restore point. Repositories only.";
    Gauge DISK_LAST_NEW_BYTES = "kvmbackup_disk_last_new_bytes" ["backup_job", "domain", "disk"]
        "Bytes of the disk that the last restore point added to the repository, before compression. Repositories only.";
    Gauge DISK_LAST_STORED_BYTES = "kvmbackup_disk_last_stored_bytes" ["backup_job", "domain", "disk"]
        "Bytes of the disk that the last restore point added to the repository, as stored. Repositories only.";
    Gauge DISK_LAST_WHOLE_READ = "kvmbackup_disk_last_whole_read" ["backup_job", "domain", "disk", "reason"]
        "Why the whole disk was read for the last restore point; always 1, absent if only changes were read. Repositories only.";
    Counter HOOK_RUNS_TOTAL = "kvmbackup_hook_runs_total" ["hook", "result"]
        "Runs of hooks by result: ok, failed, timeout, skipped, lost.";
    Gauge HOOK_LAST_DURATION_SECONDS = "kvmbackup_hook_last_duration_seconds" ["hook", "domain"]
        "Duration of the last run of the hook; without a domain, for the whole backup run.";
    Gauge REPOSITORY_UP = "kvmbackup_repository_up" ["repository"]
        "Whether the target responded in time, is mounted where required, and is writable; a bucket is only read.";
    Gauge REPOSITORY_CAPACITY_BYTES = "kvmbackup_repository_capacity_bytes" ["repository"]
        "Size of the file system of the target.";
    Gauge REPOSITORY_AVAILABLE_BYTES = "kvmbackup_repository_available_bytes" ["repository"]
        "Space available for writing on the target.";
    Gauge REPOSITORY_STORED_BYTES = "kvmbackup_repository_stored_bytes" ["repository"]
        "Stored size of all restore points.";
    Gauge REPOSITORY_LAST_PRUNE_SUCCESS_TIMESTAMP_SECONDS = "kvmbackup_repository_last_prune_success_timestamp_seconds" ["repository"]
        "Unix time at which retention last removed old restore points without an error; 0 if never.";
    Gauge REPOSITORY_LAST_PRUNE_TIMESTAMP_SECONDS = "kvmbackup_repository_last_prune_timestamp_seconds" ["repository"]
        "Unix time at which the maintenance last removed unused data from the repository; 0 if never.";
    Gauge REPOSITORY_LAST_CHECK_TIMESTAMP_SECONDS = "kvmbackup_repository_last_check_timestamp_seconds" ["repository"]
        "Unix time at which the maintenance last checked the repository and found no damage; 0 if never.";
    Gauge REPOSITORY_MAINTENANCE_SUCCESS = "kvmbackup_repository_maintenance_success" ["repository"]
        "Whether the last maintenance of the repository completed and found no damage.";
    Gauge REPOSITORY_SIZE_BYTES = "kvmbackup_repository_size_bytes" ["repository"]
        "Size of all objects of the repository at the end of the last maintenance.";
    Gauge REPOSITORY_UNUSED_RATIO = "kvmbackup_repository_unused_ratio" ["repository"]
        "Part of the data of the repository that no restore point used after the last maintenance, 0 to 1.";
    Gauge REPOSITORY_PACKS = "kvmbackup_repository_packs" ["repository"]
        "Number of packs of the repository at the end of the last maintenance.";
    Gauge REPOSITORY_BLOBS = "kvmbackup_repository_blobs" ["repository"]
        "Number of blobs of the repository at the end of the last maintenance.";
    Gauge COPY_LAST_SUCCESS_TIMESTAMP_SECONDS = "kvmbackup_copy_last_success_timestamp_seconds" ["copy"]
        "Unix time at which the last successful copying of the repository started; 0 if never. The copy contains all restore points until then.";
    Gauge COPY_LAST_FAILED = "kvmbackup_copy_last_failed" ["copy"]
        "Whether the last attempt to copy the repository failed.";
    Gauge COPY_INTERVAL_SECONDS = "kvmbackup_copy_interval_seconds" ["copy"]
        "Planned time between two copies of the repository.";
    Gauge COPY_NEWEST_RESTORE_POINT_TIMESTAMP_SECONDS = "kvmbackup_copy_newest_restore_point_timestamp_seconds" ["copy", "domain"]
        "Unix time of the newest restore point of the domain in the copy.";
    Gauge REPORT_LAST_SUCCESS_TIMESTAMP_SECONDS = "kvmbackup_report_last_success_timestamp_seconds" ["channel"]
        "Unix time at which a report was last delivered; 0 if never.";
    Counter REPORT_FAILURES_TOTAL = "kvmbackup_report_failures_total" ["channel"]
        "Reports that could not be delivered.";
    Gauge EXPORTER_STATE_READ_SUCCESS = "kvmbackup_exporter_state_read_success" []
        "Whether the state directory could be read for this response. Over HTTP only.";
    Gauge EXPORTER_SCRAPE_DURATION_SECONDS = "kvmbackup_exporter_scrape_duration_seconds" []
        "Time to build this response. Over HTTP only.";
}

/// Metrics of the exporter itself, which exist only over HTTP.
pub const EXPORTER: &[Metric] = &[EXPORTER_STATE_READ_SUCCESS, EXPORTER_SCRAPE_DURATION_SECONDS];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_labels_follow_the_rules_of_prometheus() {
        let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len(), "duplicate name");
        for Metric { name, kind, labels, help } in ALL {
            assert!(name.starts_with("kvmbackup_"), "{name}");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            // Prometheus sets these itself, and renames ours.
            assert!(!labels.iter().any(|label| ["job", "instance"].contains(label)), "{name}");
            // Help texts must not need escaping, neither in the documentation nor in the textfile.
            assert!(!help.contains(['\\', '\n', '|', '`']) && help.ends_with('.'), "{name}: {help}");
        }
    }
}
