//! A member whose state is damaged has the others replace it, by a learner with a new id at the same place: under its old id it might
//! vote again, and has forgotten for whom it did.

use kv_codec::member::Member;
use kv_store::Members;

use super::Core;
use super::cluster::peer_urls;
use super::reconfig::{self, Contact};
use crate::config::Url;
use crate::join::reach_same;
use crate::proto::etcdserverpb as pb;
use crate::status::ApiError;

/// Why a member is not replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReplaceError {
    /// It is connected to this one.
    #[error("member {0:x} is running; stop it first")]
    Runs(u64),
    /// Somebody has removed it, and not by replacing it.
    #[error("member {0:x} has been permanently removed from the cluster; add it anew with an empty data directory")]
    Removed(u64),
    /// Its place is another one.
    #[error(
        "the cluster reaches member {0:x} at {1}; give the flags that it had, or correct it with `etcdctl member update`"
    )]
    Elsewhere(u64, String),
    /// What a change of the membership is refused for.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl ReplaceError {
    /// Whether the same may be asked again with more success, without anybody doing anything about it.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Runs(_) => true,
            Self::Removed(_) | Self::Elsewhere(..) => false,
            Self::Api(error) => error.code() == tonic::Code::Unavailable,
        }
    }
}

/// What a member asks that cannot speak for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replacement {
    /// Its id until now.
    pub(crate) old: u64,
    /// Where it listens.
    pub(crate) peer_urls: Vec<String>,
    /// It may have asked before, so that nobody need wonder if the id is gone.
    pub(crate) again: bool,
}

impl Core {
    /// Removes the member, which is down, and adds a learner in its place; the learner's id. Asked again, it is another one: nobody knows
    /// what was done under the first.
    pub(crate) async fn member_replace(&self, asked: &Replacement) -> Result<u64, ReplaceError> {
        let peer_urls = peer_urls(&asked.peer_urls)?;
        if self.leader.borrow().id == 0 {
            return Err(ApiError::NoLeader.into());
        }
        self.read_barrier().await?;
        let members = self.views.load_full().members().clone();
        let leaving = leaving(&members, asked, &peer_urls)?;
        if let Some(runs) = leaving.iter().find(|id| self.contact(**id) != Contact::Down) {
            return Err(ReplaceError::Runs(*runs));
        }
        // Nobody leaves before it is known that the learner may come.
        let staying = members.iter().filter(|member| !leaving.contains(&member.id)).cloned();
        let staying = Members::new(staying, []);
        let learners = staying.iter().filter(|member| member.is_learner).count() as u64;
        if learners >= self.limits.learners_max {
            return Err(ApiError::TooManyLearners.into());
        }
        if self.limits.strict_reconfig_check {
            reconfig::may_add(&staying, true, |id| self.contact(id))?;
        }
        for id in leaving {
            self.member_remove(&pb::MemberRemoveRequest { id }).await?;
        }
        let added = self.member_add(&pb::MemberAddRequest { peer_ur_ls: peer_urls, is_learner: true }).await?;
        Ok(added.member.expect("an addition says who was added").id)
    }
}

/// Who makes room: the member, and learners that came of asking before.
fn leaving(members: &Members, asked: &Replacement, peer_urls: &[String]) -> Result<Vec<u64>, ReplaceError> {
    let Replacement { old, again, .. } = *asked;
    let urls: Vec<Url> = peer_urls.iter().filter_map(|url| Url::parse(url).ok()).collect();
    match members.get(old) {
        Some(member) if !reach_same(&urls, &member.peer_urls) => {
            return Err(ReplaceError::Elsewhere(old, member.peer_urls.join(",")));
        }
        None if members.removed().all(|removed| removed != old) => return Err(ApiError::MemberNotFound.into()),
        None if !again => return Err(ReplaceError::Removed(old)),
        _ => {}
    }
    let is_there = |text: &String| Url::parse(text).is_ok_and(|there| urls.iter().any(|url| url.reaches_same(&there)));
    let there = members.iter().filter(|member| member.id == old || member.peer_urls.iter().any(is_there));
    let leaves = |member: &Member| match member.is_learner || member.id == old {
        true => Ok(member.id),
        false => Err(ApiError::PeerUrlExists.into()),
    };
    there.map(leaves).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, is_learner: bool) -> Member {
        let peer_urls = vec![format!("http://127.0.0.{}:1", id % 10)];
        Member { id, name: String::new(), peer_urls, client_urls: vec![], is_learner }
    }

    fn asks(old: u64, again: bool) -> Replacement {
        Replacement { old, peer_urls: vec![], again }
    }

    #[test]
    fn who_is_replaced_makes_room_with_what_came_of_asking_before() {
        let urls = ["http://127.0.0.3:1".to_owned()];
        let three = [member(1, false), member(2, false), member(3, false)];
        let members = Members::new(three.clone(), [9]);
        assert_eq!(leaving(&members, &asks(3, false), &urls), Ok(vec![3]));
        let elsewhere = leaving(&members, &asks(2, false), &urls);
        assert_eq!(elsewhere, Err(ReplaceError::Elsewhere(2, "http://127.0.0.2:1".to_owned())));
        assert_eq!(leaving(&members, &asks(7, true), &urls), Err(ApiError::MemberNotFound.into()));
        // It has the place of another voter now.
        assert_eq!(leaving(&members, &asks(9, true), &urls), Err(ApiError::PeerUrlExists.into()));
        let asked_before = Members::new(three.into_iter().take(2).chain([member(13, true), member(4, true)]), [3]);
        assert_eq!(leaving(&asked_before, &asks(3, true), &urls), Ok(vec![13]));
        assert_eq!(leaving(&asked_before, &asks(3, false), &urls), Err(ReplaceError::Removed(3)));
    }

    #[test]
    fn what_may_pass_is_asked_again() {
        assert!(ReplaceError::Runs(1).may_pass() && ReplaceError::Api(ApiError::NoLeader).may_pass());
        assert!(!ReplaceError::Removed(1).may_pass() && !ReplaceError::Api(ApiError::TooManyLearners).may_pass());
    }
}
