//! Snapshot streams: they bring the same state back, and damaged ones do no harm.

use kv_codec::DecodeError;
use kv_codec::varint::{put_bytes, put_u64};
use kv_store::{KvHash, Members, ReadError, SnapshotLoader, Store, View};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::model::{Answer, Kv, ask};
use crate::script::{Op, Query, Step, apply, config, genesis, members, put, script};

fn stream(view: &View) -> Vec<u8> {
    view.chunks().flatten().collect()
}

fn load<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<View, DecodeError> {
    let mut loader = SnapshotLoader::default();
    for chunk in chunks {
        loader.push(chunk)?;
    }
    loader.finish()
}

/// A store after `script`, somewhere in a purge as a rule.
fn run(script: &[Step]) -> Store {
    let mut store = genesis();
    for step in script {
        apply(&mut store, &step.ops);
        store.purge(step.purge);
    }
    store
}

/// All that can be seen of two views is the same. What they purged cannot be seen, but for the bytes that it takes.
pub(crate) fn assert_same(a: &View, b: &View) -> Result<(), TestCaseError> {
    prop_assert_eq!(a.revision(), b.revision());
    prop_assert_eq!(a.compact_revision(), b.compact_revision());
    prop_assert_eq!((a.applied_index(), a.applied_term()), (b.applied_index(), b.applied_term()));
    prop_assert_eq!((a.live_keys(), a.bytes().live), (b.live_keys(), b.bytes().live));
    prop_assert_eq!(a.members(), b.members());
    prop_assert_eq!(a.state_hash(), b.state_hash());
    for revision in 0..=a.revision() {
        prop_assert_eq!(a.hash_kv(revision), b.hash_kv(revision));
        prop_assert_eq!(ask(a, &Query::all(revision)), ask(b, &Query::all(revision)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn a_stream_cut_anywhere_brings_an_equal_store_back(
        before in script(),
        after in script(),
        cuts in prop::collection::vec(any::<Index>(), 0..6),
    ) {
        let mut store = run(&before);
        let bytes = stream(store.view());
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let loaded = load(cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]])).unwrap();
        assert_same(store.view(), &loaded)?;

        let mut other = genesis();
        other.install(loaded);
        for step in &after {
            prop_assert_eq!(apply(&mut store, &step.ops), apply(&mut other, &step.ops));
            prop_assert_eq!(ask(store.view(), &step.query), ask(other.view(), &step.query));
            store.purge(step.purge);
        }
        assert_same(store.view(), other.view())?;
        prop_assert!(!store.purge(usize::MAX) && !other.purge(usize::MAX));
        prop_assert_eq!(store.view().bytes(), other.view().bytes());
    }

    /// What loads has one encoding only, the very bytes that were loaded: nothing of them was dropped or read another way.
    #[test]
    fn a_damaged_stream_is_an_error_or_loads_as_what_it_says(
        script in script(),
        damage in prop::collection::vec((any::<Index>(), 0..4u8, any::<u8>()), 1..4),
    ) {
        let mut bytes = stream(run(&script).view());
        for (at, kind, byte) in damage {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes[at] ^= 1 << (byte % 8),
                2 => bytes.insert(at, byte),
                _ => bytes.truncate(at.max(1)),
            }
        }
        check_any(&bytes)?;
    }

    #[test]
    fn random_bytes_return(mut bytes in prop::collection::vec(prop_oneof![Just(0), Just(1), any::<u8>()], 1..200)) {
        bytes[0] = 1;
        check_any(&bytes)?;
    }
}

fn check_any(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(view) = load([bytes]) else { return Ok(()) };
    prop_assert_eq!(&stream(&view)[..], bytes);
    let (now, count, _) = ask(&view, &Query::all(0)).unwrap();
    prop_assert_eq!((now.len() as u64, count), (view.live_keys(), view.live_keys()));
    prop_assert_eq!(view.bytes().live, now.iter().map(|kv| 40 + (kv.key.len() + kv.value.len()) as u64).sum::<u64>());
    prop_assert!(view.hash_kv(0).is_ok());
    Ok(())
}

