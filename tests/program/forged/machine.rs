//! A throwaway copy of this machine's file system, in its own mount namespace. Every write in it is listed exactly, and
//! no other process can write there.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::host;
use crate::host::{Host, Run};

/// Builds the copy: `$1` is an empty directory, then come the file systems to copy, `--`, and pairs of directories to
/// bind. The overlays record every write, including each directory in which a file existed only for a moment.
const SET_UP: &str = r#"
folder=$1 root=$1/root number=0
shift
mount -t tmpfs tmpfs "$folder"
mkdir "$root"
while [ "$1" != -- ]; do
  mkdir "$folder/written-$number" "$folder/work-$number"
  mount -t overlay overlay -o "lowerdir=$1,upperdir=$folder/written-$number,workdir=$folder/work-$number" "$root$1"
  number=$((number + 1))
  shift
done
shift
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir -m 1777 "$root/dev/shm"
for device in null zero full random urandom tty; do
  : >"$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
while [ $# -gt 0 ]; do
  mount --bind "$root$1" "$root$2"
  shift 2
done
echo ready
exec cat
"#;

pub struct Machine {
    folder: tempfile::TempDir,
    /// Keeps the namespace until its standard input is closed.
    holder: Child,
    /// The directory with the recorded writes, and the one that it represents.
    layers: Vec<(PathBuf, PathBuf)>,
    before: BTreeMap<PathBuf, Seen>,
}

/// Attributes that reveal a change of an entry of the list.
type Seen = (u64, u32, u64, i64, i64);

impl Machine {
    /// A copy in which each of these directories is also at another place: pairs of existing directories.
    pub fn new(host: &Host, bound: &[(PathBuf, PathBuf)]) -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let mut systems = vec![PathBuf::from("/")];
        for path in [host.path(""), env!("CARGO_BIN_EXE_kvmbackup").into()] {
            systems.push(file_system(&path));
        }
        systems.sort();
        systems.dedup();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-euc", SET_UP, "sh"]);
        command.arg(folder.path()).args(&systems).arg("--");
        command.args(bound.iter().flat_map(|(from, to)| [from, to]));
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = pipes.spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        if ready != "ready\n" {
            let mut why = String::new();
            holder.stderr.take().unwrap().read_to_string(&mut why).unwrap();
            panic!("cannot create a copy of this machine; that needs root, mount namespaces and overlayfs: {why}");
        }
        let inside = Path::new("/proc").join(holder.id().to_string()).join("root");
        let inside = inside.join(folder.path().strip_prefix("/").unwrap());
        let written = |number| inside.join(format!("written-{number}"));
        let mut layers: Vec<_> = systems.into_iter().enumerate().map(|(at, of)| (written(at), of)).collect();
        layers.push((inside.join("root/dev"), "/dev".into()));
        let mut machine = Machine { folder, holder, layers, before: BTreeMap::new() };
        machine.before = machine.list();
        machine
    }

    /// Runs the program in the copy.
    pub fn run(&self, host: &Host, words: &str) -> Run {
        let config = host.path("config.yml");
        let mut command = self.command(host, env!("CARGO_BIN_EXE_kvmbackup"));
        command.args(words.split_whitespace()).arg("--config").arg(config).args(["--host", host::NAME]);
        host.finish(&mut command)
    }

    /// A command in the copy.
    pub fn command(&self, host: &Host, program: &str) -> Command {
        let mut command = host.command("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()));
        command.arg("chroot").arg(self.folder.path().join("root")).arg(program);
        command
    }

    /// Everything that was written, changed or removed, even if only for a moment, except where `may` allows it.
    pub fn written(&self, may: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
        let mut list = self.list();
        list.retain(|path, seen| self.before.get(path) != Some(seen));
        let is_way = |path: &Path, seen: &Seen| {
            let same = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && found.mode() == seen.1);
            same && list.keys().any(|other| may(other) && other.starts_with(path))
        };
        list.iter().filter(|(path, seen)| !may(path) && !is_way(path, seen)).map(|(path, _)| path.clone()).collect()
    }

    /// The first bytes of the permitted files that were written.
    pub fn contents(&self, may: impl Fn(&Path) -> bool) -> Vec<(PathBuf, Vec<u8>)> {
        let files = self.list().into_keys().filter(|path| may(path));
        let read = |path: PathBuf| {
            let (layer, of) = self.layers.iter().rfind(|(_, of)| path.starts_with(of)).unwrap();
            let bytes = fs::read(layer.join(path.strip_prefix(of).unwrap())).unwrap_or_default();
            (path, bytes)
        };
        files.map(read).collect()
    }

    fn list(&self) -> BTreeMap<PathBuf, Seen> {
        let mut list = BTreeMap::new();
        for (layer, of) in &self.layers {
            walk(layer, of, &mut list);
        }
        list
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

fn walk(folder: &Path, of: &Path, list: &mut BTreeMap<PathBuf, Seen>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (found, path) = (entry.metadata().unwrap(), of.join(entry.file_name()));
        if found.is_dir() {
            walk(&entry.path(), &path, list);
        }
        list.insert(path, seen(&found));
    }
}

fn seen(found: &Metadata) -> Seen {
    (found.ino(), found.mode(), found.len(), found.ctime(), found.ctime_nsec())
}

/// The mount point of the file system of a path.
fn file_system(path: &Path) -> PathBuf {
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    let same = path.ancestors().take_while(|above| device(above) == device(path));
    same.last().unwrap().to_owned()
}
