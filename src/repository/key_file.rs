//! Encrypts the master key with a password by scrypt, and decrypts it. Must not choose or keep a password.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Local, SecondsFormat, Utc};
use scrypt::Params;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

use super::crypto::{Key, random};
use super::{Corruption, Id};
use crate::sys::host;

/// The cost of a new key: about a third of a second and 32 MiB. restic measures the host; this program uses the same
/// cost on every host. A debug build, which only tests use, makes keys that cost nothing: the tests open thousands of
/// repositories.
const LOG_N: u8 = if cfg!(debug_assertions) { 8 } else { 15 };
const R: u32 = 8;
const P: u32 = 3;

/// Limits of the cost of a stored key: memory in bytes, and how often that memory is filled. Every process that can
/// write to the repository can set both.
const MAX_MEMORY: u64 = 512 << 20;
const MAX_R: u32 = 64;
const MAX_P: u32 = 64;

/// The newest derived keys, by the digest of the password and of everything else that they depend on.
static DERIVED: Mutex<Vec<(Id, Arc<Key>)>> = Mutex::new(Vec::new());
const MAX_DERIVED: usize = 8;

#[derive(Serialize, Deserialize)]
struct KeyFile {
    created: String,
    username: String,
    hostname: String,
    kdf: String,
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
    salt: String,
    data: String,
}

/// Encrypts a master key with a password; returns the contents of the file.
pub fn lock(master: &Key, password: &str, now: DateTime<Utc>) -> io::Result<Vec<u8>> {
    let mut salt = [0; 64];
    random(&mut salt)?;
    let params = Params::new(LOG_N, R, P).map_err(io::Error::other)?;
    let key = derive(password, &salt, &params).map_err(io::Error::other)?;
    let file = KeyFile {
        created: now.with_timezone(&Local).to_rfc3339_opts(SecondsFormat::Nanos, true),
        username: "kvmbackup".to_owned(),
        hostname: host::node_name(),
        kdf: "scrypt".to_owned(),
        n: 1 << LOG_N,
        r: R,
        p: P,
        salt: STANDARD.encode(salt),
        data: STANDARD.encode(key.seal(&master.to_json()?)?),
    };
    Ok(serde_json::to_vec(&file)?)
}

/// Decrypts the master key in a file; `None` if the password is wrong.
pub fn unlock(file: &[u8], password: &str) -> Result<Option<Key>, Corruption> {
    let file: KeyFile = serde_json::from_slice(file).map_err(Corruption::Json)?;
    if file.kdf != "scrypt" {
        return Err(Corruption::Malformed("the key is not derived with scrypt"));
    }
    let is_affordable = file.n.checked_mul(128 * u64::from(file.r)).is_some_and(|memory| memory <= MAX_MEMORY);
    if !file.n.is_power_of_two() || !is_affordable || file.r > MAX_R || file.p > MAX_P {
        return Err(Corruption::Malformed("the scrypt parameters of the key are out of bounds"));
    }
    let decode = |text: &str| STANDARD.decode(text).map_err(|_| Corruption::Malformed("it contains invalid base64"));
    // N is a power of two below 2^40.
    let params = Params::new(file.n.trailing_zeros() as u8, file.r, file.p);
    let params = params.map_err(|_| Corruption::Malformed("the scrypt parameters of the key are out of bounds"))?;
    let key = derive(password, &decode(&file.salt)?, &params)?;
    match key.open(decode(&file.data)?) {
        Ok(json) => Key::from_json(&Zeroizing::new(json)).map(Some),
        Err(Corruption::Mac) => Ok(None),
        Err(damage) => Err(damage),
    }
}

/// Derives a key once per process: a run opens the repository for the backup and for the survey after it, and the
/// exporter every minute.
fn derive(password: &str, salt: &[u8], params: &Params) -> Result<Arc<Key>, Corruption> {
    let cost = [u64::from(params.log_n()), u64::from(params.r()), u64::from(params.p()), salt.len() as u64];
    let mut digest = Sha256::new();
    cost.iter().for_each(|number| digest.update(number.to_le_bytes()));
    let id = Id::from_bytes(digest.chain_update(salt).chain_update(password).finalize().into());
    // A second thread waits here instead of deriving the same key.
    let mut derived = DERIVED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, key)) = derived.iter().find(|(known, _)| *known == id) {
        return Ok(key.clone());
    }
    let key = Arc::new(derive_now(password, salt, params)?);
    if derived.len() == MAX_DERIVED {
        derived.remove(0);
    }
    derived.push((id, key.clone()));
    Ok(key)
}

