//! Contains the tests that every kind of place must pass; the tests of a kind call [`all`]. Must not depend on a kind.

use std::io;

use super::super::Id;
use super::{Kind, Object, Place};

/// Runs all tests on an empty place.
pub fn all(place: &dyn Place) {
    for kind in Kind::ALL {
        reads_what_was_put(place, kind);
    }
    lists_each_kind_for_itself(place);
}

fn reads_what_was_put(place: &dyn Place, kind: Kind) {
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let object = if kind == Kind::Config { Object::CONFIG } else { Object::new(kind, Id::of(&bytes)) };
    let missing = |result: io::Result<u64>| result.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let too_short = |error: io::Error| error.kind() == io::ErrorKind::UnexpectedEof;
    assert!(missing(place.size(object)) && missing(place.read(object, 0..1).map(|_| 0)));
    place.remove(object).expect("removing a missing object is not an error");

    place.put(object, bytes.clone()).unwrap();
    assert_eq!(place.size(object).unwrap(), bytes.len() as u64);
    for range in [0..bytes.len(), 0..0, 0..1, 1000..250_000, bytes.len() - 1..bytes.len()] {
        assert!(place.read(object, range.start as u64..range.end as u64).unwrap() == bytes[range]);
    }
    let end = bytes.len() as u64;
    assert!(place.read(object, end - 1..end + 1).is_err_and(too_short));
    assert!(place.read(object, end..end + 1).is_err_and(too_short));
    assert!(place.read(object, u64::MAX - 1..u64::MAX).is_err());
    assert!(place.read_all(object, end).unwrap() == bytes);
    assert_eq!(place.read_all(object, end - 1).unwrap_err().kind(), io::ErrorKind::FileTooLarge);

    place.put(object, b"other".to_vec()).expect("a damaged object can be replaced");
    assert_eq!(place.read_all(object, 100).unwrap(), b"other");
    place.put(object, Vec::new()).unwrap();
    assert_eq!(place.read_all(object, 100).unwrap(), b"");
    place.remove(object).unwrap();
    assert!(missing(place.size(object)));
}

fn lists_each_kind_for_itself(place: &dyn Place) {
    for (kind, count) in Kind::ALL.into_iter().skip(1).zip(1_u8..) {
        assert_eq!(place.list(kind).unwrap(), []);
        (0..count * 3).for_each(|n| place.put(Object::new(kind, Id::of(&[n])), vec![n; usize::from(n)]).unwrap());
    }
    for (kind, count) in Kind::ALL.into_iter().skip(1).zip(1_u8..) {
        let mut found = place.list(kind).unwrap();
        let mut expected: Vec<_> = (0..count * 3).map(|n| (Id::of(&[n]), u64::from(n))).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }
}
