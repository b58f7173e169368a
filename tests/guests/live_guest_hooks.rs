//! Hooks in a real guest, through its agent: commands, sessions, what they leave, and that the guest ends them by
//! itself.

use crate::lab;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::lab::{Disk, Lab, try_virsh, wait_until};
use kvmbackup::hooks::{Agent, Call, Deadlines, Ended, Error, Guest, Held, Ran, Runner, Started};
use kvmbackup::hypervisor::{Agents, Guests, Libvirt, in_ascii};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(120);
const FAR: Deadlines = Deadlines { ready: LONG, hold: LONG, release: LONG };

/// A guest's agent, through virsh.
struct Virsh(String);

impl Agent for Virsh {
    fn command(&self, request: &Value) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        let answer = try_virsh(&["qemu-agent-command", "--timeout", "30", &self.0, &in_ascii(request)])?;
        Ok(serde_json::from_str::<Value>(&answer)?["return"].take())
    }
}

fn sh(script: &str) -> Call {
    let env = [("PATH", "/bin:/sbin"), ("KVMBACKUP_API", "1"), ("ODD", "a 'b' $c\nü")];
    Call {
        argv: ["/bin/sh", "-c", script, "hook", "an 'odd' $word"].map(str::to_owned).to_vec(),
        env: BTreeMap::from(env.map(|(key, value)| (key.to_owned(), value.to_owned()))),
    }
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

/// Holds a lock file until the release, and logs its cause.
const SESSION: &str = "trap 'rm -f /tmp/lock' EXIT; : >/tmp/lock; echo READY; read word; echo \"told $word\"; \
                       rm /tmp/lock; read more || echo end";

/// One guest for all checks, because booting takes most of the time.
#[test]
fn hooks_run_in_a_guest() {
    let lab = Lab::new();
    let machine = lab.guest("ghooks").disk(Disk::qcow2("vda")).system("").boot();
    let agent = Virsh(machine.name().to_owned());
    let guest = Guest::new(&agent, "run");
    guest.prepare(b"{\"run\": 1}\n").unwrap();

    the_adapter_asks_the_same_agent(machine.name());
    commands(&guest);
    sessions(&guest, &machine);
    a_session_that_nobody_releases(&guest);
    a_wrapper_that_dies(&guest);
    artifacts(&guest);

    // Nothing is left; the second directory exists only while it is used.
    let other = Guest::new(&agent, "other");
    guest.clean();
    other.prepare(b"").unwrap();
    assert_eq!(run(&other, "ls -d /run/kvmbackup-* | wc -l", LONG).output, "1\n");
    // The sessions' deadlines, which are longer than that of this command. busybox's own `timeout` checks once per
    // second.
    wait_until(LONG, "the end of all sessions", || {
        run(&other, "ps -o args | grep '^timeout -k 5 [23]..'", LONG).ended == Ended::Exit(1)
    });
    other.clean();
}

fn the_adapter_asks_the_same_agent(name: &str) {
    let libvirt = Libvirt::connect("qemu:///system").unwrap();
    let (domain, _) = libvirt.domains().unwrap().into_iter().find(|(domain, _)| domain.name == name).unwrap();
    let arguments = json!({ "path": "/bin/true" });
    let started = libvirt.agent(&domain, &json!({ "execute": "guest-exec", "arguments": arguments })).unwrap();
    assert!(started["pid"].is_i64(), "{started}");
    let arguments = json!({ "path": "/bin/echo", "arg": ["ü 日本 😀"] });
    let started = libvirt.agent(&domain, &json!({ "execute": "guest-exec", "arguments": arguments })).unwrap();
    assert!(started["pid"].is_i64(), "{started}");
    let refused = libvirt.agent(&domain, &json!({ "execute": "guest-no-such-thing" })).unwrap_err();
    assert_eq!(refused.to_string(), format!("{name}: cannot query the guest agent (guest-no-such-thing)"));
}

fn commands(guest: &Guest<'_>) {
    let ran = run(guest, "printf '%s|' \"$1\" \"$ODD\" \"$KVMBACKUP_API\"; pwd; cat; echo err >&2; exit 75", LONG);
    assert_eq!((ran.ended, ran.output.as_str()), (Ended::Exit(75), "an 'odd' $word|a 'b' $c\nü|1|/\nerr\n"));
    let context = format!("cat {0}; stat -c %a {0} ${{0%/*}}; stat -c %a $(dirname {0})", guest.context_path());
    assert_eq!(run(guest, &context, LONG).output.lines().next(), Some("{\"run\": 1}"));
    let modes = format!("stat -c %a {0} $(dirname {0}) {1}", guest.context_path(), guest.artifact_dir());
    assert_eq!(run(guest, &modes, LONG).output, "600\n700\n700\n");

    let started = Instant::now();
    let ran = run(guest, "(trap '' TERM; exec sleep 4321) & echo on; sleep 4321", Duration::from_secs(5));
    assert_eq!((ran.ended, ran.output.as_str()), (Ended::TimedOut, "on\n"));
    assert!(started.elapsed() < LONG);
    ends(guest, "sleep 4321");
}

/// A killed process exists until it has handled the signal.
fn ends(guest: &Guest<'_>, process: &str) {
    wait_until(LONG, &format!("the end of `{process}`"), || {
        run(guest, &format!("ps -o args | grep -qx '{process}'"), LONG).ended == Ended::Exit(1)
    });
}

fn sessions(guest: &Guest<'_>, machine: &lab::Guest) {
    let held = ready(guest, SESSION, FAR);
    assert_eq!(run(guest, "ls /tmp/lock", LONG).output, "/tmp/lock\n");
    // While file systems are frozen the agent starts nothing; the session keeps its lock.
    machine.agent("guest-fsfreeze-freeze", &json!({}));
    assert!(guest.run(&sh(""), LONG, None).is_err());
    machine.agent("guest-fsfreeze-thaw", &json!({}));
    let released = held.release();
    assert!(released.kept, "{released:?}");
    assert_eq!((released.ran.ended, released.ran.output.as_str()), (Ended::Exit(0), "READY\ntold RELEASE\nend\n"));
    assert_eq!(run(guest, "[ ! -e /tmp/lock ]", LONG).ended, Ended::Exit(0));

    match guest.hold(&sh("echo 'not now'; exit 75"), FAR, None).unwrap() {
        Started::NotReady(ran) => assert_eq!((ran.ended, ran.output.as_str()), (Ended::Exit(75), "not now\n")),
        Started::Ready(_) => panic!("ready"),
    }
    let soon = Deadlines { ready: Duration::from_secs(2), ..FAR };
    match guest.hold(&sh("exec sleep 4322"), soon, None).unwrap() {
        Started::NotReady(ran) => assert_eq!(ran.ended, Ended::TimedOut),
        Started::Ready(_) => panic!("ready"),
    }
    ends(guest, "sleep 4322");
}

fn a_session_that_nobody_releases(guest: &Guest<'_>) {
    let held = ready(guest, SESSION, Deadlines { hold: Duration::from_secs(2), ..FAR });
    wait_until(LONG, "the guest to release the session", || {
        run(guest, "[ ! -e /tmp/lock ]", LONG).ended == Ended::Exit(0)
    });
    let released = held.release();
    assert!(!released.kept);
    assert_eq!((released.ran.ended, released.ran.output.as_str()), (Ended::Exit(0), "READY\ntold RELEASE\nend\n"));

    // A session that ignores RELEASE and the end of its input is ended by `timeout`, without kvmbackup.
    let second = Duration::from_secs(1);
    let deaf =
        ready(guest, "echo READY; exec sleep 4323", Deadlines { ready: LONG / 12, hold: second, release: second });
    ends(guest, "sleep 4323");
    let released = deaf.release();
    assert!(!released.kept);
    assert!(released.ran.ended != Ended::Exit(0), "{released:?}");
}

fn a_wrapper_that_dies(guest: &Guest<'_>) {
    let held = ready(guest, SESSION, FAR);
    // The session was started before this command, so its number is the lowest; its parent's parent is the wrapper.
    let kill = format!(
        "parent() {{ sed -n 's/^PPid:.//p' /proc/$1/status; }}; cd {}; \
         pid=$(cat $(ls ../*.group | sort -t / -n -k 2 | head -n 1)); kill -KILL $(parent $(parent $pid))",
        guest.artifact_dir()
    );
    assert_eq!(run(guest, &kill, LONG).ended, Ended::Exit(0));
    let killed = Instant::now();
    wait_until(LONG, "the session to let go", || run(guest, "[ ! -e /tmp/lock ]", LONG).ended == Ended::Exit(0));
    assert!(killed.elapsed() < LONG / 2, "long before its deadline");
    assert!(!held.release().kept);
}

fn artifacts(guest: &Guest<'_>) {
    assert_eq!(guest.artifacts().unwrap(), []);
    let folder = guest.artifact_dir().to_owned();
    run(guest, &format!("cd {folder}; echo '000042 1337' >binlog.pos; head -c 1048576 /dev/zero >label"), LONG);
    let found = guest.artifacts().unwrap();
    assert!(found == [("binlog.pos".into(), b"000042 1337\n".to_vec()), ("label".into(), vec![0; 1 << 20])]);

    let refusal = |make: &str, undo: &str| {
        run(guest, &format!("cd {folder}; {make}"), LONG);
        let error = guest.artifacts().unwrap_err();
        run(guest, &format!("cd {folder}; {undo}"), LONG);
        match error {
            Error::Artifact { name, what } => (name, what),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refusal("echo >'a\nb'", "rm a*b"), ("a\nb".into(), "its name is not safe"));
    assert_eq!(refusal("echo >./-rf", "rm ./-rf").1, "its name is not safe");
    assert_eq!(refusal("ln -s /init passwd", "rm passwd"), ("passwd".into(), "it is not a regular file"));
    assert_eq!(refusal("echo >>label", "rm label"), ("label".into(), "it is larger than 1 MiB"));
}
