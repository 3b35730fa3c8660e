//! The rules of the contract between the pure core and whoever runs it, one test each.

use kv_codec::command::{BatchBuilder, Body, CommandHeader};
use kv_raft::{
    ConfChange, Effects, Envelope, HardState, Input, Membership, MessageError, Node, NodeConfig, NodeState,
    PeerMessage, Position, Record, RejectReason, SnapshotMark, TailLimits,
};
use raft::eraftpb::{Entry, Message, MessageType};

use crate::harness::{Cluster, batch, membership, node, node_with, render};

fn from(from: u64, to: u64, kind: MessageType, term: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.from = from;
    message.to = to;
    message.term = term;
    message
}

fn raft(message: Message) -> Input {
    let (from, to) = (message.from, message.to);
    Input::Message(Envelope { from, to, body: PeerMessage::Raft(Box::new(message)) })
}

/// Steps, polls, and says what came out.
fn out(node: &mut Node, input: Input) -> String {
    node.step(input).unwrap();
    render(&node.poll())
}

/// A lone voter that leads, with its first entry applied.
fn lone_leader() -> Node {
    let mut node = node(1, membership(&[1], &[]));
    out(&mut node, Input::Campaign);
    out(&mut node, Input::Persisted(1));
    out(&mut node, Input::Applied(2));
    assert!(node.is_lone_leader());
    node
}

/// A whole put on a lone voter. The commit that follows the write causes no write of its own: it travels with the next one.
#[test]
fn golden_lone_voter() {
    let mut node = node(1, membership(&[1], &[]));
    let mut trace = out(&mut node, Input::Campaign);
    trace += "-- persisted\n";
    trace += &out(&mut node, Input::Persisted(1));
    trace += "-- applied\n";
    trace += &out(&mut node, Input::Applied(2));
    trace += "-- propose\n";
    node.step(Input::Propose(batch(1, 1))).unwrap();
    let effects = node.poll();
    trace += &render(&effects);
    trace += "-- read while the write waits for the disk\n";
    trace += &out(&mut node, Input::Read(9));
    trace += "-- persisted\n";
    trace += &out(&mut node, Input::Persisted(effects.persist.unwrap().ticket));
    assert_eq!(
        trace,
        "leader 1 term 2\n\
         persist entry 2@2, term 2 vote 1 commit 1\n\
         -- persisted\n\
         apply 2\n\
         -- applied\n\
         -- propose\n\
         persist entry 3@2, term 2 vote 1 commit 2\n\
         -- read while the write waits for the disk\n\
         read 9 at 2\n\
         -- persisted\n\
         apply 3\n"
    );
}

/// An election of three, as the winner sees it.
#[test]
fn golden_election() {
    let mut node = node(1, membership(&[1, 2, 3], &[]));
    let mut trace = out(&mut node, Input::Campaign);
    let mut vote = from(2, 1, MessageType::MsgRequestPreVoteResponse, 2);
    trace += "-- pre-vote granted\n";
    trace += &out(&mut node, raft(vote.clone()));
    trace += "-- persisted\n";
    trace += &out(&mut node, Input::Persisted(2));
    vote.set_msg_type(MessageType::MsgRequestVoteResponse);
    trace += "-- vote granted\n";
    trace += &out(&mut node, raft(vote));
    assert_eq!(
        trace,
        "send to 2: MsgRequestPreVote index 1 entries 0\n\
         send to 3: MsgRequestPreVote index 1 entries 0\n\
         -- pre-vote granted\n\
         leader 0 term 2\n\
         persist term 2 vote 1 commit 1\n\
         -- persisted\n\
         send to 2: MsgRequestVote index 1 entries 0\n\
         send to 3: MsgRequestVote index 1 entries 0\n\
         -- vote granted\n\
         leader 1 term 2\n\
         persist entry 2@2\n\
         send to 2: MsgAppend index 1 entries 1\n\
         send to 3: MsgAppend index 1 entries 1\n"
    );
}

#[test]
fn a_vote_leaves_only_after_it_is_durable() {
    let mut node = node(1, membership(&[1, 2, 3], &[]));
    let mut request = from(2, 1, MessageType::MsgRequestVote, 2);
    (request.index, request.log_term) = (1, 1);
    assert_eq!(out(&mut node, raft(request)), "leader 0 term 2\npersist term 2 vote 2 commit 1\n");
    assert_eq!(out(&mut node, Input::Persisted(1)), "send to 2: MsgRequestVoteResponse index 0 entries 0\n");
}

