//! Tests hooks as processes: their order, the meaning of their failures, and what they receive.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::model::DomainRef;

struct Scene {
    dir: TempDir,
    domain: DomainRef,
    cancel: Cancel,
}

impl Scene {
    fn new() -> Scene {
        let domain = DomainRef { name: "db 1".into(), uuid: Uuid::from_u128(7) };
        Scene { dir: tempfile::tempdir().unwrap(), domain, cancel: Cancel::default() }
    }

    fn phases<'a>(&'a self, hooks: &'a [Hook]) -> Phases<'a> {
        let subject = Subject {
            run_id: Uuid::from_u128(9),
            host: "h",
            domain: Some(&self.domain),
            target: self.dir.path(),
            state_dir: self.dir.path(),
        };
        Phases::new(hooks, subject, None, &self.cancel)
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// A command that logs its name and ends with `then`.
    fn command(&self, name: &str, phases: &[Phase], then: &str) -> Hook {
        let script = format!("echo {name} $KVMBACKUP_PHASE $KVMBACKUP_STATUS >>{}; {then}", self.log().display());
        hook(name, HookKind::Command { phases: phases.to_vec(), timeout: Duration::from_secs(20) }, &script)
    }

    /// A session that logs when it begins and when it is released.
    fn session(&self, name: &str, between: &str) -> Hook {
        let log = self.log().display().to_string();
        let script = format!("echo {name} held >>{log}; echo READY; {between}; read word; echo {name} $word >>{log}");
        let (ready, hold, release) = (Duration::from_secs(20), Duration::from_secs(20), Duration::from_secs(20));
        hook(name, HookKind::Session { span: Span::Snapshot, ready, hold, release }, &script)
    }

    fn seen(&self) -> Vec<String> {
        let seen = fs::read_to_string(self.log()).unwrap_or_default().lines().map(str::to_owned).collect();
        let _ = fs::remove_file(self.log());
        seen
    }
}

fn hook(name: &str, kind: HookKind, script: &str) -> Hook {
    Hook {
        name: name.into(),
        line: 1,
        kind,
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        place: HookPlace::Host,
        domains: Vec::new(),
        order: 0,
        env: BTreeMap::new(),
        on_error: OnError::FailDomain,
    }
}

/// The hook with a short timeout that is still long enough for a busy machine.
fn impatient(mut hook: Hook) -> Hook {
    if let HookKind::Command { timeout, .. } = &mut hook.kind {
        *timeout = Duration::from_secs(5);
    }
    hook
}

const PRE: Phase = Phase::PreSnapshot;
const POST: Phase = Phase::PostSnapshot;

#[test]
fn spans_nest_and_are_left_in_reverse() {
    let scene = Scene::new();
    let hooks = [
        scene.command("a", &[Phase::PreDomain, Phase::PostDomain], ":"),
        scene.command("b", &[PRE, POST], ":"),
        scene.session("c", ":"),
        scene.command("d", &[PRE, POST], ":"),
    ];
    let mut phases = scene.phases(&hooks);
    phases.enter(Span::Domain).unwrap();
    phases.enter(Span::Snapshot).unwrap();
    assert_eq!(scene.seen(), ["a pre-domain running", "b pre-snapshot running", "c held", "d pre-snapshot running"]);
    phases.leave(Span::Snapshot, None).unwrap();
    assert_eq!(scene.seen(), ["d post-snapshot ok", "c RELEASE", "b post-snapshot ok"]);
    assert!(phases.quiesced());
    phases.leave(Span::Snapshot, None).unwrap();
    assert_eq!(scene.seen(), [""; 0], "a span must be left only once");
    phases.enter(Span::Commit).unwrap();
    let failure = Failure { message: "m".into(), hint: None };
    phases.leave(Span::Domain, Some(&failure)).unwrap();
    assert_eq!(scene.seen(), ["a post-domain failed"]);
    let (results, warnings) = phases.finish();
    assert!(warnings.is_empty() && results.iter().all(|result| result.status == HookStatus::Ok));
    let session = results.iter().find(|result| result.name == "c").unwrap();
    assert!(session.held_ms.is_some() && session.phase == "snapshot");
}

/// zrepl stops in this situation, and the lock of the first hook remains.
#[test]
fn first_hook_is_undone_if_the_second_fails() {
    for fatal in ["exit 3", "kill -9 $$", "exec sleep 60"] {
        let scene = Scene::new();
        let hooks = [
            scene.command("one", &[PRE, POST], ":"),
            scene.session("held", ":"),
            impatient(scene.command("two", &[PRE, POST], &format!("[ $KVMBACKUP_PHASE = post-snapshot ] || {fatal}"))),
            scene.command("three", &[PRE, POST], ":"),
            scene.command("always", &[POST], ":"),
        ];
        let mut phases = scene.phases(&hooks);
        let error = phases.enter(Span::Snapshot).unwrap_err();
        assert!(matches!(&error, Error::HookFailed { run: false, .. }), "{error:?}");
        assert!(error.to_string().starts_with("hook two (pre-snapshot): "), "{error}");
        let seen = scene.seen();
        let began = ["one pre-snapshot running", "held held", "two pre-snapshot running"];
        let left =
            ["always post-snapshot failed", "two post-snapshot failed", "held RELEASE", "one post-snapshot failed"];
        assert_eq!(seen, [&began[..], &left[..]].concat(), "hook three must not run");
    }
}

#[test]
fn drop_leaves_all_spans() {
    let scene = Scene::new();
    let hooks = [scene.command("a", &[Phase::PreDomain, Phase::PostDomain], ":"), scene.session("c", ":")];
    let mut phases = scene.phases(&hooks);
    phases.enter(Span::Domain).unwrap();
    phases.enter(Span::Snapshot).unwrap();
    scene.seen();
    drop(phases);
    assert_eq!(scene.seen(), ["c RELEASE", "a post-domain failed"]);
    assert_eq!(
        fs::read_dir(scene.dir.path().join("hooks")).unwrap().count(),
        0,
        "the directory of the hooks was not removed"
    );
}

#[test]
fn on_error_determines_the_effect_of_a_failure() {
    let scene = Scene::new();
    for (on_error, fails, warns) in [
        (OnError::FailDomain, true, 0),
        (OnError::FailRun, true, 0),
        (OnError::Warn, false, 1),
        (OnError::Degrade, false, 1),
        (OnError::Ignore, false, 0),
    ] {
        let hooks =
            [Hook { on_error, ..scene.command("a", &[PRE], "echo because; exit 4") }, scene.session("held", ":")];
        let mut phases = scene.phases(&hooks);
        let entered = phases.enter(Span::Snapshot);
        assert_eq!(entered.is_err(), fails, "{on_error:?}");
        assert_eq!(matches!(entered, Err(Error::HookFailed { run: true, .. })), on_error == OnError::FailRun);
        phases.leave(Span::Snapshot, None).unwrap();
        let application = matches!(on_error, OnError::Warn | OnError::Ignore);
        assert_eq!(phases.quiesced(), application, "{on_error:?}");
        let (results, warnings) = phases.finish();
        assert_eq!(warnings.len(), warns, "{on_error:?}: {warnings:?}");
        let result = &results[0];
        assert_eq!((result.status, result.output.as_deref()), (HookStatus::Failed, Some("because\n")));
        assert_eq!(result.message.as_deref(), Some("exit status 4"));
    }
}

#[test]
fn exit_status_75_skips_the_domain() {
    let scene = Scene::new();
    let hooks = [Hook { on_error: OnError::FailRun, ..scene.command("a", &[PRE], "exit 75") }];
    let mut phases = scene.phases(&hooks);
    assert!(matches!(phases.enter(Span::Snapshot), Err(Error::Skipped { hook }) if hook == "a"));
    assert_eq!(phases.results()[0].status, HookStatus::Skip);
    // A session may also skip the domain before READY.
    let session = hook(
        "s",
        HookKind::Session {
            span: Span::Snapshot,
            ready: Duration::from_secs(20),
            hold: Duration::from_secs(20),
            release: Duration::from_secs(20),
        },
        "exit 75",
    );
    let hooks = [session];
    assert!(matches!(scene.phases(&hooks).enter(Span::Snapshot), Err(Error::Skipped { .. })));
}

#[test]
fn lost_session_lowers_the_consistency() {
    let scene = Scene::new();
    let [go, pid] = ["go", "pid"].map(|name| scene.dir.path().join(name));
    let dies = format!("echo $$ >{}; until [ -e {} ]; do sleep 0.05; done; exit 0", pid.display(), go.display());
    let hooks = [scene.session("dies", &dies)];
    let mut phases = scene.phases(&hooks);
    phases.enter(Span::Snapshot).unwrap();
    let began = std::time::Instant::now();
    // It prints READY before it writes its pid.
    while !fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n')) {
        assert!(began.elapsed() < Duration::from_secs(60), "the session writes no pid");
    }
    fs::write(&go, "").unwrap();
    let process = || fs::read_to_string(format!("/proc/{}/stat", fs::read_to_string(&pid).ok()?.trim())).ok();
    while process().is_none_or(|stat| !stat.contains(") Z ")) && process().is_some() {
        assert!(began.elapsed() < Duration::from_secs(60), "the session does not end");
    }
    phases.leave(Span::Snapshot, None).unwrap();
    assert!(!phases.quiesced());
    let (results, warnings) = phases.finish();
    assert_eq!(results[0].status, HookStatus::Lost);
    assert!(warnings[0].message.contains("before it was released"), "{warnings:?}");

