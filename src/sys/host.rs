//! Owns: what this host is called and how many cores it has. Must not: ask the network.

/// The host's name up to its first dot.
pub fn short_name() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// Threads worth starting: the cores this process may use, at most 16.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(16)
}
