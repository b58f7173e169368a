//! A paused guest, and a program that saves it to a file system that can fail.

use std::io::Read;
use std::process::{Child, Stdio};

use serde_json::json;

use crate::faulty::tree::Kind;
use crate::faulty::{Call, Fault, Faulty};
use crate::lab::{Disk, Guest, Lab, Program, run};

/// More than fits into the buffers of an archive before the first byte is written.
pub const MIB: u64 = 24;

/// A paused guest whose disk does not compress.
pub fn guest(lab: &Lab, name: &str) -> Guest {
    let image = lab.path(&format!("random/{name}/vda.raw"));
    std::fs::create_dir_all(image.parent().unwrap()).unwrap();
    run(
        "dd",
        &["if=/dev/urandom", &format!("of={}", image.display()), "bs=1M", &format!("count={MIB}"), "status=none"],
    );
    lab.guest(name).disk(Disk::raw("vda").file(image)).paused()
}

/// A target that can fail, and a program that saves to it.
pub struct Scene {
    pub target: Faulty,
    pub program: Program,
}

impl Scene {
    pub fn new(lab: &Lab, guests: &[&Guest]) -> Scene {
        let target = Faulty::mount(&lab.path("backups"));
        let program = Program::new(lab);
        let program = guests.iter().fold(program, |program, guest| {
            program.domain(guest.name(), json!({"method": "snapshot", "compression": "none"}))
        });
        Scene { target, program }
    }

    /// The same with a deadline that is reached.
    pub fn impatient(self) -> Scene {
        Scene { program: self.program.set("stall_timeout", json!("3s")), ..self }
    }

    /// The same with a deadline that is not reached.
    pub fn patient(self) -> Scene {
        Scene { program: self.program.set("stall_timeout", json!("5m")), ..self }
    }

    /// A run whose process may stay: its output ends when it ends by itself, and the kernel keeps only a zombie.
    pub fn run_on_what_hangs(&self, words: &[&str]) -> (Child, String) {
        let (child, text, _) = self.all_of_what_hangs(words);
        (child, text)
    }

    /// The same, with its standard error.
    pub fn all_of_what_hangs(&self, words: &[&str]) -> (Child, String, String) {
        let mut command = self.program.command();
        let mut child = command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut text, mut errors) = (String::new(), String::new());
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (child, text, errors)
    }

    /// Names of all files of the target.
    pub fn files(&self) -> Vec<String> {
        let tree = self.target.tree();
        let files = tree.paths().into_iter().filter(|(_, node)| node.kind == Kind::File);
        files.map(|(path, _)| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    /// The result of a command when a call hangs: its exit code, and all of its output.
    pub fn hung(&self, words: &[&str], call: Call, after: u64) -> (i32, String) {
        self.target.set(call, after, Fault::Hang);
        let (mut child, text, errors) = self.all_of_what_hangs(words);
        assert!(self.target.was_met(), "{words:?}: {call:?}: {text}{errors}");
        self.target.release();
        (child.wait().unwrap().code().unwrap(), text + &errors)
    }
}
