//! Commands that the program prints, run as printed: they work with the configuration in use, whatever its path is.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::host::{self, Host, Run};
use crate::serving::Exporter;
use crate::steps;
use kvmbackup::sys::step::Step;

const PROGRAM: &str = env!("CARGO_BIN_EXE_kvmbackup");

/// A host whose configuration is in a directory with a name that must be quoted for a shell.
struct Elsewhere {
    host: Host,
    config: PathBuf,
}

impl Elsewhere {
    fn new(guests: &[&str], keys: &str) -> Elsewhere {
        let host = Host::new(guests);
        host.configure(keys, "{\"*\": {day_of_week: daily}}");
        let folder = host.path("it's x y");
        fs::create_dir(&folder).unwrap();
        let config = folder.join("config.yml");
        fs::rename(host.path("config.yml"), &config).unwrap();
        Elsewhere { host, config }
    }

    fn command(&self, words: &str) -> Command {
        let mut command = self.host.command(PROGRAM);
        command.arg("-c").arg(&self.config).args(["--host", host::NAME]).args(words.split(' '));
        command
    }

    fn run(&self, words: &str) -> Run {
        self.host.finish(&mut self.command(words))
    }

    /// Runs the command of a text that starts with this word, up to the end of the line or of its quotes.
    #[track_caller]
    fn types(&self, text: &str, verb: &str) -> Run {
        let mut commands = text.match_indices("kvmbackup -c ").map(|(at, _)| text[at..].lines().next().unwrap());
        let line =
            commands.find(|line| line.contains(&format!(" --host desk {verb}"))).unwrap_or_else(|| panic!("{text}"));
        let line = line.split(['`', ';']).next().unwrap();
        let path = format!("{}:/usr/bin:/bin", PathBuf::from(PROGRAM).parent().unwrap().display());
        // The reader of a mail or a page is in another directory.
        self.host.finish(self.host.command("sh").args(["-c", line]).env("PATH", path).current_dir("/"))
    }
}

#[test]
fn commands_in_hints_name_the_configuration_in_use() {
    let elsewhere = Elsewhere::new(&["a"], "");
    let no_report = elsewhere.run("report").ends(1);
    elsewhere.types(&no_report.err, "backup").ends(0).tells(&["1 of 1 good on desk"]);
    let no_textfile = elsewhere.run("metrics").ends(2);
    assert!(elsewhere.types(&no_textfile.err, "metrics --stdout").ends(0).out.contains("kvmbackup_"));
}

#[test]
fn commands_of_check_and_its_json_name_the_configuration_in_use() {
    let elsewhere = Elsewhere::new(&["a"], "");
    steps::kill(&mut elsewhere.command("backup"), Step::ArchiveRename.into());
    let found = elsewhere.run("check");
    let json = elsewhere.run("check --json").json();
    let findings = json["findings"].as_array().unwrap();
    let hint = findings.iter().find_map(|finding| finding["hint"].as_str().filter(|hint| hint.contains("recover")));
    elsewhere.types(hint.unwrap(), "recover").ends(0).tells(&["recovered: a: "]);
    elsewhere.types(&found.out, "recover").ends(0).tells(&["no interrupted run"]);
}

#[test]
fn commands_of_reports_and_mails_name_the_configuration_in_use() {
    let elsewhere = Elsewhere::new(&["a"], "mail: {to: root, when: always, sendmail: /bin/true}");
    elsewhere.run("backup").ends(0);
    let image = elsewhere.host.image("a");
    fs::remove_file(&image).unwrap();
    host::run("qemu-img", &["create", "-q", "-f", "qcow2", image.to_str().unwrap(), "4M"]);
    elsewhere.run("backup --force a");
    let report = elsewhere.run("report").ends(0).out;
    let json = elsewhere.run("report --format json").ends(0).out;
    let html = elsewhere.run("report --format html").ends(0).out.replace("&#x27;", "'").replace("</code>", "`");
    elsewhere.types(&html, "report").ends(0).tells(&["ok"]);
    elsewhere.types(&html, "list").ends(0).tells(&["a", "Z"]);
    assert!(json.contains(r"-c '") && json.contains("--host desk backup --force a --accept-smaller"), "{json}");
    // A mailed report is not printed as well.
    elsewhere.types(&report, "backup --force a --accept-smaller").ends(0);
    elsewhere.run("report").ends(0).tells(&["1 of 1 good"]);
}

#[test]
fn commands_of_the_status_page_name_the_configuration_in_use() {
    let elsewhere = Elsewhere::new(&["a"], "");
    let exporter = Exporter::spawn(&mut elsewhere.command("exporter --listen 127.0.0.1:0"));
    let page = exporter.get("/").body.replace("&#x27;", "'").replace("</code>", "`");
    elsewhere.types(&page, "backup --dry-run").ends(0).tells(&["a", "due"]);
}

#[test]
fn relative_path_is_printed_absolute_and_the_default_one_not_at_all() {
    let elsewhere = Elsewhere::new(&["a"], "");
    let folder = elsewhere.config.parent().unwrap();
    let mut relative = elsewhere.host.command(PROGRAM);
    let relative = relative.args(["-c", "config.yml", "--host", host::NAME, "report"]).current_dir(folder);
    let said = elsewhere.host.finish(relative).ends(1).err;
    elsewhere.types(&said, "backup").ends(0);
}