/// With a learner beside it a lone voter leads at once; its first append must not leave before its term is durable.
#[test]
fn nothing_leaves_while_a_new_term_is_not_durable() {
    let mut node = node(1, membership(&[1], &[2]));
    assert_eq!(out(&mut node, Input::Campaign), "leader 1 term 2\npersist entry 2@2, term 2 vote 1 commit 1\n");
    assert_eq!(out(&mut node, Input::Tick), "", "a heartbeat is a message as well");
    let after = out(&mut node, Input::Persisted(1));
    assert!(after.starts_with("send to 2: MsgAppend index 1 entries 1\n"), "{after}");
}

/// An acknowledgement of entries whose write is under way must wait for it, though it comes out of a later step.
#[test]
fn an_acknowledgement_waits_for_the_write_it_speaks_of() {
    let mut node = node(1, membership(&[1, 2, 3], &[]));
    let mut append = from(2, 1, MessageType::MsgAppend, 2);
    (append.index, append.log_term, append.commit) = (1, 1, 1);
    let mut entry = raft::eraftpb::Entry::default();
    (entry.index, entry.term) = (2, 2);
    append.set_entries(vec![entry].into());
    assert_eq!(out(&mut node, raft(append.clone())), "leader 2 term 2\npersist entry 2@2, term 2 vote 0 commit 1\n");
    // Sent again: nothing new to write, and still nothing to say.
    assert_eq!(out(&mut node, raft(append)), "");
    let ack = "send to 2: MsgAppendResponse index 2 entries 0\n";
    assert_eq!(out(&mut node, Input::Persisted(1)), format!("{ack}{ack}"));
}

#[test]
fn a_follower_forwards_and_never_lets_raft_do_it() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.step(1, Input::Campaign);
    assert_eq!(cluster.leader(), 1);
    assert_eq!(out(cluster.node(2), Input::Propose(batch(2, 1))), "send to 1: Forward term 2 commands 1\n");
    let mut alone = node(1, membership(&[1, 2, 3], &[]));
    assert_eq!(out(&mut alone, Input::Propose(batch(1, 1))), "reject NoLeader\n");
}

#[test]
fn a_forwarded_batch_is_taken_once_and_in_its_term_only() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.step(1, Input::Campaign);
    let forward = |leader_term, seq| {
        let body = PeerMessage::Forward { leader_term, batch: batch(2, seq) };
        Input::Message(Envelope { from: 2, to: 1, body })
    };
    let before = cluster.node(1).last_index();
    cluster.step(1, forward(2, 1));
    assert_eq!(cluster.node(1).last_index(), before + 1);
    for refused in [forward(2, 1), forward(1, 2), forward(3, 2)] {
        cluster.step(1, refused);
        assert_eq!(cluster.node(1).last_index(), before + 1);
    }
    cluster.step(1, forward(2, 2));
    assert_eq!(cluster.node(1).last_index(), before + 2);
    assert_eq!(cluster.applied[&3], cluster.applied[&1]);
}

/// Nobody need wonder what became of it, and nobody is told that too much waits.
#[test]
fn what_is_not_taken_for_want_of_a_leader_is_given_back() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.step(1, Input::Campaign);
    let forward = |seq| {
        let body = PeerMessage::Forward { leader_term: 2, batch: batch(2, seq) };
        Input::Message(Envelope { from: 2, to: 1, body })
    };
    cluster.step(1, forward(1));
    // It hands over, and is not told yet that this came about.
    out(cluster.node(1), Input::Transfer(2));
    assert_eq!(out(cluster.node(1), Input::Propose(batch(1, 1))), "reject NoLeader\n");
    assert_eq!(out(cluster.node(1), forward(2)), "send to 2: Refused NoLeader\n");
    assert_eq!(out(cluster.node(1), forward(2)), "", "it came before");
    cluster.step(2, raft(from(1, 2, MessageType::MsgTimeoutNow, 2)));
    assert!(cluster.node(2).is_leader() && !cluster.node(1).is_leader());
    assert_eq!(out(cluster.node(1), forward(3)), "send to 2: Refused NoLeader\n");
    assert_eq!(out(cluster.node(1), forward(1)), "", "it was taken");
    let change = PeerMessage::ForwardChange { leader_term: 2, change: ConfChange::AddLearner(4), batch: batch(2, 4) };
    let change = Input::Message(Envelope { from: 2, to: 1, body: change });
    assert_eq!(out(cluster.node(1), change), "send to 2: Refused NoLeader\n", "nor is a membership change taken");
    let refused = PeerMessage::Refused { reason: RejectReason::NoLeader, batch: batch(2, 3) };
    let refused = Input::Message(Envelope { from: 1, to: 2, body: refused });
    assert_eq!(out(cluster.node(2), refused), "reject NoLeader\n");
}

