//! A peer may send anything that is well framed. Nothing of it takes a member down.

use bytes::Bytes;
use kv_raft::{ConfChange, Envelope, Input, PeerMessage, RejectReason};
use proptest::prelude::*;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use crate::harness::{Cluster, membership, node};

prop_compose! {
    fn small()(value in prop_oneof![8 => 0u64..8, 1 => Just(u64::MAX), 1 => any::<u64>()]) -> u64 { value }
}

prop_compose! {
    fn entry()(index in small(), term in small(), kind in 0..3) -> Entry {
        let mut entry = Entry::default();
        (entry.index, entry.term) = (index, term);
        entry.set_entry_type([EntryType::EntryNormal, EntryType::EntryConfChange, EntryType::EntryConfChangeV2][kind as usize]);
        entry
    }
}

const KINDS: [MessageType; 19] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

prop_compose! {
    fn message()(
        kind in 0..KINDS.len(),
        sender in 2u64..5,
        (term, log_term, index, commit) in (small(), small(), small(), small()),
        (commit_term, request_snapshot, reject_hint, reject) in (small(), small(), small(), any::<bool>()),
        entries in proptest::collection::vec(entry(), 0..4),
        (snapshot_index, snapshot_term) in (small(), small()),
        voters in proptest::collection::vec(0u64..5, 0..4),
    ) -> Message {
        let mut message = Message::default();
        message.set_msg_type(KINDS[kind]);
        (message.from, message.to) = (sender, 1);
        (message.term, message.log_term, message.index, message.commit) = (term, log_term, index, commit);
        (message.commit_term, message.request_snapshot) = (commit_term, request_snapshot);
        (message.reject_hint, message.reject) = (reject_hint, reject);
        message.set_entries(entries.into());
        let metadata = message.mut_snapshot().mut_metadata();
        (metadata.index, metadata.term) = (snapshot_index, snapshot_term);
        metadata.mut_conf_state().voters = voters;
        message
    }
}

prop_compose! {
    /// A message of a kind that travels, as it does: without the newer kind of conf change.
    fn travelling()(mut message in message(), kind in 0..TRAVELLING.len()) -> Envelope {
        message.set_msg_type(TRAVELLING[kind]);
        for entry in message.mut_entries().iter_mut() {
            if entry.get_entry_type() == EntryType::EntryConfChangeV2 {
                entry.set_entry_type(EntryType::EntryConfChange);
            }
        }
        Envelope { from: message.from, to: message.to, body: PeerMessage::Raft(Box::new(message)) }
    }
}