/// Every byte of a small stream, each way it can be cut or have one bit flipped.
#[test]
fn every_cut_and_every_flipped_bit_return() {
    let mut store = genesis();
    apply(&mut store, &[put(b"a", b"1"), put(b"b", b"2"), put(b"a", b"3")]);
    apply(&mut store, &[Op::Delete { key: b"a".to_vec(), end: b"c".to_vec() }, put(b"b", b"4")]);
    apply(&mut store, &[Op::Compact(3), Op::Compact(5), put(b"a", b"5")]);
    let bytes = stream(store.view());
    for cut in 0..bytes.len() {
        assert!(matches!(load([&bytes[..cut]]), Err(DecodeError::Truncated(_))), "cut at {cut}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        check_any(&bytes).unwrap_or_else(|error| panic!("bit {bit}: {error}"));
    }
    let trailing = [&bytes[..], b"\0"].concat();
    assert_eq!(load([&trailing[..]]).unwrap_err(), DecodeError::Trailing("snapshot"));
}

/// Longer than one chunk: chunks are of equal length, the last aside, and make the whole.
#[test]
fn chunks_are_bounded() {
    let mut store = genesis();
    for key in 0..9u8 {
        apply(&mut store, &[put(&[key], &vec![key; 200_000])]);
    }
    let chunks: Vec<_> = store.view().chunks().collect();
    let (last, full) = chunks.split_last().unwrap();
    assert_eq!(full.len(), 6);
    assert!(full.iter().all(|chunk| chunk.len() == 256 * 1024) && (1..=256 * 1024).contains(&last.len()));
    assert_same(store.view(), &load(chunks.iter().map(|chunk| &chunk[..])).unwrap()).unwrap();
}

/// A block of a stream, written by hand.
#[derive(Clone)]
struct RawBlock {
    tombstone: bool,
    create: u64,
    main: u64,
    sub: u64,
    version: u64,
    lease: u64,
    key: &'static [u8],
    value: &'static [u8],
}

const BLOCK: RawBlock =
    RawBlock { tombstone: false, create: 3, main: 3, sub: 0, version: 1, lease: 0, key: b"k", value: b"value" };
/// A deletion.
const TOMBSTONE: RawBlock = RawBlock { tombstone: true, create: 0, version: 0, value: b"", ..BLOCK };

/// No compaction: -1.
const NONE: u64 = u64::MAX;

/// A stream, written by hand from the format's description: revision, the only compaction.
fn raw(revisions: [u64; 2], members: &[u64], removed: &[u64], latest: &[RawBlock], older: &[RawBlock]) -> Vec<u8> {
    let compactions: &[u64] = if matches!(revisions[1], 0 | NONE) { &[] } else { &[NONE, revisions[1]] };
    raw_compacted(revisions, compactions, [members, removed], latest, older)
}

/// A stream with a list of compactions: the one before the first, then the ones that are kept.
fn raw_compacted(
    revisions: [u64; 2],
    compactions: &[u64],
    [members, removed]: [&[u64]; 2],
    latest: &[RawBlock],
    older: &[RawBlock],
) -> Vec<u8> {
    raw_leased(revisions, compactions, [members, removed], (&[], &[LEASE]), latest, older)
}

/// A lease: id, seconds granted, seconds left, the entry that granted it.
const LEASE: [u64; 4] = [7, 60, 30, 5];

/// A stream with alarms (member, kind) and leases.
fn raw_leased(
    revisions: [u64; 2],
    compactions: &[u64],
    [members, removed]: [&[u64]; 2],
    (alarms, leases): (&[(u64, u8)], &[[u64; 4]]),
    latest: &[RawBlock],
    older: &[RawBlock],
) -> Vec<u8> {
    let mut out = vec![2];
    for number in revisions.into_iter().chain([5, 1, members.len() as u64]) {
        put_u64(&mut out, number);
    }
    for id in members {
        let member = kv_codec::member::Member { id: *id, peer_urls: vec![], ..self::members().remove(0) };
        member.encode(&mut out);
    }
    put_u64(&mut out, removed.len() as u64);
    removed.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
    put_u64(&mut out, compactions.len().saturating_sub(1) as u64);
    for (at, revision) in compactions.iter().enumerate() {
        put_u64(&mut out, *revision);
        let hash = 7_000_u32.to_le_bytes();
        out.extend_from_slice(if at == 0 { &[] } else { &hash });
    }
    put_u64(&mut out, alarms.len() as u64);
    for (member, kind) in alarms {
        out.extend_from_slice(&member.to_le_bytes());
        out.push(*kind);
    }
    for count in [leases.len(), latest.len(), older.len()] {
        put_u64(&mut out, count as u64);
    }
    leases.iter().flatten().for_each(|number| put_u64(&mut out, *number));
    for block in latest.iter().chain(older) {
        out.push(u8::from(block.tombstone));
        for number in [block.create, block.main, block.sub, block.version, block.lease] {
            put_u64(&mut out, number);
        }
        put_bytes(&mut out, block.key);
        put_bytes(&mut out, block.value);
    }
    out
}

#[test]
fn what_breaks_an_invariant_is_refused() {
    let refused = |what: &str, bytes: Vec<u8>| {
        let found = load([&bytes[..]]);
        assert!(matches!(found, Err(DecodeError::Invalid(_))), "{what}: {found:?}");
    };
    assert!(load([&raw([9, 2], &[1, 2], &[3, 4], &[BLOCK], &[])[..]]).is_ok());
    refused("revision 0", raw([0, 0], &[], &[], &[], &[]));
    refused("compacted beyond the revision", raw([9, 10], &[], &[], &[], &[]));
    refused("compacted below none", raw([9, NONE - 1], &[], &[], &[], &[]));
    refused("a member twice", raw([9, NONE], &[1, 1], &[], &[], &[]));
    refused("members out of order", raw([9, NONE], &[2, 1], &[], &[], &[]));
    refused("removed twice", raw([9, NONE], &[], &[3, 3], &[], &[]));
    refused("removed out of order", raw([9, NONE], &[], &[4, 3], &[], &[]));
    refused("member and removed", raw([9, NONE], &[3], &[3], &[], &[]));
    refused("a block from the future", raw([2, NONE], &[], &[], &[BLOCK], &[]));
    refused("created after it was changed", raw([9, NONE], &[], &[], &[RawBlock { create: 4, ..BLOCK }], &[]));
    refused("version 0", raw([9, NONE], &[], &[], &[RawBlock { version: 0, ..BLOCK }], &[]));
    refused("a key twice", raw([9, NONE], &[], &[], &[BLOCK, RawBlock { main: 4, ..BLOCK }], &[]));
    refused("keys out of order", raw([9, NONE], &[], &[], &[BLOCK, RawBlock { main: 4, key: b"a", ..BLOCK }], &[]));
    refused("two changes at one revision", raw([9, NONE], &[], &[], &[BLOCK, RawBlock { key: b"l", ..BLOCK }], &[]));
    refused("older than nothing", raw([9, NONE], &[], &[], &[BLOCK], &[RawBlock { key: b"j", ..BLOCK }]));
    refused("older than itself", raw([9, NONE], &[], &[], &[BLOCK], std::slice::from_ref(&BLOCK)));
    refused("sub of 33 bits", raw([9, NONE], &[], &[], &[RawBlock { sub: 1 << 32, ..BLOCK }], &[]));
    let tombstone = RawBlock { value: b"value", ..TOMBSTONE };
    refused("a tombstone with a value", raw([9, NONE], &[], &[], &[tombstone], &[]));
    refused("no room for a next revision", raw([i64::MAX as u64, NONE], &[], &[], &[], &[]));
    refused(
        "no room for a next version",
        raw([9, NONE], &[], &[], &[RawBlock { version: i64::MAX as u64, ..BLOCK }], &[]),
    );
}

#[test]
fn leases_and_alarms_that_cannot_be_are_refused() {
    let loads = |alarms: &[(u64, u8)], leases: &[[u64; 4]], lease| {
        let block = RawBlock { lease, ..BLOCK };
        let bytes = raw_leased([9, NONE], &[], [&[], &[]], (alarms, leases), &[block], &[]);
        let loaded = load([&bytes[..]]);
        if let Ok(view) = &loaded {
            assert_eq!(stream(view), bytes);
        }
        loaded.map(drop)
    };
    let invalid = |what| Err(DecodeError::Invalid(what));
    assert_eq!(loads(&[(1, 1), (1, 2), (2, 1)], &[LEASE, [9, 1, 0, 0]], 7), Ok(()));
    assert_eq!(loads(&[(1, 1), (1, 1)], &[], 0), invalid("order of alarms"));
    assert_eq!(loads(&[(1, 0)], &[], 0), invalid("alarm"));
    assert_eq!(loads(&[], &[LEASE], 8), invalid("lease of a key"));
    assert_eq!(loads(&[], &[LEASE, LEASE], 0), invalid("order of leases"));
    assert_eq!(loads(&[], &[LEASE, [6, 1, 0, 0]], 0), invalid("order of leases"));
    assert_eq!(loads(&[], &[[0, 1, 0, 0]], 0), invalid("order of leases"));
    assert_eq!(loads(&[], &[[7, 60, 61, 5]], 0), invalid("TTL"));
    assert_eq!(loads(&[], &[[7, NONE, 0, 5]], 0), invalid("TTL"));
    assert_eq!(loads(&[], &[[7, 60, 0, 6]], 0), invalid("TTL"), "granted by an entry that is not applied");
}

#[test]
fn compactions_that_cannot_be_are_refused() {
    let loads = |revisions, compactions: &[u64]| {
        let bytes = raw_compacted(revisions, compactions, [&[], &[]], &[BLOCK], &[]);
        let loaded = load([&bytes[..]]);
        if let Ok(view) = &loaded {
            assert_eq!(stream(view), bytes);
        }
        loaded.map(drop)
    };
    let invalid = Err(DecodeError::Invalid("snapshot compactions"));
    assert_eq!(loads([9, 8], &[NONE, 8]), Ok(()));
    assert_eq!(loads([9, 8], &[0, 8]), Ok(()));
    assert_eq!(loads([9, 8], &[2, 3, 5, 8]), Ok(()));
    assert_eq!(loads([9, 0], &[]), Ok(()));
    assert_eq!(loads([9, 8], &[]), invalid, "none");
    assert_eq!(loads([9, 8], &[NONE, 7]), invalid, "another one");
    assert_eq!(loads([9, NONE], &[NONE, 7]), invalid, "one, of none");
    assert_eq!(loads([9, 0], &[NONE, 0]), invalid, "one at 0");
    assert_eq!(loads([9, 8], &[NONE, 7, 7, 8]), invalid, "one twice");
    assert_eq!(loads([9, 8], &[8, 8]), invalid, "none before the first");
    assert_eq!(loads([9, 8], &[NONE - 1, 8]), invalid, "before all");
    let eleven: Vec<u64> = (0..12).collect();
    let too_long = DecodeError::TooLong { what: "list of compactions", len: 11, max: 10 };
    assert_eq!(loads([20, 11], &eleven), Err(too_long));
    assert_eq!(loads([20, 11], &eleven[1..]), Ok(()));
}

/// A compaction at 5, and what it must have left out.
#[test]
fn what_a_compaction_hides_is_refused() {
    let put = |main| RawBlock { create: 1, main, ..BLOCK };
    let deleted = |main| RawBlock { main, ..TOMBSTONE };
    let loads = |latest: RawBlock, older: &[RawBlock]| {
        let bytes = raw([9, 5], &[], &[], &[latest], older);
        load([&bytes[..]]).map(drop)
    };
    let hidden = Err(DecodeError::Invalid("revision that is compacted"));
    assert_eq!(loads(put(4), &[]), Ok(()));
    assert_eq!(loads(put(8), &[put(4), put(7)]), Ok(()));
    assert_eq!(loads(put(8), &[deleted(5)]), Ok(()));
    assert_eq!(loads(deleted(5), &[]), Ok(()));
    assert_eq!(loads(deleted(6), &[put(5)]), Ok(()));
    assert_eq!(loads(deleted(4), &[]), hidden);
    assert_eq!(loads(put(5), &[put(4)]), hidden);
    assert_eq!(loads(put(8), &[put(3), put(4)]), hidden);
    assert_eq!(loads(put(8), &[put(4), put(5), put(7)]), hidden);
    assert_eq!(loads(put(8), &[deleted(4)]), hidden);
    assert_eq!(loads(put(8), &[deleted(4), put(7)]), hidden);
}

/// What was written before there were alarms and leases: the same without them.
#[test]
fn the_first_format_is_read() {
    let blocks = [RawBlock { lease: 0, ..BLOCK }];
    let now = raw_leased([9, NONE], &[], [&[1], &[]], (&[], &[]), &blocks, &[]);
    let keys = raw_leased([9, NONE], &[], [&[1], &[]], (&[], &[]), &[], &[]);
    // Behind the list of compactions: no alarms, no leases.
    let none_of_both = keys.len() - 4..keys.len() - 2;
    let mut first = now.clone();
    assert!(first.drain(none_of_both).eq([0, 0]));
    first[0] = 1;
    assert_eq!(stream(&load([&first[..]]).unwrap()), now);
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let mut bytes = raw([9, NONE], &[], &[], &[], &[]);
    for found in [0, 3] {
        bytes[0] = found;
        assert_eq!(load([&bytes[..]]).unwrap_err(), DecodeError::Version { what: "snapshot", found });
    }
}

/// Claimed counts and lengths take no memory: together these streams claim 2^48 bytes of keys, more than a process can address.
#[test]
fn huge_claims_allocate_nothing() {
    let mut claims_a_key = raw([9, NONE], &[], &[], &[BLOCK], &[]);
    claims_a_key.truncate(claims_a_key.len() - b"\x01k\x05value".len());
    put_u64(&mut claims_a_key, 1 << 30);
    let loaders = std::iter::repeat_with(|| {
        let mut loader = SnapshotLoader::default();
        loader.push(&claims_a_key).unwrap();
        loader
    });
    let mut held: Vec<_> = loaders.take(1 << 18).collect();
    assert_eq!(held.pop().unwrap().finish().unwrap_err(), DecodeError::Truncated("snapshot"));

    let mut too_long = claims_a_key.clone();
    too_long.truncate(too_long.len() - 5);
    put_u64(&mut too_long, u64::MAX);
    assert!(matches!(load([&too_long[..]]), Err(DecodeError::TooLong { what: "key", .. })));

    // Revision, compacted, index, term; members, removed, compactions, alarms, leases; blocks.
    let claims_blocks = [&[2, 9, 0, 5, 1, 0, 0, 0, 0, 0][..], &[0xff; 9], &[1], &[0xff; 9], &[1]].concat();
    assert_eq!(load([&claims_blocks[..]]).unwrap_err(), DecodeError::Truncated("snapshot"));
    for list in [&[2, 9, 0, 5, 1][..], &[2, 9, 0, 5, 1, 0], &[2, 9, 0, 5, 1, 0, 0, 0]] {
        let claims_members = [list, &[0xff; 9], &[1]].concat();
        assert!(matches!(load([&claims_members[..]]), Err(DecodeError::TooLong { what: "list of members", .. })));
    }
}

#[test]
fn what_was_compacted_before_the_snapshot_cannot_be_read() {
    let view = load([&raw([9, 3], &[], &[], &[BLOCK], &[])[..]]).unwrap();
    let gone = ReadError::Compacted { compact_revision: 3 };
    assert_eq!(ask(&view, &Query::all(2)), Err(gone));
    assert_eq!(view.hash_kv(2), Err(gone));
    assert_eq!(ask(&view, &Query::all(3)).unwrap().1, 1);
    assert_eq!(view.hash_kv(0).unwrap().compact_revision, 3);
    let before = KvHash { hash: 7_000, compact_revision: -1, revision: 3 };
    assert_eq!(view.hash_kv(3), Ok(before), "the stream brings it along");
    assert_eq!(view.hash_kv(10), Err(ReadError::Future { revision: 9 }));
}

#[test]
fn a_put_keeps_the_lease_only_when_told() {
    let view = load([&raw([9, NONE], &[], &[], &[RawBlock { lease: 7, ..BLOCK }], &[])[..]]).unwrap();
    let mut store = Store::genesis(Members::default());
    store.install(view);
    let mut put_again = |ignore_value, ignore_lease| {
        let value = if ignore_value { b"".to_vec() } else { b"new".to_vec() };
        apply(&mut store, &[Op::Put { key: b"k".to_vec(), value, lease: 0, ignore_value, ignore_lease }]);
        Kv::from(store.view().get(b"k").unwrap())
    };
    let kept = put_again(false, true);
    assert_eq!((kept.lease, &kept.value[..], kept.version), (7, &b"new"[..], 2));
    let both = put_again(true, true);
    assert_eq!((both.lease, both.value), (7, b"new".to_vec()));
    assert_eq!(put_again(true, false).lease, 0);
}

/// Installing replaces everything, and readers see it once it is published.
#[test]
fn an_installed_view_waits_for_its_publication() {
    let mut store = genesis();
    apply(&mut store, &[put(b"mine", b"")]);
    store.publish();
    let reader = store.reader();
    store.install(load([&raw([9, NONE], &[1], &[], &[BLOCK], &[])[..]]).unwrap());
    assert!(reader.load().get(b"mine").is_some());
    store.publish();
    assert!(reader.load().get(b"mine").is_none() && reader.load().get(b"k").is_some());
    let results = apply(&mut store, &[put(b"k", b"2")]);
    assert_eq!(results[0].revision, 10);
    assert!(matches!(Answer::from(&results[0].outcome), Answer::Put(Some(_))));
}
