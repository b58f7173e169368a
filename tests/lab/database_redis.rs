//! Debian's Redis server, on a unix socket in its own directory.

use std::process::Command;

use super::database::{Server, Writer, answer, folder, text};

/// A server. Dropping it kills it.
pub struct Redis {
    server: Server,
    dir: tempfile::TempDir,
    options: Vec<String>,
}

impl Redis {
    /// A new server. `options` are for `redis-server`.
    pub fn new(options: &[&str]) -> Self {
        let dir = folder();
        std::fs::create_dir(dir.path().join("data")).expect("cannot create the data directory");
        Redis::start(dir, options)
    }

    fn start(dir: tempfile::TempDir, options: &[&str]) -> Self {
        let log = dir.path().join("log");
        let (socket, data) = (dir.path().join("s"), dir.path().join("data"));
        let own = ["--port", "0", "--unixsocket", text(&socket), "--dir", text(&data)];
        let server = Server::start(&[], "redis-server", &[&own, options].concat(), &log);
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut server = Redis { server, dir, options };
        server.server.wait_up(&log, || {
            let pong = answer("redis-cli", &["-s", text(&socket), "PING"]);
            pong.is_ok_and(|answer| answer == "PONG" || answer.contains("NOAUTH"))
        });
        server
    }

    /// Another server, on the files in a snapshot of this moment.
    pub fn restored(&self) -> Self {
        let dir = folder();
        self.server.image(&self.dir.path().join("data"), dir.path());
        let options: Vec<_> = self.options.iter().map(String::as_str).collect();
        Redis::start(dir, &options)
    }

    /// Kills the server, and starts it again on its files.
    pub fn restart(&mut self) {
        self.server.kill();
        let (dir, options) = (std::mem::replace(&mut self.dir, folder()), std::mem::take(&mut self.options));
        *self = Redis::start(dir, &options.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// Removes the directory that the server writes to.
    pub fn remove_data(&self) {
        std::fs::remove_dir_all(self.dir.path().join("data")).expect("cannot remove the data");
    }

    /// The server's socket.
    pub fn socket(&self) -> String {
        text(&self.dir.path().join("s")).to_owned()
    }

    /// Runs a command; returns the server's answer, even if it is an error.
    pub fn command(&self, words: &[&str]) -> String {
        let socket = self.socket();
        answer("redis-cli", &[&["-s", &socket], words].concat()).expect("redis-cli runs")
    }

    /// Starts a writer, which increments the key `n`.
    pub fn writer(&self) -> Writer {
        let mut client = Command::new("redis-cli");
        client.args(["-s", &self.socket()]);
        Writer::start(client, |n| format!("SET n {n}"))
    }
}
