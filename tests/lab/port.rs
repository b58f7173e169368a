//! Ports for servers that cannot choose one themselves.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that the kernel assigns to connections (`net.ipv4.ip_local_port_range`), because any of those may be
/// taken between the check and the server's start.
const FIRST: u16 = 12_000;
const MANY: u16 = 18_000;

/// An unused port of this host that no other call of this process returns.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests of other processes start elsewhere.
    let own = (std::process::id() % u32::from(MANY / 100)) as u16 * 100;
    loop {
        let port = FIRST + own.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % MANY;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
