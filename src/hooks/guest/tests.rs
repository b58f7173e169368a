//! Tests hooks in a guest without a guest: with an agent that runs commands on this host, and with agents that give
//! false answers. `tests/guests/live_guest_hooks.rs` tests them in a real guest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use super::*;
use crate::hooks::{Held, MAX_OUTPUT, Released};

const LONG: Duration = Duration::from_secs(60);
/// For deadlines that are reached: even on a busy machine, a script has started by then.
const ENOUGH: Duration = Duration::from_secs(4);
const FAR: Deadlines = Deadlines { ready: LONG, hold: LONG, release: LONG };

type Answer = Result<Value, Box<dyn std::error::Error + Send + Sync>>;

/// Runs `guest-exec` on this host.
struct Local {
    folder: tempfile::TempDir,
    children: Mutex<Vec<Child>>,
}

impl Local {
    fn new() -> Local {
        Local { folder: tempfile::tempdir().unwrap(), children: Mutex::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Hooks in a directory of the test.
    fn guest(&self) -> Guest<'_> {
        let guest = in_folder(self, &self.path("run"));
        guest.prepare(b"{}").unwrap();
        guest
    }

    fn exec(&self, request: &Value) -> Answer {
        let words = |key: &str| -> Vec<String> {
            let words = request[key].as_array().cloned().unwrap_or_default();
            words.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
        };
        let mut children = self.children.lock().unwrap();
        let pid = children.len();
        let mut command = Command::new(request["path"].as_str().unwrap());
        command.args(words("arg")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if request.get("env").is_some() {
            command.env_clear().envs(words("env").iter().map(|pair| pair.split_once('=').unwrap()));
        }
        if let Some(input) = request.get("input-data") {
            let path = self.path("input");
            fs::write(&path, BASE64.decode(input.as_str().unwrap()).unwrap()).unwrap();
            command.stdin(File::open(path).unwrap());
        }
        if request["capture-output"] == true {
            command.stdout(File::create(self.path(&format!("output{pid}"))).unwrap());
        }
        children.push(command.spawn()?);
        Ok(json!({ "pid": pid }))
    }

    fn status(&self, pid: &Value) -> Answer {
        let pid = pid.as_u64().unwrap() as usize;
        let Some(status) = self.children.lock().unwrap()[pid].try_wait()? else {
            return Ok(json!({ "exited": false }));
        };
        let output = fs::read(self.path(&format!("output{pid}"))).unwrap_or_default();
        let output = BASE64.encode(&output);
        Ok(json!({ "exited": true, "exitcode": status.code().unwrap(), "out-data": output }))
    }
}

impl Agent for Local {
    fn command(&self, request: &Value) -> Answer {
        let arguments = &request["arguments"];
        match request["execute"].as_str().unwrap() {
            "guest-exec" => self.exec(arguments),
            "guest-exec-status" => self.status(&arguments["pid"]),
            other => panic!("{other} is not used"),
        }
    }
}

fn in_folder<'a>(agent: &'a dyn Agent, folder: &Path) -> Guest<'a> {
    let folder = folder.to_str().unwrap().to_owned();
    let (context, artifacts) = (format!("{folder}/context.json"), format!("{folder}/artifacts"));
    Guest { folder, context, artifacts, ..Guest::new(agent, "run") }
}

fn sh(script: &str) -> Call {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    Call { argv, env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]) }
}

fn run(guest: &Guest<'_>, script: &str, timeout: Duration) -> Ran {
    guest.run(&sh(script), timeout, None).unwrap()
}

fn ready<'a>(guest: &Guest<'a>, script: &str, deadlines: Deadlines) -> Box<dyn Held + 'a> {
    match guest.hold(&sh(script), deadlines, None).unwrap() {
        Started::Ready(held) => held,
        Started::NotReady(ran) => panic!("not ready: {ran:?}"),
    }
}

