//! The built-in client: `kv-server put|get|del`, for a first look without etcdctl.
//!
//! It prints what etcdctl prints. Keys and values are any bytes, and are written to stdout as they
//! are.

use std::io::{self, Read, Write};
use std::time::Duration;

use anyhow::{Context, anyhow};
use tonic::transport::{Channel, Endpoint};

use crate::config::{Action, ClientCommand, Output};
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader,
};

/// Time to reach a server, as etcdctl's.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Time to get an answer, as etcdctl's.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes the call and prints the answer to stdout.
///
/// # Errors
/// No server can be reached, it refuses the call, or stdin or stdout fail. A reader of stdout that
/// went away is no error.
pub async fn run(command: ClientCommand) -> anyhow::Result<()> {
    // Read before the connection is made, which would time out while someone types.
    let action = match command.action {
        Action::Put { key, value: None } => Action::Put { key, value: Some(read_stdin()?) },
        action => action,
    };
    let mut client = KvClient::new(connect(&command.endpoints).await?)
        // As much as the server sends: it is the caller who asked for it.
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX);
    let answer = match action {
        Action::Put { key, value } => {
            let request = PutRequest { key: key.into(), value: value.unwrap_or_default().into(), ..Default::default() };
            let response = client.put(request).await.map_err(told)?.into_inner();
            match command.output {
                Output::Simple => b"OK\n".to_vec(),
                Output::Json => put_json(&response),
            }
        }
        Action::Get { key, prefix, limit, keys_only } => {
            let (key, range_end) = range(key, prefix);
            let request =
                RangeRequest { key: key.into(), range_end: range_end.into(), limit, keys_only, ..Default::default() };
            let response = client.range(request).await.map_err(told)?.into_inner();
            match command.output {
                Output::Simple => get_simple(&response),
                Output::Json => get_json(&response),
            }
        }
        Action::Del { key, prefix } => {
            let (key, range_end) = range(key, prefix);
            let request = DeleteRangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() };
            let response = client.delete_range(request).await.map_err(told)?.into_inner();
            match command.output {
                Output::Simple => format!("{}\n", response.deleted).into_bytes(),
                Output::Json => del_json(&response),
            }
        }
    };
    let mut stdout = io::stdout().lock();
    match stdout.write_all(&answer).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

/// The first server that can be reached.
async fn connect(endpoints: &[String]) -> anyhow::Result<Channel> {
    let mut failures = Vec::new();
    for address in endpoints {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .with_context(|| format!("{address} is no address"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT);
        match endpoint.connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) => failures.push(format!("{address}: {}", anyhow!(error).root_cause())),
        }
    }
    Err(anyhow!("no server can be reached ({}); is it running? --endpoints says where", failures.join("; ")))
}

/// What the server answered, without the transport's words around it.
fn told(status: tonic::Status) -> anyhow::Error {
    anyhow!("{} ({:?})", status.message(), status.code())
}

fn read_stdin() -> anyhow::Result<Vec<u8>> {
    let mut value = Vec::new();
    io::stdin().lock().read_to_end(&mut value).context("cannot read the value from stdin")?;
    Ok(value)
}

/// The key and range end to ask for. Every key begins with the empty prefix: from the least key,
/// which is one zero byte, to the end, which is written as one zero byte too.
fn range(key: Vec<u8>, prefix: bool) -> (Vec<u8>, Vec<u8>) {
    if !prefix {
        return (key, Vec::new());
    }
    if key.is_empty() {
        return (vec![0], vec![0]);
    }
    let end = prefix_end(&key);
    (key, end)
}

/// The first key after all that begin with `prefix`; one zero byte, which means no end, when there
/// is none because the prefix is all 0xff.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// Key and value of each, on lines of their own.
fn get_simple(response: &RangeResponse) -> Vec<u8> {
    let mut out = Vec::new();
    for kv in &response.kvs {
        out.extend_from_slice(&kv.key);
        out.push(b'\n');
        out.extend_from_slice(&kv.value);
        out.push(b'\n');
    }
    out
}

fn put_json(response: &PutResponse) -> Vec<u8> {
    json_line(serde_json::json!({ "header": header(response.header.as_ref()) }))
}

fn del_json(response: &DeleteRangeResponse) -> Vec<u8> {
    json_line(serde_json::json!({
        "header": header(response.header.as_ref()),
        "deleted": response.deleted,
    }))
}

fn get_json(response: &RangeResponse) -> Vec<u8> {
    let kvs: Vec<serde_json::Value> = response
        .kvs
        .iter()
        .map(|kv| {
            serde_json::json!({
                "key": base64(&kv.key),
                "create_revision": kv.create_revision,
                "mod_revision": kv.mod_revision,
                "version": kv.version,
                "value": base64(&kv.value),
                "lease": kv.lease,
            })
        })
        .collect();
    json_line(serde_json::json!({
        "header": header(response.header.as_ref()),
        "kvs": kvs,
        "more": response.more,
        "count": response.count,
    }))
}

fn header(header: Option<&ResponseHeader>) -> serde_json::Value {
    let header = header.cloned().unwrap_or_default();
    serde_json::json!({
        "cluster_id": header.cluster_id,
        "member_id": header.member_id,
        "revision": header.revision,
        "raft_term": header.raft_term,
    })
}

fn json_line(value: serde_json::Value) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}

/// Standard base64 with padding, as JSON answers of etcd carry bytes.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte));
        let group = group << (8 * (3 - chunk.len()));
        // n bytes fill n + 1 characters of 6 bits.
        for i in 0..4 {
            let index = (group >> (18 - 6 * i)) & 0x3f;
            text.push(if i <= chunk.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mvccpb::KeyValue;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        for (prefix, end) in
            [(&b"a"[..], &b"b"[..]), (b"a\xff", b"b"), (b"a\xfe", b"a\xff"), (b"\xff\xff", b"\0"), (b"\0", b"\x01")]
        {
            assert_eq!(range(prefix.to_vec(), true), (prefix.to_vec(), end.to_vec()), "{prefix:?}");
        }
        assert_eq!(range(Vec::new(), true), (vec![0], vec![0]));
        assert_eq!(range(b"a".to_vec(), false), (b"a".to_vec(), Vec::new()));
    }

    #[test]
    fn bytes_are_printed_as_they_are() {
        let kv = KeyValue { key: vec![0xff, 0].into(), value: vec![b'\n', 0x80].into(), ..Default::default() };
        let response = RangeResponse { kvs: vec![kv], count: 1, ..Default::default() };
        assert_eq!(get_simple(&response), [0xff, 0, b'\n', b'\n', 0x80, b'\n']);
        let json: serde_json::Value = serde_json::from_slice(&get_json(&response)).expect("it is JSON");
        assert_eq!(json["kvs"][0]["key"], "/wA=");
        assert_eq!(json["count"], 1);
    }

    #[test]
    fn base64_pads() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foobar", "Zm9vYmFy"),
            (b"\xfb\xff\xfe", "+//+"),
        ] {
            assert_eq!(base64(bytes), text);
        }
    }
}
