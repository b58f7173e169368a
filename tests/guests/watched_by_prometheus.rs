//! End to end: a real backup, the textfile through Debian's node_exporter and the exporter over HTTP, both scraped by
//! Debian's Prometheus with the project's rules. Everything listens on loopback.

use crate::lab;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::lab::{DEADLINE, Disk, Lab, Program, free_port, run, wait_until};
use serde_json::{Value, json};

const HOOK: &str = "fragile";
const ALERT: &str = "KvmBackupHookFailing";

#[test]
fn prometheus_gets_the_same_values_from_both_sources_and_alerts_on_a_failing_hook() {
    let lab = Lab::new();
    let guest = lab.guest("watched").disk(Disk::qcow2("vda")).paused();
    guest.write("vda", 0xbb, 2 << 20, 65536);
    let textfile = lab.path("textfiles/kvmbackup.prom");
    std::fs::create_dir(textfile.parent().unwrap()).unwrap();
    let broken = lab.path("broken");
    let hook = json!({"name": HOOK, "phase": "pre-domain", "on_error": "warn",
        "command": ["/usr/bin/test", "!", "-e", broken]});
    let program = Program::new(&lab)
        .set("metrics", json!({"textfile": textfile}))
        .domain(guest.name(), json!({"quiesce": "never", "hooks": [hook]}));

    let report = program.backup_well();
    let exporter = exporter(&program);
    let node = node_exporter(&lab, textfile.parent().unwrap());
    let prometheus = Prometheus::start(&lab, &[("node", &node.address), ("kvmbackup", &exporter.address)]);
    assert_eq!(program.run(&["metrics"]).code, 0);
    wait_until(DEADLINE, "the same series from node_exporter and from the exporter", || {
        let [node, exporter] = ["node", "kvmbackup"].map(|job| prometheus.series(job));
        node.len() > 40 && node == exporter
    });
    let outcome = report.domain(guest.name());
    let stored = outcome["stored_bytes"].as_f64().unwrap().to_string();
    // A late scrape leaves a gap of a second.
    for (metric, value) in [
        ("kvmbackup_domain_last_stored_bytes", stored.as_str()),
        ("kvmbackup_domain_restore_points", "1"),
        ("kvmbackup_domain_defined", "1"),
    ] {
        let query = format!("{metric}{{domain=\"{}\"}}", guest.name());
        wait_until(DEADLINE, &format!("{query} to be {value}, from both"), || {
            let values = prometheus.values(&query);
            values.len() == 2 && values.into_values().all(|own| own == value)
        });
    }
    wait_until(DEADLINE, "all to be well", || prometheus.firing().is_empty());

    std::fs::write(broken, "").unwrap();
    assert_eq!(program.run(&["backup", "--force"]).code, 0, "a hook with on_error: warn does not fail a backup");
    let mut told = [&node.address, &exporter.address].map(|address| format!("{HOOK} failed {address}"));
    told.sort();
    let alert = BTreeMap::from([(ALERT.to_owned(), told.to_vec())]);
    wait_until(DEADLINE, "the alert about the hook, from both, and no other", || prometheus.firing() == alert);
}

/// A server of another project; ended when dropped.
struct Server {
    child: Child,
    /// Host and port.
    address: String,
}

impl Server {
    /// Starts it; its output goes to a file of the lab that has its name.
    fn start(lab: &Lab, name: &str, args: &[String], address: String) -> Server {
        let log = File::create(lab.path(&format!("{name}.log"))).unwrap();
        let mut command = Command::new(name);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}; tests/lab/install installs it"));
        Server { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `kvmbackup exporter`, which chooses its port itself.
fn exporter(program: &Program) -> Server {
    let mut command = program.command();
    let mut child = command.args(["exporter", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("serving on ").unwrap_or_else(|| panic!("it printed {line:?}")).to_owned();
    Server { child, address }
}

/// Debian's node_exporter, which exports only the textfiles of a directory.
fn node_exporter(lab: &Lab, textfiles: &Path) -> Server {
    let address = free_address();
    let args = [
        format!("--web.listen-address={address}"),
        "--collector.disable-defaults".to_owned(),
        "--collector.textfile".to_owned(),
        format!("--collector.textfile.directory={}", textfiles.display()),
    ];
    Server::start(lab, "prometheus-node-exporter", &args, address)
}

/// An unused port.
fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// Debian's Prometheus.
struct Prometheus {
    server: Server,
}

impl Prometheus {
    /// Scrapes these jobs and evaluates the project's rules every second.
    fn start(lab: &Lab, jobs: &[(&str, &str)]) -> Prometheus {
        let jobs: Vec<_> = jobs
            .iter()
            .map(|(name, target)| json!({"job_name": name, "static_configs": [{"targets": [target]}]}))
            .collect();
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts/kvmbackup.rules.yml");
        let every = json!({"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"});
        let config = json!({"global": every, "rule_files": [rules], "scrape_configs": jobs});
        // YAML is a superset of JSON.
        std::fs::write(lab.path("prometheus.yml"), config.to_string()).unwrap();
        let address = free_address();
        let args = [
            format!("--config.file={}", lab.path("prometheus.yml").display()),
            format!("--storage.tsdb.path={}", lab.path("prometheus").display()),
            format!("--web.listen-address={address}"),
        ];
        let server = Server::start(lab, "prometheus", &args, address);
        let url = format!("http://{}/-/ready", server.address);
        wait_until(DEADLINE, "Prometheus", || lab::try_run("curl", &["-sf", &url]).status.success());
        Prometheus { server }
    }

    /// Answers of its API.
    fn ask(&self, path: &str, args: &[&str]) -> Value {
        let url = format!("http://{}/api/v1/{path}", self.server.address);
        let answer: Value = serde_json::from_str(&run("curl", &[&["-sSG", &url], args].concat())).unwrap();
        assert_eq!(answer["status"], "success", "{answer:#}");
        answer["data"].clone()
    }

    /// The current values of a query, by labels.
    fn values(&self, query: &str) -> BTreeMap<String, String> {
        let data = self.ask("query", &["--data-urlencode", &format!("query={query}")]);
        let results = data["result"].as_array().unwrap();
        results.iter().map(|of| (of["metric"].to_string(), of["value"][1].as_str().unwrap().to_owned())).collect()
    }

    /// All backup metrics of one job, without the job's own labels.
    fn series(&self, job: &str) -> BTreeMap<String, String> {
        let query = format!("{{__name__=~\"kvmbackup_.+\", __name__!~\"kvmbackup_exporter_.+\", job=\"{job}\"}}");
        let values = self.values(&query).into_iter();
        let without_target = values.map(|(labels, value)| {
            let mut labels: BTreeMap<String, Value> = serde_json::from_str(&labels).unwrap();
            labels.retain(|name, _| name != "job" && name != "instance");
            (json!(labels).to_string(), value)
        });
        without_target.collect()
    }

    /// Firing alerts; for each of them the hook, its result, and the source.
    fn firing(&self) -> BTreeMap<String, Vec<String>> {
        let alerts = self.ask("alerts", &[])["alerts"].as_array().unwrap().clone();
        let mut firing: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for alert in alerts.iter().filter(|alert| alert["state"] == "firing") {
            let label = |name: &str| alert["labels"][name].as_str().unwrap_or_default().to_owned();
            let told = ["hook", "result", "instance"].map(label).join(" ");
            firing.entry(label("alertname")).or_default().push(told);
        }
        firing.values_mut().for_each(|alerts| alerts.sort());
        firing
    }
}