fn not_ready(guest: &Guest<'_>, script: &str, ready: Duration, cancel: Option<&Cancel>) -> Ran {
    match guest.hold(&sh(script), Deadlines { ready, ..FAR }, cancel).unwrap() {
        Started::Ready(_) => panic!("ready"),
        Started::NotReady(ran) => ran,
    }
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Asserts that no process refers to the directory of the test.
fn assert_nothing_left(local: &Local) {
    let folder = local.path("run").to_str().unwrap().to_owned();
    wait_until("the end of all processes", || {
        fs::read_dir("/proc").unwrap().flatten().all(|process| {
            let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
            !String::from_utf8_lossy(&words).contains(&folder)
        })
    });
}

#[test]
fn result_of_a_command_is_reported() {
    let local = Local::new();
    let guest = local.guest();
    let ran = run(&guest, "echo one; echo two >&2; pwd; exit 75", LONG);
    assert_eq!((ran.ended, ran.output.as_str()), (Ended::Exit(75), "one\ntwo\n/\n"));
    assert_eq!(run(&guest, "kill -9 $$", LONG).ended, Ended::Signal(9));
    let missing = guest.run(&Call { argv: vec!["/no/hook".into()], ..sh("") }, LONG, None).unwrap();
    assert_eq!(missing.ended, Ended::Exit(127));
    assert!(missing.output.contains("/no/hook"), "{missing:?}");
    assert!(matches!(guest.run(&Call::default(), LONG, None), Err(Error::Empty)));
    assert_nothing_left(&local);
}

#[test]
fn arguments_and_variables_arrive_unchanged() {
    let local = Local::new();
    let odd = "a 'b' \"c\" $(d) `e` \\ *\nü";
    let mut call = sh("printf '%s|%s' \"$0\" \"$VALUE\"");
    call.argv.push(odd.to_owned());
    call.env.insert("VALUE".to_owned(), odd.to_owned());
    let guest = local.guest();
    assert_eq!(guest.run(&call, LONG, None).unwrap().output, format!("{odd}|{odd}"));
    // The shell adds its own variables to those of the hook. Nothing else does.
    let names = run(&guest, "env | sed 's/=.*//' | sort | tr '\\n' ' '", LONG).output;
    assert_eq!(names.replace("OLDPWD ", "").replace("SHLVL ", "").replace("_ ", ""), "PATH PWD ");
}

#[test]
fn the_newest_output_is_kept() {
    let local = Local::new();
    let output = run(&local.guest(), "seq 1 100000", LONG).output;
    assert!(output.len() <= MAX_OUTPUT && output.len() > MAX_OUTPUT - 10, "{}", output.len());
    let first: u32 = output.lines().next().unwrap().parse().unwrap();
    assert!(output == (first..=100_000).map(|number| format!("{number}\n")).collect::<String>());
}

#[test]
fn guest_ends_a_command_at_its_deadline() {
    let local = Local::new();
    let ran = run(&local.guest(), "trap 'echo ended' TERM; (trap '' TERM; sleep 600) & echo on; wait; wait", ENOUGH);
    assert_eq!(ran.ended, Ended::TimedOut);
    assert!(ran.output.starts_with("on\n"), "{ran:?}");
    assert_nothing_left(&local);
}

#[test]
fn grandchild_that_keeps_the_output_open_does_not_block() {
    let local = Local::new();
    let pid = local.path("pid");
    let ran = run(&local.guest(), &format!("sleep 600 & echo $! >{}; exit 4", pid.display()), LONG);
    assert_eq!(ran.ended, Ended::Exit(4));
    let pid = fs::read_to_string(pid).unwrap();
    assert!(Command::new("kill").arg(pid.trim()).status().unwrap().success(), "the grandchild must not be terminated");
}

#[test]
fn cancelled_run_ends_its_hooks() {
    let local = Local::new();
    let guest = local.guest();
    let cancel = Cancel::default();
    cancel.cancel(15);
    let ran = guest.run(&sh("sleep 600"), LONG, Some(&cancel)).unwrap();
    assert_eq!(ran.ended, Ended::Cancelled);
    assert_eq!(not_ready(&guest, "sleep 600", LONG, Some(&cancel)).ended, Ended::Cancelled);
    assert_nothing_left(&local);
}

/// A session that keeps a lock, which is a file, until it is released, and then prints the reason.
fn session(lock: &Path) -> String {
    let lock = lock.display();
    format!(
        "trap 'rm -f {lock}' EXIT; : >{lock}; echo READY; read word; echo \"told $word\"; rm {lock}; read more || echo end"
    )
}

#[test]
fn session_stays_ready_until_it_is_released() {
    let local = Local::new();
    let (guest, lock) = (local.guest(), local.path("lock"));
    let held = ready(&guest, &session(&lock), FAR);
    assert!(lock.exists());
    let Released { kept, ran, .. } = held.release();
    assert!(kept && !lock.exists());
    assert_eq!((ran.ended, ran.output.as_str()), (Ended::Exit(0), "READY\ntold RELEASE\nend\n"));
    drop(ready(&guest, &session(&lock), FAR));
    assert!(!lock.exists(), "a dropped session must be released");
    assert_nothing_left(&local);
}

#[test]
fn session_releases_its_lock_at_its_deadline() {
    let local = Local::new();
    let (guest, lock) = (local.guest(), local.path("lock"));
    let held = ready(&guest, &session(&lock), Deadlines { hold: LONG / 60, ..FAR });
    wait_until("the end of the lock", || !lock.exists());
    let Released { kept, ran, .. } = held.release();
    assert!(!kept);
    assert_eq!((ran.ended, ran.output.as_str()), (Ended::Exit(0), "READY\ntold RELEASE\nend\n"));
}

#[test]
fn session_sees_the_end_of_its_input_if_its_wrapper_dies() {
    let local = Local::new();
    let (guest, lock) = (local.guest(), local.path("lock"));
    let held = ready(&guest, &session(&lock), FAR);
    // The first child created the directory, the second is the wrapper.
    local.children.lock().unwrap()[1].kill().unwrap();
    wait_until("the end of the lock", || !lock.exists());
    std::mem::forget(held);
    assert_nothing_left(&local);
}

#[test]
fn session_that_dies_before_its_release_is_lost() {
    let local = Local::new();
    let (guest, fault, client) = (local.guest(), local.path("fault"), local.path("client"));
    let script = format!(
        "sleep 600 & echo $! >{}; echo READY; until [ -e {} ]; do sleep 0.01; done; exit 3",
        client.display(),
        fault.display()
    );
    let held = ready(&guest, &script, FAR);
    fs::write(&fault, "").unwrap();
    let rc = local.path("run/0.rc");
    wait_until("its exit status", || rc.exists());
    let released = held.release();
    assert!(!released.kept);
    assert_eq!(released.ran.ended, Ended::Exit(3));
    let held = ready(&guest, "echo READY", FAR);
    wait_until("its exit status", || local.path("run/1.rc").exists());
    assert!(!held.release().kept);
    // Its client may be the process with the lock.
    let client = Path::new("/proc").join(fs::read_to_string(client).unwrap().trim());
    wait_until("the end of the client", || {
        // A zombie that was not waited for has ended, too.
        let status = fs::read_to_string(client.join("status")).unwrap_or_default();
        !status.contains("State:") || status.contains("State:\tZ")
    });
}

#[test]
fn session_that_is_not_ready_reports_the_reason() {
    let local = Local::new();
    let guest = local.guest();
    let ran = not_ready(&guest, "echo 'a replica lags'; exit 75", LONG, None);
    assert_eq!((ran.ended, ran.output.as_str()), (Ended::Exit(75), "a replica lags\n"));
    let ran = not_ready(&guest, "echo connecting; sleep 600", ENOUGH, None);
    assert_eq!((ran.ended, ran.output.as_str()), (Ended::TimedOut, "connecting\n"));
    assert_nothing_left(&local);
}

#[test]
fn session_that_ignores_its_release_is_ended() {
    let local = Local::new();
    let guest = local.guest();
    let held = ready(&guest, "echo READY; while :; do sleep 1; done", Deadlines { release: LONG / 120, ..FAR });
    let released = held.release();
    assert!(released.kept);
    assert_eq!(released.ran.ended, Ended::TimedOut);
    assert_nothing_left(&local);
}

#[test]
fn artifacts_are_returned() {
    let local = Local::new();
    let guest = local.guest();
    assert_eq!(guest.artifacts().unwrap(), []);
    let all: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    fs::write(local.path("run/artifacts/backup_label"), &all).unwrap();
    run(&guest, &format!("echo 42 >{}/binlog.pos", guest.artifact_dir()), LONG);
    let want = [("backup_label".to_owned(), all), ("binlog.pos".to_owned(), b"42\n".to_vec())];
    assert!(guest.artifacts().unwrap() == want);
    assert_eq!(fs::read(guest.context_path()).unwrap(), b"{}");
    guest.clean();
    assert!(!local.path("run").exists());
}

#[test]
fn unsafe_artifacts_are_refused() {
    let refusal = |make: &dyn Fn(&Path)| {
        let local = Local::new();
        let guest = local.guest();
        make(&local.path("run/artifacts"));
        match guest.artifacts() {
            Err(Error::Artifact { name, what }) => (name, what),
            other => panic!("{other:?}"),
        }
    };
    let write =
        |name: &'static str, size: usize| move |folder: &Path| fs::write(folder.join(name), vec![0; size]).unwrap();
    assert_eq!(refusal(&write("a\nb", 0)), ("a\nb".to_owned(), "its name is not safe"));
    assert_eq!(refusal(&write(".hidden", 0)).1, "its name is not safe");
    assert_eq!(refusal(&write("-rf", 0)).1, "its name is not safe");
    assert_eq!(refusal(&write("large", (1 << 20) + 1)).1, "it is larger than 1 MiB");
    let link = |folder: &Path| std::os::unix::fs::symlink("/etc/passwd", folder.join("passwd")).unwrap();
    assert_eq!(refusal(&link), ("passwd".to_owned(), "it is not a regular file"));
    let many = |folder: &Path| (0..65).for_each(|number| fs::write(folder.join(format!("{number}")), "").unwrap());
    assert_eq!(refusal(&many).1, "there are more than 64");
}

/// An agent that gives the same answer to every command.
struct Liar(Value);

impl Agent for Liar {
    fn command(&self, request: &Value) -> Answer {
        match (&self.0, request["execute"].as_str()) {
            (Value::String(error), _) => Err(error.clone().into()),
            (answer, Some("guest-exec-status")) => Ok(answer.clone()),
            _ => Ok(json!({ "pid": 1 })),
        }
    }
}

#[test]
fn invalid_answers_of_an_agent_are_refused() {
    let data = |data: &str| json!({ "exited": true, "exitcode": 0, "out-data": data });
    let huge = "A".repeat(3 << 20);
    let lies = [
        json!({}),
        json!([]),
        json!({ "exited": "yes" }),
        json!({ "exited": true, "exitcode": "0" }),
        json!({ "exited": true, "exitcode": 1 }),
        json!({ "exited": true, "signal": 9 }),
        json!({ "exited": true, "exitcode": 0, "out-data": 7 }),
        json!({ "exited": true, "exitcode": 0, "out-data": "", "out-truncated": true }),
        data("?"),
        data(&huge),
        // "..\0", "a/b\0" and 65 names.
        data("Li4A"),
        data("YS9iAA=="),
        data(&BASE64.encode(b"x\0".repeat(65))),
    ];
    for lie in lies {
        let liar = Liar(lie);
        assert!(Guest::new(&liar, "run").artifacts().is_err(), "{}", liar.0);
    }
    // Invalid exit statuses, and a hook with impossibly much output.
    for collected in ["", "\n", "256\n", "-1\nx", "0", "x\n"] {
        let liar = Liar(data(&BASE64.encode(collected.as_bytes())));
        let ran = Guest::new(&liar, "run").run(&sh(""), LONG, None);
        assert!(if collected == "0" { ran.is_ok() } else { matches!(ran, Err(Error::Answer { .. })) }, "{collected:?}");
    }
    let much = format!("0\n{}", "line\n".repeat(200_000));
    let liar = Liar(data(&BASE64.encode(much.as_bytes())));
    assert!(Guest::new(&liar, "run").run(&sh(""), LONG, None).unwrap().output.len() <= MAX_OUTPUT);
}

#[test]
fn missing_agent_is_reported() {
    let liar = Liar("the agent is not connected".into());
    let error = Guest::new(&liar, "run").prepare(b"{}").unwrap_err();
    assert_eq!(error.to_string(), "the guest agent cannot create a directory for hooks");
    assert!(error.hint().unwrap().contains("guest-exec"));
}
