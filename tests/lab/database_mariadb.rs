//! Debian's MariaDB server, on a unix socket in its own directory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::database::{Server, Writer, answer, folder, text};
use super::run;

/// A server. Dropping it kills it.
pub struct MariaDb {
    server: Server,
    dir: tempfile::TempDir,
}

/// Small files keep images fast. Nothing is synced, because images are read through the kernel's cache. Commits are
/// acknowledged before they are written, and nothing writes them later.
const OPTIONS: [&str; 6] = [
    "--skip-networking",
    "--innodb-buffer-pool-size=16M",
    "--innodb-log-file-size=8M",
    "--innodb-flush-method=nosync",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-log-at-timeout=2700",
];

impl MariaDb {
    /// A new server with an empty database `d`. `options` are for `mariadbd`.
    pub fn new(options: &[&str]) -> Self {
        let dir = folder();
        run("cp", &["-a", text(installed()), text(&dir.path().join("data"))]);
        let server = MariaDb::start(dir, options);
        server.sql("CREATE DATABASE d");
        server
    }

    fn start(dir: tempfile::TempDir, options: &[&str]) -> Self {
        let log = dir.path().join("log");
        let paths = [("datadir", "data"), ("tmpdir", ""), ("socket", "s"), ("pid-file", "pid")]
            .map(|(option, name)| format!("--{option}={}", text(&dir.path().join(name))));
        let paths = paths.each_ref().map(String::as_str);
        let arguments = [&["--no-defaults", "--user=root"], &paths[..], &OPTIONS, options].concat();
        let server = Server::start(&[], "mariadbd", &arguments, &log);
        let mut server = MariaDb { server, dir };
        let socket = server.client_options();
        server.server.wait_up(&log, || answer("mariadb-admin", &[&words(&socket)[..], &["ping"]].concat()).is_ok());
        server
    }

    /// Another server, on the files in a snapshot of this moment.
    pub fn restored(&self) -> Self {
        let dir = folder();
        self.server.image(&self.dir.path().join("data"), dir.path());
        MariaDb::start(dir, &["--myisam-recover-options=OFF", "--aria-recover-options=OFF"])
    }

    /// The server's socket.
    pub fn socket(&self) -> String {
        text(&self.dir.path().join("s")).to_owned()
    }

    /// Arguments that clients need to find the server.
    pub fn client_options(&self) -> Vec<String> {
        vec!["--no-defaults".to_owned(), format!("--socket={}", self.socket())]
    }

    /// Runs statements. Panics if one fails.
    #[track_caller]
    pub fn sql(&self, statements: &str) -> String {
        self.try_sql(statements).unwrap_or_else(|error| panic!("{statements}: {error}"))
    }

    /// Runs statements; returns their output, or the error.
    pub fn try_sql(&self, statements: &str) -> Result<String, String> {
        let options = self.client_options();
        answer("mariadb", &[&words(&options)[..], &["--batch", "--skip-column-names", "-e", statements]].concat())
    }

    /// Creates the table `d.t` with an engine, and starts a writer of its rows 1, 2, 3, ….
    pub fn writer(&self, engine: &str) -> Writer {
        self.sql(&format!("CREATE TABLE d.t (id BIGINT PRIMARY KEY) ENGINE={engine}"));
        Writer::start(self.client(), |n| format!("INSERT INTO d.t VALUES ({n}) RETURNING id;"))
    }

    /// A client that reads statements from its input.
    pub fn client(&self) -> Command {
        let mut client = Command::new("mariadb");
        client.args(self.client_options()).args(["--batch", "--skip-column-names", "--unbuffered"]);
        client
    }

    /// Ends all other connections.
    pub fn disconnect_all(&self) {
        let others =
            self.sql("SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND user = 'root'");
        for id in others.lines() {
            // A connection that was about to close may be gone.
            let killed = self.try_sql(&format!("KILL {id}"));
            assert!(killed.as_ref().err().is_none_or(|error| error.contains("Unknown thread id")), "{killed:?}");
        }
    }

    /// Kills the server at once.
    pub fn kill(&mut self) {
        self.server.kill();
    }
}

/// The files of a new server, created once by a test's process; they stay in its temporary directory.
fn installed() -> &'static Path {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("kb-mariadb.{}", std::process::id()));
        std::fs::create_dir(&dir).expect("cannot create the server's directory");
        let [data, temporary] = ["datadir", "tmpdir"].map(|option| format!("--{option}={}", text(&dir)));
        let root = ["--no-defaults", "--user=root", "--auth-root-authentication-method=normal", "--skip-test-db"];
        run("mariadb-install-db", &[&root[..], &[&data, &temporary], &OPTIONS[1..4]].concat());
        dir
    })
}

fn words(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}