#[test]
fn a_read_joins_only_a_round_that_has_not_been_sent() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.step(1, Input::Campaign);
    let context = |effects: &Effects| match &effects.messages[0].body {
        PeerMessage::Raft(message) => message.context.to_vec(),
        other => panic!("{other:?}"),
    };
    let answer = |context: Vec<u8>| {
        let mut answer = from(2, 1, MessageType::MsgHeartbeatResponse, 2);
        answer.context = context.into();
        raft(answer)
    };
    let step = |cluster: &mut Cluster, input| {
        cluster.node(1).step(input).unwrap();
        cluster.node(1).poll()
    };
    let first = context(&step(&mut cluster, Input::Read(1)));
    for read in 2..=3 {
        let after = step(&mut cluster, Input::Read(read));
        assert_eq!((after.messages.len(), after.reads_ready.len()), (0, 0), "one round is on its way");
    }
    // The first round's answer serves the first read alone. The others go together.
    let after = step(&mut cluster, answer(first.clone()));
    assert_eq!(after.reads_ready, [(1, 2)]);
    let second = context(&after);
    assert_ne!(first, second, "each round has a context of its own");
    assert_eq!(step(&mut cluster, answer(second)).reads_ready, [(2, 2), (3, 2)]);
}

#[test]
fn a_follower_reads_through_the_leader_in_one_round() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.step(1, Input::Campaign);
    cluster.node(2).step(Input::Read(7)).unwrap();
    cluster.node(2).step(Input::Read(8)).unwrap();
    cluster.settle();
    assert_eq!(cluster.reads, [(2, 7, 2), (2, 8, 2)]);
    let asked = cluster.sent.iter().filter(|sent| matches!(sent.body, PeerMessage::ReadRequest { .. }));
    assert_eq!(asked.count(), 1);
}

/// Raft drops a round in silence on a change of leader: its reads ask again under a new context.
#[test]
fn reads_outlive_a_lost_round_and_a_change_of_leader() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.step(1, Input::Campaign);
    cluster.cut = vec![1];
    cluster.step(1, Input::Read(5));
    cluster.step(2, Input::Read(6));
    cluster.tick(25);
    assert_eq!(cluster.reads.iter().map(|(id, read, _)| (*id, *read)).collect::<Vec<_>>(), [(2, 6)]);
    assert!(!cluster.nodes[&1].is_leader(), "check-quorum deposes a leader that hears nobody");
    cluster.cut.clear();
    cluster.tick(5);
    let mut answered: Vec<_> = cluster.reads.iter().map(|(id, read, _)| (*id, *read)).collect();
    answered.sort_unstable();
    assert_eq!(answered, [(1, 5), (2, 6)]);
}

/// What was sent before the connection stood is lost; an election timeout may be long.
#[test]
fn a_read_asks_again_when_the_leader_was_out_of_reach() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.step(1, Input::Campaign);
    let asked = |effects: Effects| {
        effects.messages.iter().filter(|sent| matches!(sent.body, PeerMessage::ReadRequest { .. })).count()
    };
    let follower = cluster.node(2);
    let mut step = |input| {
        follower.step(input).unwrap();
        asked(follower.poll())
    };
    assert_eq!(step(Input::Read(7)), 1);
    assert_eq!(step(Input::Tick), 0, "it may be on its way");
    assert_eq!(step(Input::Unreachable(3)) + step(Input::Tick), 0, "another one");
    assert_eq!(step(Input::Unreachable(1)), 0, "it would be lost again at once");
    assert_eq!(step(Input::Tick), 1);
    assert_eq!(step(Input::Tick), 0);
    cluster.step(2, Input::Unreachable(1));
    cluster.step(2, Input::Tick);
    assert_eq!(cluster.reads, [(2, 7, 2)]);
}

