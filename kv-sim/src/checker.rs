//! What must hold at every step, seen from above: leaders, logs, promises, states. Knows what members wrote and applied, nothing of
//! how that comes about; what clients were told is [`crate::history`]'s business.

use std::collections::BTreeMap;

use kv_raft::{Envelope, HardState, LogEntry, NodeState, Promise, Record};

/// Entries that members agree on by a hash of the whole state, not each: hashing takes time in proportion to the state.
pub const HASH_EVERY: u64 = 32;

/// What a member's disk holds by its own word.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Durable {
    hard_state: HardState,
    /// The snapshot's last entry, or 1: all members begin with one.
    base: u64,
    /// Index and term of the entries above it.
    terms: BTreeMap<u64, u64>,
}

impl Durable {
    fn last(&self) -> u64 {
        self.terms.keys().next_back().copied().unwrap_or(self.base)
    }

    fn append(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::HardState(state) => self.hard_state = *state,
                Record::Snapshot(mark) => {
                    self.terms = if mark.installed { BTreeMap::new() } else { self.terms.split_off(&(mark.index + 1)) };
                    self.base = mark.index;
                }
                Record::Entry(entry) => {
                    drop(self.terms.split_off(&entry.index));
                    self.terms.insert(entry.index, entry.term);
                }
            }
        }
    }

    fn holds(&self, index: u64, term: u64) -> bool {
        index <= self.base || self.terms.get(&index) == Some(&term)
    }
}

/// Collects what was seen, and says at once when it cannot be.
#[derive(Debug, Default)]
pub struct Checker {
    leaders: BTreeMap<u64, u64>,
    /// By applied index: the hash of the state and its revision, and whose they were.
    states: BTreeMap<u64, (u32, i64, u64)>,
    /// By index and term: a hash of the entry's payload.
    entries: BTreeMap<(u64, u64), u32>,
    /// By index: the entry's term, and the highest term of the member that applied it first.
    committed: BTreeMap<u64, (u64, u64)>,
    /// By index of the change that made them so: the voters.
    voters: BTreeMap<u64, Vec<u64>>,
    durable: BTreeMap<u64, Durable>,
    /// What a member was writing when it went down.
    under_way: BTreeMap<u64, Durable>,
}

impl Checker {
    /// `member` leads in `term`; `term_at` tells its log: the term at an index, none below what it has in memory.
    ///
    /// # Errors
    /// Another one does as well, or its log lacks what was committed in earlier terms.
    pub fn leader(
        &mut self,
        term: u64,
        member: u64,
        last_index: u64,
        term_at: impl Fn(u64) -> Option<u64>,
    ) -> Result<(), String> {
        let first = *self.leaders.entry(term).or_insert(member);
        if first != member {
            return Err(format!("members {first} and {member} both lead in term {term}"));
        }
        for (&index, &(of_term, known_in)) in self.committed.iter().rev() {
            if known_in >= term {
                continue;
            }
            let found = if index > last_index { Some(0) } else { term_at(index) };
            match found {
                Some(found) if found == of_term => {}
                Some(found) => {
                    return Err(format!(
                        "member {member} leads in term {term} with entry {index} of term {found}: that of term {of_term} was \
                         committed before"
                    ));
                }
                // Below what is in memory; so is all before it.
                None => break,
            }
        }
        Ok(())
    }

