//! `--resync-from-cluster`: a member whose log or snapshot is damaged begins anew with what the others have.
//!
//! It must not come back under its id: it has forgotten what it promised. So the others replace that id by a learner's, which has no vote,
//! and the member begins as this learner with nothing. They send it what they have, as they do to any newcomer, and once it is complete
//! it becomes a voter.
//!
//! ```text
//! marker               what is begun                                  killed then, the next start
//! -                    damage is found                                finds it again
//! resync = asked       another member is asked to replace the old id  asks again: a learner that came of it leaves for another one
//! resync = setting-..  log/ and snap/ go to damaged-<n>/              goes on, whatever its flags say
//! resync = catching-up a newcomer, then a learner that is complete    goes on, whatever its flags say
//! -                    a voter
//! ```

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};
use slog::{Logger, info, warn};
use thiserror::Error;

use crate::config::{Config, Url};
use crate::data_dir::{DataDir, DataDirError, Identity};
use crate::join::{self, CLUSTER_ID_HEADER, Remote, exchange};
use crate::proto::etcdserverpb::MemberPromoteRequest;
use crate::server::initial_members;
use crate::service::{Core, Replacement};
use crate::status::ApiError;

/// How long another member may take to replace this one: a barrier and two changes of the membership, each of which may have to wait for a
/// leader for its request timeout of 7 s.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the others are asked on, to which two election timeouts are added: a leader may have to be found, this member's end to be
/// noticed, and who has just connected counts after 5 s.
const ASKED_FOR: Duration = Duration::from_secs(8);
/// Pause before all are asked again.
const ASK_PAUSE: Duration = Duration::from_millis(200);
/// Pause before a learner asks again for its vote.
const VOTE_PAUSE: Duration = Duration::from_millis(200);

/// Why a member is not re-synced. What it holds is as it was.
#[derive(Debug, Error)]
pub enum ResyncError {
    /// Its directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Nobody is there who could decide.
    #[error(
        "no member of --initial-cluster could replace this one ({0}); nothing was changed. Most of the other members have to run: if they are lost, see `--force-new-cluster`, or restore a backup"
    )]
    NoQuorum(String),
    /// It had no vote, and would get one.
    #[error(
        "member {0:x} is a learner: a re-sync makes voters. Remove it, add it anew with --learner, and start it with an empty data directory"
    )]
    Learner(u64),
    /// The cluster does not want it.
    #[error("the cluster does not replace this member: {0}; nothing was changed")]
    Refused(String),
}

/// What came of asking one member.
enum Answer {
    Learner(u64),
    Refused(String),
    /// Another member may do it, or this one later.
    NotNow(String),
}

/// Has the others replace this member, and sets aside what it held. Who it is now.
pub(crate) async fn begin_anew(config: &Config, logger: &Logger) -> Result<Identity, ResyncError> {
    let mut data_dir = DataDir::open_damaged(&config.data_dir, initial_members(config).1)?;
    let member_id = replaced(config, &mut data_dir).await?;
    let old = data_dir.identity();
    let new = Identity { member_id, ..old };
    let aside = data_dir.set_aside(new)?;
    warn!(logger, "this member was replaced by a learner that begins with nothing; what is damaged is kept";
        "old-member-id" => format!("{:x}", old.member_id), "member-id" => format!("{member_id:x}"),
        "kept-in" => aside.display().to_string());
    Ok(new)
}

