//! `kvmbackup maintain`, `repository check` and `repository stats`, with the real restic.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{PASSWORD, configure_with, fill_with_noise, host, restic};
use crate::host::{Host, NAME, Run, run};

const DAILY: &str = "{\"*\": {day_of_week: daily, rotate: 1}}";
const PROGRAM: &str = env!("CARGO_BIN_EXE_kvmbackup");

/// A host with one guest and one restore point in its repository.
fn backed_up(keys: &str) -> Host {
    let host = host(&["a"], DAILY);
    configure_with(&host, keys, DAILY);
    fill_with_noise(&host, "a", 1, 8);
    host.run("repository init").ends(0);
    host.run("backup").ends(0);
    host
}

fn packs(host: &Host) -> Vec<PathBuf> {
    let folders = fs::read_dir(host.path("repository/data")).unwrap();
    folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap()).map(|pack| pack.unwrap().path()).collect()
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

fn stored(host: &Host) -> u64 {
    packs(host).iter().map(|pack| size(pack)).sum()
}

/// Changes one byte in the middle of the largest pack, and returns its path.
fn damage(host: &Host) -> PathBuf {
    let pack = packs(host).into_iter().max_by_key(|pack| size(pack)).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    pack
}

fn metric(host: &Host, name: &str) -> Option<f64> {
    let text = fs::read_to_string(host.path("metrics.prom")).unwrap();
    let labels = format!("kvmbackup_repository_{name}{{repository=\"{}\"}} ", host.path("repository").display());
    text.lines().find_map(|line| line.strip_prefix(&labels)?.parse().ok())
}

/// Complete locks: restic writes a lock as `ID-tmp-NUMBER` first.
fn lock_names(host: &Host) -> BTreeSet<OsString> {
    let names = fs::read_dir(host.path("repository/locks")).unwrap().map(|lock| lock.unwrap().file_name());
    names.filter(|name| name.len() == 64).collect()
}

fn locks(host: &Host) -> usize {
    lock_names(host).len()
}

/// `kvmbackup maintain` in a mount namespace in which this shell command has prepared the programs.
pub fn among(host: &Host, prepared: &str, words: &[&str]) -> Command {
    let mut command = host.command("unshare");
    let script = format!("{prepared}; exec \"$0\" \"$@\"");
    command.args(["--mount", "sh", "-c", &script, PROGRAM]).args(words);
    command.arg("--config").arg(host.path("config.yml")).args(["--host", NAME]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub fn found(program: &str) -> String {
    run("sh", &["-c", &format!("command -v {program}")]).trim().to_owned()
}

/// A `maintain` whose restic has locked the repository and does not end by itself. Returns the ID of that restic, which
/// is a real one.
fn stuck(host: &Host, words: &[&str]) -> (Child, u32) {
    let (real, fifo, own) = (host.path("real-restic"), host.path("fifo"), host.path("own"));
    fs::copy(found("restic"), &real).unwrap();
    let _ = fs::remove_file(&own);
    if !fs::exists(&fifo).unwrap() {
        run("mkfifo", &[fifo.to_str().unwrap()]);
    }
    // As a reader and writer of the FIFO, it waits for its own input.
    let script = format!(
        "case $1 in prune) tr '\\0' ' ' </proc/$$/cmdline >{own}.args; echo $$ >{own}.new; mv {own}.new {own}\n\
         exec {real} \"$2\" \"$3\" backup --stdin 0<>{fifo};; esac\nexec {real} \"$@\"",
        own = own.display(),
        real = real.display(),
        fifo = fifo.display()
    );
    let wrapper = host.script("restic", &script);
    let before = lock_names(host);
    let mut child =
        among(host, &format!("mount --bind {} {}", wrapper.display(), found("restic")), words).spawn().unwrap();
    wait_for(|| {
        assert!(child.try_wait().unwrap().is_none(), "{:?}", finish(child_output(&mut child), None));
        own.exists() && !lock_names(host).is_subset(&before)
    });
    let id = fs::read_to_string(&own).unwrap().trim().parse().unwrap();
    (child, id)
}

/// Waits for a condition, with a limit only against a test that never ends.
pub fn wait_for(mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(Instant::now() < limit, "waited too long");
        std::thread::yield_now();
    }
}

fn child_output(child: &mut Child) -> (String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (out, err)
}

fn finish((out, err): (String, String), code: Option<i32>) -> Run {
    Run { code: code.unwrap_or(-1), out, err }
}

pub fn ended(mut child: Child) -> Run {
    let output = child_output(&mut child);
    let code = child.wait().unwrap().code();
    finish(output, code)
}

pub fn is_running(id: u32) -> bool {
    // A process that nobody waited for yet is a zombie.
    fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|text| !text.rsplit(')').next().unwrap().starts_with(" Z"))
}