fn deliver(node: &mut kv_raft::Node, messages: Vec<Message>) {
    for message in messages {
        let (from, to) = (message.from, message.to);
        let body = PeerMessage::Raft(Box::new(message));
        let _ = node.step(Input::Message(Envelope { from, to, body }));
        let effects = node.poll();
        if let Some(persist) = effects.persist {
            node.step(Input::Persisted(persist.ticket)).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_follower_survives_any_messages(messages in proptest::collection::vec(message(), 1..12)) {
        deliver(&mut node(1, membership(&[1, 2, 3], &[])), messages);
    }

    #[test]
    fn a_leader_survives_any_messages(messages in proptest::collection::vec(message(), 1..12)) {
        let mut cluster = Cluster::new(&[1, 2, 3]);
        cluster.step(1, Input::Campaign);
        deliver(cluster.node(1), messages);
    }

    #[test]
    fn any_bytes_forwarded_are_refused_or_proposed(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut cluster = Cluster::new(&[1, 2, 3]);
        cluster.step(1, Input::Campaign);
        let body = PeerMessage::Forward { leader_term: 2, batch: Bytes::from(bytes.clone()) };
        let _ = cluster.node(1).step(Input::Message(Envelope { from: 2, to: 1, body }));
        let batch = Bytes::from(bytes);
        let change = PeerMessage::ForwardChange { leader_term: 2, change: ConfChange::Remove(3), batch: batch.clone() };
        let refused = PeerMessage::Refused { reason: RejectReason::Busy, batch };
        for body in [change, refused] {
            let _ = cluster.node(1).step(Input::Message(Envelope { from: 2, to: 1, body }));
        }
    }

    #[test]
    fn a_message_is_read_as_it_was_written(sent in travelling()) {
        let bytes = Bytes::from(sent.encode());
        prop_assert_eq!(Envelope::decode(&bytes).unwrap(), sent);
        for end in 0..bytes.len() {
            prop_assert!(Envelope::decode(&bytes.slice(..end)).is_err(), "cut at {end}");
        }
        let longer = [&bytes[..], b"x"].concat();
        prop_assert!(Envelope::decode(&longer.into()).is_err());
    }

    #[test]
    fn a_member_survives_messages_that_were_changed_on_the_way(
        sent in travelling(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        leads in any::<bool>(),
    ) {
        let mut bytes = sent.encode();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(envelope) = Envelope::decode(&bytes.into()) {
            prop_assert_eq!(&Envelope::decode(&envelope.encode().into()).unwrap(), &envelope);
            let mut cluster = Cluster::new(&[1, 2, 3]);
            if leads {
                cluster.step(1, Input::Campaign);
            }
            let _ = cluster.node(1).step(Input::Message(envelope));
        }
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), kind in 0u8..8) {
        if bytes.len() > 2 {
            bytes[..2].copy_from_slice(&[1, kind]);
        }
        if let Ok(envelope) = Envelope::decode(&Bytes::from(bytes.clone())) {
            prop_assert_eq!(envelope.encode(), bytes, "there is one way to write it");
        }
    }
}

/// Of [`KINDS`] those that members send each other.
const TRAVELLING: [MessageType; 10] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgTimeoutNow,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// Bytes that members of this version have to understand for ever.
#[test]
fn golden_messages() {
    let hex = |body| {
        let bytes = Envelope { from: 2, to: 3, body }.encode();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let head = |kind: &str| format!("01{kind}02000000000000000300000000000000");
    let forward = PeerMessage::Forward { leader_term: 300, batch: Bytes::from_static(b"batch") };
    assert_eq!(hex(forward), head("02") + "ac02" + "6261746368");
    let batch = Bytes::from_static(b"batch");
    let change =
        PeerMessage::ForwardChange { leader_term: 300, change: ConfChange::AddLearner(7), batch: batch.clone() };
    assert_eq!(hex(change), head("05") + "ac02" + "020700000000000000" + "6261746368");
    let refused = PeerMessage::Refused { reason: RejectReason::NotInSync, batch };
    assert_eq!(hex(refused), head("06") + "04" + "6261746368");
    assert_eq!(hex(PeerMessage::ReadRequest { epoch: 4, round: 5 }), head("03") + "0405");
    assert_eq!(hex(PeerMessage::ReadResponse { epoch: 4, round: 5, term: 6, index: 7 }), head("04") + "04050607");

    let mut append = Message::default();
    append.set_msg_type(MessageType::MsgAppend);
    (append.from, append.to, append.term, append.log_term, append.index, append.commit) = (2, 3, 6, 5, 9, 8);
    let mut change = Entry { index: 11, term: 6, context: Bytes::from_static(b"c"), ..Entry::default() };
    change.set_entry_type(EntryType::EntryConfChange);
    let put = Entry { index: 10, term: 6, data: Bytes::from_static(b"put"), ..Entry::default() };
    append.set_entries(vec![put, change].into());
    let numbers = "0605090800000000".to_owned() + "00" + "00";
    let entries = "02".to_owned() + "000a0603707574" + "010b060163";
    assert_eq!(hex(PeerMessage::Raft(Box::new(append))), head("01") + "00" + &numbers + &entries + "00");

    let mut snapshot = Message::default();
    snapshot.set_msg_type(MessageType::MsgSnapshot);
    (snapshot.from, snapshot.to, snapshot.term) = (2, 3, 6);
    let metadata = snapshot.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (9, 5);
    metadata.mut_conf_state().voters = vec![1];
    let wanted = head("01") + "08" + "0600000000000000" + "00" + "00" + "00" + "010905" + "010100000000000000" + "00";
    assert_eq!(hex(PeerMessage::Raft(Box::new(snapshot))), wanted);
}