/// Asks the others in turn until one has replaced this member; the learner's id.
async fn replaced(config: &Config, data_dir: &mut DataDir) -> Result<u64, ResyncError> {
    let Identity { cluster_id, member_id: old } = data_dir.identity();
    let peer_urls = config.initial_advertise_peer_urls.iter().map(|url| url.as_str().to_owned()).collect();
    let mut asked = Replacement { old, peer_urls, again: data_dir.resync().is_some() };
    let until = Instant::now() + ASKED_FOR + 2 * config.election_timeout;
    loop {
        let others = join::reach_others(config).await;
        if !asked.again && is_learner(others.iter().map(|(_, other)| other), old) {
            return Err(ResyncError::Learner(old));
        }
        let mut said = vec!["none of them answers".to_owned()];
        if !others.is_empty() {
            data_dir.begin_resync()?;
        }
        for (url, _) in &others {
            match ask(url, cluster_id, &asked).await {
                Answer::Learner(id) => return Ok(id),
                Answer::Refused(why) => return Err(ResyncError::Refused(why)),
                Answer::NotNow(why) => said.push(format!("{url}: {why}")),
            }
            // Nobody knows what became of it.
            asked.again = true;
        }
        if Instant::now() >= until {
            let said = if said.len() > 1 { &said[1..] } else { &said };
            return Err(ResyncError::NoQuorum(said.join("; ")));
        }
        tokio::time::sleep(ASK_PAUSE).await;
    }
}

/// Whether a member is known as a learner, and not as a voter to anybody who has heard more.
fn is_learner<'a>(others: impl Iterator<Item = &'a Remote>, id: u64) -> bool {
    let known = others.flat_map(|other| &other.members).filter(|member| member.id == id);
    let mut known = known.peekable();
    known.peek().is_some() && known.all(|member| member.is_learner)
}

async fn ask(url: &Url, cluster_id: u64, Replacement { old, peer_urls, again }: &Replacement) -> Answer {
    let body = json!({"peerURLs": peer_urls, "again": again}).to_string();
    let request = http::Request::post(format!("/members/replace/{old:x}"))
        .header(CLUSTER_ID_HEADER, format!("{cluster_id:x}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body))
        .expect("these are a path and two headers");
    let Some(answer) = exchange(url, request, REPLACE_TIMEOUT).await else {
        return Answer::NotNow("no answer".to_owned());
    };
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    match (answer.status(), u64::from_str_radix(&text, 16)) {
        (StatusCode::OK, Ok(id)) if id != 0 => Answer::Learner(id),
        (StatusCode::SERVICE_UNAVAILABLE, _) => Answer::NotNow(text),
        _ => Answer::Refused(text),
    }
}

/// Reads what [`ask`] writes.
pub(crate) fn replacement(id: &str, body: &Bytes) -> Option<Replacement> {
    let json: Value = serde_json::from_slice(body).ok()?;
    let urls = json["peerURLs"].as_array()?.iter().map(|url| url.as_str().map(str::to_owned));
    Some(Replacement {
        old: u64::from_str_radix(id, 16).ok()?,
        peer_urls: urls.collect::<Option<Vec<_>>>()?,
        again: json["again"].as_bool()?,
    })
}

/// Has this member, which has what the cluster has, become a voter, however long that takes.
pub(crate) async fn have_a_vote(core: &Core, logger: &Logger) -> Result<(), ApiError> {
    let id = core.member_id;
    while core.is_learner() {
        match core.member_promote(&MemberPromoteRequest { id }).await {
            Ok(_) => {}
            Err(error @ (ApiError::Stopped | ApiError::MemberNotFound)) => return Err(error),
            // Somebody else has promoted it.
            Err(ApiError::MemberNotLearner) => core.read_barrier().await?,
            Err(error) => {
                warn!(logger, "failed to become a voter; trying on"; "error" => %error);
                tokio::time::sleep(VOTE_PAUSE).await;
            }
        }
    }
    info!(logger, "re-synced from the cluster: this member votes"; "member-id" => format!("{id:x}"));
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_read() {
        let body = Bytes::from_static(br#"{"peerURLs": ["http://h:1"], "again": true}"#);
        let expected = Replacement { old: 0xab, peer_urls: vec!["http://h:1".to_owned()], again: true };
        assert_eq!(replacement("ab", &body), Some(expected));
        for (id, body) in [
            ("x", &br#"{"peerURLs": [], "again": true}"#[..]),
            ("1", br#"{"peerURLs": [1], "again": true}"#),
            ("1", br#"{"peerURLs": []}"#),
            ("1", b"[]"),
            ("1", b""),
        ] {
            assert_eq!(replacement(id, &Bytes::from_static(body)), None, "{id} {body:?}");
        }
    }
}
