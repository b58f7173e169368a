//! Tests against servers that stall or send garbage or false replies.

use std::io::Write;
use std::os::unix::net::UnixListener;

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::Client;
use super::fake::{CONTEXT, Fake, Request, SIZE, Terms, chunk, data, hole, simple, status};
use super::*;

fn connect(fake: &Fake) -> Client {
    Client::connect(&fake.socket, "", PATIENCE).unwrap()
}

/// Reads 1000 bytes from a server with these replies.
fn read(terms: Terms, answer: impl Fn(Request) -> Vec<u8> + Send + Sync + 'static) -> Result<Vec<u8>, Error> {
    let fake = Fake::new(terms, answer);
    let mut all = Vec::new();
    connect(&fake).read(&[extent(100, 1000)], |_, bytes| {
        all.extend_from_slice(bytes);
        Ok::<_, Error>(())
    })?;
    Ok(all)
}

fn map(terms: Terms, answer: impl Fn(Request) -> Vec<u8> + Send + Sync + 'static) -> Result<Vec<Extent>, Error> {
    let fake = Fake::new(terms, answer);
    connect(&fake).extents()
}

#[test]
fn a_silent_server_is_reported_as_stalled() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let error = Client::connect(&socket, "", SHORT).err().unwrap();
    assert!(matches!(error, Error::Stalled { .. }), "{error}");
    assert!(error.hint().is_some());

    let fake = Fake::new(Terms::default(), |_| {
        loop {
            std::thread::park();
        }
    });
    for act in [|c: &mut Client| c.extents().map(drop), |c: &mut Client| c.read(&[extent(0, 9)], |_, _| Ok(()))] {
        let mut client = Client::connect(&fake.socket, "", SHORT).unwrap();
        assert!(matches!(act(&mut client), Err(Error::Stalled { .. })));
    }
}

#[test]
fn a_reply_may_consist_of_data_and_holes() {
    let bytes = read(Terms::default(), |r| {
        [data(false, r.cookie, 100, &[1; 400]), hole(false, r.cookie, 500, 500), data(true, r.cookie, 1000, &[2; 100])]
            .concat()
    });
    assert_eq!(bytes.unwrap(), [&[1; 400][..], &[0; 500], &[2; 100]].concat());
    let bytes = read(Terms::default(), |r| [hole(false, r.cookie, 100, 1000), chunk(true, 0, r.cookie, &[])].concat());
    assert_eq!(bytes.unwrap(), [0; 1000]);
}

#[test]
fn a_server_without_extensions_has_one_extent_and_simple_replies() {
    let plain = Terms { structured: false, allocation: false, ..Terms::default() };
    assert_eq!(map(plain, |_| Vec::new()).unwrap(), [extent(0, SIZE)]);
    assert_eq!(read(plain, |r| simple(0, r.cookie, &[3; 1000])).unwrap(), [3; 1000]);
    assert_eq!(map(Terms { size: 0, ..plain }, |_| Vec::new()).unwrap(), []);
    let no_context = Terms { allocation: false, ..Terms::default() };
    assert_eq!(map(no_context, |_| Vec::new()).unwrap(), [extent(0, SIZE)]);
}

#[test]
fn block_sizes_are_respected_and_replies_may_come_in_any_order() {
    let terms = Terms { blocks: Some([16, 256, 300]), flags: 1 | 1 << 8, ..Terms::default() };
    let held = std::sync::Mutex::new(std::collections::HashMap::new());
    // Swaps the replies to the first two requests of each connection.
    let bytes = read(terms, move |r| {
        assert!(r.length <= 288 && r.offset >= 100);
        let answer = data(true, r.cookie, r.offset, &vec![(r.offset / 100) as u8; r.length as usize]);
        let lane = (r.offset - 100) / 288 % 2;
        let mut held = held.lock().unwrap();
        match held.remove(&lane) {
            Some(earlier) => [answer, earlier].concat(),
            None => {
                held.insert(lane, answer);
                // The fake must send something, so it sends an empty chunk.
                chunk(false, 0, r.cookie, &[])
            }
        }
    });
    let expected = [vec![1; 288], vec![3; 288], vec![6; 288], vec![9; 136]].concat();
    assert_eq!(bytes.unwrap(), expected);
}

