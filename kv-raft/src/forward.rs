//! Forwarded commands: taken once, in order, for the term they were meant for.

use std::collections::BTreeMap;

use kv_codec::DecodeError;
use kv_codec::command::Batch;
use kv_codec::planted::{Bug, is_planted};

/// The first and last sequence number of a batch that one member sent in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) origin: u64,
    pub(crate) epoch: u64,
    first: u64,
    last: u64,
}

impl Span {
    /// Reads the span of a batch.
    ///
    /// # Errors
    /// [`DecodeError`] for bytes that are no batch, commands of several origins, or numbers that do not rise.
    pub(crate) fn of(batch: &[u8]) -> Result<Self, DecodeError> {
        let mut span: Option<Self> = None;
        for command in Batch::decode(batch)? {
            let header = command?.header;
            let (origin, epoch, seq) = (header.origin, header.epoch, header.seq);
            match &mut span {
                None => span = Some(Self { origin, epoch, first: seq, last: seq }),
                Some(span) if (span.origin, span.epoch) == (origin, epoch) && seq > span.last => span.last = seq,
                Some(_) => return Err(DecodeError::Invalid("forwarded batch")),
            }
        }
        span.ok_or(DecodeError::Invalid("forwarded batch"))
    }

    /// Whether it is one command.
    pub(crate) fn is_one(&self) -> bool {
        self.first == self.last
    }
}

/// Remembers, for the leader's term, the last number taken from each member.
#[derive(Debug)]
pub(crate) struct Gate {
    /// The term at the start of this run: what an earlier run took in terms up to it is forgotten.
    start: u64,
    term: u64,
    last: BTreeMap<u64, (u64, u64)>,
}

impl Gate {
    /// The gate of a member that starts in `term`.
    pub(crate) fn new(term: u64) -> Self {
        Self { start: term, term, last: BTreeMap::new() }
    }

    /// Whether a batch meant for the leader of `leader_term` may be proposed in `term`. Asking takes it.
    pub(crate) fn admit(&mut self, term: u64, leader_term: u64, span: Span) -> bool {
        if leader_term != term {
            return false;
        }
        if self.term != term {
            self.term = term;
            self.last.clear();
        }
        let newer = self.is_newer(span);
        if newer {
            self.last.insert(span.origin, (span.epoch, span.last));
        }
        newer || is_planted(Bug::ForwardTwice)
    }

    /// Whether a batch that is not admitted in `term` may be given back: it was meant for an earlier leadership of this member, which
    /// is over, and did not take it. One that arrives twice may have been taken when it came first, by an earlier run even.
    pub(crate) fn may_give_back(&self, term: u64, leader_term: u64, span: Span) -> bool {
        let is_past = leader_term <= term;
        let is_known = leader_term > self.start;
        let is_not_taken = leader_term > self.term || leader_term == self.term && self.is_newer(span);
        is_past && (is_known && is_not_taken || is_planted(Bug::GiveBackTaken))
    }

    fn is_newer(&self, span: Span) -> bool {
        let is_newer = |last: &(u64, u64)| span.epoch > last.0 || span.epoch == last.0 && span.first > last.1;
        self.last.get(&span.origin).is_none_or(is_newer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(epoch: u64, first: u64, last: u64) -> Span {
        Span { origin: 2, epoch, first, last }
    }

    #[test]
    fn a_batch_is_taken_once_in_order_and_in_its_term() {
        let mut gate = Gate::new(4);
        assert!(gate.admit(5, 5, span(1, 1, 3)));
        assert!(!gate.admit(5, 5, span(1, 1, 3)), "sent twice");
        assert!(!gate.admit(5, 5, span(1, 3, 9)), "overlaps");
        assert!(gate.admit(5, 5, span(1, 4, 4)));
        assert!(!gate.admit(5, 4, span(1, 5, 5)), "meant for an earlier leader");
        assert!(gate.admit(5, 5, span(2, 1, 1)), "the member restarted");
        assert!(!gate.admit(5, 5, span(1, 6, 6)), "from before its restart");
        assert!(gate.admit(6, 6, span(2, 1, 1)), "a new term has no memory");
    }

    #[test]
    fn a_batch_is_given_back_once_nobody_can_take_it() {
        let mut gate = Gate::new(4);
        assert!(gate.admit(5, 5, span(1, 1, 3)));
        assert!(gate.may_give_back(5, 5, span(1, 4, 4)), "it stepped down within its term");
        assert!(gate.may_give_back(6, 5, span(1, 4, 4)), "and somebody else leads");
        assert!(!gate.may_give_back(6, 5, span(1, 1, 3)), "it was taken, and comes again");
        assert!(!gate.may_give_back(6, 4, span(1, 4, 4)), "it may have been taken in a term that is forgotten");
        assert!(!gate.may_give_back(6, 7, span(1, 4, 4)), "it may yet lead that term");
        assert!(gate.may_give_back(8, 7, span(1, 4, 4)), "it never took any in that term");
        let restarted = Gate::new(5);
        assert!(!restarted.may_give_back(6, 5, span(1, 4, 4)), "an earlier run may have taken it");
        assert!(restarted.may_give_back(6, 6, span(1, 4, 4)), "no earlier run led that term");
    }
}
