//! The members of the cluster: the one membership store. Raft's configuration is a function of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kv_codec::member::Member;

use crate::Rejection;

/// The members, and the ids of those that were removed. Cloning copies a pointer.
///
/// * An id that was removed never comes back.
/// * No two members share a peer URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members(Arc<Inner>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Inner {
    list: BTreeMap<u64, Member>,
    removed: BTreeSet<u64>,
}

/// A change of the configuration that consensus has to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfChange {
    /// A new voter, or a learner that becomes one.
    AddVoter(u64),
    /// A new learner.
    AddLearner(u64),
    /// A member that leaves.
    Remove(u64),
}

/// A change of the membership, as a command asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// See [`kv_codec::command::Body::MemberAdd`].
    Add {
        /// The member.
        member: Member,
        /// How many learners there may be then.
        learners_max: u64,
    },
    /// See [`kv_codec::command::Body::MemberRemove`].
    Remove(u64),
    /// See [`kv_codec::command::Body::MemberPromote`].
    Promote(u64),
}

impl Members {
    /// The members a cluster is born with.
    #[must_use]
    pub fn new(members: impl IntoIterator<Item = Member>, removed: impl IntoIterator<Item = u64>) -> Self {
        Self(Arc::new(Inner {
            list: members.into_iter().map(|member| (member.id, member)).collect(),
            removed: removed.into_iter().collect(),
        }))
    }

