//! h2load as the client: it answers nothing and checks nothing, and so leaves most of the cores to the server.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_server::proto::etcdserverpb::{PutRequest, RangeRequest};
use prost::Message;
use tokio::process::Command;

use super::options::Workload;
use super::stats::Sample;
use crate::race::Race;
use crate::target::Target;

const VALUE_BYTES: usize = 256;
/// What stands before a gRPC message.
const FRAME_BYTES: u64 = 5;

/// The loads: name, connections, streams on each, whether they are gets.
const LOADS: [(&str, u32, u32, bool); 3] =
    [("h2load range", 8, 32, true), ("h2load put", 8, 32, false), ("h2load single put", 1, 1, false)];

/// Whether it is installed.
pub(super) fn installed() -> bool {
    let version = std::process::Command::new("h2load").arg("--version").stdin(Stdio::null()).output();
    version.is_ok_and(|output| output.status.success())
}

/// What it does, as the report has it.
pub(super) fn workloads(secs: u32) -> Vec<Workload> {
    let workload = |(name, connections, streams, gets): (&str, u32, u32, bool)| Workload {
        name: name.to_owned(),
        clients: connections * streams,
        connections,
        get_percent: if gets { 100 } else { 0 },
        range_keys: 1,
        guarded: false,
        keys: 1,
        value_bytes: VALUE_BYTES,
        rate: None,
        secs,
    };
    LOADS.into_iter().map(workload).collect()
}

/// One round on a fresh server.
pub(super) async fn one_round(target: &Target, workload: &Workload, race: &Race) -> Result<Sample> {
    // Dropped after the server.
    let directory = race.directory()?;
    let server = target.start(directory.path(), &[]).await?;
    let key = "bench/00000000";
    let put = PutRequest { key: key.into(), value: vec![b'v'; VALUE_BYTES].into(), ..PutRequest::default() };
    let mut client = KvClient::new(server.endpoint().connect().await.context("connecting to the server")?);
    client.put(put.clone()).await.context("a put failed")?;
    let (method, message) = match workload.get_percent {
        0 => ("Put", put.encode_to_vec()),
        _ => ("Range", RangeRequest { key: key.into(), ..RangeRequest::default() }.encode_to_vec()),
    };
    let body = directory.path().join("body");
    std::fs::write(&body, frame(&message)?).context("writing h2load's body")?;
    let log = directory.path().join("requests");
    let url = format!("http://{}/etcdserverpb.KV/{method}", server.address());
    let streams = workload.clients / workload.connections;
    let mut command = Command::new("h2load");
    command.args(["-t", "1", "-c", &workload.connections.to_string(), "-m", &streams.to_string()]);
    command.args(["-D", &workload.secs.to_string(), "-H", "content-type:application/grpc", "-H", "te:trailers", "-d"]);
    command.arg(&body);
    if workload.clients == 1 {
        // A line for each request: where there are few, that costs nothing.
        command.arg("--log-file").arg(&log);
    }
    let before = server.counters()?;
    let output = command.arg(&url).kill_on_drop(true).stdin(Stdio::null()).output().await.context("starting h2load")?;
    let after = server.counters()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Results { operations, per_second, data_bytes } =
        results(&text).with_context(|| format!("h2load said {:?}", text.lines().last()))?;
    ensure!(operations > 0, "h2load had no request answered");
    // To HTTP a gRPC error is a success, one without a message.
    let answer_bytes = if workload.get_percent == 0 { FRAME_BYTES } else { FRAME_BYTES + VALUE_BYTES as u64 };
    ensure!(
        data_bytes >= operations * answer_bytes,
        "{operations} answers of {data_bytes} bytes in all: some are errors"
    );
    let mut sample = Sample::of_others(per_second, operations, before, after);
    if workload.clients == 1 {
        sample.put_us = percentiles(&log)?;
    }
    drop(server);
    directory.close().context("removing the server's directory")?;
    Ok(sample)
}

/// A gRPC message: not compressed, its length, itself.
fn frame(message: &[u8]) -> Result<Vec<u8>> {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).context("a long message")?.to_be_bytes());
    frame.extend_from_slice(message);
    Ok(frame)
}

/// What h2load says at its end.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Results {
    /// Requests that succeeded.
    operations: u64,
    per_second: f64,
    /// Bytes of all answers, without headers.
    data_bytes: u64,
}

/// Nothing when a request failed, or the words are others.
fn results(text: &str) -> Option<Results> {
    let line = |start: &str| text.lines().find(|line| line.starts_with(start));
    let per_second = line("finished in")?.split(", ").nth(1)?.strip_suffix(" req/s")?.parse().ok()?;
    let requests = |what| line("requests:")?.split(", ").find_map(|part| part.strip_suffix(what))?.parse::<u64>().ok();
    let data = line("traffic:")?.strip_suffix(") data")?.rsplit('(').next()?;
    let results = Results { operations: requests(" succeeded")?, per_second, data_bytes: data.parse().ok()? };
    (requests(" failed")? == 0).then_some(results)
}

/// p50, p99 and p99.9 of the third column of its log, in microseconds.
fn percentiles(log: &Path) -> Result<Option<[f64; 3]>> {
    let text = std::fs::read_to_string(log).context("reading h2load's log")?;
    let mut latencies = crate::figures::latencies();
    for line in text.lines() {
        let us = line.split('\t').nth(2).and_then(|us| us.parse().ok()).context("h2load's log has other columns")?;
        crate::figures::record(&mut latencies, Duration::from_micros(us));
    }
    Ok(super::stats::percentiles(&latencies))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn its_own_words_are_read() {
        let text = "\nfinished in 3.00s, 75700.33 req/s, 8.1MB/s\n\
                    requests: 227101 total, 227357 started, 227101 done, 227101 succeeded, 0 failed, 0 errored, 0 timeout\n\
                    traffic: 68.30MB (71615726) total, 600.08KB (614487) headers (space savings 95.77%), 62.25MB (65271547) data\n";
        let expect = Results { operations: 227_101, per_second: 75_700.33, data_bytes: 65_271_547 };
        assert_eq!(results(text), Some(expect));
        assert_eq!(results(&text.replace("0 failed", "1 failed")), None, "a server that fails is not fast");
        assert_eq!(results("h2load: not found"), None);
    }

    #[test]
    fn a_message_is_framed() {
        assert_eq!(frame(b"ab").unwrap(), [0, 0, 0, 0, 2, b'a', b'b']);
    }
}
