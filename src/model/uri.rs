//! Owns: whether a libvirt URI is of this host. Must not: connect to it.

/// Whether the libvirt of this URI runs on this host, as far as its text tells. Paths of images name files of the host whose
/// libvirt it is, and this program opens them here.
///
/// `driver[+transport]://[user@][host][:port]/…`: a host part, or any transport but the local socket, may lead elsewhere
/// (`ext` runs a command, `tcp` and `tls` connect to a host, `ssh`, `libssh` and `libssh2` log in):
/// <https://libvirt.org/uri.html>. A word of letters, digits, `_` and `-` is an alias of libvirt.conf; what it stands for is known once connected.
pub fn is_local(uri: &str) -> bool {
    // A command is run by other transports only, so that none belongs here. libvirt's names hold no control characters.
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
    fn everything_that_may_lead_elsewhere_is_not() {
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
