//! Linearizable reads: many reads, one round of the leader's heartbeat.
//!
//! A read joins only a round that has not been sent, for a round's index is the commit index at its start. A round's context is
//! fresh each time (member, boot epoch, counter): raft-rs tells rounds apart by it and by nothing else. Raft drops a round in
//! silence on a change of role; its reads then join the next one.

use std::collections::BTreeMap;

use kv_codec::planted::{Bug, is_planted};
use kv_codec::varint::Reader;

/// The most reads that wait for a round.
pub(crate) const WAITING_MAX: usize = 1 << 17;

/// Who asks for a read index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// A read on this member.
    Local(u64),
    /// A round of a follower.
    Peer { from: u64, epoch: u64, round: u64 },
}

#[derive(Debug)]
struct Round {
    readers: Vec<Asker>,
    started_tick: u64,
    /// When the leader was last asked for it.
    asked_tick: u64,
}

/// The reads of one node.
///
/// * `counter` never repeats in an epoch.
/// * A reader is in `waiting` or in exactly one round.
#[derive(Debug)]
pub(crate) struct Reads {
    id: u64,
    epoch: u64,
    counter: u64,
    waiting: Vec<Asker>,
    rounds: BTreeMap<u64, Round>,
}

impl Reads {
    pub(crate) fn new(id: u64, epoch: u64) -> Self {
        Self { id, epoch, counter: 0, waiting: Vec::new(), rounds: BTreeMap::new() }
    }

    /// Whether there is room for another.
    pub(crate) fn join(&mut self, reader: Asker) -> bool {
        let room = self.waiting.len() < WAITING_MAX;
        if room {
            self.waiting.push(reader);
        }
        room
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether a round is on its way.
    pub(crate) fn is_open(&self) -> bool {
        !self.rounds.is_empty()
    }

    /// Opens a round for all that wait; its counter.
    pub(crate) fn start(&mut self, tick: u64) -> u64 {
        if is_planted(Bug::JoinSentRound)
            && let Some(mut open) = self.rounds.last_entry()
        {
            open.get_mut().readers.append(&mut self.waiting);
            return *open.key();
        }
        if self.counter == 0 || !is_planted(Bug::ReuseReadContext) {
            self.counter += 1;
        }
        let readers = std::mem::take(&mut self.waiting);
        self.rounds.insert(self.counter, Round { readers, started_tick: tick, asked_tick: tick });
        self.counter
    }

    /// The raft context of a round.
    pub(crate) fn context(&self, round: u64) -> Vec<u8> {
        [self.id, self.epoch, round].iter().flat_map(|part| part.to_le_bytes()).collect()
    }

    /// The round of a context that [`Reads::context`] made in this epoch.
    pub(crate) fn round_of(&self, context: &[u8]) -> Option<u64> {
        let mut reader = Reader::new(context);
        let (id, epoch) = (reader.fixed_u64("id").ok()?, reader.fixed_u64("epoch").ok()?);
        let round = reader.fixed_u64("round").ok()?;
        (id == self.id && epoch == self.epoch && reader.is_empty()).then_some(round)
    }

    /// Closes a round; the readers it had. None if it was given up before.
    pub(crate) fn finish(&mut self, round: u64) -> Vec<Asker> {
        self.rounds.remove(&round).map_or_else(Vec::new, |round| round.readers)
    }

    /// The rounds that were asked for before `since`: their question or its answer may be lost, and they are asked for once more. Any
    /// answer will do, for each was given after the round had begun.
    pub(crate) fn ask_again(&mut self, since: u64, tick: u64) -> Vec<u64> {
        let late = self.rounds.iter_mut().filter(|(_, round)| round.asked_tick < since);
        late.map(|(counter, round)| {
            round.asked_tick = tick;
            *counter
        })
        .collect()
    }

    /// Gives up rounds that started before `tick`: their readers wait for a new one.
    pub(crate) fn retry_before(&mut self, tick: u64) {
        let late = self.rounds.iter().filter(|(_, round)| round.started_tick < tick);
        let late: Vec<u64> = late.map(|(counter, _)| *counter).collect();
        for counter in late {
            let readers = self.finish(counter);
            self.waiting.extend(readers);
        }
    }

    /// The role or the leader changed: every open round is void. A follower's own readers ask again by themselves.
    pub(crate) fn reset(&mut self) {
        self.retry_before(u64::MAX);
        self.waiting.retain(|reader| matches!(reader, Asker::Local(_)));
    }
}
