//! Decides whether a libvirt URI refers to this host. Must not connect to it.

/// Whether the libvirt of this URI runs on this host, judged by its text. Image paths are those of libvirt's host, but
/// this program opens them here.
///
/// `driver[+transport]://[user@][host][:port]/…`: a host part, or any transport except the local socket, may refer to
/// another host (`ext` runs a command, `tcp` and `tls` connect to a host, `ssh`, `libssh` and `libssh2` log in):
/// <https://libvirt.org/uri.html>. A word of letters, digits, `_` and `-` is an alias of libvirt.conf, which only a
/// connection resolves.
pub fn is_local(uri: &str) -> bool {
    // Only remote transports run a command, so a local URI must not have one. libvirt's names contain no control
    // characters.
    if uri.to_ascii_lowercase().contains("command=") || uri.contains(char::is_control) {
        return false;
    }
    let Some((scheme, rest)) = uri.split_once(':') else {
        return uri.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    };
    let transport = scheme.split_once('+').map(|(_, transport)| transport);
    let has_host = rest.strip_prefix("//").is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', '?', '#']));
    !has_host && transport.is_none_or(|transport| transport == "unix")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_this_host_are_local() {
        for uri in [
            "qemu:///system",
            "qemu:///session",
            "qemu:/system",
            "qemu+unix:///system?socket=/run/libvirt/libvirt-sock",
            "qemu+unix://?socket=/s",
            "test:///default",
            "test:///srv/node.xml",
            "my-alias_2",
            "",
        ] {
            assert!(is_local(uri), "{uri}");
        }
    }

    #[test]
    fn uris_that_may_refer_to_another_host_are_not() {
        for uri in [
            "qemu+ssh://root@host/system",
            "qemu+ssh:///system",
            "qemu+libssh2://host/system",
            "qemu+libssh://host/system",
            "qemu+ext:///system?command=/usr/local/bin/via",
            "qemu+tcp://localhost/system",
            "qemu+tls:///system",
            "qemu+SSH://host/system",
            "qemu+unix://host/system",
            "qemu://host/system",
            "qemu://[::1]:16514/system",
            "esx://vcenter/dc",
            "qemu+unix:///system?Command=/usr/local/bin/via",
            "qemu:///system\0",
            "alias\n",
            "qemu+unix///system?socket=/s",
            "a/b",
        ] {
            assert!(!is_local(uri), "{uri}");
        }
    }
}
