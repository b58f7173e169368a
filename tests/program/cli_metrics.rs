//! The textfile as written by runs and `kvmbackup metrics`.

use crate::host;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::host::{Host, NAME, Run};
use kvmbackup::metrics::catalogue;

const ALL: &str = "{\"*\": {day_of_week: daily}}";
const KILL: &str = "-KILL";
const TERM: &str = "-TERM";

/// A host whose metrics go to `textfiles/kvmbackup.prom`.
fn host(guests: &[&str]) -> Host {
    let host = Host::new(guests);
    std::fs::create_dir(host.path("textfiles")).unwrap();
    configure(&host, "", ALL);
    host
}

fn textfile(host: &Host) -> PathBuf {
    host.path("textfiles/kvmbackup.prom")
}

/// The same with more keys of the host, and other domains.
fn configure(host: &Host, keys: &str, domains: &str) {
    host.configure(&format!("metrics: {{textfile: {}}}\n{keys}", textfile(host).display()), domains);
}

fn text(host: &Host) -> String {
    std::fs::read_to_string(textfile(host)).unwrap()
}

/// The value of a series of the textfile, by its name and its labels' values in the catalogue's order.
#[track_caller]
fn value(host: &Host, metric: catalogue::Metric, labels: &[&str]) -> Option<f64> {
    assert_eq!(metric.labels.len(), labels.len());
    let labels: Vec<_> =
        metric.labels.iter().zip(labels).map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    let series = format!("{}{labels} ", metric.name);
    text(host).lines().find_map(|line| line.strip_prefix(&series).map(|value| value.parse().unwrap()))
}

fn runs(host: &Host, result: &str) -> Option<f64> {
    value(host, catalogue::JOB_RUNS_TOTAL, &[NAME, result])
}

fn running(host: &Host) -> Option<f64> {
    value(host, catalogue::JOB_RUNNING, &[NAME])
}

