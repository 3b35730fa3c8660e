//! Where the server refuses to start: one line that says why and what to do, exit code 1, nothing changed.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use kv_codec::record::frame::mask;
use tempfile::TempDir;

use crate::harness::{Clients, Process, get, refused};

/// Checks that a start on `dir` is refused with all of `said`, and that nothing there is touched.
#[track_caller]
fn check_refused(dir: &Path, said: &[&str]) {
    let before = contents(dir);
    let line = refused(dir, &[]);
    for said in said {
        assert!(line.contains(said), "{said:?} is not in: {line}");
    }
    let after = contents(dir);
    let changed: Vec<_> = before.iter().filter(|(path, bytes)| after.get(*path) != Some(bytes)).collect();
    assert!(changed.is_empty(), "changed or gone: {:?}", changed.iter().map(|(path, _)| path).collect::<Vec<_>>());
    let new: Vec<_> = after.keys().filter(|path| !before.contains_key(*path)).collect();
    assert!(new.is_empty(), "new: {new:?}");
}

/// Every path below `dir` and what is in it; `None` for a directory.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            found.insert(path, None);
        } else {
            let bytes = fs::read(&path).ok();
            found.insert(path, bytes);
        }
    }
    found
}

const VALUE: &str = "acknowledged";

/// A directory in which `k` was put and the server killed.
async fn used() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &[]);
    Clients::connect(process.client).await.put("k", VALUE).await;
    process.kill();
    dir
}

/// Checks that what was put is still there.
async fn check_serves(dir: &Path) {
    let process = Process::start(dir, &[]);
    assert_eq!(Clients::connect(process.client).await.range(get("k")).await.kvs[0].value, VALUE);
}

/// The one file in `dir` with this extension.
fn only(dir: &Path, extension: &str) -> PathBuf {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<_> = paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    let [path] = &found[..] else { panic!("{found:?}") };
    path.clone()
}

#[test]
fn a_busy_port_is_named_with_its_flag() {
    let dir = tempfile::tempdir().unwrap();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    for flag in ["--listen-client-urls", "--listen-peer-urls"] {
        let line = refused(dir.path(), &[&format!("{flag}=http://{address}")]);
        for said in [format!("cannot listen on http://{address}"), flag.into(), "Address already in use".into()] {
            assert!(line.contains(&said), "{said:?} is not in: {line}");
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was written");
}

#[test]
fn a_directory_has_one_server() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &[]);
    let line = refused(dir.path(), &[]);
    assert!(line.contains("is in use by another running server; stop it"), "{line}");
    drop(process);
    drop(Process::start(dir.path(), &[]));
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    // Permissions do not stop root; these stop everyone.
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    fs::write(&file, "mine").unwrap();
    check_refused(&file, &["cannot read", "Not a directory", "give --data-dir a directory this user may write to"]);
    check_refused(&file.join("below"), &["cannot create", "give --data-dir a directory this user may write to"]);
    let locked = place.path().join("locked");
    fs::create_dir_all(locked.join("LOCK")).unwrap();
    check_refused(&locked, &["cannot open", "LOCK", "give --data-dir a directory this user may write to"]);
}

#[test]
fn a_foreign_directory_is_left_alone() {
    let photos = tempfile::tempdir().unwrap();
    fs::write(photos.path().join("holiday.jpg"), "jpg").unwrap();
    check_refused(photos.path(), &["holiday.jpg", "not this server's", "give --data-dir an empty directory"]);
    let etcd = tempfile::tempdir().unwrap();
    fs::create_dir_all(etcd.path().join("member/wal")).unwrap();
    fs::write(etcd.path().join("member/wal/0.wal"), "wal").unwrap();
    check_refused(etcd.path(), &["belongs to etcd", "give --data-dir another directory"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_format_is_left_to_the_newer_version() {
    let dir = used().await;
    let marker = dir.path().join("member");
    let text = fs::read_to_string(&marker).unwrap();
    fs::write(&marker, text.replace("format = 1", "format = 2")).unwrap();
    check_refused(dir.path(), &["has format 2, this build knows 1", "start the newer version that wrote it"]);
    fs::write(&marker, text).unwrap();
    check_serves(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_the_log_is_found_and_nothing_is_cut() {
    let dir = used().await;
    let segment = only(&dir.path().join("log"), "log");
    let name = format!("log/{}", segment.file_name().unwrap().to_str().unwrap());
    let good = fs::read(&segment).unwrap();
    // The first batch starts behind the segment's header of 512 bytes with a header of 32 bytes of its own.
    for flipped in [512 + 5, 512 + 32 + 5] {
        let mut bad = good.clone();
        bad[flipped] ^= 1;
        fs::write(&segment, &bad).unwrap();
        check_refused(dir.path(), &[&name, "at offset 512", "restore this member from a snapshot"]);
    }
    // The last batch, which nothing after it says was synced: all of it was written, so that it may have been acknowledged.
    let mut plain = good.clone();
    mask(good[16..32].first_chunk().unwrap(), &mut plain);
    let last = plain.windows(VALUE.len()).rposition(|window| window == VALUE.as_bytes()).unwrap();
    let mut bad = good.clone();
    bad[last] ^= 1;
    fs::write(&segment, &bad).unwrap();
    check_refused(dir.path(), &[&name, "is corrupt at offset", "restore this member from a snapshot"]);
    let mut bad = good.clone();
    bad[100] ^= 1;
    fs::write(&segment, &bad).unwrap();
    check_refused(dir.path(), &[&name, "at offset 0"]);
    fs::write(&segment, &good).unwrap();
    check_serves(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_log_is_gone_does_not_start_empty() {
    let dir = used().await;
    let (log, aside) = (dir.path().join("log"), tempfile::tempdir_in(dir.path().parent().unwrap()).unwrap());
    fs::rename(&log, aside.path().join("log")).unwrap();
    // Not at the second attempt either.
    for _attempt in 0..2 {
        check_refused(dir.path(), &["its log is gone", "restore it from a backup"]);
    }
    fs::create_dir(&log).unwrap();
    check_refused(dir.path(), &["its log is gone"]);
    fs::remove_dir(&log).unwrap();
    fs::rename(aside.path().join("log"), &log).unwrap();
    check_serves(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_or_missing_snapshot_is_found() {
    let dir = used().await;
    let snapshot = only(&dir.path().join("snap"), "snap");
    let name = format!("snap/{}", snapshot.file_name().unwrap().to_str().unwrap());
    let good = fs::read(&snapshot).unwrap();
    for length in [good.len() - 1, good.len() / 2, 0] {
        fs::write(&snapshot, &good[..length]).unwrap();
        let line = refused(dir.path(), &[]);
        for said in [&name, &format!("at offset {length}"), "it ends too early", "restore this member from a snapshot"]
        {
            assert!(line.contains(said), "{said:?} is not in: {line}");
        }
    }
    fs::remove_file(&snapshot).unwrap();
    let line = refused(dir.path(), &[]);
    assert!(line.contains(&name), "{line}");
    fs::write(&snapshot, &good).unwrap();
    check_serves(dir.path()).await;
}
