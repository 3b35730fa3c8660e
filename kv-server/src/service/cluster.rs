//! Cluster: who is a member, and changes of that.

use std::time::{Duration, Instant, SystemTime};

use kv_codec::command::Body;
use kv_codec::member::{Member, URL_BYTES_MAX, URLS_MAX};
use kv_raft::ConfChange;
use kv_store::{Members, Outcome};

use super::Core;
use super::reconfig::{self, Contact};
use crate::config::Url;
use crate::ids;
use crate::proto::etcdserverpb as pb;
use crate::status::ApiError;

/// How long a change waits before it asks again whether the one before it is done.
const CHANGE_PAUSE: Duration = Duration::from_millis(10);
/// How long a member has to be connected before the cluster may count on it (etcd's 5 s).
const STEADY_AFTER: Duration = Duration::from_secs(5);

impl Core {
    /// The members, by rising id. The header of a cluster call has no revision.
    pub(crate) async fn member_list(
        &self,
        request: &pb::MemberListRequest,
    ) -> Result<pb::MemberListResponse, ApiError> {
        if request.linearizable {
            self.read_barrier().await?;
        }
        let members = listed(self.views.load_full().members());
        Ok(pb::MemberListResponse { header: self.header(0), members })
    }

    /// Adds a voter or a learner that has yet to be started. Its id is new, even where its URLs are those of one that was removed.
    pub(crate) async fn member_add(&self, request: &pb::MemberAddRequest) -> Result<pb::MemberAddResponse, ApiError> {
        let peer_urls = peer_urls(&request.peer_ur_ls)?;
        let is_learner = request.is_learner;
        let members = self.views.load_full().members().clone();
        if self.limits.strict_reconfig_check {
            reconfig::may_add(&members, is_learner, |id| self.contact(id))?;
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let id = new_id(&members, &peer_urls, now);
        let member = Member { id, name: String::new(), peer_urls, client_urls: Vec::new(), is_learner };
        let added = shown(&member);
        let change = if is_learner { ConfChange::AddLearner(id) } else { ConfChange::AddVoter(id) };
        let body = Body::MemberAdd { member, learners_max: self.limits.learners_max };
        let members = listed(&self.reconfigure(change, &body).await?);
        Ok(pb::MemberAddResponse { header: self.header(0), member: Some(added), members })
    }

    /// Removes a member for good.
    pub(crate) async fn member_remove(
        &self,
        request: &pb::MemberRemoveRequest,
    ) -> Result<pb::MemberRemoveResponse, ApiError> {
        if self.limits.strict_reconfig_check {
            let view = self.views.load_full();
            reconfig::may_remove(view.members(), self.member_id, request.id, |id| self.contact(id))?;
        }
        let change = ConfChange::Remove(request.id);
        let members = listed(&self.reconfigure(change, &Body::MemberRemove(request.id)).await?);
        Ok(pb::MemberRemoveResponse { header: self.header(0), members })
    }

    /// Replaces a member's peer URLs.
    pub(crate) async fn member_update(
        &self,
        request: &pb::MemberUpdateRequest,
    ) -> Result<pb::MemberUpdateResponse, ApiError> {
        let body = Body::MemberUpdate { id: request.id, peer_urls: peer_urls(&request.peer_ur_ls)? };
        let members = listed(&members_of(self.replicate(&body).await?.outcome));
        Ok(pb::MemberUpdateResponse { header: self.header(0), members })
    }

    /// Makes a voter of a learner that has the log.
    pub(crate) async fn member_promote(
        &self,
        request: &pb::MemberPromoteRequest,
    ) -> Result<pb::MemberPromoteResponse, ApiError> {
        if self.limits.strict_reconfig_check {
            reconfig::may_promote(self.views.load_full().members())?;
        }
        let change = ConfChange::AddVoter(request.id);
        let members = listed(&self.reconfigure(change, &Body::MemberPromote(request.id)).await?);
        Ok(pb::MemberPromoteResponse { header: self.header(0), members })
    }

    /// Changes the membership once no other change is on its way; the members then.
    pub(super) async fn reconfigure(&self, change: ConfChange, body: &Body<'_>) -> Result<Members, ApiError> {
        // Raft knows no member 0.
        if let ConfChange::Remove(0) | ConfChange::AddVoter(0) = change {
            return Err(ApiError::MemberNotFound);
        }
        let until = Instant::now() + self.limits.request_timeout;
        loop {
            match self.outcome(self.queue_change(change, body)).await {
                Ok(applied) => return Ok(members_of(applied.outcome)),
                // Another change is not applied yet, and this one is in no log.
                Err(ApiError::Unhealthy) if Instant::now() < until => self.change_pause(change).await,
                Err(ApiError::Unhealthy) => return Err(ApiError::Timeout),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits a moment, or, before the leader is removed, until there is another: it hands over first.
    async fn change_pause(&self, change: ConfChange) {
        let mut leader = self.leader.clone();
        if change != ConfChange::Remove(leader.borrow().id) {
            return tokio::time::sleep(CHANGE_PAUSE).await;
        }
        let another = leader.wait_for(|leader| leader.id != 0 && change != ConfChange::Remove(leader.id));
        // It may find nobody, and is asked again.
        drop(tokio::time::timeout(self.limits.election_timeout, another).await);
    }

    /// How a member is reached.
    pub(super) fn contact(&self, id: u64) -> Contact {
        if id == self.member_id {
            return Contact::Steady;
        }
        match self.peers.connected_since(id) {
            None => Contact::Down,
            Some(since) if since.elapsed() < STEADY_AFTER => Contact::New,
            Some(_) => Contact::Steady,
        }
    }
}

fn members_of(outcome: Outcome) -> Members {
    let Outcome::Members(members) = outcome else {
        unreachable!("a change of the members is answered by the members");
    };
    members
}

/// URLs as a client gave them, sorted as etcd sorts them.
pub(super) fn peer_urls(given: &[String]) -> Result<Vec<String>, ApiError> {
    let read = |url: &String| {
        let url = Url::parse(url).map_err(|_| ApiError::MemberBadUrls)?;
        let fits = url.as_str().len() as u64 <= URL_BYTES_MAX;
        if fits { Ok(url.as_str().to_owned()) } else { Err(ApiError::MemberBadUrls) }
    };
    let mut urls = given.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    if urls.is_empty() || urls.len() as u64 > URLS_MAX {
        return Err(ApiError::MemberBadUrls);
    }
    urls.sort_unstable();
    Ok(urls)
}

/// etcd's id of a member that is added at `now`, in seconds since 1970; that of a later second when it was used before.
fn new_id(members: &Members, peer_urls: &[String], now: u64) -> u64 {
    let ids = (now..).map(|second| ids::member_id(peer_urls, &second.to_string()));
    let is_new = |id: &u64| *id != 0 && members.get(*id).is_none() && members.removed().all(|removed| removed != *id);
    ids.into_iter().find(is_new).expect("there are more seconds than members")
}

fn listed(members: &Members) -> Vec<pb::Member> {
    members.iter().map(shown).collect()
}

fn shown(member: &Member) -> pb::Member {
    pb::Member {
        id: member.id,
        name: member.name.clone(),
        peer_ur_ls: member.peer_urls.clone(),
        client_ur_ls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_never_used_twice() {
        let urls = ["http://127.0.0.1:22012".to_owned()];
        let nobody = Members::default();
        let first = new_id(&nobody, &urls, 1_700_000_000);
        assert_eq!(first, ids::member_id(&urls, "1700000000"));
        let second = new_id(&Members::new([], [first]), &urls, 1_700_000_000);
        assert_eq!(second, ids::member_id(&urls, "1700000001"));
    }

    #[test]
    fn urls_are_read_as_etcd_reads_them() {
        let read = |urls: &[&str]| peer_urls(&urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>());
        assert_eq!(read(&[" http://b:1", "http://a:2 "]), Ok(vec!["http://a:2".into(), "http://b:1".into()]));
        let long = format!("http://{}:1", "a".repeat(5_000));
        for bad in
            [&[][..], &["foo"], &["http://a"], &["http://a:1/x"], &["http://a:1", ""], &[&long], &["http://a:1"; 200]]
        {
            assert_eq!(read(bad), Err(ApiError::MemberBadUrls), "{bad:?}");
        }
    }
}
