//! Any bytes at all: the server lives, and answers who asks properly.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use fastrand::Rng;
use kv_server::proto::etcdserverpb::{DeleteRangeRequest, HashKvRequest, PutRequest, RangeRequest};
use prost::Message;
use tonic::Code;

use crate::api::IMPLEMENTED;
use crate::harness::{Clients, DEADLINE, Process, call, framed};

const BLOBS: usize = 2_000;
const THREADS: usize = 8;
const BLOB_BYTES_MAX: usize = 4096;
const BODIES_PER_METHOD: usize = 200;
/// What an HTTP/2 client says first, and its empty SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A new seed, or the one in `KV_SEED`. What it prints is shown when the test fails.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("KV_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("KV_SEED={seed}");
    seed
}

pub(crate) fn bytes(rng: &mut Rng, max: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.usize(0..=max)];
    rng.fill(&mut bytes);
    bytes
}

/// Frames of HTTP/2 with a sound length and kind, and anything else in them.
fn frames(rng: &mut Rng) -> Vec<u8> {
    let mut frames = Vec::new();
    for _ in 0..rng.usize(1..8) {
        let payload = bytes(rng, 64);
        let length = u32::try_from(payload.len()).unwrap();
        frames.extend_from_slice(&length.to_be_bytes()[1..]);
        frames.extend_from_slice(&[rng.u8(0..12), rng.u8(..)]);
        frames.extend_from_slice(&rng.u32(0..8).to_be_bytes());
        frames.extend_from_slice(&payload);
    }
    frames
}

/// Sends a blob and waits until the server is done with the connection.
fn send_blob(address: SocketAddr, blob: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // A server that has seen enough closes early.
    let sent = stream.write_all(blob).and_then(|()| stream.shutdown(Shutdown::Write));
    let ended = sent.and_then(|()| stream.read_to_end(&mut Vec::new()).map(drop));
    if let Err(error) = ended {
        let hung = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        assert!(!hung, "the server neither answers nor closes after {blob:?}");
    }
}

pub(crate) fn no_panic(process: Process) {
    let (status, lines) = process.terminate();
    let panicked: Vec<_> = lines.iter().filter(|line| line.contains("panicked")).collect();
    assert!(panicked.is_empty(), "{panicked:#?}");
    assert_eq!(status.code(), Some(143), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_bytes_on_any_port_end_only_their_connection() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &[]);
    let mut clients = Clients::connect(process.client).await;
    let (seed, addresses) = (seed(), [process.client, process.client, process.client, process.peer]);
    let threads = (0..THREADS as u64).map(|nth| {
        std::thread::spawn(move || {
            let mut rng = Rng::with_seed(seed.wrapping_add(nth));
            for n in 0..BLOBS / THREADS {
                let mut blob = if n % 2 == 0 { PREFACE.to_vec() } else { Vec::new() };
                let rest = if n % 4 == 0 { frames(&mut rng) } else { bytes(&mut rng, BLOB_BYTES_MAX) };
                blob.extend(rest);
                send_blob(addresses[n % addresses.len()], &blob);
            }
        })
    });
    let threads: Vec<_> = threads.collect();
    tokio::task::spawn_blocking(|| threads.into_iter().for_each(|thread| thread.join().unwrap())).await.unwrap();
    assert_eq!(clients.put("k", "v").await, 2, "neither did anything come through");
    let mut late = Clients::connect(process.client).await;
    assert_eq!(late.put("k", "v").await, 3);
    drop((clients, late));
    no_panic(process);
}

/// A sound message of the method's request, to be damaged.
fn sound(method: &str) -> Vec<u8> {
    match method.rsplit('/').next().unwrap() {
        "Put" => PutRequest { key: "k".into(), value: "v".into(), lease: 1, ..Default::default() }.encode_to_vec(),
        "DeleteRange" => DeleteRangeRequest { key: "a".into(), range_end: "b".into(), prev_kv: true }.encode_to_vec(),
        "HashKV" => HashKvRequest { revision: 1 }.encode_to_vec(),
        _ => RangeRequest { key: "k".into(), range_end: "l".into(), limit: 5, revision: 1, ..Default::default() }
            .encode_to_vec(),
    }
}

/// A body of a call: a random message, a damaged one, or no frame at all.
fn body(rng: &mut Rng, method: &str) -> Vec<u8> {
    match rng.u8(0..4) {
        0 => framed(&bytes(rng, 64)),
        1 | 2 => {
            let mut message = sound(method);
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(0..message.len());
                message[at] = rng.u8(..);
            }
            message.truncate(rng.usize(0..=message.len()));
            framed(&message)
        }
        _ => bytes(rng, 64),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_message_gets_an_answer_or_a_status() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &[]);
    let mut clients = Clients::connect(process.client).await;
    let mut rng = Rng::with_seed(seed());
    // Streams that do not end by themselves, and calls that wait for others, for ever if need be.
    let waits = ["/Watch", "/Observe", "/Lock", "/Campaign"];
    for method in IMPLEMENTED.iter().filter(|method| !waits.iter().any(|wait| method.ends_with(wait))) {
        for _ in 0..BODIES_PER_METHOD {
            let body = body(&mut rng, method);
            let path = format!("/{method}");
            let answer = tokio::time::timeout(DEADLINE, call(&clients.channel, &path, body.clone())).await;
            let status = answer.unwrap_or_else(|_| panic!("{method} hangs on {body:?}"));
            let hung = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled | Code::Unavailable);
            assert!(!hung, "{method}: {status} on {body:?}");
        }
    }
    let revision = clients.put("k", "v").await;
    assert_eq!(clients.hash_kv(0).await.0, revision);
    drop(clients);
    no_panic(process);
}