#[test]
fn errors_contain_number_and_message() {
    let said = |error: Error, number: i32, message: &str| match error {
        Error::Request { source, message: text, .. } => {
            assert_eq!((source.raw_os_error(), text.as_str()), (Some(number), message));
        }
        other => panic!("{other}"),
    };
    let payload = [&5u32.to_be_bytes()[..], &4u16.to_be_bytes(), b"disk"].concat();
    let with_offset = [&payload[..], &100u64.to_be_bytes()].concat();
    let copy = payload.clone();
    said(read(Terms::default(), move |r| chunk(true, 0x8001, r.cookie, &payload)).unwrap_err(), 5, "disk");
    said(read(Terms::default(), move |r| chunk(true, 0x8002, r.cookie, &with_offset)).unwrap_err(), 5, "disk");
    said(map(Terms::default(), move |r| chunk(true, 0x8001, r.cookie, &copy)).unwrap_err(), 5, "disk");
    said(read(Terms::default(), |r| simple(28, r.cookie, &[])).unwrap_err(), 28, "");
}

#[test]
fn false_data_replies_are_rejected() {
    type Lie = fn(Request) -> Vec<u8>;
    let lies: &[(&str, Lie)] = &[
        ("too much", |r| data(true, r.cookie, 100, &[1; 1001])),
        ("too little", |r| data(true, r.cookie, 100, &[1; 999])),
        ("elsewhere", |r| data(true, r.cookie, 0, &[1; 1000])),
        ("overlap", |r| [data(false, r.cookie, 100, &[1; 600]), data(true, r.cookie, 200, &[1; 400])].concat()),
        ("nothing", |r| chunk(true, 0, r.cookie, &[])),
        ("huge hole", |r| hole(true, r.cookie, 100, u32::MAX)),
        ("far hole", |r| hole(true, r.cookie, u64::MAX, 1000)),
        ("another's", |r| data(true, r.cookie + 1, 100, &[1; 1000])),
        ("twice", |r| data(true, r.cookie, 100, &[1; 1000]).repeat(2)),
        ("status", |r| status(CONTEXT, r.cookie, &[(1000, 0)])),
        ("unknown kind", |r| chunk(true, 77, r.cookie, &[0; 20])),
        ("short data", |r| chunk(true, 1, r.cookie, &[0; 4])),
        ("long message", |r| chunk(true, 0x8001, r.cookie, &[0, 0, 0, 5, 255, 255])),
        ("garbage", |_| vec![0x41; 1000]),
    ];
    for (name, lie) in lies {
        let result = read(
            Terms { blocks: Some([1, 1000, if *name == "twice" { 500 } else { 1000 }]), ..Terms::default() },
            *lie,
        );
        assert!(matches!(result, Err(Error::Protocol { .. })), "{name}: {result:?}");
    }
    assert!(matches!(read(Terms::default(), |_| Vec::new()), Err(Error::Closed { .. })));
}

#[test]
fn block_status_is_clipped_merged_and_validated() {
    let zero = 1 << 1;
    let good = map(Terms::default(), move |r| {
        assert_eq!((r.command, r.offset, r.length), (7, 0, SIZE as u32));
        status(CONTEXT, r.cookie, &[(512, 0), (512, 1), (1024, zero), (1024, zero | 1), (u32::MAX, 0)])
    });
    assert_eq!(good.unwrap(), [extent(0, 1024), extent(3072, SIZE - 3072)]);
    let step_by_step =
        map(Terms::default(), move |r| status(CONTEXT, r.cookie, &[(1 << 16, (r.offset >> 15) as u32 & zero)]));
    assert_eq!(step_by_step.unwrap().len(), 8);

    type Lie = fn(Request) -> Vec<u8>;
    let lies: &[(&str, Lie)] = &[
        ("empty", |r| status(CONTEXT, r.cookie, &[])),
        ("no length", |r| status(CONTEXT, r.cookie, &[(0, 0)])),
        ("beyond", |r| status(CONTEXT, r.cookie, &[(SIZE as u32, 0), (1, 0)])),
        ("other context", |r| status(CONTEXT + 1, r.cookie, &[(512, 0)])),
        ("other request", |r| status(CONTEXT, r.cookie + 1, &[(512, 0)])),
        ("ragged", |r| chunk(true, 5, r.cookie, &[0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, 9])),
        ("none", |r| chunk(true, 0, r.cookie, &[])),
        ("data", |r| data(true, r.cookie, 0, &[1; 100])),
    ];
    for (name, lie) in lies {
        let result = map(Terms::default(), *lie);
        assert!(matches!(result, Err(Error::Protocol { .. })), "{name}: {result:?}");
    }
}

