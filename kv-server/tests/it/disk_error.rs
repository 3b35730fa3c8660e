//! A disk that takes no more writes.

use std::os::unix::process::ExitStatusExt;

use crate::harness::{Clients, Process, prefix, revision};
use kv_server::proto::etcdserverpb::PutRequest;

/// SIGABRT, everywhere.
const ABORTED: i32 = 6;
/// A limit that lets the first segment of the log (1 MiB) be and one of the next fail: 1.5 or 3 MiB, as the shell counts in
/// 512 or 1,024 bytes. The signal that goes with it is ignored, so that the write fails as on a bad disk.
const LIMIT_FILES: &str = "ulimit -f 3072 && trap '' XFSZ";
/// More than the limit lets into the log.
const VALUES: usize = 400;
const VALUE_BYTES: usize = 32 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_ends_the_process_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start_in_shell(LIMIT_FILES, dir.path());
    let mut clients = Clients::connect(process.client).await;
    let mut acknowledged = Vec::new();
    for n in 0..VALUES {
        let value = vec![u8::try_from(n % 251).unwrap(); VALUE_BYTES];
        let put = PutRequest { key: format!("k/{n:03}").into(), value: value.into(), ..Default::default() };
        match clients.kv.put(put).await {
            Ok(answer) => acknowledged.push(revision(answer.into_inner().header)),
            Err(_) => break,
        }
    }
    assert!((1..VALUES).contains(&acknowledged.len()), "{} were written", acknowledged.len());
    let (status, lines) = process.wait();
    assert_eq!(status.signal(), Some(ABORTED), "{lines:#?}");
    let fatal: Vec<_> = lines.iter().filter(|line| line.contains(r#""level":"fatal""#)).collect();
    let [fatal] = fatal[..] else { panic!("one fatal line, and no more: {lines:#?}") };
    for said in ["restart this server once the cause is gone", "log/", "File too large", dir.path().to_str().unwrap()] {
        assert!(fatal.contains(said), "{said:?} is not in {fatal}");
    }

    let process = Process::start(dir.path(), &[]);
    let mut clients = Clients::connect(process.client).await;
    clients.kv = clients.kv.max_decoding_message_size(usize::MAX);
    let answer = clients.range(prefix("k/")).await;
    for (n, revision) in acknowledged.iter().enumerate() {
        let kv = &answer.kvs[n];
        assert_eq!((&kv.key[..], kv.mod_revision), (format!("k/{n:03}").as_bytes(), *revision));
        assert!(kv.value.len() == VALUE_BYTES && kv.value.iter().all(|byte| usize::from(*byte) == n % 251));
    }
}
