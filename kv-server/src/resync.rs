//! `--resync-from-cluster`: a member whose log or snapshot is damaged begins anew with what the others have.
//!
//! It must not come back under its id: it has forgotten what it promised. So the others replace that id by a learner's, which has no vote,
//! and the member begins as this learner with nothing. They send it what they have, as they do to any newcomer, and once it is complete
//! it becomes a voter.
//!
//! ```text
//! marker               what is begun                                  killed then, the next start
//! -                    damage is found                                finds it again
//! resync = asked       another member is asked to replace the old id  asks again for the same learner: what is begun goes on
//! resync = setting-..  log/ and snap/ go to damaged-<n>/              goes on, whatever its flags say
//! resync = catching-up a newcomer, then a learner that is complete    goes on, whatever its flags say
//! -                    a voter
//! ```

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};
use slog::{Logger, info, warn};
use thiserror::Error;

use crate::config::{Config, Url};
use crate::data_dir::{DataDir, DataDirError, Identity, Resync};
use crate::join::{self, CLUSTER_ID_HEADER, exchange};
use crate::proto::etcdserverpb::MemberPromoteRequest;
use crate::server::{initial_members, request_timeout};
use crate::service::{Core, Replacement};
use crate::status::ApiError;

/// What another member does to replace this one: a barrier, and three changes of the membership. Each may take its request timeout.
const STEPS: u32 = 4;
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
        "no member of --initial-cluster could replace this one ({why}); {changed}. More than half of all voters have to run, this one not counted (with two members that cannot be): if they are lost, see `--force-new-cluster`, or restore a backup"
    )]
    NoQuorum {
        /// What each said.
        why: String,
        /// What came of it.
        changed: Changed,
    },
    /// The cluster does not want it.
    #[error("the cluster does not replace this member: {why}; {changed}")]
    Refused {
        /// Its reason.
        why: String,
        /// What came of it.
        changed: Changed,
    },
    /// The operating system gives no random numbers.
    #[error("cannot draw a random number: {0}")]
    Random(getrandom::Error),
}

/// Whether the membership may have been changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// Certainly not.
    No,
    /// It may have been, or may be yet.
    Maybe,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "nothing was changed",
            Self::Maybe => {
                "what this member holds was not, but it may have been replaced in the membership, wholly or in part: if it was, the same command goes on with that"
            }
        })
    }
}