    /// The members, by rising id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.0.list.values()
    }

    /// The member with `id`.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Member> {
        self.0.list.get(&id)
    }

    /// The ids of members that were removed, rising.
    pub fn removed(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.0.removed.iter().copied()
    }

    /// The ids of voters, rising.
    #[must_use]
    pub fn voters(&self) -> Vec<u64> {
        self.ids(false)
    }

    /// The ids of learners, rising.
    #[must_use]
    pub fn learners(&self) -> Vec<u64> {
        self.ids(true)
    }

    fn ids(&self, learners: bool) -> Vec<u64> {
        self.iter().filter(|member| member.is_learner == learners).map(|member| member.id).collect()
    }

    /// `id` alone, as a voter; all others are removed.
    pub(crate) fn alone(&self, id: u64) -> Result<Self, Rejection> {
        let own = self.get(id).ok_or(Rejection::MemberNotFound)?;
        let others = self.iter().map(|member| member.id).filter(|other| *other != id);
        Ok(Self::new([Member { is_learner: false, ..own.clone() }], self.removed().chain(others)))
    }

    /// Applies `change`, or says why not and changes nothing.
    pub(crate) fn change(&mut self, change: MemberChange) -> Result<ConfChange, Rejection> {
        match change {
            MemberChange::Add { member, learners_max } => self.add(member, learners_max),
            MemberChange::Remove(id) => self.remove(id),
            MemberChange::Promote(id) => self.promote(id),
        }
    }

    fn add(&mut self, member: Member, learners_max: u64) -> Result<ConfChange, Rejection> {
        if self.0.list.contains_key(&member.id) || self.0.removed.contains(&member.id) {
            return Err(Rejection::MemberIdExists);
        }
        self.check_peer_urls(member.id, &member.peer_urls)?;
        if member.is_learner && self.learners().len() as u64 >= learners_max {
            return Err(Rejection::TooManyLearners);
        }
        let id = member.id;
        let change = if member.is_learner { ConfChange::AddLearner(id) } else { ConfChange::AddVoter(id) };
        Arc::make_mut(&mut self.0).list.insert(id, member);
        Ok(change)
    }

    fn remove(&mut self, id: u64) -> Result<ConfChange, Rejection> {
        let member = self.get(id).ok_or(Rejection::MemberNotFound)?;
        if !member.is_learner && self.voters().len() == 1 {
            return Err(Rejection::NotEnoughMembers);
        }
        let inner = Arc::make_mut(&mut self.0);
        inner.list.remove(&id);
        inner.removed.insert(id);
        Ok(ConfChange::Remove(id))
    }

    fn promote(&mut self, id: u64) -> Result<ConfChange, Rejection> {
        let member = self.get(id).ok_or(Rejection::MemberNotFound)?;
        if !member.is_learner {
            return Err(Rejection::NotLearner);
        }
        self.edit(id, |member| member.is_learner = false);
        Ok(ConfChange::AddVoter(id))
    }

    /// Replaces the peer URLs of `id`.
    pub(crate) fn update(&mut self, id: u64, peer_urls: Vec<String>) -> Result<(), Rejection> {
        self.get(id).ok_or(Rejection::MemberNotFound)?;
        self.check_peer_urls(id, &peer_urls)?;
        self.edit(id, |member| member.peer_urls = peer_urls);
        Ok(())
    }

    /// Records what a member says of itself.
    pub(crate) fn publish(&mut self, id: u64, name: String, client_urls: Vec<String>) -> Result<(), Rejection> {
        self.get(id).ok_or(Rejection::MemberNotFound)?;
        self.edit(id, |member| {
            member.name = name;
            member.client_urls = client_urls;
        });
        Ok(())
    }

    fn edit(&mut self, id: u64, edit: impl FnOnce(&mut Member)) {
        let member = Arc::make_mut(&mut self.0).list.get_mut(&id);
        edit(member.expect("the caller has looked it up"));
    }

    fn check_peer_urls(&self, id: u64, peer_urls: &[String]) -> Result<(), Rejection> {
        let taken =
            self.iter().any(|other| other.id != id && other.peer_urls.iter().any(|url| peer_urls.contains(url)));
        if taken { Err(Rejection::PeerUrlExists) } else { Ok(()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn member(id: u64, is_learner: bool) -> Member {
        let peer_urls = vec![format!("http://host{id}:2380")];
        Member { id, name: String::new(), peer_urls, client_urls: vec![], is_learner }
    }

    fn add(member: Member) -> MemberChange {
        MemberChange::Add { member, learners_max: 1 }
    }

    #[test]
    fn a_learner_joins_is_promoted_and_leaves_for_good() {
        let mut members = Members::new([member(1, false)], []);
        assert_eq!(members.change(add(member(2, true))), Ok(ConfChange::AddLearner(2)));
        assert_eq!((members.voters(), members.learners()), (vec![1], vec![2]));
        assert_eq!(members.change(add(member(3, true))), Err(Rejection::TooManyLearners));
        assert_eq!(members.change(MemberChange::Promote(2)), Ok(ConfChange::AddVoter(2)));
        assert_eq!(members.change(MemberChange::Promote(2)), Err(Rejection::NotLearner));
        assert_eq!(members.change(MemberChange::Remove(2)), Ok(ConfChange::Remove(2)));
        assert_eq!(members.change(MemberChange::Remove(2)), Err(Rejection::MemberNotFound));
        assert_eq!(members.change(add(member(2, false))), Err(Rejection::MemberIdExists));
        assert_eq!(members.removed().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn there_are_as_many_learners_as_the_change_says() {
        let mut members = Members::new([member(1, false)], []);
        let mut join = |id, is_learner, learners_max| {
            members.change(MemberChange::Add { member: member(id, is_learner), learners_max })
        };
        assert_eq!(join(2, true, 2), Ok(ConfChange::AddLearner(2)));
        assert_eq!(join(3, true, 2), Ok(ConfChange::AddLearner(3)));
        assert_eq!(join(4, true, 2), Err(Rejection::TooManyLearners));
        assert_eq!(join(5, false, 1), Ok(ConfChange::AddVoter(5)), "a voter is none of them");
    }

    #[test]
    fn a_refused_change_changes_nothing() {
        let mut members = Members::new([member(1, false), member(2, true)], []);
        let before = members.clone();
        let mut twin = member(3, false);
        twin.peer_urls = member(1, false).peer_urls;
        assert_eq!(members.change(add(twin.clone())), Err(Rejection::PeerUrlExists));
        assert_eq!(members.change(add(member(1, false))), Err(Rejection::MemberIdExists));
        assert_eq!(members.change(MemberChange::Remove(1)), Err(Rejection::NotEnoughMembers));
        assert_eq!(members.update(2, twin.peer_urls), Err(Rejection::PeerUrlExists));
        assert_eq!(members.publish(9, "x".into(), vec![]), Err(Rejection::MemberNotFound));
        assert_eq!(members, before);
    }

    /// etcd once turned a learner into a voter by updating its URLs.
    #[test]
    fn an_update_keeps_a_learner_a_learner() {
        let mut members = Members::new([member(1, false), member(2, true)], []);
        members.update(2, vec!["http://new:1".into()]).unwrap();
        members.publish(2, "two".into(), vec!["http://c:1".into()]).unwrap();
        assert_eq!(members.learners(), [2]);
    }
}