/// Names in the directory of the textfile.
fn names(host: &Host) -> Vec<String> {
    let entries = std::fs::read_dir(host.path("textfiles")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Panics unless promtool, which parses like Prometheus and node_exporter, finds no fault.
#[track_caller]
fn assert_promtool_likes(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is in Debian's package prometheus");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// A backup that stays in a hook of the run, as every run of this configuration does.
fn stay(host: &Host) -> Child {
    configure(host, "hooks: [{name: stay, phase: pre-run, command: [/bin/sleep, '600'], timeout: 1h}]", ALL);
    let _ = std::fs::remove_file(textfile(host));
    let config = host.path("config.yml");
    let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
    command.args(["--config", config.to_str().unwrap(), "--host", NAME, "backup"]).stdout(Stdio::null());
    let mut run = command.spawn().unwrap();
    let start = Instant::now();
    while !textfile(host).exists() {
        assert!(run.try_wait().unwrap().is_none(), "the backup has ended");
        assert!(start.elapsed() < Duration::from_secs(60), "no textfile was written");
        std::thread::sleep(Duration::from_millis(5));
    }
    run
}

/// Ends a process with a signal; returns its exit code, if it had one.
fn end(mut run: Child, signal: &str) -> Option<i32> {
    host::run("kill", &[signal, &run.id().to_string()]);
    run.wait().unwrap().code()
}

#[test]
fn run_exports_its_results() {
    let host = host(&["a", "b"]);
    host.run("backup").ends(0);
    assert_promtool_likes(&text(&host));
    assert_eq!((runs(&host, "success"), runs(&host, "failure"), running(&host)), (Some(1.0), Some(0.0), Some(0.0)));
    assert_eq!(value(&host, catalogue::CONFIG_LOAD_SUCCESS, &[]), Some(1.0));
    assert_eq!(value(&host, catalogue::SURVEY_LIBVIRT_UP, &[]), Some(1.0));
    let archive = host.archives("a").remove(0);
    let size = archive.metadata().unwrap().size() as f64;
    assert_eq!(value(&host, catalogue::DOMAIN_LAST_STORED_BYTES, &[NAME, "a", "full"]), Some(size));
    assert_eq!(value(&host, catalogue::DOMAIN_RETAINED_BYTES, &[NAME, "a"]), Some(size));
    assert_eq!(value(&host, catalogue::DOMAIN_LAST_RESULT, &[NAME, "a", "success"]), Some(1.0));
    assert_eq!(value(&host, catalogue::DOMAIN_RESTORE_POINTS, &[NAME, "b"]), Some(1.0));
    assert_eq!(value(&host, catalogue::DOMAIN_VIRTUAL_BYTES, &["a"]), Some(f64::from(8 << 20)));
    assert_eq!(value(&host, catalogue::DOMAIN_EXPECTED_INTERVAL_SECONDS, &[NAME, "a"]), Some(86_400.0));
    assert_eq!(value(&host, catalogue::JOB_DOMAINS, &[NAME, "success"]), Some(2.0));
    let backups = host.path("backups").display().to_string();
    assert_eq!(value(&host, catalogue::REPOSITORY_UP, &[&backups]), Some(1.0));

    // A failure is counted beside the earlier results, and keeps the sizes of the last good backup.
    std::fs::remove_file(host.image("a")).unwrap();
    host.run("backup --force").ends(1);
    assert_eq!((runs(&host, "success"), runs(&host, "partial")), (Some(1.0), Some(1.0)));
    assert_eq!(value(&host, catalogue::DOMAIN_LAST_RESULT, &[NAME, "a", "failure"]), Some(1.0));
    assert_eq!(value(&host, catalogue::DOMAIN_LAST_RESULT, &[NAME, "a", "success"]), Some(0.0));
    assert_eq!(value(&host, catalogue::DOMAIN_CONSECUTIVE_FAILURES, &[NAME, "a"]), Some(1.0));
    assert_eq!(value(&host, catalogue::DOMAIN_LAST_STORED_BYTES, &[NAME, "a", "full"]), Some(size));
    assert_promtool_likes(&text(&host));
}

#[test]
fn run_into_a_repository_exports_what_each_disk_cost() {
    let host = host(&["a"]);
    host.run("backup").ends(0);
    let series = |start: &str| text(&host).lines().filter(|line| line.starts_with(start)).count();
    assert_eq!((series("kvmbackup_disk_"), series("kvmbackup_domain_consecutive_whole_reads{")), (0, 0));

    std::fs::write(host.path("password"), "kb-secret-of-the-repository").unwrap();
    std::fs::set_permissions(host.path("password"), PermissionsExt::from_mode(0o600)).unwrap();
    let path = |name: &str| host.path(name).display().to_string();
    let (url, password, cache) = (path("repository"), path("password"), path("cache"));
    let repository = format!("repository: {{url: {url}, password_file: {password}, cache_dir: {cache}}}");
    configure(&host, &repository, ALL);
    host.run("repository init").ends(0);
    let last = || {
        let report = host.run("backup --force --json").ends(0).json();
        assert_promtool_likes(&text(&host));
        report["domains"][0].clone()
    };
    let (of, disk) = ([NAME, "a"], [NAME, "a", "vda"]);
    for reason in ["first", "off"] {
        let domain = last();
        let expected = |key: &str| domain["disks"][0][key].as_f64();
        for (metric, key) in [
            (catalogue::DISK_LAST_DATA_BYTES, "data_bytes"),
            (catalogue::DISK_LAST_READ_BYTES, "read_bytes"),
            (catalogue::DISK_LAST_NEW_BYTES, "new_bytes"),
            (catalogue::DISK_LAST_STORED_BYTES, "stored_bytes"),
        ] {
            assert!(expected(key).is_some(), "{domain:#}");
            assert_eq!(value(&host, metric, &disk), expected(key), "{key}");
        }
        assert_eq!(value(&host, catalogue::DISK_LAST_CHANGED_BYTES, &disk), None);
        assert_eq!(value(&host, catalogue::DISK_LAST_WHOLE_READ, &[NAME, "a", "vda", reason]), Some(1.0));
        assert_eq!(series("kvmbackup_disk_last_whole_read{"), 1);
        // The domain is off.
        assert_eq!(value(&host, catalogue::DOMAIN_CONSECUTIVE_WHOLE_READS, &of), Some(0.0));
        let read = value(&host, catalogue::DOMAIN_LAST_READ_BYTES, &[NAME, "a", "incremental"]);
        assert_eq!(read, domain["read_bytes"].as_f64());
    }
    assert_eq!(value(&host, catalogue::DISK_LAST_NEW_BYTES, &disk), Some(0.0), "nothing changed");
}

#[test]
fn every_exported_metric_is_in_the_catalogue() {
    let host = host(&["a"]);
    configure(&host, "hooks: [{name: h, phase: pre-run, command: [/bin/true]}]", ALL);
    host.run("backup").ends(0);
    for line in text(&host).lines() {
        let line = line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ");
        let name = line.split(['{', ' ']).next().unwrap();
        assert!(catalogue::ALL.iter().any(|metric| metric.name == name), "{name} is not in the catalogue");
    }
}

#[test]
fn textfile_is_world_readable_regardless_of_the_umask() {
    let host = host(&["a"]);
    for command in ["backup", "metrics"] {
        let _ = std::fs::remove_file(textfile(&host));
        let config = host.path("config.yml");
        let mut shell = host.command("/bin/sh");
        let words = ["-c", "umask 077; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_kvmbackup"), command, "-c"];
        shell.args(words).arg(&config).args(["--host", NAME]);
        host.finish(&mut shell).ends(0);
        assert_eq!(textfile(&host).metadata().unwrap().permissions().mode() & 0o7777, 0o644, "{command}");
        assert_eq!(names(&host), ["kvmbackup.prom"], "{command}");
    }
}

/// node_exporter reads files with the suffix `.prom`; at any moment each of them is complete.
#[test]
fn concurrent_writers_leave_one_complete_textfile_and_nothing_else() {
    let host = host(&["a"]);
    host.run("metrics").ends(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                let seen: Vec<_> = names(&host).into_iter().filter(|name| name.ends_with(".prom")).collect();
                assert_eq!(seen, ["kvmbackup.prom"]);
                assert_whole(&text(&host));
                looks += 1;
            }
            looks
        });
        let writers: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..6).for_each(|_| drop(host.run("metrics").ends(0))))).collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
        assert!(looks.join().unwrap() > 0);
    });
    assert_eq!(names(&host), ["kvmbackup.prom"]);
}