/// One answer that is lost must not hold up all who read for an election timeout. Whichever answer comes is as good.
#[test]
fn a_read_asks_again_when_no_answer_comes() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.step(1, Input::Campaign);
    let asked = |effects: Effects| {
        let is_question = |sent: &Envelope| matches!(sent.body, PeerMessage::ReadRequest { .. });
        effects.messages.into_iter().filter(is_question).collect::<Vec<_>>()
    };
    cluster.node(2).step(Input::Read(7)).unwrap();
    let first = asked(cluster.node(2).poll());
    assert_eq!(first.len(), 1);
    for _ in 0..2 {
        cluster.node(2).step(Input::Tick).unwrap();
        assert_eq!(asked(cluster.node(2).poll()), [], "it may be on its way");
    }
    cluster.node(2).step(Input::Tick).unwrap();
    assert_eq!(asked(cluster.node(2).poll()), first, "the same question");
    cluster.step(1, Input::Message(first[0].clone()));
    cluster.step(1, Input::Message(first[0].clone()));
    assert_eq!(cluster.reads, [(2, 7, 2)], "two answers, and one that counts");
}

/// Before the first commit of its term a leader's commit index may be behind what an earlier leader acknowledged.
#[test]
fn a_new_leader_serves_no_read_before_its_first_commit() {
    let mut node = node(1, membership(&[1], &[]));
    node.step(Input::Campaign).unwrap();
    node.step(Input::Read(1)).unwrap();
    assert_eq!(render(&node.poll()), "leader 1 term 2\npersist entry 2@2, term 2 vote 1 commit 1\n");
    assert!(!node.is_lone_leader());
    assert_eq!(out(&mut node, Input::Persisted(1)), "apply 2\nread 1 at 2\n");
    assert!(!node.is_lone_leader(), "committed is not applied");
    assert_eq!(out(&mut node, Input::Applied(2)), "");
    assert!(node.is_lone_leader());
}

/// The last voter left, with a slow disk: raft panics when it leads before its log is durable.
#[test]
fn a_lone_voter_stands_once_its_log_is_durable() {
    let mut node = node(1, membership(&[1], &[]));
    let mut append = from(2, 1, MessageType::MsgAppend, 2);
    (append.index, append.log_term, append.commit) = (1, 1, 1);
    append.set_entries(vec![Entry { index: 2, term: 2, ..Entry::default() }].into());
    node.step(raft(append)).unwrap();
    // Ticks before the next poll, and ticks while the write is under way.
    (0..30).for_each(|_| node.step(Input::Tick).unwrap());
    let persist = node.poll().persist.unwrap();
    (0..30).for_each(|_| node.step(Input::Tick).unwrap());
    out(&mut node, Input::Campaign);
    assert!(!node.is_leader());
    out(&mut node, Input::Persisted(persist.ticket));
    (0..30).for_each(|_| node.step(Input::Tick).unwrap());
    assert!(node.is_leader());
}

/// A learner hears of a commit before its leader has applied it, and may show it to somebody who then asks the leader.
#[test]
fn a_leader_with_a_learner_is_not_alone() {
    let mut node = node(1, membership(&[1], &[2]));
    out(&mut node, Input::Campaign);
    out(&mut node, Input::Persisted(1));
    out(&mut node, Input::Applied(2));
    assert!(node.is_leader() && !node.is_lone_leader());
    assert!(lone_leader().is_lone_leader());
}

fn conf_batch(seq: u64) -> bytes::Bytes {
    conf_batch_of(1, 1, seq)
}

fn conf_batch_of(origin: u64, epoch: u64, seq: u64) -> bytes::Bytes {
    let header = CommandHeader { origin, epoch, seq, ..CommandHeader::default() };
    let mut batch = BatchBuilder::default();
    batch.push(&Body::MemberRemove(9).encode(&header));
    batch.finish()
}

