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
    /// The last term of which an entry was applied, if it sealed anything.
    sealed_by: u64,
    /// The last command whose fate is sealed, and the ticks until that is said.
    sealed: Option<(u64, u8)>,
}

/// Whole ticks between the moment when a command's fate is sealed and that when it is said: a leader that did not take it may be about to
/// give it back, which is worth more.
const GRACE_TICKS: u8 = 1;

impl Overtaken {
    /// Commands up to `seq` were given in `term`.
    pub(super) fn proposed(&mut self, term: u64, seq: u64) {
        if term > self.term {
            self.before = self.last;
        }
        (self.term, self.last) = (term, seq);
    }

    /// An entry of `term` is in the state, with all before it.
    pub(super) fn applied(&mut self, term: u64) {
        if term <= self.sealed_by || term < self.term {
            return;
        }
        self.sealed_by = term;
        let last = if term == self.term { self.before } else { self.last };
        if last > 0 {
            self.sealed = Some((last, GRACE_TICKS));
        }
    }

    /// A tick has passed. The last command whose fate was sealed some time ago, said once.
    pub(super) fn tick(&mut self) -> Option<u64> {
        match &mut self.sealed {
            Some((last, 0)) => {
                let last = *last;
                self.sealed = None;
                Some(last)
            }
            Some((_, left)) => {
                *left -= 1;
                None
            }
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said_after(commands: &mut Overtaken, applied: u64) -> Option<u64> {
        commands.applied(applied);
        assert_eq!(commands.tick(), None, "this tick may come at once");
        let said = commands.tick();
        assert_eq!(commands.tick(), None, "it was said");
        said
    }

    #[test]
    fn an_entry_of_a_later_term_seals_what_was_given_before() {
        let mut commands = Overtaken::default();
        assert_eq!(said_after(&mut commands, 1), None, "nothing was given");
        commands.proposed(2, 7);
        assert_eq!(said_after(&mut commands, 2), None);
        commands.proposed(2, 9);
        assert_eq!(said_after(&mut commands, 3), Some(9));
        assert_eq!(said_after(&mut commands, 3), None, "it was said");
        commands.proposed(3, 12);
        commands.proposed(5, 15);
        let told = said_after(&mut commands, 4);
        assert_eq!(told, None, "15 was given later, 12 was given in an earlier term: the next entry tells");
        assert_eq!(said_after(&mut commands, 5), Some(12));
        assert_eq!(said_after(&mut commands, 6), Some(15));
    }

    #[test]
    fn what_is_sealed_meanwhile_is_said_with_it() {
        let mut commands = Overtaken::default();
        commands.proposed(2, 7);
        commands.applied(3);
        assert_eq!(commands.tick(), None);
        commands.proposed(3, 8);
        commands.applied(4);
        assert_eq!(commands.tick(), None, "its time begins again");
        assert_eq!(commands.tick(), Some(8));
    }
}