#[track_caller]
fn assert_whole(text: &str) {
    let kinds = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(kinds, catalogue::ALL.len() - catalogue::EXPORTER.len());
    assert!(text.ends_with('\n'));
}

#[test]
fn run_in_progress_is_exported_and_so_is_one_that_a_signal_ends() {
    let host = host(&["a"]);
    let run = stay(&host);
    assert_eq!((running(&host), runs(&host, "aborted")), (Some(1.0), Some(0.0)));
    let started = value(&host, catalogue::JOB_LAST_START_TIMESTAMP_SECONDS, &[NAME]).unwrap();
    assert!(started > 0.0);
    // Reading metrics does not disturb the run, and does not treat it as dead.
    host.run("metrics").ends(0);
    assert_eq!(running(&host), Some(1.0));
    host.run("backup").ends(3);
    assert_eq!(running(&host), Some(1.0));

    assert_eq!(end(run, TERM), Some(143));
    assert_eq!((running(&host), runs(&host, "aborted")), (Some(0.0), Some(1.0)));
    let completed = value(&host, catalogue::JOB_LAST_COMPLETION_TIMESTAMP_SECONDS, &[NAME]).unwrap();
    assert!(completed >= started);
    for (signal, code) in [("-INT", 130), ("-HUP", 129)] {
        assert_eq!(end(stay(&host), signal), Some(code));
        assert_eq!(running(&host), Some(0.0), "{signal}");
    }
    assert_eq!(runs(&host, "aborted"), Some(3.0));
}

