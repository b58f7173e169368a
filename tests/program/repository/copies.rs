//! `kvmbackup copy`, with the real restic and a real REST server.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::maintain::{among, ended, found, is_running, kill, wait_for};
use super::{PASSWORD, configure_with, fill_with_noise, host};
use crate::bucket;
use crate::host::{Host, NAME, Run, run};

const DAILY: &str = "{\"*\": {day_of_week: daily, rotate: 2}}";
const OF_COPY: &str = "kb-secret-of-the-copy";

/// Configures copies, each with these keys after its password.
pub fn configure(host: &Host, domains: &str, copies: &[(&str, &str, &str)]) {
    let password = host.path("copy-password");
    if !password.exists() {
        fs::write(&password, OF_COPY).unwrap();
        run("chmod", &["600", password.to_str().unwrap()]);
    }
    let entries: Vec<String> = copies
        .iter()
        .map(|(name, to, more)| format!("{{name: {name}, to: \"{to}\", password_file: {}{more}}}", password.display()))
        .collect();
    configure_with(host, &format!(", copies: [{}]", entries.join(", ")), domains);
}

/// A host with these guests, one restore point of each, and a copy in its directory `copy`, which does not exist yet.
fn backed_up(guests: &[&str], domains: &str, keys: &str) -> Host {
    let host = host(guests, domains);
    configure(&host, domains, &[("near", &copy(&host), keys)]);
    host.run("repository init").ends(0);
    host.run("backup").ends(0);
    host
}

/// Creates the copy and makes the first copy. restic's key costs half a second each time that it is used, so it is replaced
/// by one of this program.
fn init(host: &Host) -> Run {
    let run = host.run("copy --init").ends(0);
    let key = || fs::read_dir(host.path("copy/keys")).unwrap().next().unwrap().unwrap().path();
    let (of_restic, path) = (key(), |name: &str| host.path(name).display().to_string());
    let (copy, password, cache) = (path("copy"), path("copy-password"), path("cache-of-copy"));
    let repository = format!("{{url: {copy}, password_file: {password}, cache_dir: {cache}}}");
    let config =
        host.script("copy.yml", &format!("{NAME}: {{repository: {repository}, domains: {{x: {{day_of_week: Sun}}}}}}"));
    let add = ["repository", "key", "add", "--new-password-file", &password, "--host", NAME, "--config"];
    host.finish(host.command(env!("CARGO_BIN_EXE_kvmbackup")).args(add).arg(config)).ends(0);
    fs::remove_file(of_restic).unwrap();
    run
}

fn copy(host: &Host) -> String {
    host.path("copy").display().to_string()
}