/// Persists a conf change that a lone voter proposed, and then that it is committed; what is to be done after that.
fn commit_conf_change(node: &mut Node, ticket: u64) -> String {
    node.step(Input::Persisted(ticket)).unwrap();
    let effects = node.poll();
    assert!(effects.committed.is_empty(), "it is applied once the log says that it is committed");
    let noted = effects.persist.unwrap();
    assert!(matches!(noted.records[..], [Record::HardState(_)]), "{noted:?}");
    out(node, Input::Persisted(noted.ticket))
}

#[test]
fn nothing_follows_a_conf_change_before_it_is_applied() {
    let mut node = lone_leader();
    node.step(Input::ProposeConfChange(ConfChange::AddLearner(2), conf_batch(1))).unwrap();
    node.step(Input::Propose(batch(1, 2))).unwrap();
    let persist = node.poll().persist.unwrap();
    assert_eq!(commit_conf_change(&mut node, persist.ticket), "apply 3 conf change\n");
    let applied =
        Input::ConfApplied { index: 3, change: Some(ConfChange::AddLearner(2)), membership: membership(&[1], &[2]) };
    let after = out(&mut node, applied);
    assert!(after.contains("apply 4\n"), "{after}");
    assert_eq!(node.membership(), membership(&[1], &[2]));
}

#[test]
fn a_refused_conf_change_does_not_reach_raft() {
    let mut node = lone_leader();
    node.step(Input::ProposeConfChange(ConfChange::AddVoter(2), conf_batch(1))).unwrap();
    let persist = node.poll().persist.unwrap();
    commit_conf_change(&mut node, persist.ticket);
    out(&mut node, Input::ConfApplied { index: 3, change: None, membership: membership(&[1], &[]) });
    assert_eq!(node.membership(), membership(&[1], &[]));
    assert!(node.is_lone_leader());
}

#[test]
#[should_panic(expected = "raft and the state machine disagree on the members")]
fn raft_and_the_state_machine_must_agree_on_the_members() {
    let mut node = lone_leader();
    node.step(Input::ProposeConfChange(ConfChange::AddLearner(2), conf_batch(1))).unwrap();
    let persist = node.poll().persist.unwrap();
    commit_conf_change(&mut node, persist.ticket);
    let change = Some(ConfChange::AddLearner(2));
    let _ = node.step(Input::ConfApplied { index: 3, change, membership: membership(&[1], &[3]) });
}

/// Two members, one of which is removed and gone: if the other one, after a power loss, did not know that this was committed, it would
/// wait for the vote of a member that is no more.
#[test]
fn who_has_applied_a_conf_change_does_not_come_back_without_it() {
    let mut node = lone_leader();
    node.step(Input::ProposeConfChange(ConfChange::AddLearner(2), conf_batch(1))).unwrap();
    let persist = node.poll().persist.unwrap();
    assert_eq!(
        out(&mut node, Input::Persisted(persist.ticket)),
        "persist term 2 vote 1 commit 3\n",
        "and nothing is applied"
    );
    // What is written for another reason will do as well.
    node.step(Input::Propose(batch(1, 2))).unwrap();
    let more = node.poll();
    assert!(more.committed.is_empty());
    let applied = out(&mut node, Input::Persisted(more.persist.unwrap().ticket));
    assert_eq!(applied, "apply 3 conf change\n");
}

/// Raft would log an empty entry in the place of a second change, and say nothing.
#[test]
fn a_second_conf_change_is_refused_while_the_first_is_not_applied() {
    let mut node = lone_leader();
    node.step(Input::ProposeConfChange(ConfChange::AddLearner(2), conf_batch(1))).unwrap();
    node.step(Input::ProposeConfChange(ConfChange::AddLearner(3), conf_batch(2))).unwrap();
    let effects = node.poll();
    let reasons: Vec<_> = effects.rejected.iter().map(|rejected| rejected.reason).collect();
    assert_eq!(reasons, [RejectReason::ConfChangePending]);
    assert_eq!(effects.rejected[0].batch, conf_batch(2));
    assert_eq!(node.last_index(), 3, "nothing is logged in its place");
}