pub fn kill(signal: &str, id: u32) {
    run("kill", &[signal, &id.to_string()]);
}

#[test]
fn space_of_removed_points_is_reclaimed_and_the_result_is_recorded() {
    let host = backed_up("");
    for name in ["maintenance_success", "last_check_timestamp_seconds", "size_bytes"] {
        assert_eq!(metric(&host, name), None, "never maintained: {name}");
    }
    fill_with_noise(&host, "a", 2, 8);
    host.run("backup --force").ends(0);
    let before = stored(&host);
    let first = host.run("-vv maintain --json").ends(0);
    let done = first.json();
    let freed = before - stored(&host);
    assert!(freed > 3 << 20, "{before} bytes before, {} now", stored(&host));
    let told = done["prune"]["freed_bytes"].as_u64().unwrap();
    // Indexes are rewritten, too.
    assert!(told.abs_diff(freed) < 64 << 10, "{told} {freed}");
    assert_eq!(
        (&done["schema"], &done["check"]["good"], &done["check"]["data_percent"]),
        (&1.into(), &true.into(), &5.into())
    );
    assert_eq!((&done["stored"]["restore_points"], &done["stored"]["domains"]), (&1.into(), &1.into()));
    assert_eq!(done["stored"]["packs"], packs(&host).len());
    restic(&host, &["check", "--read-data"]);
    host.run("verify --all").ends(0).tells(&["good"]);
    assert_eq!(locks(&host), 0);

    let second = host.run("maintain").ends(0).tells(&["pruned: freed 0 B"]).tells(&["5% of the data", "no damage"]);
    assert_eq!(host.run("-q maintain").ends(0).out, "");
    for run in [&first, &second] {
        assert!(!format!("{run:?}").contains(PASSWORD), "{run:?}");
    }
    assert_eq!(metric(&host, "maintenance_success"), Some(1.0));
    assert_eq!(metric(&host, "packs"), Some(packs(&host).len() as f64));
    assert!(metric(&host, "blobs").unwrap() > 4.0 && metric(&host, "size_bytes").unwrap() > stored(&host) as f64);
    for name in ["last_check_timestamp_seconds", "last_prune_timestamp_seconds"] {
        assert!(metric(&host, name).unwrap() > 1e9, "{name}");
    }
    assert!(metric(&host, "unused_ratio").is_some_and(|unused| (0.0..=0.05).contains(&unused)));
    let ledger: Value = serde_json::from_slice(&fs::read(host.path("state/ledger.json")).unwrap()).unwrap();
    assert_eq!(ledger["maintenance"]["last_error"], Value::Null);
    assert_eq!(fs::read_dir(host.path("cache")).unwrap().count(), 2, "the catalogue and restic's own cache");
}