#[test]
fn a_million_extents_on_four_tebibytes_are_mapped() {
    let terms = Terms { size: 4 << 40, ..Terms::default() };
    let extents = map(terms, |r| {
        // The rest, which is less than a pair, is zeros.
        let pairs = (0..r.length >> 21).flat_map(|_| [(1 << 20, 0), (1 << 20, 2)]);
        let blocks: Vec<_> = pairs.chain([(1 << 21, 2)]).collect();
        status(CONTEXT, r.cookie, &blocks[..blocks.len() - usize::from(r.length.is_multiple_of(1 << 21))])
    });
    let extents = extents.unwrap();
    assert!(extents.len() > 1_000_000, "{}", extents.len());
    assert!(extents.is_sorted_by(|a, b| a.end() < b.offset));
}

#[test]
fn invalid_handshakes_are_rejected() {
    for blocks in [[0, 1, 1], [3, 3, 9], [1 << 17, 1 << 17, 1 << 20], [512, 512, 256]] {
        let fake = Fake::new(Terms { blocks: Some(blocks), ..Terms::default() }, |_| Vec::new());
        assert!(matches!(Client::connect(&fake.socket, "", PATIENCE), Err(Error::Protocol { .. })), "{blocks:?}");
    }
    let fake = Fake::new(Terms { flags: 0, ..Terms::default() }, |_| Vec::new());
    assert!(matches!(Client::connect(&fake.socket, "", PATIENCE), Err(Error::Protocol { .. })));
    assert!(matches!(Client::connect(&fake.socket, &"x".repeat(5000), PATIENCE), Err(Error::Export { .. })));
}

#[test]
fn endless_replies_to_an_option_are_an_error() {
    let fake = Fake::raw(|mut stream| {
        let _ = stream.write_all(b"NBDMAGICIHAVEOPT\0\x03");
        let mut reply = 0x3e889045565a9u64.to_be_bytes().to_vec();
        reply.extend_from_slice(&[0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 0]);
        while stream.write_all(&reply).is_ok() {}
    });
    assert!(matches!(Client::connect(&fake.socket, "", PATIENCE), Err(Error::Protocol { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Random bytes at any time must lead to a result or an error without a long wait.
    #[test]
    fn random_replies_end_in_a_result_or_an_error(noise in prop::collection::vec(any::<u8>(), 1..200), cut in 0usize..40, greet in any::<bool>()) {
        let copy = noise.clone();
        let fake = Fake::raw(move |mut stream| {
            let greeting: &[u8] = if greet { b"NBDMAGICIHAVEOPT\0\x03" } else { b"" };
            let _ = stream.write_all(greeting).and_then(|()| stream.write_all(&copy));
        });
        prop_assert!(Client::connect(&fake.socket, "", PATIENCE).is_err());

        let mangle = move |r: Request| {
            let good = if r.command == 7 { status(CONTEXT, r.cookie, &[(SIZE as u32, 0)]) } else { data(true, r.cookie, r.offset, &[1; 1000]) };
            [&good[..cut.min(good.len())], &noise].concat()
        };
        let fake = Fake::new(Terms::default(), mangle);
        let mut client = Client::connect(&fake.socket, "", SHORT).unwrap();
        let _ = client.extents();
        let mut client = Client::connect(&fake.socket, "", SHORT).unwrap();
        let _ = client.read(&[extent(100, 1000)], |_, _| Ok::<_, Error>(()));
    }
}