    /// How many terms had a leader.
    #[must_use]
    pub fn terms_led(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// `member`, which is in `term`, applies `entry`.
    ///
    /// # Errors
    /// Another member applied another one there.
    pub fn applies(&mut self, member: u64, term: u64, entry: &LogEntry) -> Result<(), String> {
        let first = *self.committed.entry(entry.index).or_insert((entry.term, term));
        if first.0 != entry.term {
            return Err(format!(
                "member {member} applies entry {} of term {}, another one applied that of term {}",
                entry.index, entry.term, first.0
            ));
        }
        self.same_entry(member, entry)
    }

    /// The last entry that anyone applied.
    #[must_use]
    pub fn committed_index(&self) -> u64 {
        self.committed.keys().next_back().copied().unwrap_or(1)
    }

    fn same_entry(&mut self, member: u64, entry: &LogEntry) -> Result<(), String> {
        let hash = hash(&entry.payload);
        if *self.entries.entry((entry.index, entry.term)).or_insert(hash) != hash {
            let (index, term) = (entry.index, entry.term);
            return Err(format!("member {member} has another entry {index} of term {term} than others have"));
        }
        Ok(())
    }

    /// `member` has applied up to `index` and has this state.
    ///
    /// # Errors
    /// Another member had another state there, or the revision fell.
    pub fn state(&mut self, member: u64, index: u64, hash: u32, revision: i64) -> Result<(), String> {
        let (first, _, other) = *self.states.entry(index).or_insert((hash, revision, member));
        if first != hash {
            return Err(format!("members {other} and {member} differ at index {index}"));
        }
        let before = self.states.range(..index).next_back().is_some_and(|(_, state)| state.1 > revision);
        let after = self.states.range(index..).nth(1).is_some_and(|(_, state)| state.1 < revision);
        if before || after {
            return Err(format!("the revision falls around index {index}, where member {member} has {revision}"));
        }
        Ok(())
    }

    /// `member` begins to write these.
    pub fn writes(&mut self, member: u64, records: &[Record]) {
        let mut after = self.durable.get(&member).cloned().unwrap_or_default();
        after.append(records);
        self.under_way.insert(member, after);
    }

    /// What `member` began to write is durable.
    ///
    /// # Errors
    /// An entry differs from another member's of the same index and term.
    pub fn wrote(&mut self, member: u64, records: &[Record]) -> Result<(), String> {
        let durable = self.under_way.remove(&member).expect("it began to write them");
        self.durable.insert(member, durable);
        records.iter().try_for_each(|record| match record {
            Record::Entry(entry) => self.same_entry(member, entry),
            _ => Ok(()),
        })
    }

    /// What `member` began to write is not in its log.
    pub fn did_not_write(&mut self, member: u64) {
        self.under_way.remove(&member);
    }

    /// A new run of `member` goes on from `found`, which is durable.
    ///
    /// # Errors
    /// It is not what was durable before, nor that with what was being written.
    pub fn recovered(&mut self, member: u64, found: &NodeState) -> Result<(), String> {
        let terms = found.entries.iter().map(|entry| (entry.index, entry.term)).collect();
        let found_durable = Durable { hard_state: found.hard_state, base: found.base.index, terms };
        let under_way = self.under_way.remove(&member);
        let before = self.durable.get(&member).cloned();
        let fits = [before, under_way].into_iter().flatten().find(|known| {
            let commit = known.hard_state.commit.max(known.base);
            (known.hard_state.term, known.hard_state.vote) == (found.hard_state.term, found.hard_state.vote)
                && commit == found.hard_state.commit
                && known.last() == found_durable.last()
                && found.entries.iter().all(|entry| known.holds(entry.index, entry.term))
        });
        if fits.is_none()
            && let Some(known) = self.durable.get(&member)
        {
            return Err(format!(
                "member {member} comes back with {:?} and a log to {}; it had {:?} and a log to {}",
                found.hard_state,
                found_durable.last(),
                known.hard_state,
                known.last()
            ));
        }
        // The log says more of what is below what is kept in memory.
        let terms = fits.map_or(found_durable.terms.clone(), |known| known.terms);
        let base = found_durable.base.min(terms.keys().next().map_or(u64::MAX, |first| first - 1));
        self.durable.insert(member, Durable { terms, base, ..found_durable });
        found.entries.iter().try_for_each(|entry| self.same_entry(member, entry))
    }

    /// A message leaves.
    ///
    /// # Errors
    /// It promises what is not durable.
    pub fn sent(&self, envelope: &Envelope) -> Result<(), String> {
        let Some(durable) = self.durable.get(&envelope.from) else {
            return Err(format!("member {} speaks before it ever wrote", envelope.from));
        };
        let HardState { term: durable_term, vote, .. } = durable.hard_state;
        let promise = envelope.body.promise();
        let kept = match promise {
            Promise::Nothing => true,
            Promise::Term(term) => term <= durable_term,
            Promise::Vote { term, candidate } => term < durable_term || term == durable_term && vote == candidate,
            // Of an earlier term: it was so then, and what a later leader has replaced since counts for nothing in that term.
            Promise::Log { term, index } => term < durable_term || term == durable_term && index <= durable.last(),
        };
        if kept {
            return Ok(());
        }
        let (from, last) = (envelope.from, durable.last());
        Err(format!("member {from} promises {promise:?}; durable are {:?} and a log to {last}", durable.hard_state))
    }

    /// These are the voters from entry `index` on, or from one before it that nobody told of.
    pub fn voters(&mut self, index: u64, mut voters: Vec<u64>) {
        voters.sort_unstable();
        if self.voters.range(..=index).next_back().is_some_and(|(_, before)| *before == voters) {
            return;
        }
        // A start may have told of them from a later entry on.
        if let Some((&later, _)) = self.voters.range(index + 1..).next().filter(|(_, later)| **later == voters) {
            self.voters.remove(&later);
        }
        self.voters.insert(index, voters);
    }

    /// A client is answered by what entry `index` did.
    ///
    /// # Errors
    /// The entry is not durable on a quorum, of the voters as of that entry or of those before: a leader may commit it before it
    /// applies the last change below.
    pub fn answered(&self, index: u64) -> Result<(), String> {
        let term = self.committed.get(&index).map_or(0, |(term, _)| *term);
        let holds = |id: &&u64| self.durable.get(id).is_some_and(|durable| durable.holds(index, term));
        let quorum = |voters: &Vec<u64>| voters.iter().filter(holds).count() > voters.len() / 2;
        let mut in_force = self.voters.range(..=index).rev().take(2).map(|(_, voters)| voters);
        if in_force.any(quorum) {
            return Ok(());
        }
        Err(format!("entry {index} was answered and is not durable on a quorum"))
    }
}

/// FNV-1a.
pub(crate) fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use kv_raft::{EntryKind, Membership, PeerMessage, Position};