#[test]
fn a_follower_forwards_a_conf_change_and_hears_why_not() {
    let mut alone = node(1, membership(&[1, 2, 3], &[]));
    let add = ConfChange::AddLearner(4);
    assert_eq!(out(&mut alone, Input::ProposeConfChange(add, conf_batch(1))), "reject NoLeader\n");
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.step(1, Input::Campaign);
    let asked = Input::ProposeConfChange(add, conf_batch_of(2, 1, 1));
    assert_eq!(out(cluster.node(2), asked), "send to 1: ForwardChange term 2 AddLearner(4)\n");

    let message = |body| Input::Message(Envelope { from: 2, to: 1, body });
    let forward = |leader_term, seq| {
        message(PeerMessage::ForwardChange { leader_term, change: add, batch: conf_batch_of(2, 1, seq) })
    };
    let before = cluster.node(1).last_index();
    cluster.node(1).step(forward(2, 1)).unwrap();
    assert_eq!(cluster.node(1).last_index(), before + 1);
    cluster.node(1).poll();
    assert_eq!(out(cluster.node(1), forward(2, 1)), "", "what comes twice is taken, not refused");
    assert_eq!(out(cluster.node(1), forward(1, 2)), "", "meant for an earlier leader");
    assert_eq!(out(cluster.node(1), forward(2, 2)), "send to 2: Refused ConfChangePending\n");
    assert_eq!(cluster.node(1).last_index(), before + 1);
    let two = [conf_batch_of(2, 1, 3), batch(2, 4)].map(|batch| batch[5..].to_vec()).concat();
    let two = [&[1, 2, 0, 0, 0][..], &two].concat();
    let refused =
        cluster.node(1).step(message(PeerMessage::ForwardChange { leader_term: 2, change: add, batch: two.into() }));
    assert!(matches!(refused, Err(MessageError::Batch(_))), "{refused:?}");

    let refused = |epoch| {
        let body = PeerMessage::Refused { reason: RejectReason::ConfChangePending, batch: conf_batch_of(2, epoch, 2) };
        Input::Message(Envelope { from: 1, to: 2, body })
    };
    assert_eq!(out(cluster.node(2), refused(1)), "reject ConfChangePending\n");
    assert_eq!(out(cluster.node(2), refused(0)), "", "an earlier run asked for it");
}

/// etcd once made voters of learners that had never been there.
#[test]
fn a_learner_votes_only_once_it_has_the_log() {
    let mut node = lone_leader();
    node.step(Input::ProposeConfChange(ConfChange::AddLearner(2), conf_batch(1))).unwrap();
    let persist = node.poll().persist.unwrap();
    commit_conf_change(&mut node, persist.ticket);
    let change = Some(ConfChange::AddLearner(2));
    out(&mut node, Input::ConfApplied { index: 3, change, membership: membership(&[1], &[2]) });
    for seq in 2..20 {
        node.step(Input::Propose(batch(1, seq))).unwrap();
        let persist = node.poll().persist.unwrap();
        node.step(Input::Persisted(persist.ticket)).unwrap();
        node.poll();
    }
    let last = node.last_index();
    assert_eq!(last, 21);
    let promote = |seq| Input::ProposeConfChange(ConfChange::AddVoter(2), conf_batch(seq));
    assert_eq!(out(&mut node, promote(30)), "reject NotInSync\n");
    let acked = |index| {
        let mut ack = from(2, 1, MessageType::MsgAppendResponse, 2);
        ack.index = index;
        raft(ack)
    };
    out(&mut node, acked(18));
    assert_eq!(out(&mut node, promote(31)), "reject NotInSync\n", "it has less than nine tenths");
    out(&mut node, acked(19));
    node.step(promote(32)).unwrap();
    assert_eq!((node.last_index(), node.poll().rejected), (last + 1, vec![]));
}