#[test]
fn damage_is_found_reported_and_recorded() {
    let host = backed_up(", check_data: 100%, max_unused: 0%");
    host.run("maintain").ends(0).tells(&["100% of the data", "no damage"]);
    let checked = metric(&host, "last_check_timestamp_seconds").unwrap();
    damage(&host);
    let found = host.run("maintain --json").ends(6);
    assert!(found.err.contains("the repository is damaged") && found.err.contains("hint: "), "{}", found.err);
    let done = found.json();
    assert_eq!(done["check"]["good"], false);
    assert!(!done["check"]["errors"].as_array().unwrap().is_empty(), "{done:#}");
    assert_eq!(metric(&host, "maintenance_success"), Some(0.0));
    assert_eq!(metric(&host, "last_check_timestamp_seconds"), Some(checked));
    host.run("maintain").ends(6).tells(&["checked:", "DAMAGED"]);

    let check = host.run("repository check").ends(6).tells(&["100% of the data", "DAMAGED"]);
    assert!(check.err.contains("the repository is damaged"), "{}", check.err);
    assert_eq!(host.run("repository check --json").ends(6).json()["good"], false);
    host.run("verify --all").ends(6);
    assert_eq!(locks(&host), 0);
}

#[test]
fn lost_or_damaged_objects_are_damage_even_if_no_data_is_read() {
    let host = backed_up(", check_data: 0%");
    host.run("maintain").ends(0).tells(&["checked: the structure in"]);
    let largest = packs(&host).into_iter().max_by_key(|pack| size(pack)).unwrap();
    let one_of = |kind: &str| {
        let mut found = fs::read_dir(host.path("repository").join(kind)).unwrap();
        found.next().unwrap().unwrap().path()
    };
    for object in [largest, one_of("index"), one_of("snapshots")] {
        let good = fs::read(&object).unwrap();
        fs::remove_file(&object).unwrap();
        if !object.starts_with(host.path("repository/data")) {
            let mut bad = good.clone();
            bad[good.len() / 2] ^= 1;
            fs::write(&object, bad).unwrap();
        }
        let found = host.run("maintain").ends(6);
        assert!(found.err.contains("the repository is damaged"), "{}", found.err);
        assert!(!found.err.contains("contains errors") && !found.out.contains(".go:"), "{found:?}");
        assert_eq!(metric(&host, "maintenance_success"), Some(0.0), "{}", object.display());
        fs::write(&object, good).unwrap();
        host.run("maintain").ends(0);
    }
}