#[test]
fn killed_run_is_exported_as_running_until_the_next_command() {
    let host = host(&["a"]);
    assert_eq!(end(stay(&host), KILL), None);
    assert_eq!(running(&host), Some(1.0), "no process is left to update it");
    host.run("metrics").ends(0);
    assert_eq!((running(&host), runs(&host, "aborted")), (Some(0.0), Some(0.0)));
    configure(&host, "", ALL);
    host.run("backup").ends(0);
    assert_eq!((running(&host), runs(&host, "aborted"), runs(&host, "success")), (Some(0.0), Some(1.0), Some(1.0)));
}

#[test]
fn unreadable_configuration_is_exported() {
    let host = host(&["a"]);
    host.run("backup").ends(0);
    let ok = |host: &Host| value(host, catalogue::CONFIG_LOAD_SUCCESS, &[]);
    let config = |key: &str| {
        let (textfile, state) = (textfile(&host), host.path("state"));
        let (textfile, state) = (textfile.display(), state.display());
        format!("{NAME}:\n  {key}\n  state_dir: {state}\n  metrics: {{textfile: {textfile}}}\n  domains: {ALL}\n")
    };
    for command in ["backup", "metrics"] {
        configure(&host, "", ALL);
        host.run("metrics").ends(0);
        assert_eq!(ok(&host), Some(1.0));
        host.write_config(&config("backupdri: /b"));
        host.run(command).ends(2);
        assert_eq!(ok(&host), Some(0.0), "{command}");
        assert_whole(&text(&host));
    }
    assert_eq!((runs(&host, "success"), runs(&host, "failure")), (Some(1.0), Some(1.0)), "only `backup` was a run");
    // A dry run does not count.
    configure(&host, "", ALL);
    host.run("metrics").ends(0);
    host.write_config(&config("backupdri: /b"));
    host.run("backup --dry-run").ends(2);
    assert_eq!(ok(&host), Some(1.0));
    // Failing to export it changes neither the exit code nor the first message.
    std::fs::remove_dir_all(host.path("textfiles")).unwrap();
    let ran = host.run("backup").ends(2);
    assert!(ran.err.contains("backupdri"), "{}", ran.err);
}

/// If the file does not say it, the ledger in the usual state directory has the last path of the metrics. That
/// directory belongs to the lab.
#[test]
fn missing_configuration_is_exported_to_the_last_path_of_the_metrics() {
    if std::env::var_os("KVMBACKUP_LAB").is_none() {
        return;
    }
    let host = host(&["a"]);
    configure(&host, &format!("state_dir: {}", kvmbackup::config::STATE_DIR), ALL);
    host.run("backup").ends(0);
    std::fs::remove_file(host.path("config.yml")).unwrap();
    host.run("backup").ends(2);
    assert_eq!(value(&host, catalogue::CONFIG_LOAD_SUCCESS, &[]), Some(0.0));
    assert_eq!(runs(&host, "success"), Some(1.0));
    std::fs::remove_file(Path::new(kvmbackup::config::STATE_DIR).join("ledger.json")).unwrap();
}

#[test]
fn removed_guest_disappears_and_counters_stay() {
    let mut host = host(&["a", "b"]);
    host.run("backup").ends(0);
    host.undefine("b");
    host.run("metrics").ends(0);
    assert_eq!(value(&host, catalogue::DOMAIN_DEFINED, &["b"]), Some(0.0), "its restore points exist");
    assert_eq!(value(&host, catalogue::DOMAIN_RESTORE_POINTS, &[NAME, "b"]), Some(1.0));
    std::fs::remove_dir_all(host.path("backups/b")).unwrap();
    host.run("metrics").ends(0);
    assert!(!text(&host).contains("domain=\"b\""), "{}", text(&host));
    assert_eq!(runs(&host, "success"), Some(1.0));
    assert_eq!(value(&host, catalogue::DOMAIN_LAST_RESULT, &[NAME, "a", "success"]), Some(1.0));
}

