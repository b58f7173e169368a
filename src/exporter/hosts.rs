//! Decides which host names a request may contain. It must not use a resolver.
//!
//! A page of another site can make its own name resolve to this host and then read the responses as if they came from that site
//! (DNS rebinding). The browser still sends that name as `Host`, so only names that no other site can have are accepted.

use std::net::IpAddr;

use crate::model::Listen;

/// The accepted host names in addition to loopback and the address that the peer connected to.
#[derive(Debug)]
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    pub fn new(names: Vec<String>) -> Hosts {
        Hosts(names)
    }

    /// Whether to answer a request with this `Host` on a connection to `at`. A client that sends no `Host`, or uses a unix socket,
    /// is not a browser, so it is always answered.
    pub fn allow(&self, host: Option<&str>, at: &Listen) -> bool {
        let (Some(host), Listen::Tcp { host: address, .. }) = (host, at) else { return true };
        let host = without_port(host);
        let is_near = ip(host).is_some_and(|ip| ip.is_loopback() || Some(ip) == self::ip(address));
        is_near || same(host, "localhost") || self.0.iter().any(|name| same(host, name))
    }
}

/// `name:80` and `[::1]:80` without the port and the brackets.
fn without_port(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    }
}

fn ip(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

fn same(host: &str, name: &str) -> bool {
    let bare = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    bare(host) == bare(name) || ip(host).is_some_and(|ip| Some(ip) == self::ip(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_and_configured_host_names_are_accepted() {
        let hosts = Hosts::new(vec!["cloud1".to_owned(), "mon.example.org".to_owned(), "203.0.113.7".to_owned()]);
        let at = Listen::Tcp { host: "192.0.2.5".to_owned(), port: 9763 };
        for host in [
            "localhost",
            "LOCALHOST:9763",
            "localhost.",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:9763",
            "[::ffff:127.0.0.1]",
            "192.0.2.5:9763",
            "192.0.2.5:80",
            "cloud1",
            "Cloud1.:9763",
            "mon.example.org:9763",
            "203.0.113.7",
        ] {
            assert!(hosts.allow(Some(host), &at), "{host}");
        }
        for host in [
            "",
            ":9763",
            "evil.example",
            "evil.example:9763",
            "localhost.evil.example",
            "cloud1.evil.example",
            "127.0.0.1.evil.example",
            "192.0.2.6",
            "[::2]",
            "[localhost",
            "user@localhost",
            "localhost/",
            "0.0.0.0",
        ] {
            assert!(!hosts.allow(Some(host), &at), "{host}");
        }
        assert!(hosts.allow(None, &at), "HTTP/1.0 requests may have no host");
        assert!(hosts.allow(Some("evil.example"), &Listen::Unix("/run/k".into())));
    }
}
