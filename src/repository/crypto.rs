//! Implements restic's encryption: AES-256 in counter mode, and Poly1305-AES over the ciphertext. Must not know the
//! contents, or print a key.
//!
//! Sealed bytes are 16 random bytes, the ciphertext, and an authentication code of 16 bytes.

use std::fmt;
use std::io;

use aes::Aes256;
use aes::cipher::{BlockCipherEncrypt, KeyInit, KeyIvInit, StreamCipher};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ctr::Ctr128BE;
use poly1305::Poly1305;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::Corruption;

/// Bytes that sealing adds.
pub const OVERHEAD: usize = IV + MAC;

const IV: usize = 16;
const MAC: usize = 16;

/// A key for encryption and authentication. It is overwritten when it is dropped, and never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Key {
    encrypt: [u8; 32],
    mac_k: [u8; 16],
    mac_r: [u8; 16],
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// The key as restic stores it.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Stored {
    mac: StoredMac,
    encrypt: String,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct StoredMac {
    k: String,
    r: String,
}

impl Key {
    /// Length in bytes of the material for a key, for example derived from a password.
    pub const BYTES: usize = 64;

    /// A new random key.
    pub fn random() -> io::Result<Key> {
        let mut bytes = Zeroizing::new([0; Key::BYTES]);
        random(bytes.as_mut_slice())?;
        Ok(Key::from_bytes(&bytes))
    }

    /// The key made from this material.
    pub fn from_bytes(bytes: &[u8; Key::BYTES]) -> Key {
        let mut key = Key { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        key.encrypt.copy_from_slice(&bytes[..32]);
        key.mac_k.copy_from_slice(&bytes[32..48]);
        key.mac_r.copy_from_slice(&bytes[48..]);
        key
    }

    /// The key as it is stored, but unencrypted.
    pub fn to_json(&self) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
        let text = |bytes: &[u8]| STANDARD.encode(bytes);
        let mac = StoredMac { k: text(&self.mac_k), r: text(&self.mac_r) };
        serde_json::to_vec(&Stored { mac, encrypt: text(&self.encrypt) }).map(Zeroizing::new)
    }

    /// Parses the result of [`Key::to_json`].
    pub fn from_json(json: &[u8]) -> Result<Key, Corruption> {
        let stored: Stored = serde_json::from_slice(json).map_err(Corruption::Json)?;
        let mut key = Key { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        for (part, text) in [
            (key.encrypt.as_mut_slice(), &stored.encrypt),
            (key.mac_k.as_mut_slice(), &stored.mac.k),
            (key.mac_r.as_mut_slice(), &stored.mac.r),
        ] {
            let bytes = Zeroizing::new(STANDARD.decode(text).unwrap_or_default());
            if bytes.len() != part.len() {
                return Err(Corruption::Malformed("a part of the key has the wrong length"));
            }
            part.copy_from_slice(&bytes);
        }
        Ok(key)
    }

    /// Encrypts and authenticates.
    pub fn seal(&self, contents: &[u8]) -> io::Result<Vec<u8>> {
        let mut sealed = Vec::with_capacity(contents.len() + OVERHEAD);
        sealed.resize(IV, 0);
        random(&mut sealed)?;
        let iv: [u8; IV] = sealed[..].try_into().map_err(io::Error::other)?;
        sealed.extend_from_slice(contents);
        self.cipher(&iv).apply_keystream(&mut sealed[IV..]);
        let mac = self.mac(&iv, &sealed[IV..]);
        sealed.extend_from_slice(&mac);
        Ok(sealed)
    }

    /// Checks and decrypts in place.
    pub fn open(&self, mut sealed: Vec<u8>) -> Result<Vec<u8>, Corruption> {
        let length = sealed.len().checked_sub(OVERHEAD).ok_or(Corruption::Short)?;
        let (iv, rest) = sealed.split_first_chunk::<IV>().ok_or(Corruption::Short)?;
        let (encrypted, mac) = rest.split_at(length);
        if !is_same(&self.mac(iv, encrypted), mac) {
            return Err(Corruption::Mac);
        }
        let mut cipher = self.cipher(iv);
        sealed.copy_within(IV..IV + length, 0);
        sealed.truncate(length);
        cipher.apply_keystream(&mut sealed);
        Ok(sealed)
    }

    fn cipher(&self, iv: &[u8; IV]) -> Ctr128BE<Aes256> {
        Ctr128BE::<Aes256>::new(&self.encrypt.into(), &(*iv).into())
    }

    /// Poly1305-AES: the second half of the one-time key is the encrypted nonce. The crate `poly1305` clears the bits
    /// of `r` that must be zero.
    fn mac(&self, iv: &[u8; IV], encrypted: &[u8]) -> [u8; MAC] {
        let mut nonce = (*iv).into();
        aes::Aes128::new(&self.mac_k.into()).encrypt_block(&mut nonce);
        let mut key = Zeroizing::new([0; 32]);
        key[..16].copy_from_slice(&self.mac_r);
        key[16..].copy_from_slice(&nonce);
        Poly1305::new((&*key).into()).compute_unpadded(encrypted).into()
    }
}

/// Compares in a time that does not depend on the bytes.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// Fills a buffer with random bytes from the kernel.
pub fn random(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())?;
        bytes = &mut bytes[count..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_round_trip_and_any_change_is_detected() {
        let key = Key::random().unwrap();
        for contents in [&b""[..], b"x", &[7; 1000]] {
            let sealed = key.seal(contents).unwrap();
            assert_eq!(sealed.len(), contents.len() + OVERHEAD);
            assert_eq!(key.open(sealed.clone()).unwrap(), contents);
            for at in 0..sealed.len() {
                let mut bad = sealed.clone();
                bad[at] ^= 1;
                assert!(matches!(key.open(bad), Err(Corruption::Mac)));
                assert!(key.open(sealed[..at].to_vec()).is_err());
            }
            assert!(matches!(Key::random().unwrap().open(sealed), Err(Corruption::Mac)));
        }
        assert_ne!(key.seal(b"x").unwrap(), key.seal(b"x").unwrap());
    }

    #[test]
    fn keys_round_trip_and_are_never_printed() {
        let key = Key::random().unwrap();
        let json = key.to_json().unwrap();
        assert!(json.starts_with(br#"{"mac":{"k":""#));
        assert!(Key::from_json(&json).unwrap() == key);
        assert_eq!(format!("{key:?}"), "Key");
        let short = br#"{"mac":{"k":"AA==","r":"AA=="},"encrypt":"AA=="}"#;
        assert!(matches!(Key::from_json(short), Err(Corruption::Malformed(_))));
        assert!(matches!(Key::from_json(b"{}"), Err(Corruption::Json(_))));
    }
}
