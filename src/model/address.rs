//! The address of a repository as restic writes it, which may contain a password. Must not print that password.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The kinds of addresses of restic that name another place than a directory.
const SCHEMES: [&str; 8] = ["sftp", "rest", "s3", "b2", "azure", "gs", "swift", "rclone"];

/// The absolute path of a directory, or `SCHEME:…`. `Display` and `Debug` hide its password.
#[derive(Clone, PartialEq, Eq)]
pub struct RepositoryAddress {
    whole: String,
    /// The address without the password.
    shown: String,
    password: Option<String>,
}

impl RepositoryAddress {
    /// The valid forms, for messages.
    pub const VALID: &str = "the absolute path of a directory, sftp:USER@HOST:/PATH, rest:https://USER:PASSWORD@HOST/NAME/ \
                             (with %2F for / in the password), s3:https://HOST/BUCKET/PREFIX, b2:…, azure:…, gs:…, swift:…, \
                             rclone:REMOTE:PATH";

    /// The whole address, which is secret if it contains a password.
    pub fn exposed(&self) -> &str {
        &self.whole
    }

    /// The password as programs may print it: as it is written, and decoded.
    pub fn secrets(&self) -> Vec<String> {
        let mut secrets: Vec<String> = self.password.iter().flat_map(|text| [text.clone(), decoded(text)]).collect();
        secrets.dedup();
        secrets
    }

    /// Whether it names the place of this repository: the path of a directory, or the URL of a bucket.
    pub fn is_at(&self, url: &str) -> bool {
        let plain = |text: &str| text.trim_end_matches('/').replace("/./", "/").replace("//", "/");
        plain(&self.whole) == plain(url)
    }

    /// The directory, if it names one on this host.
    pub fn directory(&self) -> Option<PathBuf> {
        self.whole.starts_with('/').then(|| self.whole.clone().into())
    }
}

/// The text is not the address of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the address of a repository")]
pub struct BadRepositoryAddress;

impl FromStr for RepositoryAddress {
    type Err = BadRepositoryAddress;

    fn from_str(text: &str) -> Result<RepositoryAddress, BadRepositoryAddress> {
        let open = RepositoryAddress { whole: text.to_owned(), shown: text.to_owned(), password: None };
        if text.chars().any(char::is_control) {
            return Err(BadRepositoryAddress);
        }
        if text.starts_with('/') {
            return Ok(open);
        }
        let (scheme, rest) = text.split_once(':').ok_or(BadRepositoryAddress)?;
        if !SCHEMES.contains(&scheme) || rest.is_empty() {
            return Err(BadRepositoryAddress);
        }
        let Some((before, url)) =
            rest.split_once("//").filter(|(before, _)| before.is_empty() || before.ends_with(':'))
        else {
            return Ok(open);
        };
        let (authority, path) = url.split_at(url.find('/').unwrap_or(url.len()));
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        // A password with a slash would be read as a port, and printed in an error.
        if host.is_empty() || !is_port(host) {
            return Err(BadRepositoryAddress);
        }
        Ok(match user.split_once(':') {
            Some((name, password)) if !password.is_empty() => RepositoryAddress {
                shown: format!("{scheme}:{before}//{name}:***@{host}{path}"),
                password: Some(password.to_owned()),
                ..open
            },
            _ => open,
        })
    }
}

/// Whether everything after a colon in the host of a URL is a port.
fn is_port(host: &str) -> bool {
    let after = host.rsplit_once(']').map_or(host, |(_, after)| after);
    after.split_once(':').is_none_or(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A text without percent-encoding.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let code = more.get(..2).filter(|_| *first == b'%').and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl fmt::Display for RepositoryAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for RepositoryAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RepositoryAddress({})", self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> RepositoryAddress {
        text.parse().unwrap()
    }

    #[test]
    fn password_is_kept_but_never_shown() {
        for (text, shown, secrets) in [
            ("rest:https://u:s%2Fc@h:8000/a/", "rest:https://u:***@h:8000/a/", &["s%2Fc", "s/c"][..]),
            ("rest:http://u:p@q@[::1]:80", "rest:http://u:***@[::1]:80", &["p@q"]),
            ("sftp://u:p%zz%@h:22//srv", "sftp://u:***@h:22//srv", &["p%zz%"]),
            ("rest:https://u@h/a", "rest:https://u@h/a", &[]),
            ("rest:https://h/a:b@c", "rest:https://h/a:b@c", &[]),
            ("sftp:backup@far:/srv/kvm", "sftp:backup@far:/srv/kvm", &[]),
            ("rclone:remote:path//x", "rclone:remote:path//x", &[]),
            ("b2:bucket:path", "b2:bucket:path", &[]),
            ("/srv/copy", "/srv/copy", &[]),
        ] {
            let address = address(text);
            assert_eq!((address.to_string().as_str(), address.exposed()), (shown, text));
            assert_eq!(address.secrets(), secrets, "{text}");
            assert!(!secrets.iter().any(|secret| format!("{address:?}").contains(secret)), "{address:?}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", "srv/copy", "ftp:h", "s3", "rest:", "rest:https://", "rest:https://u:a/b@h/x", "sftp:h:/a\nb", "C:\\x"]
        {
            assert_eq!(text.parse::<RepositoryAddress>(), Err(BadRepositoryAddress), "{text}");
        }
    }

    #[test]
    fn address_of_the_repository_itself_is_recognized() {
        assert!(address("/srv/kvm/").is_at("/srv/kvm") && address("/srv//kvm").is_at("/srv/kvm"));
        assert!(address("s3:https://h/b/p").is_at("s3:https://h/b/p") && !address("/srv/kvm2").is_at("/srv/kvm"));
        assert_eq!(address("/srv/kvm").directory(), Some("/srv/kvm".into()));
        assert_eq!(address("sftp:h:/srv/kvm").directory(), None);
    }
}
