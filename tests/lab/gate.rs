//! A proxy between kvmbackup and libvirtd, on libvirtd's unix socket, that delays one call. With it, a test reliably
//! stops the program right before that call, and then inspects, kills or resumes it.
//!
//! The wire format is in libvirt's documentation, "libvirt RPC infrastructure"
//! (<https://libvirt.org/kbase/internals/rpc.html>): a packet is its length, program, version, procedure, type, serial
//! and status, 32 bits each, then the payload.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::{DEADLINE, Lab, wait_until};

const LIBVIRTD: &str = "/run/libvirt/libvirt-sock";
/// The program of the calls below (`REMOTE_PROGRAM`).
const REMOTE: u32 = 0x2000_8086;

/// A call that can be delayed, by its number in libvirt's `remote_protocol.x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `virDomainAbortJob`: ends a pull job.
    EndPull = 164,
    /// `virDomainSnapshotCreateXML`; by then the guest is frozen.
    Snapshot = 185,
    /// `virDomainBlockJobAbort`: the pivot at the end of a commit.
    Pivot = 237,
    /// `virDomainBlockCommit`: the disks have been read.
    Commit = 290,
    /// `virDomainFSFreeze`
    Freeze = 335,
    /// `virDomainFSThaw`
    Thaw = 336,
    /// `virDomainUpdateDeviceFlags`
    DefineDisk = 174,
    /// `virDomainGetXMLDesc`
    GetXml = 14,
    /// `virDomainGetJobStats`
    JobInfo = 298,
    /// `virDomainBackupBegin`
    BeginPull = 421,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The next such call will be delayed.
    Armed(Call),
    /// The call was made, and has not reached libvirtd.
    Holding,
    /// Every call passes.
    Open,
    /// The connection of the delayed call is closed; every later call passes.
    Cut,
}

/// The proxy.
pub struct Gate {
    socket: PathBuf,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Gate {
    /// Starts the proxy; every call passes until [`Gate::hold`].
    pub fn new(lab: &Lab) -> Self {
        let socket = lab.path("gate.sock");
        let listener = UnixListener::bind(&socket).expect("cannot listen");
        let state = Arc::new((Mutex::new(State::Open), Condvar::new()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = UnixStream::connect(LIBVIRTD) else { break };
                let answers = (server.try_clone().expect("cannot copy"), client.try_clone().expect("cannot copy"));
                thread::spawn(move || copy(answers.0, answers.1));
                let shared = Arc::clone(&shared);
                thread::spawn(move || forward(client, server, &shared));
            }
        });
        Gate { socket, state }
    }

    /// The libvirt URI that leads through this proxy.
    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.socket.display())
    }

    /// Delays the next call of this kind.
    pub fn hold(&self, call: Call) {
        self.set(State::Armed(call));
    }

    /// Waits until the call was made.
    pub fn wait(&self, run: &mut Child) {
        wait_until(DEADLINE, "the call to be held back", || {
            let ended = run.try_wait().expect("a child can be asked");
            let held = self.get() == State::Holding;
            assert!(held || ended.is_none(), "the program has already ended: {ended:?}, {:?}", self.get());
            held
        });
    }

    /// Whether a call is delayed now. [`Gate::hold`] lets it pass, and delays the next.
    pub fn is_holding(&self) -> bool {
        self.get() == State::Holding
    }

    /// Lets this call and all others pass.
    pub fn open(&self) {
        self.set(State::Open);
    }

    /// Kills the program; the call never reaches libvirtd.
    pub fn kill(&self, run: &mut Child) {
        run.kill().expect("cannot kill");
        run.wait().expect("cannot wait");
        self.set(State::Cut);
    }

    fn get(&self) -> State {
        *self.state.0.lock().expect("no thread panics while it holds the lock")
    }

    fn set(&self, state: State) {
        *self.state.0.lock().expect("no thread panics while it holds the lock") = state;
        self.state.1.notify_all();
    }
}

fn copy(mut from: UnixStream, mut to: UnixStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

fn forward(mut client: UnixStream, mut server: UnixStream, gate: &(Mutex<State>, Condvar)) {
    while let Some(packet) = packet(&mut client) {
        if passes(&packet, gate) && server.write_all(&packet).is_ok() {
            continue;
        }
        break;
    }
    let _ = server.shutdown(Shutdown::Both);
}

fn packet(client: &mut UnixStream) -> Option<Vec<u8>> {
    let mut packet = vec![0; 4];
    client.read_exact(&mut packet).ok()?;
    let length = u32::from_be_bytes([packet[0], packet[1], packet[2], packet[3]]);
    packet.resize(length as usize, 0);
    client.read_exact(&mut packet[4..]).ok()?;
    Some(packet)
}

/// Waits as long as the packet is delayed; returns whether it is then forwarded.
fn passes(packet: &[u8], (state, changed): &(Mutex<State>, Condvar)) -> bool {
    let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().expect("four bytes"));
    let mut state = state.lock().expect("no thread panics while it holds the lock");
    match *state {
        State::Armed(call) if word(4) == REMOTE && word(12) == call as u32 => *state = State::Holding,
        _ => return true,
    }
    while *state == State::Holding {
        state = changed.wait(state).expect("no thread panics while it holds the lock");
    }
    *state != State::Cut
}