#[test]
fn check_and_stats_report_what_the_repository_contains() {
    let host = backed_up("");
    let check = host.run("repository check --json").ends(0).json();
    assert_eq!((&check["schema"], &check["good"], &check["data_percent"]), (&1.into(), &true.into(), &100.into()));
    host.run("repository check").ends(0).tells(&["checked: the structure and 100% of the data", "no damage"]);
    let stats = host.run("repository stats --json").ends(0).json();
    let files =
        run("find", &[host.path("repository").to_str().unwrap(), "-type", "f", "-size", "+0", "-printf", "%s %P\n"]);
    let objects = files.lines().filter(|line| !line.ends_with(" config"));
    let bytes: u64 = objects.map(|line| line.split(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(stats["stored_bytes"], bytes, "{files}");
    assert_eq!((&stats["restore_points"], &stats["packs"]), (&1.into(), &packs(&host).len().into()));
    let raw = ["stats", "--mode", "raw-data", "--json"];
    let counted: Value = serde_json::from_str(&restic(&host, &raw)).unwrap();
    assert_eq!(stats["blobs"], counted["total_blob_count"]);
    host.run("repository stats").ends(0).tells(&["1 restore point of 1 domain"]);
}

#[test]
fn configured_blob_size_is_used_for_a_new_disk_and_kept_after_a_change() {
    let host = backed_up(", blob_size: 1MiB");
    let blobs = |host: &Host| host.run("repository stats --json").ends(0).json()["blobs"].as_u64().unwrap();
    let first = blobs(&host);
    assert!((8..30).contains(&first), "8 MiB of data in {first} blobs");
    configure_with(&host, ", blob_size: 64KiB", DAILY);
    host.run("backup --force").ends(0);
    assert!(blobs(&host) < first + 4, "{first} blobs before, {} now", blobs(&host));
    restic(&host, &["check", "--read-data"]);
}

#[test]
fn host_without_a_repository_has_nothing_to_maintain() {
    let host = Host::new(&["a"]);
    for words in ["maintain", "repository check", "repository stats"] {
        let refused = host.run(words).ends(2);
        assert!(refused.err.contains("names no repository") && refused.err.contains("Set `repository`"), "{refused:?}");
    }
    assert!(!host.path("state/ledger.json").exists());
}

#[test]
fn missing_and_old_restic_are_refused_with_a_hint() {
    let host = backed_up("");
    let folder = Path::new(&found("restic")).parent().unwrap().display().to_string();
    let missing = host.finish(&mut among(&host, &format!("mount -t tmpfs tmpfs {folder}"), &["maintain"])).ends(1);
    assert!(
        missing.err.contains("restic is not installed") && missing.err.contains("apt-get install restic"),
        "{missing:?}"
    );
    let old = host.script("old", "echo restic 0.12.1 compiled with go1.15");
    let prepared = format!("mount --bind {} {}", old.display(), found("restic"));
    let old = host.finish(&mut among(&host, &prepared, &["maintain"])).ends(1);
    assert!(old.err.contains("restic 0.12 is too old") && old.err.contains("hint: Install a newer restic"), "{old:?}");
    assert_eq!((missing.out, old.out), (String::new(), String::new()));
    assert_eq!(metric(&host, "maintenance_success"), Some(0.0));
    assert_eq!(metric(&host, "last_check_timestamp_seconds"), Some(0.0));
    assert_eq!(metric(&host, "packs"), None);
}

#[test]
fn maintenance_waits_for_a_backup_in_progress() {
    let host = backed_up(", maintain_timeout: 10s");
    let mut backup = Command::new("restic");
    backup.args(["--no-cache", "-q", "-r"]).arg(host.path("repository")).args(["backup", "--stdin", "--password-file"]);
    let mut backup = backup
        .arg(host.path("password"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(|| locks(&host) == 1);
    let refused = host.run("maintain").ends(5);
    let holder = format!("already locked by PID {} ", backup.id());
    assert!(refused.err.contains(&holder) && refused.err.contains("; waited "), "{refused:?}");
    assert!(refused.err.contains("hint: Run it again"), "{refused:?}");
    assert!(is_running(backup.id()), "the lock of a live process is left alone, and so is the process");

    configure_with(&host, "", DAILY);
    let mut child = among(&host, ":", &["maintain"]).spawn().unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    assert!(line.contains(&holder) && line.contains("waiting up to"), "{line}");
    drop(backup.stdin.take());
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
    backup.wait().unwrap();
    assert_eq!(locks(&host), 0);
}

#[test]
fn killed_restic_or_kvmbackup_does_not_block_the_next_maintenance() {
    let host = backed_up("");
    let (child, restic) = stuck(&host, &["maintain"]);
    // The cache and the command, but no password.
    let arguments = fs::read_to_string(host.path("own.args")).unwrap();
    assert!(arguments.contains(" prune --cache-dir ") && arguments.contains("--max-unused=5%"), "{arguments}");
    for id in [child.id(), restic] {
        let line = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap();
        assert!(!line.contains(PASSWORD) && !arguments.contains(PASSWORD), "{line}");
    }
    let names = fs::read_to_string(format!("/proc/{restic}/environ")).unwrap();
    let names: Vec<_> = names.split('\0').filter_map(|entry| entry.split('=').next()).collect();
    assert!(
        names.iter().all(|name| ["PATH", "RESTIC_REPOSITORY", "RESTIC_PASSWORD", "TMPDIR", "PWD", ""].contains(name)),
        "{names:?}"
    );
    kill("-KILL", restic);
    let failed = ended(child).ends(5);
    assert!(failed.err.contains("restic prune failed: it was ended by signal 9"), "{failed:?}");
    // The check after it removed the lock.
    assert!(failed.err.contains("removed locks of interrupted processes from the repository: 1"), "{failed:?}");
    assert_eq!((locks(&host), metric(&host, "maintenance_success")), (0, Some(0.0)));
    assert!(metric(&host, "last_check_timestamp_seconds").unwrap() > 1e9, "the check found no damage");
    host.run("maintain").ends(0);
    assert_eq!((locks(&host), metric(&host, "maintenance_success")), (0, Some(1.0)));

    let (mut child, restic) = stuck(&host, &["maintain"]);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for(|| !is_running(restic));
    host.run("maintain").ends(0);
    assert_eq!(locks(&host), 0);
}

#[test]
fn signal_and_deadline_end_restic() {
    let host = backed_up("");
    for (signal, code) in [("-TERM", 143), ("-INT", 130)] {
        let (child, restic) = stuck(&host, &["maintain"]);
        kill(signal, child.id());
        let ended = ended(child).ends(code);
        assert!(!is_running(restic) && !format!("{ended:?}").contains(PASSWORD), "{ended:?}");
        assert_eq!(metric(&host, "maintenance_success"), Some(0.0));
    }
    configure_with(&host, ", maintain_timeout: 5s", DAILY);
    let (child, restic) = stuck(&host, &["maintain"]);
    let late = ended(child).ends(1);
    assert!(!is_running(restic) && late.err.contains("restic prune did not end within 5.0 s"), "{late:?}");
    assert!(late.err.contains("maintain_timeout"), "{late:?}");
    configure_with(&host, "", DAILY);
    host.run("maintain").ends(0);
    assert_eq!(locks(&host), 0);
}

#[test]
fn unreachable_repository_and_wrong_password_are_errors_of_the_target() {
    let host = backed_up("");
    fs::write(host.path("password"), "another").unwrap();
    let refused = host.run("maintain").ends(5);
    assert!(refused.err.contains("wrong password"), "{refused:?}");
    assert_eq!(metric(&host, "maintenance_success"), Some(0.0));
    fs::write(host.path("password"), PASSWORD).unwrap();
    fs::rename(host.path("repository"), host.path("elsewhere")).unwrap();
    host.run("maintain").ends(5);
    assert!(!host.path("repository").exists());
}

#[test]
fn damaged_repository_is_repaired_as_the_runbook_says() {
    let host = backed_up("");
    configure_with(&host, "", "{\"*\": {day_of_week: daily, rotate: 3}}");
    let pack = damage(&host);
    let id = pack.file_name().unwrap().to_str().unwrap();
    let check = host.run("repository check --json").ends(6).json();
    let errors = check["errors"].as_array().unwrap();
    assert!(
        errors.iter().any(|error| error.as_str().unwrap().contains(&id[..8])),
        "the damaged pack is named: {check:#}"
    );
    host.run("verify --all").ends(6);

    fs::rename(&pack, host.path("moved")).unwrap();
    restic(&host, &["rebuild-index"]);
    host.run("backup --force").ends(0);
    let verified = host.run("verify --all").ends(0);
    assert_eq!(
        verified.out.lines().filter(|line| line.starts_with("good ")).count(),
        2,
        "the same data is stored again"
    );
    host.run("repository check").ends(0);
    host.run("maintain").ends(0);
}

#[test]
fn json_is_documented_key_by_key() {
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md")).unwrap();
    let section = document.split("## Maintenance\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let documented: BTreeSet<&str> =
        section.lines().filter(|line| line.starts_with("| `")).map(|line| line.split('`').nth(1).unwrap()).collect();
    let host = backed_up("");
    let mut found = BTreeSet::new();
    let done = host.run("maintain --json").ends(0).json();
    for (key, value) in done.as_object().unwrap() {
        found.insert(key.clone());
        found.extend(value.as_object().into_iter().flatten().map(|(inner, _)| format!("{key}.{inner}")));
    }
    assert_eq!(found.iter().map(String::as_str).collect::<BTreeSet<_>>(), documented);
    for (command, part) in [("check", "check"), ("stats", "stored")] {
        let alone = host.run(&format!("repository {command} --json")).ends(0).json();
        let mut keys: Vec<&String> = done[part].as_object().unwrap().keys().collect();
        let schema = "schema".to_owned();
        keys.push(&schema);
        keys.sort();
        assert_eq!(alone.as_object().unwrap().keys().collect::<Vec<_>>(), keys, "{command}");
    }
}
