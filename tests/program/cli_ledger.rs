//! Records of the commands in the state directory, for monitoring.

use crate::host::Host;
use serde_json::{Value, json};

fn read(host: &Host, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(host.path("state").join(name)).unwrap()).unwrap()
}

fn ledger(host: &Host) -> Value {
    read(host, "ledger.json")
}

#[test]
fn run_is_recorded_in_the_ledger_and_its_observations_in_the_survey() {
    let mut host = Host::new(&["a", "b", "gone", "lab"]);
    std::fs::remove_file(host.image("gone")).unwrap();
    host.configure("", "{a: {day_of_week: daily, job: own, rotate: 3, quiesce: never}, gone: {day_of_week: daily}, b: {day_of_week: daily}}");
    host.run("backup --json").ends(1);
    let told = ledger(&host);
    assert_eq!(told["config_ok"], true);
    assert_eq!(
        (&told["jobs"]["own"]["runs"], &told["jobs"]["desk"]["runs"]),
        (&json!({"success": 1}), &json!({"partial": 1}))
    );
    assert_eq!(told["jobs"]["desk"]["domains"], json!({"selected": 2, "success": 1, "failure": 1}));
    assert_eq!(told["jobs"]["desk"]["running"], Value::Null);
    let (a, gone) = (&told["domains"]["a"], &told["domains"]["gone"]);
    assert_eq!((&a["job"], &a["last_result"], &a["wanted"]), (&json!("own"), &json!("success"), &json!("crash")));
    assert_eq!(a["last_stored_bytes"], std::fs::metadata(&host.archives("a")[0]).unwrap().len());
    assert!(a["last_stages_ms"]["copy"].is_u64() && a["last_stages_ms"]["prune"].is_u64(), "{a:#}");
    assert_eq!((&gone["last_result"], &gone["consecutive_failures"]), (&json!("failure"), &json!(1)));
    assert_eq!(gone["failures"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>(), 1);

    let survey = read(&host, "survey.json");
    let seen = |name: &str| survey["domains"][name].clone();
    assert_eq!((&survey["libvirt_ok"], &survey["repository"]["up"]), (&json!(true), &json!(true)));
    assert_eq!((&seen("lab")["job"], &seen("lab")["defined"]), (&Value::Null, &json!(true)));
    assert_eq!((&seen("a")["job"], &seen("a")["points"]["count"]), (&json!("own"), &json!(1)));
    assert_eq!(survey["jobs"]["own"], json!({"expected_interval_s": 86400, "minimum_restore_points": 3}));

    // A guest without any trace left is removed from both.
    host.undefine("gone");
    host.configure("", "{a: {day_of_week: daily}}");
    host.run("backup").ends(0);
    assert!(ledger(&host)["domains"].get("gone").is_none() && ledger(&host)["jobs"].get("own").is_none());
    assert!(ledger(&host)["domains"].get("b").is_some(), "it has restore points");
}

#[test]
fn checks_restores_and_prunes_record_their_dates() {
    let host = Host::new(&["a"]);
    host.run("backup").ends(0);
    let date = |key: &str| ledger(&host)["domains"]["a"][key].clone();
    assert_eq!((date("last_verify"), date("last_restore")), (Value::Null, Value::Null));
    let archive = host.archives("a").remove(0);
    let bytes = std::fs::read(&archive).unwrap();
    std::fs::write(&archive, &bytes[..bytes.len() / 2]).unwrap();
    host.run("verify").ends(6);
    assert_eq!(date("last_verify"), Value::Null);
    std::fs::write(&archive, &bytes).unwrap();
    host.run("verify").ends(0);
    assert!(date("last_verify").is_string());
    host.run(&format!("restore nosuch --to {}", host.path("out").display())).ends(1);
    assert_eq!(date("last_restore"), Value::Null);
    host.run(&format!("restore a --to {}", host.path("out").display())).ends(0);
    assert!(date("last_restore").is_string());
    host.run("prune --dry-run").ends(0);
    assert_eq!(ledger(&host)["last_prune"], Value::Null);
    host.run("prune").ends(0);
    assert!(ledger(&host)["last_prune"].is_string());
}

#[test]
fn runs_that_cannot_start_are_counted_unless_another_run_is_active() {
    let host = Host::new(&["a"]);
    let count = |result: &str| ledger(&host)["jobs"]["desk"]["runs"][result].as_u64().unwrap_or(0);
    // Nothing is created in an empty place.
    let good = std::fs::read_to_string(host.path("config.yml")).unwrap();
    host.configure("qqq: 1", "{a: {day_of_week: daily}}");
    let bad = std::fs::read_to_string(host.path("config.yml")).unwrap();
    host.run("backup").ends(2);
    assert!(!host.path("state").exists());
    host.write_config(&good);
    host.run("backup").ends(0);
    host.write_config(&bad);
    host.run("backup --dry-run").ends(2);
    assert_eq!((&ledger(&host)["config_ok"], count("failure")), (&json!(true), 0));
    host.run("backup").ends(2);
    assert_eq!((&ledger(&host)["config_ok"], count("failure"), count("success")), (&json!(false), 1, 1));
    host.write_config(&good);
    let lock = std::fs::File::open(host.path("state/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    host.run("backup").ends(3);
    // Closing the file is not enough: a process that another test is starting has inherited it until it executes its
    // program.
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::Unlock).unwrap();
    assert_eq!(count("failure"), 1);
    host.configure("libvirt_uri: test:///nowhere/at/all", "{a: {day_of_week: daily}}");
    host.run("backup").ends(4);
    assert_eq!((&ledger(&host)["config_ok"], count("failure")), (&json!(true), 2));
    let survey = read(&host, "survey.json");
    assert_eq!((&survey["libvirt_ok"], &survey["domains"]["a"]["defined"]), (&json!(false), &json!(true)));
    host.configure(&format!("backupdir: {}", host.path("no/where").display()), "{a: {day_of_week: daily}}");
    host.run("backup").ends(5);
    let survey = read(&host, "survey.json");
    assert_eq!((&survey["repository"]["up"], &survey["domains"]["a"]["points"]["count"]), (&json!(false), &json!(1)));
    assert_eq!((count("failure"), count("success")), (3, 1));
}

#[test]
fn reasons_and_skipped_domains_are_recorded_separately() {
    let host = Host::new(&["a", "b", "c"]);
    let hook = |phase: &str, status: u8, on_error: &str| {
        let command = format!("[/bin/sh, -c, \"exit {status}\"]");
        host.configure(
            &format!("hooks: [{{name: n, phase: {phase}, command: {command}, on_error: {on_error}}}]"),
            "{\"*\": {day_of_week: daily}, nosuch: {day_of_week: daily}}",
        );
    };
    hook("pre-domain", 1, "fail_run");
    let report = host.run("backup --json").ends(1).json();
    let reasons: Vec<_> = report["domains"].as_array().unwrap().iter().map(|domain| domain["reason"].clone()).collect();
    assert_eq!(reasons, [json!("other"), json!("hook"), Value::Null, Value::Null], "nosuch, a, b, c");
    let states = |of: &Value| of["jobs"]["desk"]["domains"].clone();
    assert_eq!(states(&ledger(&host)), json!({"selected": 4, "failure": 2, "not_run": 2}));
    assert_eq!(ledger(&host)["domains"]["a"]["failures"], json!({"hook": 1}));
    assert!(ledger(&host)["domains"]["nosuch"].is_object() && ledger(&host)["domains"].get("b").is_none());
    hook("pre-domain", 75, "fail_domain");
    host.run("backup").ends(1);
    let a = ledger(&host)["domains"]["a"].clone();
    assert_eq!((&a["last_result"], &a["consecutive_failures"]), (&json!("skipped"), &json!(1)));
    // The whole run is skipped: nothing is counted.
    let runs = ledger(&host)["jobs"]["desk"]["runs"].clone();
    hook("pre-run", 75, "fail_domain");
    host.run("backup").ends(0);
    assert_eq!(ledger(&host)["jobs"]["desk"]["runs"], runs);
    hook("pre-run", 1, "fail_run");
    host.run("backup").ends(1);
    assert_eq!((runs, ledger(&host)["jobs"]["desk"]["runs"].clone()), (json!({"failure": 2}), json!({"failure": 3})));
}

#[test]
fn signal_aborts_the_run_and_untried_domains_are_recorded_as_not_run() {
    let host = Host::new(&["a", "b", "c"]);
    let command = "[/bin/sh, -c, 'if [ $KVMBACKUP_DOMAIN = b ]; then kill -TERM $PPID; fi']";
    let hooks = format!("hooks: [{{name: n, phase: pre-domain, command: {command}}}]");
    host.configure(&hooks, "{\"*\": {day_of_week: daily}}");
    host.run("backup").ends(143);
    let told = ledger(&host);
    let job = &told["jobs"]["desk"];
    assert_eq!(
        (&job["runs"], &job["running"], &job["last_success"]),
        (&json!({"aborted": 1}), &Value::Null, &Value::Null)
    );
    assert_eq!(job["domains"], json!({"selected": 3, "success": 1, "failure": 1, "not_run": 1}));
    assert_eq!(told["domains"]["b"]["last_result"], "failure");
    assert!(told["domains"].get("c").is_none());
}

#[test]
fn unwritable_ledger_affects_no_backup() {
    let host = Host::new(&["a"]);
    host.run("backup").ends(0);
    let path = host.path("state/ledger.json");
    std::fs::write(&path, "what is this?").unwrap();
    host.run("backup").ends(0);
    assert_eq!(std::fs::read_to_string(host.path("state/ledger.json.bad")).unwrap(), "what is this?");
    assert_eq!(ledger(&host)["jobs"]["desk"]["runs"], json!({"success": 1}));

    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let run = host.run("backup").ends(7);
    assert!(run.err.contains("kvmbackup: cannot update the ledger: ") && run.err.contains("hint: "), "{}", run.err);
    assert_eq!(host.archives("a").len(), 3);
    host.run("verify").ends(7);
    std::fs::remove_file(host.image("a")).unwrap();
    host.run("backup").ends(1);
}