#[test]
fn guest_without_a_matching_entry_is_exported() {
    let mut host = host(&["a"]);
    host.add("stranger", "");
    configure(&host, "", "{a: {day_of_week: daily}}");
    host.run("metrics").ends(0);
    assert_eq!(value(&host, catalogue::DOMAIN_PROTECTED, &["a"]), Some(1.0));
    assert_eq!(value(&host, catalogue::DOMAIN_PROTECTED, &["stranger"]), Some(0.0));
    assert_eq!(value(&host, catalogue::DOMAIN_DEFINED, &["stranger"]), Some(1.0));
}

#[test]
fn unwritable_textfile_is_7_and_affects_no_backup() {
    let host = host(&["a"]);
    std::fs::remove_dir(host.path("textfiles")).unwrap();
    let complains = |run: Run| {
        let told: Vec<_> = run.err.lines().collect();
        assert_eq!(told.len(), 2, "one line and a hint: {}", run.err);
        assert!(told[0].starts_with("kvmbackup: ") && told[0].contains("textfiles"), "{}", run.err);
        assert!(told[1].starts_with("hint: ") && told[1].contains("Create the directory"), "{}", run.err);
    };
    let ran = host.run("backup").ends(7).tells(&["1 of 1 good"]);
    complains(ran);
    assert_eq!(host.archives("a").len(), 1);
    complains(host.run("verify a").ends(7).tells(&["good", "a"]));
    complains(host.run("metrics").ends(7));
    // It does not hide a more serious exit code.
    std::fs::remove_file(host.image("a")).unwrap();
    complains(host.run("backup --force").ends(1));
}

#[test]
fn known_values_are_exported_without_libvirt() {
    let host = host(&["a"]);
    host.run("backup").ends(0);
    configure(&host, "libvirt_uri: 'qemu+unix:///system?socket=/nonexistent/libvirt-sock'", ALL);
    host.run("metrics").ends(0);
    assert_eq!(value(&host, catalogue::SURVEY_LIBVIRT_UP, &[]), Some(0.0));
    assert_eq!(value(&host, catalogue::DOMAIN_DEFINED, &["a"]), Some(1.0), "as last observed");
    assert_eq!(value(&host, catalogue::DOMAIN_RESTORE_POINTS, &[NAME, "a"]), Some(1.0));
    host.run("backup --force").ends(4);
    assert_eq!(runs(&host, "failure"), Some(1.0));
}

#[test]
fn metrics_are_printed_only_on_request() {
    let host = host(&["a"]);
    let printed = host.run("metrics --stdout").ends(0);
    assert_whole(&printed.out);
    assert_promtool_likes(&printed.out);
    assert_eq!(names(&host), [""; 0]);
    assert_eq!(host.run("metrics").ends(0).out, "");

    host.configure("", ALL);
    let ran = host.run("metrics").ends(2);
    assert!(ran.err.contains("metrics.textfile") && ran.err.contains("hint: "), "{}", ran.err);
    assert_whole(&host.run("metrics --stdout").ends(0).out);
}

#[test]
fn lost_state_directory_does_not_mean_that_nothing_was_ever_saved() {
    let host = host(&["a"]);
    host.run("backup").ends(0);
    std::fs::remove_dir_all(host.path("state")).unwrap();
    host.run("metrics").ends(0);
    assert!(value(&host, catalogue::DOMAIN_LAST_SUCCESS_TIMESTAMP_SECONDS, &[NAME, "a"]).unwrap() > 0.0);
    assert_eq!(runs(&host, "success"), Some(0.0));
}
