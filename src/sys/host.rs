//! The name of this host and the number of its cores. Must not query the network.

/// The host name up to its first dot.
pub fn short_name() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// The host name, for mail addresses; `localhost` if it is not valid in an address.
pub fn node_name() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    let right = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
    if right { name.into_owned() } else { "localhost".to_owned() }
}

/// The host name, if it contains a domain.
pub fn full_name() -> Option<String> {
    Some(node_name()).filter(|name| name.trim_matches('.').contains('.'))
}

/// Number of threads to start: the cores that this process may use, at most 16.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(16)
}
