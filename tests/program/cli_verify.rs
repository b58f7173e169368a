//! `verify` at a site with many restore points: its order, what remains, and what is recorded.

use crate::host::{Host, run};
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

#[test]
fn sample_does_not_count_as_verification_but_its_damage_does() {
    let host = Host::new(&["a"]);
    // Several pieces of noise.
    let noise = (0..3_u32 << 20).flat_map(|at| at.wrapping_mul(2_654_435_761).rotate_left(at % 31).to_le_bytes());
    let [raw, image] = [host.path("noise"), host.image("a")].map(|path| path.to_str().unwrap().to_owned());
    std::fs::write(&raw, noise.collect::<Vec<u8>>()).unwrap();
    run("qemu-img", &["convert", "-O", "qcow2", &raw, &image]);
    host.run("backup").ends(0);
    let checks = checked(&host, "--sample 5% --seed 7");
    assert_eq!(checks["sample"], json!({"percent": 5, "seed": 7}));
    let point = &checks["points"][0];
    assert_eq!(point["verdict"], "sampled");
    assert!(point["sample"]["read_bytes"].as_u64() < point["sample"]["data_bytes"].as_u64(), "{checks:#}");
    assert_eq!(checked(&host, "--sample 5% --seed 7")["points"][0]["sample"], point["sample"]);
    assert!(!host.path("state/verified.json").exists(), "nothing was verified completely");
    assert_eq!(host.run("list a --json").ends(0).json()["points"][0]["verified"], Value::Null);
    let told = host.run("verify --sample 5").ends(0).tells(&["sampled", "a", " of "]);
    assert!(told.out.contains("read 5% of the data; to read the same part: --sample 5% --seed "), "{}", told.out);
    assert_eq!(host.run("-q verify --sample 5").ends(0).out, "");

    for (words, verdict) in [("--sample 100%", "good"), ("", "good")] {
        let checks = checked(&host, words);
        assert_eq!((&checks["points"][0]["verdict"], &checks["sample"]), (&json!(verdict), &Value::Null), "{words}");
    }
    assert_eq!(host.run("list a --json").ends(0).json()["points"][0]["verified"]["good"], true);
    let archive = host.archives("a").remove(0);
    let good = std::fs::read(&archive).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2..good.len() / 2 + 16].iter_mut().for_each(|byte| *byte ^= 0xff);
    std::fs::write(&archive, &bad).unwrap();
    host.run("verify --sample 99%").ends(6).tells(&["DAMAGED", "a"]);
    assert_eq!(host.run("list a --json").ends(0).json()["points"][0]["verified"]["good"], false);
    // A sample of a repaired point does not show that all of it is good.
    std::fs::write(&archive, &good).unwrap();
    host.run("verify --sample 99%").ends(0).tells(&["sampled", "a"]);
    assert_eq!(host.run("list a --json").ends(0).json()["points"][0]["verified"]["good"], false);
    host.run("verify").ends(0).tells(&["good", "a"]);
}

#[test]
fn point_that_cannot_be_read_in_part_is_read_whole_and_counts_as_verified() {
    let host = Host::new(&["a"]);
    host.configure("", "{\"*\": {day_of_week: daily, compression: none}}");
    host.run("backup").ends(0);
    let checks = checked(&host, "--sample 5%");
    assert_eq!((&checks["points"][0]["verdict"], &checks["points"][0]["sample"]), (&json!("good"), &Value::Null));
    host.run("verify --sample 5%").ends(0).tells(&["good", "a", ", read whole"]);
    assert_eq!(host.run("list a --json").ends(0).json()["points"][0]["verified"]["good"], true);
}

#[test]
fn sample_is_a_percentage() {
    let host = Host::new(&["a"]);
    for words in ["0", "0%", "101%", "-1", "5.5%", "", "x", "5%%"] {
        let refused = host.run_words(&["verify", &format!("--sample={words}")]).ends(2);
        assert!(refused.err.contains("--sample") && refused.err.contains("1% to 100%"), "{words}: {}", refused.err);
    }
    host.run("verify --seed 5").ends(2);
}