fn derive_now(password: &str, salt: &[u8], params: &Params) -> Result<Key, Corruption> {
    let mut bytes = Zeroizing::new([0; Key::BYTES]);
    let derived = scrypt::scrypt(password.as_bytes(), salt, params, bytes.as_mut_slice());
    derived.map_err(|_| Corruption::Malformed("the scrypt parameters of the key are out of bounds"))?;
    Ok(Key::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by restic 0.14 with the password `secret`.
    const OF_RESTIC: &[u8] = br#"{"created":"2026-11-30T15:19:48.309465391Z","username":"root","hostname":"vm","kdf":"scrypt","N":16384,"r":8,"p":1,"salt":"sWLpNYACrokeuV08h11QFn3HAiESgYx2aZveJcKCvhIvNd1nFQGuNfmB9ZbPPe4l+qD1U7KhnF5Ms0hWMonVLw==","data":"FM9/VL88rs+jJJR7to43YOs3c42aRqYpzaUsv3CDPBkzr8xpPYkbOT5LJ/hPh0ezIGgkea0gDquY7E5CKyZ8Jrby1uGbdCgm4B9K+lyYf7aWmV65M+z9pQfPpNvdQ7djdhh6pkKAQ6+4+mJfkOgUdl+GkpPS5vlcaPG8x+PEfdfn/ilE1yFwidSMKmbZ9QI/UM8oBX32dbvtFNhAezpeMg=="}"#;

    #[test]
    fn key_is_derived_once_for_the_same_password_salt_and_cost() {
        let cheap = |log_n| Params::new(log_n, 1, 1).unwrap();
        let first = derive("a password", b"salt", &cheap(4)).unwrap();
        assert!(Arc::ptr_eq(&first, &derive("a password", b"salt", &cheap(4)).unwrap()));
        for (password, salt, log_n) in [("another", "salt", 4), ("a password", "salt2", 4), ("a password", "salt", 5)] {
            assert!(first != derive(password, salt.as_bytes(), &cheap(log_n)).unwrap());
        }
        assert!(first != derive("2a password", b"salt", &cheap(4)).unwrap(), "the salt has no fixed length");
        assert!(derive("password", b"salta ", &cheap(4)).unwrap() != first);
    }

    #[test]
    fn key_of_restic_opens_only_with_its_password() {
        assert!(unlock(OF_RESTIC, "secret").unwrap().is_some());
        assert!(unlock(OF_RESTIC, "Secret").unwrap().is_none());
    }

    #[test]
    fn our_key_opens_and_contains_no_plain_text() {
        let master = Key::random().unwrap();
        let file = lock(&master, "pass word", Utc::now()).unwrap();
        assert!(unlock(&file, "pass word").unwrap().unwrap() == master);
        assert!(unlock(&file, "").unwrap().is_none());
        let text = String::from_utf8(file).unwrap();
        assert!(!text.contains("pass word") && !text.contains("mac"));
    }

    #[test]
    fn excessive_cost_is_refused_without_deriving_the_key() {
        let text = std::str::from_utf8(OF_RESTIC).unwrap();
        for (from, to) in [
            ("\"N\":16384", "\"N\":4611686018427387904"),
            ("\"N\":16384", "\"N\":16777216"),
            ("\"N\":16384", "\"N\":0"),
            ("\"N\":16384", "\"N\":3"),
            ("\"r\":8", "\"r\":0"),
            ("\"r\":8", "\"r\":4294967295"),
            ("\"N\":16384,\"r\":8", "\"N\":2,\"r\":1000000"),
            ("\"p\":1", "\"p\":0"),
            ("\"p\":1", "\"p\":100000"),
            ("scrypt", "none"),
            ("sWLp", "!!!!"),
        ] {
            assert!(unlock(text.replace(from, to).as_bytes(), "secret").is_err(), "{to}");
        }
    }
}