/// What came of asking one member.
enum Answer {
    Done,
    Refused(String),
    /// The learner that was asked for cannot come any more.
    Forgotten(String),
    /// Another member may do it, or this one later.
    NotNow(String, Changed),
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
///
/// What was asked for is in the marker before it is, and leaves it only when nothing came of it.
async fn replaced(config: &Config, data_dir: &mut DataDir) -> Result<u64, ResyncError> {
    let asked_before = if let Some(Resync::Asked { new, .. }) = data_dir.resync() { Some(new) } else { None };
    let mut changed = if asked_before.is_some() { Changed::Maybe } else { Changed::No };
    let new = match asked_before {
        Some(new) => new,
        // 0 is nobody's.
        None => getrandom::u64().map_err(ResyncError::Random)?.max(1),
    };
    let until = Instant::now() + ASKED_FOR + 2 * config.election_timeout;
    loop {
        let others = join::reach_others(config).await;
        if !others.is_empty() && !matches!(data_dir.resync(), Some(Resync::Asked { .. })) {
            data_dir.begin_resync(new)?;
        }
        let mut said = Vec::new();
        for (url, _) in &others {
            match ask(url, config, data_dir).await {
                Answer::Done => return Ok(new),
                Answer::Refused(why) => {
                    if changed == Changed::No {
                        data_dir.take_back_resync()?;
                    }
                    return Err(ResyncError::Refused { why, changed });
                }
                Answer::Forgotten(why) => {
                    data_dir.take_back_resync()?;
                    return Err(ResyncError::Refused { why, changed });
                }
                Answer::NotNow(why, by_it) => {
                    said.push(format!("{url}: {why}"));
                    if by_it == Changed::Maybe {
                        changed = by_it;
                    }
                }
            }
        }
        if Instant::now() >= until {
            if changed == Changed::No {
                data_dir.take_back_resync()?;
            }
            let why = if said.is_empty() { "none of them answers".to_owned() } else { said.join("; ") };
            return Err(ResyncError::NoQuorum { why, changed });
        }
        tokio::time::sleep(ASK_PAUSE).await;
    }
}

/// Asks for what the marker says.
async fn ask(url: &Url, config: &Config, data_dir: &DataDir) -> Answer {
    let Identity { cluster_id, member_id: old } = data_dir.identity();
    let Some(Resync::Asked { new, catches_up }) = data_dir.resync() else {
        unreachable!("the marker is written before anybody is asked");
    };
    let peer_urls: Vec<&str> = config.initial_advertise_peer_urls.iter().map(Url::as_str).collect();
    let body = json!({"new": format!("{new:x}"), "peerURLs": peer_urls, "catchesUp": catches_up}).to_string();
    let request = http::Request::post(format!("/members/replace/{old:x}"))
        .header(CLUSTER_ID_HEADER, format!("{cluster_id:x}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body))
        .expect("these are a path and two headers");
    let Some(answer) = exchange(url, request, STEPS * request_timeout(config)).await else {
        return Answer::NotNow("no answer".to_owned(), Changed::Maybe);
    };
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    match answer.status() {
        StatusCode::OK => Answer::Done,
        StatusCode::SERVICE_UNAVAILABLE => Answer::NotNow(text, Changed::No),
        StatusCode::NOT_FOUND => Answer::NotNow("its version replaces nobody".to_owned(), Changed::No),
        StatusCode::GONE => Answer::Forgotten(text),
        StatusCode::CONFLICT | StatusCode::BAD_REQUEST => Answer::Refused(text),
        _ => Answer::NotNow(text, Changed::Maybe),
    }
}

/// Reads what [`ask`] writes.
pub(crate) fn replacement(id: &str, body: &Bytes) -> Option<Replacement> {
    let json: Value = serde_json::from_slice(body).ok()?;
    let urls = json["peerURLs"].as_array()?.iter().map(|url| url.as_str().map(str::to_owned));
    Some(Replacement {
        old: u64::from_str_radix(id, 16).ok()?,
        new: u64::from_str_radix(json["new"].as_str()?, 16).ok().filter(|new| *new != 0)?,
        peer_urls: urls.collect::<Option<Vec<_>>>()?,
        catches_up: json["catchesUp"].as_bool()?,
    })
}

/// Has this member, which has what the cluster has, become a voter, however long that takes.
pub(crate) async fn have_a_vote(core: &Core, logger: &Logger) -> Result<(), ApiError> {
    let id = core.member_id;
    let mut said = None;
    while core.is_learner() {
        match core.member_promote(&MemberPromoteRequest { id }).await {
            Ok(_) => {}
            Err(error @ (ApiError::Stopped | ApiError::MemberNotFound)) => return Err(error),
            // It was promoted, by whomever, and hears of it when it hears of what comes after.
            Err(ApiError::MemberNotLearner) => tokio::time::sleep(VOTE_PAUSE).await,
            Err(error) => {
                if said.as_ref() != Some(&error) {
                    warn!(logger, "failed to become a voter; trying on"; "error" => %error);
                    said = Some(error);
                }
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
        let body = Bytes::from_static(br#"{"new": "cd", "peerURLs": ["http://h:1"], "catchesUp": true}"#);
        let peer_urls = vec!["http://h:1".to_owned()];
        let expected = Replacement { old: 0xab, new: 0xcd, peer_urls, catches_up: true };
        assert_eq!(replacement("ab", &body), Some(expected));
        for (id, body) in [
            ("x", &br#"{"new": "1", "peerURLs": [], "catchesUp": true}"#[..]),
            ("1", br#"{"new": "0", "peerURLs": [], "catchesUp": true}"#),
            ("1", br#"{"new": "1", "peerURLs": [1], "catchesUp": true}"#),
            ("1", br#"{"new": "1", "peerURLs": []}"#),
            ("1", b"[]"),
            ("1", b""),
        ] {
            assert_eq!(replacement(id, &Bytes::from_static(body)), None, "{id} {body:?}");
        }
    }
}