    let mut overheld = scene.session("slow", ":");
    let HookKind::Session { hold, .. } = &mut overheld.kind else { panic!() };
    *hold = Duration::from_millis(100);
    let hooks = [overheld];
    let mut phases = scene.phases(&hooks);
    phases.enter(Span::Snapshot).unwrap();
    let began = std::time::Instant::now();
    while !fs::read_to_string(scene.log()).is_ok_and(|log| log.contains("slow RELEASE")) {
        assert!(began.elapsed() < Duration::from_secs(60), "the session was not released at the end of `hold`");
        std::thread::yield_now();
    }
    phases.leave(Span::Snapshot, None).unwrap();
    assert!(!phases.quiesced());
}

#[test]
fn hook_receives_the_documented_environment_and_files() {
    let scene = Scene::new();
    let out = scene.dir.path().join("out");
    let script = format!(
        "env >{0}; cat $KVMBACKUP_CONTEXT >{0}.json; echo left >$KVMBACKUP_ARTIFACT_DIR/position; stat -c %a $KVMBACKUP_CONTEXT $KVMBACKUP_ARTIFACT_DIR >{0}.modes",
        out.display()
    );
    let env = BTreeMap::from([("MINE".to_owned(), "7".to_owned())]);
    let hooks =
        [Hook { env, ..hook("a", HookKind::Command { phases: vec![PRE], timeout: Duration::from_secs(21) }, &script) }];
    let mut phases = scene.phases(&hooks);
    phases.method(Method::Snapshot);
    phases.know(&serde_json::json!({"x": 1}));
    phases.enter(Span::Snapshot).unwrap();
    let env = fs::read_to_string(&out).unwrap();
    let lines: Vec<&str> = env.lines().collect();
    for line in [
        "KVMBACKUP_API=1",
        "KVMBACKUP_PHASE=pre-snapshot",
        "KVMBACKUP_RUN_ID=00000000-0000-0000-0000-000000000009",
        "KVMBACKUP_DOMAIN=db 1",
        "KVMBACKUP_DOMAIN_UUID=00000000-0000-0000-0000-000000000007",
        "KVMBACKUP_METHOD=snapshot",
        "KVMBACKUP_STATUS=running",
        "KVMBACKUP_ERROR=",
        "KVMBACKUP_DRY_RUN=0",
        "KVMBACKUP_TIMEOUT=21",
        &format!("KVMBACKUP_TARGET={}", scene.dir.path().display()),
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG=C.UTF-8",
        "MINE=7",
    ] {
        assert!(lines.contains(&line), "{line}: {env}");
    }
    assert!(!env.contains("CARGO"), "a hook must not inherit our environment: {env}");
    assert_eq!(fs::read_to_string(out.with_extension("modes")).unwrap(), "600\n700\n");
    let context: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(out.with_extension("json")).unwrap()).unwrap();
    assert_eq!((&context["schema"], &context["report"]["x"], &context["hook"]), (&1.into(), &1.into(), &"a".into()));
    assert_eq!(phases.artifacts().unwrap(), [("a".into(), "position".into(), b"left\n".to_vec())]);
    let folder = scene.dir.path().join("hooks");
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn hook_runs_only_for_the_domains_it_names() {
    let scene = Scene::new();
    let named = |pattern: &str| Hook { domains: vec![pattern.into()], ..scene.command("a", &[PRE], ":") };
    let hooks = [named("web*")];
    scene.phases(&hooks).enter(Span::Snapshot).unwrap();
    assert_eq!(scene.seen(), [""; 0]);
    let hooks = [named("db*")];
    scene.phases(&hooks).enter(Span::Snapshot).unwrap();
    assert_eq!(scene.seen().len(), 1);
}

#[test]
fn signal_stops_hooks_before_a_span_but_not_after_it() {
    let scene = Scene::new();
    let hooks = [scene.command("a", &[PRE, POST], ":"), scene.command("b", &[PRE], "sleep 60")];
    scene.cancel.cancel(15);
    let mut phases = scene.phases(&hooks);
    assert!(matches!(phases.enter(Span::Snapshot), Err(Error::Cancelled(15))));
    assert!(scene.seen().last().unwrap().starts_with("a post-snapshot"), "the hook after the span must run");
}
