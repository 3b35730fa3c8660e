//! Answers of a watch as bytes: each change is encoded once, whoever gets it.

use bytes::{BufMut, Bytes, BytesMut};
use kv_store::{Event, WatchMessage};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::ProstCodec;

use crate::proto::etcdserverpb::{ResponseHeader, WatchRequest, WatchResponse};
use crate::proto::mvccpb::{self, KeyValue, event::EventType};
use crate::service::key_value;

/// The field of the changes in a `WatchResponse`.
const EVENTS: u32 = 11;
/// The field of the previous pair in an `Event`.
const PREV_KV: u32 = 3;
/// What an answer has to begin with: most are one small change. tonic's 8 KiB for each of many streams add up.
const BUFFER_BYTES: usize = 512;
/// Answers that are ready are sent together up to so many bytes.
const YIELD_BYTES: usize = 32 * 1024;

/// One answer: all but the changes, and each change as encoded.
#[derive(Debug, Default)]
pub(crate) struct WatchFrame {
    rest: WatchResponse,
    events: Vec<Bytes>,
}

impl WatchFrame {
    fn encoded_len(&self) -> usize {
        let events = self.events.iter().map(event_len);
        self.rest.encoded_len() + events.sum::<usize>()
    }

    /// Appends the answer's bytes.
    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        self.rest.encode_raw(out);
        for event in &self.events {
            encode_key(EVENTS, WireType::LengthDelimited, out);
            encode_varint(event.len() as u64, out);
            out.put_slice(event);
        }
    }
}

fn event_len(event: &Bytes) -> usize {
    key_len(EVENTS) + encoded_len_varint(event.len() as u64) + event.len()
}

/// The answers that say `message`; several if it may be cut and is longer than `bytes_max`. `header` makes the header at a revision.
pub(crate) fn frames(
    message: WatchMessage,
    bytes_max: usize,
    header: impl Fn(i64) -> Option<ResponseHeader>,
) -> Vec<WatchFrame> {
    let of = |revision, watch_id| WatchResponse { header: header(revision), watch_id, ..WatchResponse::default() };
    let rest = match message {
        WatchMessage::Created { id, revision } => WatchResponse { created: true, ..of(revision, id) },
        WatchMessage::Refused { why, revision } => {
            WatchResponse { created: true, canceled: true, cancel_reason: why.to_string(), ..of(revision, -1) }
        }
        WatchMessage::Canceled { id, revision } => WatchResponse { canceled: true, ..of(revision, id) },
        WatchMessage::Compacted { id, compact_revision } => {
            WatchResponse { canceled: true, compact_revision, ..of(0, id) }
        }
        WatchMessage::Progress { id, revision } => of(revision, id.unwrap_or(-1)),
        WatchMessage::Events { id, revision, events, prev_kv, fragment } => {
            let encoded = events.iter().map(|event| {
                let (bytes, without_prev) = event.encoded(encode_event);
                if prev_kv { bytes.clone() } else { bytes.slice(..*without_prev) }
            });
            let frame = WatchFrame { rest: of(revision, id), events: encoded.collect() };
            return if fragment { cut(frame, bytes_max) } else { vec![frame] };
        }
    };
    vec![WatchFrame { rest, events: Vec::new() }]
}

/// Cuts an answer of several changes into ones below `bytes_max`, if each change is; all but the last say that more follows.
fn cut(frame: WatchFrame, bytes_max: usize) -> Vec<WatchFrame> {
    if frame.encoded_len() < bytes_max || frame.events.len() < 2 {
        return vec![frame];
    }
    let rest = WatchResponse { fragment: true, ..frame.rest };
    let mut frames: Vec<WatchFrame> = Vec::new();
    let mut bytes = usize::MAX;
    for event in frame.events {
        bytes = bytes.saturating_add(event_len(&event));
        if bytes >= bytes_max {
            bytes = rest.encoded_len() + event_len(&event);
            frames.push(WatchFrame { rest: rest.clone(), events: Vec::new() });
        }
        frames.last_mut().expect("the first change begins one").events.push(event);
    }
    frames.last_mut().expect("there are changes").rest.fragment = false;
    frames
}

/// The bytes of a change, and how many of them come before the previous pair.
fn encode_event(event: &Event) -> (Bytes, usize) {
    let block = event.block();
    let (kind, kv) = if block.is_tombstone() {
        let key = Bytes::copy_from_slice(block.key());
        (EventType::Delete, KeyValue { key, mod_revision: block.mod_revision(), ..KeyValue::default() })
    } else {
        (EventType::Put, key_value(block))
    };
    let prev = event.prev().map(key_value);
    let main = mvccpb::Event { r#type: kind.into(), kv: Some(kv), prev_kv: None };
    let mut out = BytesMut::with_capacity(main.encoded_len() + prev.as_ref().map_or(0, |prev| prev.encoded_len() + 16));
    main.encode_raw(&mut out);
    let without_prev = out.len();
    if let Some(prev) = prev {
        prost::encoding::message::encode(PREV_KV, &prev, &mut out);
    }
    (out.freeze(), without_prev)
}

/// [`WatchFrame`]s out, requests in.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct WatchCodec;

impl Codec for WatchCodec {
    type Encode = WatchFrame;
    type Decode = WatchRequest;
    type Encoder = FrameEncoder;
    type Decoder = <ProstCodec<WatchResponse, WatchRequest> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<WatchResponse, WatchRequest>::raw_decoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }
}

/// Writes a [`WatchFrame`].
#[derive(Debug)]
pub(super) struct FrameEncoder;

impl Encoder for FrameEncoder {
    type Item = WatchFrame;
    type Error = Status;

    fn encode(&mut self, frame: WatchFrame, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(frame.encoded_len());
        frame.encode(out);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn frame(sizes: &[usize]) -> WatchFrame {
        let event = |size: &usize| {
            let kv = KeyValue { key: "k".into(), value: vec![7; *size].into(), ..KeyValue::default() };
            mvccpb::Event { kv: Some(kv), ..mvccpb::Event::default() }.encode_to_vec().into()
        };
        let rest = WatchResponse { watch_id: 3, ..WatchResponse::default() };
        WatchFrame { rest, events: sizes.iter().map(event).collect() }
    }

    fn decoded(frame: &WatchFrame) -> WatchResponse {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        assert_eq!(bytes.len(), frame.encoded_len());
        WatchResponse::decode(&bytes[..]).unwrap()
    }

    #[test]
    fn an_answer_is_cut_below_the_limit_and_nothing_is_lost() {
        for (sizes, pieces) in
            [(&[10, 10, 10][..], 1), (&[400, 400, 400], 2), (&[900, 900], 2), (&[5000], 1), (&[5000, 1], 2)]
        {
            let cut = cut(frame(sizes), 1000);
            assert_eq!(cut.len(), pieces, "{sizes:?}");
            let answers: Vec<_> = cut.iter().map(decoded).collect();
            let (last, others) = answers.split_last().unwrap();
            assert!(!last.fragment && others.iter().all(|answer| answer.fragment));
            let joined: Vec<_> = answers.iter().flat_map(|answer| answer.events.clone()).collect();
            assert_eq!(joined, decoded(&frame(sizes)).events);
            assert!(answers.iter().all(|answer| answer.watch_id == 3));
        }
    }
}
