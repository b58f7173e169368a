//! `verify` at a site with many restore points: its order, what remains, and what is recorded.

use crate::host::Host;
use serde_json::{Value, json};

fn checked(host: &Host, words: &str) -> Value {
    host.run(&format!("verify --json {words}")).ends(0).json()
}

fn ids(checks: &Value) -> Vec<&str> {
    checks["points"].as_array().unwrap().iter().map(|point| point["id"].as_str().unwrap()).collect()
}

fn domains(checks: &Value) -> Vec<&str> {
    checks["points"].as_array().unwrap().iter().map(|point| point["domain"].as_str().unwrap()).collect()
}

#[test]
fn verify_continues_where_the_last_one_ended_and_omits_recently_checked_points() {
    let host = Host::new(&["a", "b", "c"]);
    host.run("backup").ends(0);
    host.age("b", &[2, 1]);
    checked(&host, "a");
    let all = checked(&host, "--all");
    assert_eq!(domains(&all), ["b", "b", "c", "a"], "{all:#}");
    assert_eq!((&all["gone"], &all["left"]), (&json!(0), &json!(0)));

    let none = host.run("verify --all --older-than 1d").ends(0);
    assert_eq!(none.out, "no restore point needs verification\n");
    assert_eq!(ids(&checked(&host, "--all --older-than 0s")).len(), 4);
    let oldest = checked(&host, "b");
    assert_eq!(domains(&checked(&host, "--all"))[3], "b", "{oldest:#}");

    host.run("backup --force c").ends(0);
    let new = checked(&host, "--all --older-than 7d");
    assert_eq!(domains(&new), ["c"], "{new:#}");
}

#[test]
fn verify_starts_no_check_after_its_time_and_counts_the_remaining_ones() {
    let host = Host::new(&["a", "b"]);
    host.run("backup").ends(0);
    let none = checked(&host, "--all --for 0s");
    assert_eq!((&none["points"], &none["left"]), (&json!([]), &json!(2)));
    assert_eq!(host.run("verify --all --for 0s").ends(0).out, "2 restore points left for the next run\n");
    assert_eq!(host.run("verify --all --for 0s -q").ends(0).out, "");
    assert_eq!(checked(&host, "--all --for 1d")["left"], 0);
    host.run("verify --all --for soon").ends(2);
}

#[test]
fn check_with_a_date_in_the_future_is_ignored() {
    let host = Host::new(&["a"]);
    host.run("backup").ends(0);
    checked(&host, "a");
    let record = host.path("state/verified.json");
    let mut ahead: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    for check in ahead["domains"]["a"].as_object_mut().unwrap().values_mut() {
        check["time"] = json!("2999-01-01T00:00:00Z");
    }
    std::fs::write(&record, ahead.to_string()).unwrap();
    assert_eq!(domains(&checked(&host, "--older-than 7d")), ["a"]);
    let now = std::fs::read_to_string(&record).unwrap();
    assert!(!now.contains("2999"), "{now}");
}

#[test]
fn damaged_point_is_checked_again_regardless_of_its_last_check() {
    let host = Host::new(&["a", "b"]);
    host.run("backup").ends(0);
    let archive = host.archives("a").remove(0);
    let bytes = std::fs::read(&archive).unwrap();
    std::fs::write(&archive, &bytes[..bytes.len() / 2]).unwrap();
    for _ in 0..2 {
        host.run("verify --all --older-than 7d").ends(6).tells(&["DAMAGED", "a"]);
    }
    let again = host.run("verify --all --older-than 7d --json").ends(6).json();
    assert_eq!(domains(&again), ["a"]);
}
