//! A member whose state is damaged has the others replace it, by a learner with a new id at the same place: under its old id it might
//! vote again, and has forgotten for whom it did.
//!
//! The learner comes first, under the id that the member has drawn, at a URL where nobody is; then the old id leaves; then the learner
//! takes its URLs. So nothing is taken away before the learner is there, each step may be done again by anybody, and who is removed is
//! replaced only if the learner that it asked for is there: one that somebody else removed stays removed.

use axum::http::StatusCode;
use kv_codec::command::Body;
use kv_codec::member::Member;
use kv_raft::ConfChange;
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
    /// It had no vote, and would get one.
    #[error(
        "member {0:x} is a learner: a re-sync makes voters. Remove it, add it anew with --learner, and start it with an empty data directory"
    )]
    Learner(u64),
    /// Its place is another one.
    #[error(
        "the cluster reaches member {0:x} at {1}; give the flags that it had, or correct it with `etcdctl member update`"
    )]
    Elsewhere(u64, String),
    /// The id that it asked for can be nobody's any more.
    #[error(
        "learner {0:x}, which was to replace it, has been removed or made a voter; start it again to ask for another one"
    )]
    Forgotten(u64),
    /// What a change of the membership is refused for.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The first change is done, or may be.
    #[error("learner {0:x} is there to replace it, or may be, and not everything is done yet: {1}")]
    Midway(u64, Box<ReplaceError>),
}

impl ReplaceError {
    /// What it is answered by: 409 and 410 are final, 503 may pass, and with each of these nothing was changed. 504 is the rest.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Runs(_) | Self::Api(ApiError::TooManyRequests) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Api(error) if error.code() == tonic::Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Removed(_) | Self::Learner(_) | Self::Elsewhere(..) | Self::Api(_) => StatusCode::CONFLICT,
            Self::Forgotten(_) => StatusCode::GONE,
            Self::Midway(..) => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// What a member asks that cannot speak for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replacement {
    /// Its id until now.
    pub(crate) old: u64,
    /// The learner's, drawn by it: nobody else has it, and nobody has begun under it.
    pub(crate) new: u64,
    /// Where it listens.
    pub(crate) peer_urls: Vec<String>,
    /// It is the learner of a re-sync itself, which was to have a vote.
    pub(crate) catches_up: bool,
}

/// How far a replacement has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No learner yet.
    Old,
    /// The learner is there.
    Begun,
}

impl Core {
    /// Has the learner there in the place of the member, which is down. Asked again, it goes on where it ended.
    pub(crate) async fn member_replace(&self, asked: &Replacement) -> Result<(), ReplaceError> {
        let Replacement { old, new, .. } = *asked;
        let peer_urls = peer_urls(&asked.peer_urls)?;
        if self.leader.borrow().id == 0 {
            return Err(ApiError::NoLeader.into());
        }
        self.read_barrier().await?;
        let members = self.views.load_full().members().clone();
        if stage(&members, asked, &peer_urls)? == Stage::Old {
            self.begin_to_replace(&members, asked).await?;
        }
        self.go_on_to_replace(old, new, peer_urls).await.map_err(|error| ReplaceError::Midway(new, Box::new(error)))
    }

    /// Nobody leaves before the learner is there.
    async fn begin_to_replace(&self, members: &Members, asked: &Replacement) -> Result<(), ReplaceError> {
        let Replacement { old, new, .. } = *asked;
        if self.contact(old) != Contact::Down {
            return Err(ReplaceError::Runs(old));
        }
        if self.limits.strict_reconfig_check {
            let staying = Members::new(members.iter().filter(|member| member.id != old).cloned(), []);
            reconfig::may_add(&staying, true, |id| self.contact(id))?;
            reconfig::may_remove(members, self.member_id, old, |id| self.contact(id))?;
        }
        // The place of a learner that leaves for it counts once.
        let leaves = members.get(old).is_some_and(|member| member.is_learner);
        let learners_max = self.limits.learners_max.saturating_add(u64::from(leaves));
        let member = Member {
            id: new,
            name: String::new(),
            peer_urls: vec![nowhere(new)],
            client_urls: vec![],
            is_learner: true,
        };
        let added = self.reconfigure(ConfChange::AddLearner(new), &Body::MemberAdd { member, learners_max }).await;
        added.map(drop).map_err(|error| match error {
            ApiError::NoLeader => error.into(),
            // Another one does the same, or nobody knows.
            ApiError::MemberExists => ReplaceError::Midway(new, Box::new(error.into())),
            error if error.code() == tonic::Code::Unavailable => ReplaceError::Midway(new, Box::new(error.into())),
            error => error.into(),
        })
    }

