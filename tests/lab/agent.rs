//! Requests of the tests to a guest through its agent.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{DEADLINE, Guest, try_virsh, wait_until};

/// The result of a command in the guest.
#[derive(Debug)]
pub struct ExecOutput {
    /// Its exit code.
    pub code: i64,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Guest {
    /// Runs a shell command in the guest. Panics if the agent cannot; the file systems must not be frozen.
    pub fn agent_exec(&self, command: &str) -> ExecOutput {
        let arguments = json!({"path": "/bin/sh", "arg": ["-c", command], "capture-output": true});
        let pid = self.agent("guest-exec", &arguments)["pid"].clone();
        let mut status = Value::Null;
        wait_until(DEADLINE, &format!("{command:?} to end in guest {}", self.name), || {
            status = self.agent("guest-exec-status", &json!({ "pid": pid }));
            status["exited"] == true
        });
        ExecOutput {
            code: status["exitcode"].as_i64().unwrap_or(-1),
            stdout: decode(&status["out-data"]),
            stderr: decode(&status["err-data"]),
        }
    }

    /// Checks the files of the guest's writer (`kb.writer`) on a disk against their checksums. Returns the number of
    /// the newest one, which grows as long as the writer runs. Panics if one is damaged or none exists.
    pub fn check_writer_sums(&self, target: &str) -> u64 {
        let check =
            "flock lock sh -c 'sha256sum -c SUMS >/tmp/check 2>&1 || { cat /tmp/check; exit 1; }; tail -n 1 SUMS'";
        let output = self.agent_exec(&format!("cd /mnt/{target}/writer && {check}"));
        assert_eq!(output.code, 0, "the writer's files on {target} of {} are damaged: {output:?}", self.name);
        let newest = output.stdout.trim().rsplit('-').next().and_then(|number| number.parse().ok());
        newest.unwrap_or_else(|| panic!("the writer has written nothing on {target} of {}: {output:?}", self.name))
    }

    /// Whether the guest's file systems are frozen, as the agent reports.
    pub fn is_frozen(&self) -> bool {
        self.agent("guest-fsfreeze-status", &json!({})) == "frozen"
    }

    /// Sends a command to the agent and returns its answer. Panics if there is none.
    pub fn agent(&self, command: &str, arguments: &Value) -> Value {
        let request = json!({"execute": command, "arguments": arguments}).to_string();
        let answer = try_virsh(&["qemu-agent-command", &self.name, "--timeout", "60", &request])
            .unwrap_or_else(|error| panic!("agent of {}: {command}: {error}", self.name));
        let mut answer: Value = serde_json::from_str(&answer).expect("the agent speaks JSON");
        answer["return"].take()
    }

    /// Sends a command without arguments to the agent, and does not wait long for the answer.
    pub fn try_agent(&self, command: &str) -> Result<String, String> {
        let request = json!({ "execute": command }).to_string();
        try_virsh(&["qemu-agent-command", &self.name, "--timeout", "2", &request])
    }
}

/// Decodes the agent's base64 with coreutils.
fn decode(data: &Value) -> String {
    let Some(text) = data.as_str() else { return String::new() };
    let mut child = Command::new("base64")
        .arg("--decode")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cannot run base64");
    let mut input = child.stdin.take().expect("base64 has an input");
    let text = text.to_owned();
    let feed = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("base64 ends");
    feed.join().expect("the writer thread does not panic").expect("base64 takes its input");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
