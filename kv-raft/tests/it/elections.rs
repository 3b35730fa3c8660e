//! Who leads after a leader that has ended, hands over, or is removed.

use kv_codec::command::{BatchBuilder, Body, CommandHeader};
use kv_raft::{ConfChange, Input, RejectReason};

use crate::harness::{Cluster, batch};

/// Three or five members, of whom this one leads.
fn led(voters: &[u64], leader: u64) -> Cluster {
    let mut cluster = Cluster::new(voters);
    cluster.step(leader, Input::Campaign);
    cluster.tick(1);
    assert_eq!(cluster.leader(), leader);
    cluster
}

/// The leader's process ends, and those say so whom it is told.
fn end(cluster: &mut Cluster, leader: u64, told: &[u64]) {
    cluster.nodes.remove(&leader);
    cluster.cut.push(leader);
    told.iter().for_each(|id| cluster.step(*id, Input::Gone(leader)));
}

#[test]
fn the_end_of_a_leader_costs_a_few_ticks() {
    for voters in [&[1, 2, 3][..], &[1, 2, 3, 4, 5]] {
        for leader in voters {
            for terms in 0..5 {
                let mut cluster = led(voters, *leader);
                (0..terms).for_each(|_| cluster.step(*leader, Input::HandOver));
                let leader = cluster.leader();
                let others: Vec<u64> = voters.iter().copied().filter(|id| *id != leader).collect();
                end(&mut cluster, leader, &others);
                cluster.tick(1);
                assert_ne!(cluster.leader(), leader, "the first in turn stands at the next tick");
            }
        }
    }
}

/// The first in turn may lack some of the log; the others are not far behind it.
#[test]
fn whoever_cannot_win_gives_way_to_the_next() {
    for leader in 1..=3 {
        for behind in (1..=3).filter(|id| *id != leader) {
            let mut cluster = led(&[1, 2, 3], leader);
            cluster.cut.push(behind);
            cluster.step(leader, Input::Propose(batch(leader, 1)));
            cluster.cut.clear();
            let other = 6 - leader - behind;
            end(&mut cluster, leader, &[behind, other]);
            cluster.tick(4);
            assert_eq!(cluster.leader(), other);
        }
    }
}

/// A cut that looks like an end, from one side: the others still hear the leader, and listen to nobody else.
#[test]
fn one_member_alone_unseats_nobody() {
    let mut cluster = led(&[1, 2, 3], 1);
    let term = cluster.node(1).leadership().term;
    for _ in 0..20 {
        cluster.step(2, Input::Gone(1));
        cluster.tick(2);
    }
    for id in 1..=3 {
        let leadership = cluster.node(id).leadership();
        assert_eq!((leadership.leader, leadership.term), (1, term));
    }
}

#[test]
fn the_end_of_anybody_else_is_nothing_to_hurry_for() {
    let mut cluster = led(&[1, 2, 3], 1);
    for (id, gone) in [(2, 3), (3, 2), (1, 2), (1, 1)] {
        cluster.step(id, Input::Gone(gone));
    }
    cluster.cut.push(1);
    cluster.sent.clear();
    // Less than an election timeout.
    cluster.tick(8);
    let others = cluster.sent.iter().filter(|message| message.from != 1);
    assert_eq!(others.count(), 0, "nobody stands");
    assert_eq!(cluster.leader(), 1);
}

/// Where too few are left, nobody stands at every other tick for ever.
#[test]
fn a_hurry_has_an_end() {
    let mut cluster = led(&[1, 2, 3], 1);
    cluster.cut.push(3);
    end(&mut cluster, 1, &[2]);
    let stood = |cluster: &mut Cluster, ticks| {
        cluster.sent.clear();
        cluster.tick(ticks);
        cluster.sent.iter().filter(|message| (message.from, message.to) == (2, 3)).count()
    };
    assert!(stood(&mut cluster, 20) >= 3);
    assert!(stood(&mut cluster, 40) <= 4, "once in each election timeout");
}

#[test]
fn leadership_goes_to_whoever_needs_least_for_it() {
    for behind in 2..=3 {
        let mut cluster = led(&[1, 2, 3], 1);
        cluster.cut.push(behind);
        cluster.step(1, Input::Propose(batch(1, 1)));
        cluster.cut.clear();
        cluster.step(1, Input::HandOver);
        assert_eq!(cluster.leader(), 5 - behind);
    }
    let mut alone = led(&[1], 1);
    alone.step(1, Input::HandOver);
    assert_eq!(alone.leader(), 1);
}

/// Otherwise nobody leads, once it is gone, for as long as an election takes.
#[test]
fn a_leader_that_is_to_be_removed_hands_over_first() {
    let mut cluster = led(&[1, 2, 3], 1);
    let mut command = BatchBuilder::default();
    let header = CommandHeader { origin: 1, epoch: 1, seq: 1, ..CommandHeader::default() };
    command.push(&Body::MemberRemove(1).encode(&header));
    let before = cluster.node(1).last_index();
    cluster.node(1).step(Input::ProposeConfChange(ConfChange::Remove(1), command.finish())).unwrap();
    assert_eq!(cluster.node(1).last_index(), before, "it is in no log");
    let effects = cluster.node(1).poll();
    assert_eq!(effects.rejected[0].reason, RejectReason::ConfChangePending);
    cluster.send(effects.messages);
    assert_ne!(cluster.leader(), 1);
}
