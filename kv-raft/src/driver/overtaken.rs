//! Which of this member's commands a later leader has overtaken.

/// Commands that were given to consensus, by their sequence numbers and the terms they were given in.
///
/// A command given in a term is in the log of that term's leader, or in none. Logs hold terms in order: once an entry of a later term is
/// applied, it was applied before, or never will be.
#[derive(Debug, Default)]
pub(super) struct Overtaken {
    /// The term of the last command, and its number.
    term: u64,
    last: u64,
    /// The last command of the terms before that.
    before: u64,
    /// The last term of which it was said.
    said: u64,
}

impl Overtaken {
    /// Commands up to `seq` were given in `term`.
    pub(super) fn proposed(&mut self, term: u64, seq: u64) {
        if term > self.term {
            self.before = self.last;
        }
        (self.term, self.last) = (term, seq);
    }

    /// An entry of `term` was applied, with all before it. The last command whose fate is sealed by that, said once for each term.
    pub(super) fn applied(&mut self, term: u64) -> Option<u64> {
        if term <= self.said || term < self.term {
            return None;
        }
        self.said = term;
        let last = if term == self.term { self.before } else { self.last };
        (last > 0).then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_a_later_term_seals_what_was_given_before() {
        let mut commands = Overtaken::default();
        assert_eq!(commands.applied(1), None, "nothing was given");
        commands.proposed(2, 7);
        assert_eq!(commands.applied(2), None);
        commands.proposed(2, 9);
        assert_eq!(commands.applied(3), Some(9));
        assert_eq!(commands.applied(3), None, "it was said");
        commands.proposed(3, 12);
        commands.proposed(5, 15);
        assert_eq!(
            commands.applied(4),
            None,
            "15 was given later, 12 was given in an earlier term: the next entry tells"
        );
        assert_eq!(commands.applied(5), Some(12));
        assert_eq!(commands.applied(6), Some(15));
    }
}
