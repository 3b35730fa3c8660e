//! A peer may send anything that is well framed. Nothing of it takes a member down.

use bytes::Bytes;
use kv_raft::{Envelope, Input, PeerMessage};
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
        let body = PeerMessage::Forward { leader_term: 2, batch: Bytes::from(bytes) };
        let _ = cluster.node(1).step(Input::Message(Envelope { from: 2, to: 1, body }));
    }
}
