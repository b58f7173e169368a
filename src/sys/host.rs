//! Owns: what this host is called and how many cores it has. Must not: ask the network.

/// The host's name up to its first dot.
pub fn short_name() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// The host's name as it knows itself, for addresses: `localhost` where it is none that an address may have.
pub fn node_name() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    let right = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
    if right { name.into_owned() } else { "localhost".to_owned() }
}

/// The host's name with its domain, where it knows one.
pub fn full_name() -> Option<String> {
    Some(node_name()).filter(|name| name.trim_matches('.').contains('.'))
}

/// Threads worth starting: the cores this process may use, at most 16.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(16)
}