/// restic on the copy.
fn restic(host: &Host, words: &[&str]) -> String {
    let mut command = Command::new("restic");
    command.args(["--no-cache", "-r"]).arg(host.path("copy")).args(words);
    let output = command.env("RESTIC_PASSWORD", OF_COPY).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The IDs of restore points in the copy, and which are protected.
fn there(host: &Host) -> Vec<(String, bool)> {
    let listed: Value = serde_json::from_str(&restic(host, &["snapshots", "--json"])).unwrap();
    let of = |snapshot: &Value| {
        let is_protected = snapshot["tags"].as_array().unwrap().contains(&"protected".into());
        (snapshot["time"].as_str().unwrap()[..19].replace(['-', ':'], "") + "Z", is_protected)
    };
    let mut found: Vec<_> = listed.as_array().unwrap().iter().map(of).collect();
    found.sort();
    found
}

/// The IDs of the restore points of a domain in the repository, oldest first.
fn points(host: &Host, domain: &str) -> Vec<String> {
    let listed = host.run(&format!("list {domain} --json")).ends(0).json();
    let mut ids: Vec<String> =
        listed["points"].as_array().unwrap().iter().map(|point| point["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

fn metric(host: &Host, name: &str, labels: &str) -> Option<f64> {
    let text = fs::read_to_string(host.path("metrics.prom")).unwrap();
    let start = format!("kvmbackup_copy_{name}{{{labels}}} ");
    text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok())
}

fn ledger(host: &Host) -> Value {
    serde_json::from_slice(&fs::read(host.path("state/ledger.json")).unwrap()).unwrap()
}

fn copied(run: &Run, at: usize) -> usize {
    run.json()["copies"][at]["copied"].as_array().unwrap().len()
}

#[test]
fn copy_contains_every_point_is_checked_by_restic_and_can_be_restored() {
    let host = backed_up(&["a", "b"], DAILY, "");
    assert_eq!(metric(&host, "last_success_timestamp_seconds", "copy=\"near\""), Some(0.0), "never copied");
    assert_eq!(metric(&host, "interval_seconds", "copy=\"near\""), Some(86_400.0));

    let missing = host.run("copy").ends(5);
    assert!(missing.err.contains("copy near: cannot open it: ") && missing.err.contains("no such file"), "{missing:?}");
    assert!(missing.err.contains("copy near --init") && !host.path("copy").exists(), "{missing:?}");
    assert_eq!(metric(&host, "last_failed", "copy=\"near\""), Some(1.0));
    assert_eq!(metric(&host, "last_success_timestamp_seconds", "copy=\"near\""), Some(0.0));

    let first = init(&host).tells(&["created the copy, copied 2 restore points, it contains 2"]);
    assert!(!format!("{first:?}").contains(OF_COPY) && !format!("{first:?}").contains(PASSWORD));
    assert_eq!(metric(&host, "last_failed", "copy=\"near\""), Some(0.0));
    assert!(metric(&host, "last_success_timestamp_seconds", "copy=\"near\"").unwrap() > 1e9);
    assert!(metric(&host, "newest_restore_point_timestamp_seconds", "copy=\"near\",domain=\"b\"").unwrap() > 1e9);
    assert_eq!(copied(&host.run("copy --json").ends(0), 0), 0, "nothing is copied twice");
    assert_eq!(host.run("-q copy").ends(0).out, "");
    restic(&host, &["check", "--read-data"]);

    host.run("backup --force a").ends(0);
    let newest = points(&host, "a").pop().unwrap();
    host.run("copy --dry-run").ends(0).tells(&["would copy 1 restore point, it contains 2"]).tells(&[&newest]);
    assert_eq!(there(&host).len(), 2);
    host.run("copy").ends(0).tells(&["copied 1 restore point, it contains 3"]);

    // The repository is lost, and the guest is restored from the copy.
    fs::remove_dir_all(host.path("repository")).unwrap();
    fs::rename(host.path("copy"), host.path("repository")).unwrap();
    fs::rename(host.path("copy-password"), host.path("password")).unwrap();
    let to = host.path("restored");
    fs::create_dir(&to).unwrap();
    host.run("verify --all").ends(0).tells(&["good"]);
    host.run(&format!("restore a --to {}", to.display())).ends(0);
    super::expect_same(&host.image("a"), "qcow2", &to.join("a.qcow2"), "qcow2");
}

#[test]
fn copy_keeps_the_newest_points_and_those_that_the_repository_removed() {
    let domains = "{\"*\": {day_of_week: daily, rotate: 3}}";
    let host = backed_up(&["a"], domains, ", keep: 2");
    host.run("backup --force").ends(0);
    host.run("backup --force").ends(0);
    let all = points(&host, "a");
    assert_eq!(all.len(), 3);
    let last = |count: usize| all[3 - count..].iter().map(|id| (id.clone(), false)).collect::<Vec<_>>();
    init(&host).tells(&["copied 2 restore points, it contains 2"]);
    assert_eq!(there(&host), last(2));
    host.run("copy").ends(0).tells(&["copied 0 restore points, it contains 2"]);

    // Fewer in the repository than in the copy.
    configure(&host, "{\"*\": {day_of_week: daily, rotate: 1}}", &[("near", &copy(&host), ", keep: 2")]);
    host.run("prune").ends(0);
    assert_eq!(points(&host, "a").len(), 1);
    host.run("copy").ends(0).tells(&["copied 0 restore points, it contains 2"]);
    assert_eq!(there(&host), last(2));

    fill_with_noise(&host, "a", 7, 8);
    host.run("backup --force").ends(0);
    let size = || run("du", &["-s", &copy(&host)]).split('\t').next().unwrap().parse::<u64>().unwrap();
    host.run("copy").ends(0).tells(&["copied 1 restore point, removed 1 restore point, it contains 2"]);
    let before = size();
    fill_with_noise(&host, "a", 8, 8);
    host.run("backup --force").ends(0);
    host.run("copy").ends(0);
    fill_with_noise(&host, "a", 9, 8);
    host.run("backup --force").ends(0);
    host.run("copy").ends(0).tells(&["removed 1 restore point"]);
    assert!(size() < before * 5 / 2, "the space of removed points is freed: {before} {}", size());
    restic(&host, &["check", "--read-data"]);
}

#[test]
fn protected_points_are_copied_and_never_removed_from_the_copy() {
    let domains = "{\"*\": {day_of_week: daily, rotate: 1}}";
    let host = backed_up(&["a"], domains, ", keep: 1");
    init(&host);
    let first = points(&host, "a").pop().unwrap();
    host.run(&format!("protect a --at {first}")).ends(0);
    // Protected after it was copied: the copy is replaced by a protected one.
    host.run("copy").ends(0).tells(&["copied 1 restore point, removed 1 restore point, it contains 1"]);
    assert_eq!(there(&host), [(first.clone(), true)]);
    host.run("backup --force").ends(0);
    host.run("backup --force").ends(0);
    let newest = points(&host, "a").pop().unwrap();
    host.run("copy").ends(0);
    assert_eq!(there(&host), [(first.clone(), true), (newest.clone(), false)]);
    // No longer protected in the repository, which removes it.
    host.run(&format!("unprotect a --at {first}")).ends(0);
    host.run("prune").ends(0);
    host.run("copy").ends(0).tells(&["copied 0 restore points, it contains 2"]);
    assert_eq!(there(&host), [(first, true), (newest, false)]);
}

#[test]
fn failure_of_one_copy_does_not_stop_the_next_and_only_due_copies_are_made() {
    let host = backed_up(&["a"], DAILY, "");
    let no_directory = host.path("password").join("far").display().to_string();
    configure(&host, DAILY, &[("far", &no_directory, ""), ("near", &copy(&host), ", every: 1h")]);
    let both = host.run("copy --init --json").ends(5);
    assert!(both.json()["copies"][0]["error"].as_str().unwrap().starts_with("copy far: "), "{both:?}");
    assert_eq!((copied(&both, 0), copied(&both, 1)), (0, 1));
    assert_eq!(metric(&host, "last_failed", "copy=\"far\""), Some(1.0));
    assert_eq!(metric(&host, "last_failed", "copy=\"near\""), Some(0.0));

    // The failed one is due again, the other is not.
    let due = host.run("copy --due --json").ends(5).json();
    assert_eq!((due["copies"].as_array().unwrap().len(), &due["copies"][0]["name"]), (1, &"far".into()));
    let mut known = ledger(&host);
    known["copies"]["near"]["last_success"] = "2026-01-01T00:00:00Z".into();
    fs::write(host.path("state/ledger.json"), known.to_string()).unwrap();
    assert_eq!(host.run("copy --due --json").ends(5).json()["copies"].as_array().unwrap().len(), 2);
    host.run("copy near --due").ends(0).tells(&["no copy is due"]);
    let unknown = host.run("copy nera").ends(1);
    assert!(unknown.err.contains("no copy `nera`") && unknown.err.contains("Did you mean `near`?"), "{unknown:?}");

    // With another address it is another copy, and copies that are not configured are forgotten.
    let other = host.path("other").display().to_string();
    configure(&host, DAILY, &[("near", &other, "")]);
    host.run("copy near --due --init").ends(0).tells(&["created the copy"]);
    assert_eq!(ledger(&host)["copies"].as_object().unwrap().keys().collect::<Vec<_>>(), ["near"]);
    assert_eq!(metric(&host, "last_failed", "copy=\"far\""), None);
    configure_with(&host, "", DAILY);
    let none = host.run("copy").ends(2);
    assert!(none.err.contains("no copies") && none.err.contains("repository.copies"), "{none:?}");
}

#[test]
fn wrong_password_and_the_repository_itself_are_refused() {
    let host = backed_up(&["a"], DAILY, "");
    init(&host);
    fs::write(host.path("copy-password"), "another").unwrap();
    let wrong = host.run("copy").ends(5);
    assert!(wrong.err.contains("copy near: restic cat failed: wrong password"), "{wrong:?}");
    let again = host.run("copy --init").ends(5);
    assert!(again.err.contains("wrong password"), "an existing copy is never created again: {again:?}");
    fs::write(host.path("copy-password"), OF_COPY).unwrap();
    run("chmod", &["644", host.path("copy-password").to_str().unwrap()]);
    assert!(host.run("check").out.contains("other users can read it"));
    run("chown", &["65534", host.path("copy-password").to_str().unwrap()]);
    let untrusted = host.run("copy").ends(5);
    assert!(untrusted.err.contains("cannot be trusted"), "{untrusted:?}");

    run("chown", &["0", host.path("copy-password").to_str().unwrap()]);
    fs::write(host.path("copy-password"), PASSWORD).unwrap();
    fs::remove_dir_all(host.path("copy")).unwrap();
    std::os::unix::fs::symlink(host.path("repository"), host.path("copy")).unwrap();
    let points = points(&host, "a");
    configure(&host, DAILY, &[("near", &copy(&host), ", keep: 1")]);
    let itself = host.run("copy").ends(1);
    assert!(itself.err.contains("it is the repository itself"), "{itself:?}");
    assert_eq!(self::points(&host, "a"), points);
}

/// A REST server that lets nobody remove or replace anything except locks. It ends when it is dropped.
struct Rest {
    child: Child,
    port: u16,
}

/// Its password, with a character that must be encoded in an address.
const OF_SERVER: &str = "kb-secret/of-the-server";

impl Rest {
    /// Serves a directory of the host.
    fn start(host: &Host) -> Rest {
        let mut command = Command::new("rclone");
        command.args(["serve", "restic", "--config", "/dev/null", "--addr", "127.0.0.1:0", "--append-only"]);
        command.args(["--user", "cloud1", "--pass", OF_SERVER]).arg(host.path("served"));
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let port = lines.find_map(|line| line.unwrap().split_once("127.0.0.1:")?.1.trim_end_matches('/').parse().ok());
        std::thread::spawn(move || lines.count());
        Rest { child, port: port.unwrap() }
    }

    fn address(&self) -> String {
        format!("rest:http://cloud1:{}@127.0.0.1:{}/kvm/", OF_SERVER.replace('/', "%2F"), self.port)
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn append_only_server_gets_a_copy_and_no_output_contains_its_password() {
    let host = backed_up(&["a"], DAILY, "");
    let server = Rest::start(&host);
    configure(&host, DAILY, &[("far", &server.address(), "")]);
    let mut said = Vec::new();
    let mut run = |words: &str, code: i32| {
        let ran = host.run(words).ends(code);
        said.push(format!("{words}: {ran:?}"));
        ran
    };
    run("-vv copy", 5);
    let shown = format!("far (rest:http://cloud1:***@127.0.0.1:{}/kvm/): created the copy", server.port);
    run("-vv copy --init", 0).tells(&[&shown]);
    assert_eq!(copied(&run("copy --json", 0), 0), 0);
    host.run("backup --force").ends(0);
    run("copy", 0).tells(&["copied 1 restore point, it contains 2"]);
    run("-vv check", 0);

    let with = |address: &str| configure(&host, DAILY, &[("far", address, "")]);
    with(&server.address().replace("kb-secret", "kb-secret-other"));
    let refused = run("-vv copy", 5);
    assert!(refused.err.contains("401"), "{refused:?}");
    with(&server.address().replace("/kvm/", "/k%zzvm/"));
    run("-vv copy", 5);
    with(&server.address().replace(":http:", ":https:"));
    run("-vv copy", 5);
    with(&server.address().replace("%2F", "/"));
    run("-vv copy", 2);
    let address = server.address();
    drop(server);
    with(&address);
    run("-vv copy", 5);
    for file in ["ledger.json", "survey.json"] {
        said.push(fs::read_to_string(host.path("state").join(file)).unwrap());
    }
    said.push(fs::read_to_string(host.path("metrics.prom")).unwrap());
    for text in said {
        for secret in ["kb-secret", "of-the-server", OF_COPY, PASSWORD] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[test]
fn bucket_gets_a_copy_with_the_key_in_the_environment() {
    let host = backed_up(&["a"], DAILY, "");
    let server = bucket::Server::start();
    configure(&host, DAILY, &[("bucket", &server.url(), "")]);
    let config = host.path("config.yml").display().to_string();
    let with = |secret: &str, words: &[&str]| {
        let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
        command.args(words).args(["--config", &config, "--host", crate::host::NAME]);
        host.finish(command.env("AWS_ACCESS_KEY_ID", bucket::KEY).env("AWS_SECRET_ACCESS_KEY", secret))
    };
    with(bucket::SECRET, &["copy", "--init"]).ends(0).tells(&["created the copy, copied 1 restore point"]);
    assert_eq!(copied(&with(bucket::SECRET, &["copy", "--json"]).ends(0), 0), 0);
    let refused = with("another", &["copy"]).ends(5);
    assert!(!format!("{refused:?}").contains("another"), "{refused:?}");
}

/// Puts a lock of this age into the copy.
fn lock(host: &Host, minutes: u32) {
    let script = "import base64, datetime, hashlib, json, os, sys\n\
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes\n\
        from cryptography.hazmat.primitives.poly1305 import Poly1305\n\
        key = json.load(sys.stdin)\n\
        k, r, encrypt = (base64.b64decode(t) for t in (key['mac']['k'], key['mac']['r'], key['encrypt']))\n\
        time = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=int(sys.argv[2]))\n\
        lock = dict(time=time.isoformat(), exclusive=False, hostname='h', username='u', pid=1)\n\
        run = lambda key, mode, data: Cipher(algorithms.AES(key), mode).encryptor().update(data)\n\
        nonce = os.urandom(16)\n\
        text = run(encrypt, modes.CTR(nonce), json.dumps(lock).encode())\n\
        mac = Poly1305.generate_tag(r + run(k, modes.ECB(), nonce), text)\n\
        sealed = nonce + text + mac\n\
        open(sys.argv[1] + '/locks/' + hashlib.sha256(sealed).hexdigest(), 'wb').write(sealed)\n";
    let mut python = Command::new(bucket::python());
    python.args(["-c", script, &copy(host), &minutes.to_string()]).stdin(Stdio::piped());
    let mut child = python.spawn().unwrap();
    child.stdin.take().unwrap().write_all(restic(host, &["cat", "masterkey"]).as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(restic(host, &["list", "locks"]).lines().count() > 0);
}

fn locks(host: &Host) -> usize {
    fs::read_dir(host.path("copy/locks")).unwrap().count()
}

#[test]
fn old_locks_are_removed_from_a_copy_and_young_ones_are_waited_for() {
    let host = backed_up(&["a"], DAILY, ", keep: 1, timeout: 12s");
    init(&host);
    host.run("backup --force").ends(0);
    lock(&host, 40);
    lock(&host, 20);
    // The deadline can also end restic while it tries to lock the copy.
    let busy = host.run("copy");
    assert!([1, 5].contains(&busy.code) && busy.err.contains("already locked by PID 1 on h"), "{busy:?}");
    assert!(busy.err.contains("waiting up to") && busy.err.contains("copy near: "), "{busy:?}");
    assert_eq!((locks(&host), there(&host).len()), (2, 2), "it is copied, and nothing is removed");

    for lock in fs::read_dir(host.path("copy/locks")).unwrap() {
        fs::remove_file(lock.unwrap().path()).unwrap();
    }
    lock(&host, 40);
    configure(&host, DAILY, &[("near", &copy(&host), ", keep: 1")]);
    let freed = host.run("copy").ends(0).tells(&["removed 1 restore point, it contains 1"]);
    assert!(freed.err.contains("removing locks that are older than 30 minutes"), "{freed:?}");
    assert_eq!(locks(&host), 0);
}

/// A `copy` whose restic has locked the copy and does not end by itself. Returns the ID of that restic.
fn stuck(host: &Host) -> (Child, u32) {
    let (real, fifo, own) = (host.path("real-restic"), host.path("fifo"), host.path("own"));
    fs::copy(found("restic"), &real).unwrap();
    let _ = fs::remove_file(&own);
    if !fifo.exists() {
        run("mkfifo", &[fifo.to_str().unwrap()]);
    }
    // As a reader and writer of the FIFO, it waits for its own input.
    let script = format!(
        "case $1 in copy) tr '\\0' ' ' </proc/$$/cmdline >{own}.args; echo $$ >{own}.new; mv {own}.new {own}\n\
         exec {real} \"$2\" \"$3\" backup --stdin 0<>{fifo};; esac\nexec {real} \"$@\"",
        own = own.display(),
        real = real.display(),
        fifo = fifo.display()
    );
    let wrapper = host.script("restic", &script);
    let mount = format!("mount --bind {} {}", wrapper.display(), found("restic"));
    let mut child = among(host, &mount, &["copy"]).spawn().unwrap();
    wait_for(|| {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        own.exists() && locks(host) == 1
    });
    (child, fs::read_to_string(&own).unwrap().trim().parse().unwrap())
}

#[test]
fn interrupted_copy_is_continued_by_the_next_one() {
    let host = backed_up(&["a"], DAILY, ", timeout: 20s");
    init(&host);
    host.run("backup --force").ends(0);
    for (signal, code) in [("-TERM", 143), ("-INT", 130)] {
        let (child, restic) = stuck(&host);
        let arguments = fs::read_to_string(host.path("own.args")).unwrap();
        assert!(!arguments.contains(&copy(&host)) && !arguments.contains(OF_COPY), "{arguments}");
        kill(signal, child.id());
        let ended = ended(child).ends(code);
        assert!(!is_running(restic), "{ended:?}");
        assert_eq!(metric(&host, "last_failed", "copy=\"near\""), Some(1.0));
    }
    let (child, restic) = stuck(&host);
    let locked = host.run("copy").ends(3);
    assert!(locked.err.contains("copy.lock"), "{locked:?}");
    host.run("backup --force").ends(0);
    let late = ended(child).ends(1);
    assert!(!is_running(restic) && late.err.contains("restic copy did not end within 20.0 s"), "{late:?}");
    assert!(late.err.contains("set `timeout` of the copy"), "{late:?}");

    let (child, restic) = stuck(&host);
    kill("-KILL", restic);
    let failed = ended(child).ends(5);
    assert!(failed.err.contains("copy near: restic copy failed: it was ended by signal 9"), "{failed:?}");
    let (mut child, restic) = stuck_again(&host);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for(|| !is_running(restic));
    // A lock of the killed restic does not disturb copying.
    configure(&host, DAILY, &[("near", &copy(&host), "")]);
    host.run("copy").ends(0).tells(&["it contains 3"]);
    restic_checks(&host);
}

/// The same after a restic was killed, whose lock is still in the copy.
fn stuck_again(host: &Host) -> (Child, u32) {
    for lock in fs::read_dir(host.path("copy/locks")).unwrap() {
        fs::remove_file(lock.unwrap().path()).unwrap();
    }
    stuck(host)
}

fn restic_checks(host: &Host) {
    restic(host, &["unlock", "--remove-all"]);
    restic(host, &["check", "--read-data"]);
}

#[test]
fn unreadable_lock_and_full_place_are_reported() {
    let host = backed_up(&["a"], DAILY, "");
    init(&host);
    let lock = host.path("copy/locks").join("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    fs::write(&lock, "").unwrap();
    host.run("backup --force").ends(0);
    // An empty lock, as a server that loses power leaves it: restic 0.14 panics. It is removed as the runbook says. Newer
    // ones ignore it.
    let unreadable = host.run("copy");
    if unreadable.code != 0 {
        let failed = unreadable.ends(5);
        assert!(failed.err.contains("copy near: restic copy failed: "), "{failed:?}");
        restic(&host, &["unlock", "--remove-all"]);
        host.run("copy").ends(0).tells(&["copied 1 restore point"]);
    }

    fill_with_noise(&host, "a", 5, 8);
    host.run("backup --force").ends(0);
    let small = format!("mount -t tmpfs -o size=2m tmpfs {}", copy(&host));
    let full = host.finish(&mut among(&host, &small, &["copy", "--init"])).ends(5);
    assert!(full.err.contains("no space left on device"), "{full:?}");
    host.run("copy").ends(0);
}

#[test]
fn json_is_documented_key_by_key() {
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md")).unwrap();
    let section = document.split("## Copies\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let documented: BTreeSet<String> = section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('`').nth(1).unwrap().to_owned())
        .collect();
    let host = backed_up(&["a"], DAILY, ", keep: 1");
    init(&host);
    host.run("backup --force").ends(0);
    let done = host.run("copy --json").ends(0).json();
    let mut found: BTreeSet<String> = done.as_object().unwrap().keys().cloned().collect();
    for (key, value) in done["copies"][0].as_object().unwrap() {
        found.insert(format!("copies[].{key}"));
        let items = value.as_array().into_iter().flatten().filter_map(Value::as_object).flatten();
        found.extend(items.map(|(inner, _)| format!("copies[].{key}[].{inner}")));
    }
    assert_eq!(found, documented);
}

/// The largest pack of a repository or copy of the host.
fn pack(host: &Host, place: &str) -> PathBuf {
    let folders = fs::read_dir(host.path(place).join("data")).unwrap();
    let packs =
        folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap()).map(|pack| pack.unwrap().path());
    packs.max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap()
}

#[test]
fn damage_fails_the_copy_and_is_repaired_from_the_repository() {
    let host = backed_up(&["a"], DAILY, ", keep: 1");
    init(&host);
    fill_with_noise(&host, "a", 3, 8);
    host.run("backup --force").ends(0);
    let lost = pack(&host, "repository");
    let kept = fs::read(&lost).unwrap();
    fs::write(&lost, b"damaged").unwrap();
    let failed = host.run("copy").ends(5);
    assert!(failed.err.contains("copy near: restic copy failed: "), "{failed:?}");
    assert_eq!(there(&host).len(), 1, "nothing is removed after a failure");
    fs::write(&lost, kept).unwrap();
    host.run("copy").ends(0).tells(&["copied 1 restore point, removed 1 restore point"]);

    let index = fs::read_dir(host.path("copy/index")).unwrap().next().unwrap().unwrap().path();
    fs::write(&index, b"damaged").unwrap();
    fs::remove_dir_all(host.path("cache")).unwrap();
    host.run("backup --force").ends(0);
    let failed = host.run("copy").ends(5);
    assert!(failed.err.contains("copy near: restic "), "{failed:?}");
    // As the runbook says: move the damaged copy away, and create it again.
    fs::rename(host.path("copy"), host.path("damaged-copy")).unwrap();
    host.run("copy near --init").ends(0);
    restic(&host, &["check", "--read-data"]);
}
