//! Debian's PostgreSQL server, on a unix socket in its own directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::database::{Server, Writer, answer, folder, give_to_postgres, text};
use super::run;

/// A server. Dropping it kills it.
pub struct PostgreSql {
    server: Server,
    dir: tempfile::TempDir,
}

/// Nothing is synced, because images are read through the kernel's cache. Commits are acknowledged before they are
/// written, and nothing writes them for ten seconds.
const OPTIONS: [&str; 8] = [
    "listen_addresses=",
    "shared_buffers=16MB",
    "jit=off",
    "fsync=off",
    "synchronous_commit=off",
    "wal_writer_delay=10000",
    "wal_writer_flush_after=1GB",
    "autovacuum=off",
];

/// The server refuses to run as root, and the test's directory is private to root.
const UNPRIVILEGED: [&str; 9] = [
    "--reuid",
    "postgres",
    "--regid",
    "postgres",
    "--clear-groups",
    "--inh-caps",
    "+dac_read_search",
    "--ambient-caps",
    "+dac_read_search",
];

impl PostgreSql {
    /// A new server. `settings` are lines of its configuration.
    pub fn new(settings: &[&str]) -> Self {
        let dir = folder();
        give_to_postgres(dir.path());
        let data = dir.path().join("data");
        let program = program("initdb");
        let initdb = [text(&program), "-D", text(&data), "-U", "postgres", "-A", "trust", "--no-locale", "--no-sync"];
        run("setpriv", &[&UNPRIVILEGED[..], &initdb].concat());
        PostgreSql::start(dir, settings)
    }

    /// A server on the files in `data` of a directory that belongs to `postgres`.
    pub fn start(dir: tempfile::TempDir, settings: &[&str]) -> Self {
        let log = dir.path().join("log");
        let (program, data) = (program("postgres"), dir.path().join("data"));
        let socket = format!("unix_socket_directories={}", text(dir.path()));
        let mut arguments = vec!["-D", text(&data), "-c", &socket];
        arguments.extend(OPTIONS.iter().chain(settings).flat_map(|setting| ["-c", setting]));
        let server = Server::start(&UNPRIVILEGED, text(&program), &arguments, &log);
        let mut server = PostgreSql { server, dir };
        let options = server.client_options();
        let probe = ["--no-psqlrc", &options[0], &options[1], "--command=SELECT 1"];
        server.server.wait_up(&log, || answer("psql", &probe).is_ok());
        server
    }

    /// Another server, on the files in a snapshot of this moment.
    pub fn restored(&self) -> Self {
        let dir = self.image();
        std::fs::remove_file(dir.path().join("data/postmaster.pid"))
            .expect("cannot remove the lock of the first server");
        PostgreSql::start(dir, &[])
    }

    /// A directory with the files in a snapshot of this moment.
    pub fn image(&self) -> tempfile::TempDir {
        let dir = folder();
        give_to_postgres(dir.path());
        self.server.image(&self.data(), dir.path());
        dir
    }

    /// The server's data.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The directory of the server's socket.
    pub fn socket_folder(&self) -> &Path {
        self.dir.path()
    }

    /// Arguments that clients need to find the server.
    pub fn client_options(&self) -> [String; 2] {
        [format!("--host={}", text(self.dir.path())), "--username=postgres".to_owned()]
    }

    /// Runs statements, each in its own transaction. Panics if one fails.
    #[track_caller]
    pub fn sql(&self, statements: &str) -> String {
        self.try_sql(statements).unwrap_or_else(|error| panic!("{statements}: {error}"))
    }

    /// Runs statements; returns their output, or the error.
    pub fn try_sql(&self, statements: &str) -> Result<String, String> {
        let options = self.client_options();
        let command = format!("--command={statements}");
        answer("psql", &["--no-psqlrc", "-qAt", "--set=ON_ERROR_STOP=1", &options[0], &options[1], &command])
    }

    /// Creates the table `t`, and starts a writer of its rows 1, 2, 3, ….
    pub fn writer(&self) -> Writer {
        self.sql("CREATE TABLE t (id bigint PRIMARY KEY)");
        Writer::start(self.client(), |n| format!("INSERT INTO t VALUES ({n}) RETURNING id;"))
    }

    /// A client that reads statements from its input.
    pub fn client(&self) -> Command {
        let mut client = Command::new("psql");
        client.args(self.client_options()).args(["--no-psqlrc", "-qAt"]);
        client
    }

    /// Panics unless the server's own checker finds no fault in any database.
    pub fn assert_sound(&self) {
        let options = self.client_options();
        let check = ["--all", "--heapallindexed", "--install-missing", &options[0], &options[1]];
        run(text(&program("pg_amcheck")), &check);
    }
}

/// A program of the newest installed version of the server.
pub(super) fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is missing: run tests/lab/install");
    let mut found: Vec<_> = versions.map(|version| version.expect("a directory can be read").path()).collect();
    found.sort();
    found.pop().map(|version| Path::join(&version, "bin").join(name)).expect("PostgreSQL is missing")
}