    async fn go_on_to_replace(&self, old: u64, new: u64, peer_urls: Vec<String>) -> Result<(), ReplaceError> {
        if self.views.load().members().get(old).is_some() {
            if self.contact(old) != Contact::Down {
                return Err(ReplaceError::Runs(old));
            }
            match self.member_remove(&pb::MemberRemoveRequest { id: old }).await {
                // Another one did the same.
                Ok(_) | Err(ApiError::MemberNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.member_update(&pb::MemberUpdateRequest { id: new, peer_ur_ls: peer_urls }).await?;
        Ok(())
    }
}

/// Where the learner is, as long as its place is not free: a name that never resolves (RFC 2606), and is nobody else's.
fn nowhere(id: u64) -> String {
    format!("http://resync-{id:x}.invalid:1")
}

/// Whether the member may be replaced, and how far that has come.
fn stage(members: &Members, asked: &Replacement, peer_urls: &[String]) -> Result<Stage, ReplaceError> {
    let Replacement { old, new, catches_up, .. } = *asked;
    match members.get(new) {
        Some(learner) if learner.is_learner => return Ok(Stage::Begun),
        Some(_) => return Err(ReplaceError::Forgotten(new)),
        None if members.removed().any(|removed| removed == new) => return Err(ReplaceError::Forgotten(new)),
        None => {}
    }
    let urls: Vec<Url> = peer_urls.iter().filter_map(|url| Url::parse(url).ok()).collect();
    match members.get(old) {
        None if members.removed().any(|removed| removed == old) => Err(ReplaceError::Removed(old)),
        None => Err(ApiError::MemberNotFound.into()),
        Some(member) if member.is_learner && !catches_up => Err(ReplaceError::Learner(old)),
        Some(member) if !reach_same(&urls, &member.peer_urls) => {
            Err(ReplaceError::Elsewhere(old, member.peer_urls.join(",")))
        }
        Some(_) => Ok(Stage::Old),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, is_learner: bool) -> Member {
        let peer_urls = vec![format!("http://127.0.0.{}:1", id % 10)];
        Member { id, name: String::new(), peer_urls, client_urls: vec![], is_learner }
    }

    fn asks(old: u64, new: u64) -> Replacement {
        Replacement { old, new, peer_urls: vec![], catches_up: false }
    }

    #[test]
    fn who_was_removed_is_replaced_only_by_the_learner_it_asked_for() {
        let urls = ["http://127.0.0.3:1".to_owned()];
        let three = [member(1, false), member(2, false), member(3, false)];
        let members = Members::new(three.clone(), [9]);
        assert_eq!(stage(&members, &asks(3, 13), &urls), Ok(Stage::Old));
        let elsewhere = stage(&members, &asks(2, 13), &urls);
        assert_eq!(elsewhere, Err(ReplaceError::Elsewhere(2, "http://127.0.0.2:1".to_owned())));
        assert_eq!(stage(&members, &asks(7, 13), &urls), Err(ApiError::MemberNotFound.into()));
        assert_eq!(stage(&members, &asks(9, 13), &urls), Err(ReplaceError::Removed(9)));
        assert_eq!(stage(&members, &asks(3, 9), &urls), Err(ReplaceError::Forgotten(9)));
        assert_eq!(stage(&members, &asks(3, 2), &urls), Err(ReplaceError::Forgotten(2)));
        let begun = Members::new(three.clone().into_iter().chain([member(13, true)]), []);
        assert_eq!(stage(&begun, &asks(3, 13), &urls), Ok(Stage::Begun));
        // A learner that an operator added in the place of one that was removed is none that it asked for.
        let removed = Members::new(three.into_iter().take(2).chain([member(13, true)]), [3]);
        assert_eq!(stage(&removed, &asks(3, 13), &urls), Ok(Stage::Begun));
        assert_eq!(stage(&removed, &asks(3, 23), &urls), Err(ReplaceError::Removed(3)));
        // A learner has no vote to be given back, unless it was about to have it.
        assert_eq!(stage(&begun, &asks(13, 23), &urls), Err(ReplaceError::Learner(13)));
        assert_eq!(stage(&begun, &Replacement { catches_up: true, ..asks(13, 23) }, &urls), Ok(Stage::Old));
    }

    #[test]
    fn an_answer_says_whether_anything_was_changed() {
        let no_leader = || ReplaceError::Api(ApiError::NoLeader);
        for (error, status) in [
            (ReplaceError::Runs(1), 503),
            (no_leader(), 503),
            (ReplaceError::Removed(1), 409),
            (ApiError::TooManyLearners.into(), 409),
            (ReplaceError::Forgotten(1), 410),
            (ReplaceError::Midway(1, Box::new(ApiError::PeerUrlExists.into())), 504),
        ] {
            assert_eq!(error.status().as_u16(), status, "{error}");
        }
    }

    #[test]
    fn nowhere_is_a_url() {
        assert!(Url::parse(&nowhere(u64::MAX)).is_ok());
    }
}
