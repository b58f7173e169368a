//! Forges repositories as an attacker with the password could write them: any contents, correctly encrypted. Independent of
//! the program's own encryption. Must not read a repository.
//!
//! All bytes are the same in every process, so are the IDs.
#![allow(dead_code, reason = "every test binary compiles this and uses a part of it")]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aes::Aes256;
use aes::cipher::{BlockCipherEncrypt as _, KeyInit as _, KeyIvInit as _, StreamCipher as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ctr::Ctr128BE;
use poly1305::Poly1305;
use sha2::{Digest as _, Sha256};

/// Opens every forged repository.
pub const PASSWORD: &str = "forged";

/// Parts of the master key: for encryption, and the two for authentication.
type Key = ([u8; 32], [u8; 16], [u8; 16]);

const MASTER: Key = ([1; 32], [2; 16], [3; 16]);

/// A repository: its files by their path.
#[derive(Default)]
pub struct Forge {
    /// All files except the pack and the index of [`Forge::blob`].
    pub files: BTreeMap<String, Vec<u8>>,
    pack: Vec<u8>,
    entries: String,
}

/// The SHA-256 of bytes, as an ID is written.
pub fn id(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn seal((encrypt, mac_k, mac_r): &Key, contents: &[u8]) -> Vec<u8> {
    let iv = [9; 16];
    let mut encrypted = contents.to_vec();
    Ctr128BE::<Aes256>::new(encrypt.into(), &iv.into()).apply_keystream(&mut encrypted);
    let mut nonce = iv.into();
    aes::Aes128::new(mac_k.into()).encrypt_block(&mut nonce);
    let key: [u8; 32] = [mac_r.as_slice(), nonce.as_slice()].concat().try_into().unwrap();
    let mac = Poly1305::new(&key.into()).compute_unpadded(&encrypted);
    [&iv, encrypted.as_slice(), mac.as_slice()].concat()
}

impl Forge {
    /// A repository with a config and a key that costs nothing to open, which restic refuses.
    pub fn new() -> Forge {
        Forge::with_cost(1, 1)
    }

    /// A repository whose key has this cost: the logarithm of N, and r.
    pub fn with_cost(log_n: u8, r: u32) -> Forge {
        let mut forge = Forge::default();
        let config = format!(r#"{{"version":2,"id":"{}","chunker_polynomial":"264c814288ef7d"}}"#, id(b"repository"));
        forge.config(config.as_bytes());
        let text = |bytes: &[u8]| STANDARD.encode(bytes);
        let master = format!(
            r#"{{"mac":{{"k":"{}","r":"{}"}},"encrypt":"{}"}}"#,
            text(&MASTER.1),
            text(&MASTER.2),
            text(&MASTER.0)
        );
        let (salt, mut derived) = ([4; 64], [0; 64]);
        scrypt::scrypt(PASSWORD.as_bytes(), &salt, &scrypt::Params::new(log_n, r, 1).unwrap(), &mut derived).unwrap();
        let part = |from: usize| derived[from..from + 16].try_into().unwrap();
        let user = (derived[..32].try_into().unwrap(), part(32), part(48));
        let file = format!(
            r#"{{"created":"2026-11-30T02:00:00Z","username":"root","hostname":"x","kdf":"scrypt","N":{},"r":{r},"p":1,"salt":"{}","data":"{}"}}"#,
            1_u32 << log_n,
            text(&salt),
            text(&seal(&user, master.as_bytes()))
        );
        forge.file("keys", file.into_bytes());
        forge
    }

    /// Replaces the config.
    pub fn config(&mut self, contents: &[u8]) {
        self.files.insert("config".to_owned(), seal(&MASTER, contents));
    }

    /// Adds an object with these stored bytes; returns its ID.
    pub fn file(&mut self, folder: &str, bytes: Vec<u8>) -> String {
        let id = id(&bytes);
        self.files.insert(format!("{folder}/{id}"), bytes);
        id
    }

    /// Adds an object with these contents.
    pub fn object(&mut self, folder: &str, contents: &[u8]) -> String {
        self.file(folder, seal(&MASTER, contents))
    }

    /// Adds a blob; returns its ID. `kind` is `data` or `tree`.
    pub fn blob(&mut self, kind: &str, contents: &[u8]) -> String {
        let id = id(contents);
        self.stored(kind, &id, contents, None);
        id
    }

    /// Adds a blob with this ID, whatever its contents are. `raw` is the length before compression, if it is compressed.
    pub fn stored(&mut self, kind: &str, id: &str, contents: &[u8], raw: Option<u32>) {
        let sealed = seal(&MASTER, contents);
        let (comma, offset, length) = (if self.entries.is_empty() { "" } else { "," }, self.pack.len(), sealed.len());
        let raw = raw.map_or(String::new(), |raw| format!(r#","uncompressed_length":{raw}"#));
        let entry = format!(r#"{comma}{{"id":"{id}","type":"{kind}","offset":{offset},"length":{length}{raw}}}"#);
        self.entries.push_str(&entry);
        self.pack.extend(sealed);
    }

    /// Stores the blobs in a pack; returns its ID and the contents of the index that lists them.
    pub fn pack(&mut self) -> (String, String) {
        let pack = std::mem::take(&mut self.pack);
        let id = self.file(&format!("data/{}", &id(&pack)[..2]), pack);
        let index = format!(r#"{{"packs":[{{"id":"{id}","blobs":[{}]}}]}}"#, self.entries);
        (id, index)
    }
}

/// The JSON of a file in a directory.
pub fn file_node(name: &str, size: u64, content: &[&str]) -> String {
    let content = content.join("\",\"");
    let content = if content.is_empty() { String::new() } else { format!("\"{content}\"") };
    node(name, "file", &format!(r#""size":{size},"content":[{content}]"#))
}

/// The JSON of a directory in a directory.
pub fn dir_node(name: &str, tree: &str) -> String {
    node(name, "dir", &format!(r#""content":null,"subtree":"{tree}""#))
}

/// The JSON of any entry of a directory.
pub fn node(name: &str, kind: &str, more: &str) -> String {
    let time = "2026-11-30T02:00:00Z";
    format!(r#"{{"name":"{name}","type":"{kind}","mtime":"{time}","atime":"{time}","ctime":"{time}",{more}}}"#)
}

/// The JSON of a directory.
pub fn tree(nodes: &[String]) -> String {
    format!("{{\"nodes\":[{}]}}\n", nodes.join(","))
}

/// The JSON of a restore point of the guest `web`.
pub fn snapshot(tree: &str) -> String {
    format!(
        r#"{{"time":"2026-11-30T02:00:00Z","tree":"{tree}","paths":["/web"],"hostname":"web","username":"root","tags":["kvmbackup","uuid:5a58ba3c-5c3c-4f3c-8a3c-000000000000"]}}"#
    )
}
