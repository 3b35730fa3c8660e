//! `hash_kv` gives what a real etcd gave after the same operations.

use kv_store::Store;

use crate::script::{Op, apply, genesis, put};

/// Recorded from etcd; the file says how.
const TRANSCRIPT: &str = include_str!("etcd_hash.txt");

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

fn check(store: &mut Store, line: &str) -> bool {
    let fields: Vec<_> = line.split(' ').collect();
    match fields[..] {
        ["put", key, value] => drop(apply(store, &[put(&unescape(key), &unescape(value))])),
        ["del", key, end] => drop(apply(store, &[Op::Delete { key: unescape(key), end: unescape(end) }])),
        ["hash", revision, hash] => {
            let found = store.view().hash_kv(revision.parse().unwrap()).unwrap();
            assert_eq!(found.hash, hash.parse::<u32>().unwrap(), "at revision {revision}");
            assert_eq!((found.revision, found.compact_revision), (revision.parse().unwrap(), -1));
            return true;
        }
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