    fn entry(index: u64, term: u64, payload: &'static [u8]) -> LogEntry {
        LogEntry { index, term, kind: EntryKind::Normal, payload: payload.into() }
    }

    fn write(checker: &mut Checker, member: u64, records: &[Record]) -> Result<(), String> {
        checker.writes(member, records);
        checker.wrote(member, records)
    }

    fn found(hard_state: HardState, entries: Vec<LogEntry>) -> NodeState {
        let base = Position { index: 1, term: 1 };
        NodeState { base, entries, hard_state, applied: 1, membership: Membership::default() }
    }

    #[test]
    fn voters_that_a_start_tells_of_are_in_force_from_the_change_on() {
        let mut checker = Checker::default();
        checker.voters(1, vec![1, 2]);
        checker.voters(7, vec![2, 1]);
        checker.voters(9, vec![2, 4]);
        checker.voters(8, vec![4, 2]);
        assert_eq!(checker.voters, BTreeMap::from([(1, vec![1, 2]), (8, vec![2, 4])]));
    }

    #[test]
    fn two_leaders_or_one_without_what_was_committed_are_found() {
        let mut checker = Checker::default();
        checker.leader(2, 1, 1, |_| None).unwrap();
        checker.leader(2, 1, 1, |_| None).unwrap();
        checker.leader(2, 3, 1, |_| None).unwrap_err();
        checker.applies(1, 2, &entry(2, 2, b"a")).unwrap();
        checker.leader(3, 2, 2, |_| Some(2)).unwrap();
        checker.leader(4, 2, 1, |_| Some(2)).unwrap_err();
        checker.leader(5, 2, 2, |_| Some(1)).unwrap_err();
        // A late leader of a term before the commit need not have it.
        checker.leader(1, 2, 1, |_| None).unwrap();
    }