/// Raft goes on leading a cluster it was removed from; the core does not.
#[test]
fn a_removed_leader_steps_down() {
    let mut node = node(1, membership(&[1, 2], &[]));
    out(&mut node, Input::Campaign);
    out(&mut node, raft(from(2, 1, MessageType::MsgRequestPreVoteResponse, 2)));
    out(&mut node, Input::Persisted(2));
    out(&mut node, raft(from(2, 1, MessageType::MsgRequestVoteResponse, 2)));
    let remove = |seq| Input::ProposeConfChange(ConfChange::Remove(1), conf_batch(seq));
    let ack = |index| {
        let mut ack = from(2, 1, MessageType::MsgAppendResponse, 2);
        ack.index = index;
        raft(ack)
    };
    node.step(remove(1)).unwrap();
    let effects = node.poll();
    assert_eq!(effects.rejected.len(), 1, "it hands over first");
    out(&mut node, Input::Persisted(3));
    // The other is there, and does not take over.
    node.step(ack(2)).unwrap();
    (0..10).for_each(|_| node.step(Input::Tick).unwrap());
    node.poll();
    out(&mut node, Input::Applied(2));
    node.step(remove(2)).unwrap();
    let persist = node.poll().persist.unwrap();
    out(&mut node, Input::Persisted(persist.ticket));
    node.step(ack(3)).unwrap();
    let noted = node.poll().persist.unwrap();
    assert_eq!(out(&mut node, Input::Persisted(noted.ticket)), "apply 3 conf change\n");
    assert!(node.is_leader());
    let change = Some(ConfChange::Remove(1));
    let after = out(&mut node, Input::ConfApplied { index: 3, change, membership: membership(&[2], &[]) });
    assert!(after.contains("removed\n"), "{after}");
    assert!(!node.is_leader());
}

fn snapshot_from(leader: u64, to: u64, at: Position, voters: &[u64]) -> Message {
    let mut message = from(leader, to, MessageType::MsgSnapshot, 2);
    let metadata = message.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (at.index, at.term);
    metadata.mut_conf_state().voters = voters.to_vec();
    message
}

/// The mark in the log is what switches to the received snapshot: it is durable before the state changes.
#[test]
fn a_snapshot_is_installed_after_its_mark_is_durable_and_before_what_follows() {
    let mut node = node(1, membership(&[1, 2, 3], &[]));
    node.step(raft(snapshot_from(2, 1, Position { index: 50, term: 2 }, &[1, 2, 3]))).unwrap();
    let effects = node.poll();
    let mark = SnapshotMark { index: 50, term: 2, installed: true };
    assert_eq!(effects.persist.as_ref().unwrap().records[0], Record::Snapshot(mark));
    assert_eq!((effects.install, effects.messages.len()), (None, 0));
    let after = out(&mut node, Input::Persisted(effects.persist.unwrap().ticket));
    assert_eq!(after, "send to 2: MsgAppendResponse index 50 entries 0\ninstall 50\n");
    let mut append = from(2, 1, MessageType::MsgAppend, 2);
    (append.index, append.log_term, append.commit) = (50, 2, 51);
    let mut entry = raft::eraftpb::Entry::default();
    (entry.index, entry.term) = (51, 2);
    append.set_entries(vec![entry].into());
    node.step(raft(append)).unwrap();
    let persist = node.poll().persist.unwrap();
    let before_install = out(&mut node, Input::Persisted(persist.ticket));
    assert!(!before_install.contains("apply"), "{before_install}");
    assert_eq!(out(&mut node, Input::SnapshotInstalled(50)), "apply 51\n");
}

/// raft-rs panics when it stands while a snapshot is stored and not applied: it looks for the entries that the snapshot replaced.
#[test]
fn nobody_stands_for_election_while_a_snapshot_is_being_installed() {
    let mut node = node(1, membership(&[1, 2, 3], &[]));
    node.step(raft(snapshot_from(2, 1, Position { index: 50, term: 2 }, &[1, 2, 3]))).unwrap();
    let persist = node.poll().persist.unwrap();
    out(&mut node, Input::Persisted(persist.ticket));
    out(&mut node, Input::Campaign);
    out(&mut node, raft(from(2, 1, MessageType::MsgTimeoutNow, 2)));
    for _ in 0..100 {
        assert_eq!(out(&mut node, Input::Tick), "");
    }
    out(&mut node, Input::SnapshotInstalled(50));
    let stands = out(&mut node, Input::Campaign);
    assert!(stands.contains("send to 2: MsgRequestPreVote"), "{stands}");
}

