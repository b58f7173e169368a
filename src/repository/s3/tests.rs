//! Tests the bucket as a place, with a real server.

use std::net::TcpListener;
use std::time::Instant;

use super::super::place::contract;
use super::*;
use crate::sys::patience::is_out_of_reach;

#[path = "../../../tests/bucket/mod.rs"]
mod bucket;

use bucket::{KEY, SECRET, Server};

fn keys(secret: &str) -> S3Keys {
    S3Keys { id: KEY.to_owned(), secret: Zeroizing::new(secret.to_owned()), token: None }
}

fn place(url: &str, limit: u64) -> S3 {
    let patience = Patience::new(Duration::from_secs(limit));
    S3::at(&url.parse().unwrap(), "us-east-1", &keys(SECRET), None, &patience).unwrap()
}

#[test]
fn bucket_passes_the_contract() {
    let server = Server::start();
    contract::all(&place(&server.url(), 30));
}

#[test]
fn large_object_is_uploaded_in_parts_and_only_as_a_whole() {
    let server = Server::start();
    let place = place(&server.url(), 30);
    let bytes: Vec<u8> = (0..WHOLE + PART + 1).map(|n| (n / 1000 % 251) as u8).collect();
    let object = Object::new(Kind::Pack, Id::of(&bytes));
    let before = server.seen();
    place.put(object, bytes.clone()).unwrap();
    assert!(server.seen() - before >= 8, "one request for each part, the beginning and the end");
    assert_eq!(place.size(object).unwrap(), bytes.len() as u64);
    assert!(place.read_all(object, u64::MAX).unwrap() == bytes);
    place.remove(object).unwrap();

    server.fail("POST", "data/", "503", 1000);
    let short = self::place(&server.url(), 3);
    short.put(object, bytes).unwrap_err();
    assert_eq!(short.list(Kind::Pack).unwrap(), []);
}

#[test]
fn failures_of_server_and_network_are_retried() {
    let server = Server::start();
    let place = place(&server.url(), 30);
    for how in ["503", "cut", "lost"] {
        for (method, calls) in [("PUT", 0), ("HEAD", 1), ("GET", 2), ("DELETE", 3)] {
            let object = Object::new(Kind::Pack, Id::of(how.as_bytes()));
            place.put(object, vec![7; 100_000]).unwrap();
            server.fail(method, "", how, 2);
            match calls {
                0 => place.put(object, vec![7; 100_000]).unwrap(),
                1 => assert_eq!(place.size(object).unwrap(), 100_000),
                2 => assert_eq!(place.read(object, 0..100_000).unwrap(), vec![7; 100_000]),
                _ => place.remove(object).unwrap(),
            }
        }
    }
}

#[test]
fn wrong_keys_and_missing_buckets_are_reported_without_the_secret() {
    let server = Server::start();
    let wrong = keys("another-secret");
    let url: BucketUrl = server.url().parse().unwrap();
    let at = |url: &BucketUrl, keys| S3::at(url, "us-east-1", keys, None, &Patience::default()).unwrap();
    let place = at(&url, &wrong);
    let error = place.list(Kind::Key).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(
        error.to_string(),
        "403 Forbidden: SignatureDoesNotMatch: The signature does not match the one you provided."
    );
    let printed = format!("{place:?} {wrong:?} {error:?}");
    assert!(!printed.contains("another-secret") && !printed.contains(KEY), "{printed}");

    let nowhere = BucketUrl { bucket: "nowhere".to_owned(), ..url };
    let place = at(&nowhere, &keys(SECRET));
    assert_eq!(place.size(Object::CONFIG).unwrap_err().kind(), io::ErrorKind::NotFound);
    let error = place.put(Object::CONFIG, vec![1]).unwrap_err();
    assert!(error.kind() == io::ErrorKind::Other && error.to_string().contains("NoSuchBucket"), "{error}");
}

#[test]
fn server_that_is_gone_or_silent_is_a_stall_within_the_limit() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::start();
    let gone = place(&server.url(), 3);
    gone.put(Object::CONFIG, vec![1]).unwrap();
    server.end();
    let silent = place(&format!("s3:http://{}/b", silent.local_addr().unwrap()), 3);
    for place in [gone, silent] {
        let begun = Instant::now();
        for _ in 0..3 {
            let error = place.read_all(Object::CONFIG, 10).unwrap_err();
            assert!(is_out_of_reach(&error), "{error:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(12), "{place:?}: {:?}", begun.elapsed());
    }
}

#[test]
fn server_that_hangs_in_the_middle_is_a_stall_and_the_next_call_succeeds() {
    let server = Server::start();
    let place = place(&server.url(), 3);
    place.put(Object::CONFIG, vec![1]).unwrap();
    server.fail("PUT", "", "hang", 10);
    let error = place.put(Object::CONFIG, vec![2]).unwrap_err();
    assert!(is_out_of_reach(&error), "{error:?}");
    server.fail("PUT", "", "hang", 0);
    place.put(Object::CONFIG, vec![3]).unwrap();
    assert_eq!(place.read_all(Object::CONFIG, 10).unwrap(), [3]);
}
