//! A state that begins anew, as that of another cluster, or that one member takes from its own.

use kv_codec::member::Member;

use crate::{Alarms, Lease, Leases, Members, Rejection, View};

impl View {
    /// This state as a new cluster starts from it: with other members, entry 1 of term 1 applied, and its revision raised by
    /// `revisions`. Leases keep their seconds; alarms were the old members' own.
    ///
    /// With `compacted`, nothing before the new revision can be read or watched: clients that remember more than is there start over.
    ///
    /// # Errors
    /// [`Rejection::FutureRevision`] when there is no such revision any more.
    pub fn restored(
        mut self,
        members: impl IntoIterator<Item = Member>,
        revisions: u64,
        compacted: bool,
    ) -> Result<Self, Rejection> {
        let revision = self.revision.checked_add_unsigned(revisions).filter(|revision| *revision < i64::MAX);
        self.revision = revision.ok_or(Rejection::FutureRevision)?;
        if compacted && self.compact_revision < self.revision {
            self.compact(self.revision)?;
        }
        self.members = Members::new(members, []);
        self.alarms = Alarms::default();
        let mut leases = Leases::default();
        for (id, lease) in self.leases.iter() {
            leases.grant(id, Lease { granted: 1, ..*lease });
        }
        self.leases.replace(leases);
        (self.applied_index, self.applied_term) = (1, 1);
        Ok(self)
    }

    /// This state as the one that `member`, alone of all, goes on with: every other member is removed and its alarms with it. As of the
    /// same entry, in a term that is at least `term`.
    ///
    /// # Errors
    /// [`Rejection::MemberNotFound`] when it is none of the members.
    pub fn alone(mut self, member: u64, term: u64) -> Result<Self, Rejection> {
        self.members = self.members.alone(member)?;
        self.alarms = Alarms::new(self.alarms.iter().filter(|(raised_by, _)| *raised_by == member));
        self.applied_term = self.applied_term.max(term);
        Ok(self)
    }
}