/// Who is further behind than the log in memory reaches gets a snapshot, which is asked for first.
#[test]
fn a_follower_far_behind_gets_a_snapshot() {
    let tail = TailLimits { entries_max: 3, bytes_max: 1 << 20 };
    let mut node = node_with(1, membership(&[1], &[]), tail);
    out(&mut node, Input::Campaign);
    out(&mut node, Input::Persisted(1));
    out(&mut node, Input::Applied(2));
    for seq in 1..20 {
        node.step(Input::Propose(batch(1, seq))).unwrap();
        let persist = node.poll().persist.unwrap();
        node.step(Input::Persisted(persist.ticket)).unwrap();
        let last = node.poll().committed.last().unwrap().index;
        out(&mut node, Input::Applied(last));
    }
    node.step(Input::ProposeConfChange(ConfChange::AddLearner(2), conf_batch(99))).unwrap();
    let persist = node.poll().persist.unwrap();
    let index = node.last_index();
    commit_conf_change(&mut node, persist.ticket);
    let change = Some(ConfChange::AddLearner(2));
    let members = membership(&[1], &[2]);
    out(&mut node, Input::ConfApplied { index, change, membership: members.clone() });
    let mut refuse = from(2, 1, MessageType::MsgAppendResponse, 2);
    (refuse.index, refuse.reject, refuse.reject_hint, refuse.log_term) = (index - 1, true, 1, 1);
    assert_eq!(out(&mut node, raft(refuse)), "snapshot wanted\n");
    node.step(Input::SnapshotReady(Position { index, term: 2 }, members)).unwrap();
    let sent = out(&mut node, raft(from(2, 1, MessageType::MsgHeartbeatResponse, 2)));
    assert_eq!(sent, format!("send snapshot {index} to 2\n"));
}

/// A member that joins has nothing, not even its cluster's first entry: no entry can follow, a snapshot can.
#[test]
fn a_newcomer_waits_for_a_snapshot() {
    let nothing = Position { index: 0, term: 0 };
    let config =
        NodeConfig { id: 4, epoch: 1, seed: 7, election_ticks: 10, heartbeat_ticks: 1, tail: TailLimits::default() };
    let state = NodeState {
        base: nothing,
        entries: vec![],
        hard_state: HardState::default(),
        applied: 0,
        membership: Membership::default(),
    };
    let mut node = Node::new(config, state, &slog::Logger::root(slog::Discard, slog::o!()));
    for _ in 0..100 {
        assert_eq!(out(&mut node, Input::Tick), "", "it stands for no election");
    }
    assert_eq!(out(&mut node, Input::Campaign), "");
    assert_eq!(out(&mut node, Input::Propose(batch(4, 1))), "reject NoLeader\n");
    let mut append = from(1, 4, MessageType::MsgAppend, 2);
    (append.index, append.log_term, append.commit) = (3, 2, 3);
    let answered = out(&mut node, raft(append));
    let wanted = "leader 1 term 2\npersist term 2 vote 0 commit 0\n";
    assert_eq!(answered, wanted);
    assert_eq!(out(&mut node, Input::Persisted(1)), "send to 1: MsgAppendResponse index 3 entries 0 reject\n");
    let mut snapshot = from(1, 4, MessageType::MsgSnapshot, 2);
    let metadata = snapshot.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (3, 2);
    metadata.mut_conf_state().voters = vec![1];
    metadata.mut_conf_state().learners = vec![4];
    assert_eq!(out(&mut node, raft(snapshot)), "persist snapshot 3@2, term 2 vote 0 commit 3\n");
    assert!(out(&mut node, Input::Persisted(2)).contains("install 3\n"));
    out(&mut node, Input::SnapshotInstalled(3));
    assert_eq!((node.membership(), node.applied()), (membership(&[1], &[4]), 3));
}

/// Elections are a function of the seeds: two runs of one cluster end alike, message by message.
#[test]
fn elections_repeat() {
    let run = || {
        let mut cluster = Cluster::new(&[1, 2, 3]);
        cluster.tick(40);
        (cluster.leader(), cluster.sent)
    };
    assert_eq!(run(), run());
}

#[test]
fn what_is_not_for_this_member_is_refused() {
    let mut node = node(1, membership(&[1, 2, 3], &[]));
    let wrong = [(2, 3), (1, 1), (0, 1)];
    for (sender, to) in wrong {
        let refused = node.step(raft(from(sender, to, MessageType::MsgHeartbeat, 2)));
        assert!(matches!(refused, Err(MessageError::WrongMember { .. })), "{sender} -> {to}: {refused:?}");
    }
    let body = PeerMessage::Forward { leader_term: 1, batch: batch(3, 1) };
    let refused = node.step(Input::Message(Envelope { from: 2, to: 1, body }));
    assert!(matches!(refused, Err(MessageError::WrongMember { .. })), "a batch under another member's name");
    assert!(node.poll().is_empty());
}
