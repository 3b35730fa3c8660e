//! `hash_kv` gives what a real etcd gave after the same operations.

use kv_store::Store;

use crate::script::{Op, apply, genesis, put};

/// Recorded from etcd; the files say how.
const TRANSCRIPT: &str = include_str!("etcd_hash.txt");
const COMPACTED: &str = include_str!("etcd_hash_compacted.txt");

/// `-` for empty, `\xNN` for a byte, anything else for itself.
fn unescape(field: &str) -> Vec<u8> {
    if field == "-" {
        return Vec::new();
    }
    let (plain, escaped) = field.split_once("\\x").unwrap_or((field, ""));
    let mut out = plain.as_bytes().to_vec();
    for piece in escaped.split("\\x").filter(|piece| !piece.is_empty()) {
        out.push(u8::from_str_radix(&piece[..2], 16).unwrap());
        out.extend_from_slice(&piece.as_bytes()[2..]);
    }
    out
}

/// Does what `line` says, and whether that was to compare a hash.
fn check(store: &mut Store, line: &str) -> bool {
    let fields: Vec<_> = line.split(' ').collect();
    match fields[..] {
        ["put", key, value] => drop(apply(store, &[put(&unescape(key), &unescape(value))])),
        ["del", key, end] => drop(apply(store, &[Op::Delete { key: unescape(key), end: unescape(end) }])),
        ["compact", revision] => drop(apply(store, &[Op::Compact(revision.parse().unwrap())])),
        ["hash", revision, hash, compact_revision] => {
            let wanted = (hash.parse::<u32>().unwrap(), compact_revision.parse::<i64>().unwrap());
            let found = store.view().hash_kv(revision.parse().unwrap()).unwrap();
            assert_eq!((found.hash, found.compact_revision), wanted, "at revision {revision}");
            return true;
        }
        ["hash", revision, hash] => return check(store, &format!("hash {revision} {hash} -1")),
        _ => panic!("unreadable line {line:?}"),
    }
    false
}

#[test]
fn hashes_equal_etcds() {
    let mut store = genesis();
    let lines = TRANSCRIPT.lines().filter(|line| !line.starts_with('#'));
    let hashes = lines.filter(|line| check(&mut store, line)).count();
    assert_eq!((store.view().revision(), hashes), (229, 80), "the whole transcript was read");
}

/// Whatever was purged by then.
#[test]
fn hashes_equal_etcds_after_compactions() {
    for budget in [0, 1, 3, 10, usize::MAX] {
        let mut store = genesis();
        let mut hashes = 0;
        for line in COMPACTED.lines().filter(|line| !line.starts_with('#')) {
            hashes += usize::from(check(&mut store, line));
            store.purge(budget);
        }
        assert_eq!((store.view().revision(), hashes), (200, 348), "the whole transcript was read");
    }
}