    #[test]
    fn logs_and_states_that_differ_are_found() {
        let mut checker = Checker::default();
        checker.applies(1, 2, &entry(7, 2, b"a")).unwrap();
        checker.applies(2, 2, &entry(7, 2, b"a")).unwrap();
        checker.applies(3, 3, &entry(7, 3, b"a")).unwrap_err();
        checker.applies(3, 3, &entry(7, 2, b"b")).unwrap_err();
        write(&mut checker, 3, &[Record::Entry(entry(7, 2, b"c"))]).unwrap_err();
        checker.state(1, 7, 0xaa, 5).unwrap();
        checker.state(2, 7, 0xaa, 5).unwrap();
        checker.state(3, 7, 0xab, 5).unwrap_err();
        checker.state(3, 8, 0xab, 4).unwrap_err();
        checker.state(3, 6, 0xab, 6).unwrap_err();
    }

    #[test]
    fn promises_that_are_not_kept_are_found() {
        let mut checker = Checker::default();
        let state = HardState { term: 3, vote: 2, commit: 1 };
        write(&mut checker, 1, &[Record::HardState(state), Record::Entry(entry(2, 3, b"a"))]).unwrap();
        let after = |records: &[Record]| {
            let mut durable = checker.durable[&1].clone();
            durable.append(records);
            durable
        };
        assert!(after(&[]).holds(2, 3) && !after(&[]).holds(2, 2) && !after(&[]).holds(3, 3));
        assert!(!after(&[Record::Entry(entry(2, 4, b"b"))]).holds(2, 3));
        let forward = PeerMessage::Forward { leader_term: 9, batch: bytes::Bytes::new() };
        checker.sent(&Envelope { from: 1, to: 2, body: forward.clone() }).unwrap();
        checker.sent(&Envelope { from: 2, to: 1, body: forward }).unwrap_err();
    }

    #[test]
    fn what_comes_back_is_what_was_durable_or_was_being_written() {
        let state = HardState { term: 3, vote: 2, commit: 1 };
        let records = [Record::HardState(state), Record::Entry(entry(2, 3, b"a"))];
        let more = [Record::Entry(entry(3, 3, b"b"))];
        let both = vec![entry(2, 3, b"a"), entry(3, 3, b"b")];
        let began = || {
            let mut checker = Checker::default();
            write(&mut checker, 1, &records).unwrap();
            checker.writes(1, &more);
            checker
        };
        began().recovered(1, &found(state, both.clone())).unwrap();
        began().recovered(1, &found(state, both[..1].to_vec())).unwrap();
        began().recovered(1, &found(state, vec![])).unwrap_err();
        began().recovered(1, &found(HardState { vote: 3, ..state }, both.clone())).unwrap_err();
        began().recovered(1, &found(HardState { term: 2, ..state }, both.clone())).unwrap_err();
        began().recovered(1, &found(state, vec![entry(2, 2, b"a")])).unwrap_err();
        let mut checker = began();
        checker.did_not_write(1);
        checker.recovered(1, &found(state, both)).unwrap_err();
    }

    #[test]
    fn an_answer_without_a_quorum_is_found() {
        let mut checker = Checker::default();
        for index in [2, 9] {
            checker.applies(1, 2, &entry(index, 2, b"a")).unwrap();
        }
        checker.voters(1, vec![1, 2, 3]);
        checker.voters(8, vec![1, 3, 4]);
        for member in [1, 2] {
            checker.answered(2).unwrap_err();
            let entries = [entry(2, 2, b"a"), entry(9, 2, b"a")].map(Record::Entry);
            write(&mut checker, member, &entries).unwrap();
        }
        checker.answered(2).unwrap();
        // By the voters before the change.
        checker.answered(9).unwrap();
        checker.voters(9, vec![1, 3, 4, 5]);
        checker.answered(9).unwrap_err();
    }
}
