//! How a member without a log begins: with a new cluster, or as a member that a running cluster waits for.
//!
//! A member that has lost its log must not come back under its id: it has forgotten what it promised. So the others are asked, over HTTP
//! on their peer ports as etcd does, before anything is written.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use kv_codec::member::Member;
use kv_store::{Members, Store};
use serde_json::Value;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::config::{Config, Scheme, Url};
use crate::data_dir::{DataDir, DataDirError, Identity};
use crate::server::initial_members;

/// The header of the answer to `/members` that names the cluster, as in etcd.
pub(crate) const CLUSTER_ID_HEADER: &str = "x-etcd-cluster-id";
/// How long a member is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest list of members that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Why a member cannot begin. Each message says what to do.
#[derive(Debug, Error)]
pub enum JoinError {
    /// Its directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Nobody is there to be joined.
    #[error(
        "none of the members in --initial-cluster answers: start them before this one joins them, or found a new cluster with --initial-cluster-state=new"
    )]
    NoAnswer,
    /// Two members, of two clusters.
    #[error("the members in --initial-cluster belong to different clusters ({0:x} and {1:x}); name those of one")]
    Clusters(u64, u64),
    /// The configuration and the cluster do not name the same members.
    #[error(
        "--initial-cluster does not fit the cluster that this member is to join: {0}; name exactly the members that `etcdctl member list` shows, this one included"
    )]
    Members(String),
    /// It was started before, and has forgotten what it promised.
    #[error(
        "member {id:x} has already been bootstrapped: it was part of its cluster, and its data directory is not here any more. Remove it from the cluster, add it anew, and start it with --initial-cluster-state=existing"
    )]
    Bootstrapped {
        /// The member.
        id: u64,
    },
}

/// What a running member says of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) cluster_id: u64,
    pub(crate) members: Vec<Member>,
}

/// The state that a member begins with, and the identity it takes, unless its directory has both.
pub(crate) async fn beginning(config: &Config) -> Result<(Store, Identity), JoinError> {
    let (members, founder) = initial_members(config);
    let genesis = || Store::genesis(Members::new(members, []));
    if let Some(identity) = DataDir::begun_by(&config.data_dir)? {
        // One that was stopped before it had its first snapshot begins with the same state once more, whatever its flags say now.
        return Ok((if identity == founder { genesis() } else { Store::newcomer() }, identity));
    }
    let remotes = ask_others(config).await;
    if config.initial_cluster_existing {
        return Ok((Store::newcomer(), joiner(config, &remotes)?));
    }
    let is_known = |member: &Member| member.id == founder.member_id && is_started(member);
    match remotes.iter().any(|remote| remote.members.iter().any(is_known)) {
        true => Err(JoinError::Bootstrapped { id: founder.member_id }),
        false => Ok((genesis(), founder)),
    }
}

/// Whom a newcomer answers, as long as its own state does not say who is there: those who are, as far as anybody can be asked.
pub(crate) async fn contacts(config: &Config) -> Members {
    let remotes = ask_others(config).await;
    let by_id = remotes.into_iter().flat_map(|remote| remote.members).map(|member| (member.id, member));
    Members::new(by_id.collect::<BTreeMap<_, _>>().into_values(), [])
}

/// A member publishes where its clients reach it as soon as it takes part.
fn is_started(member: &Member) -> bool {
    !member.client_urls.is_empty()
}

/// Who a member is that joins the cluster of which `remotes` tell.
fn joiner(config: &Config, remotes: &[Remote]) -> Result<Identity, JoinError> {
    let first = remotes.first().ok_or(JoinError::NoAnswer)?;
    if let Some(other) = remotes.iter().find(|other| other.cluster_id != first.cluster_id) {
        return Err(JoinError::Clusters(first.cluster_id, other.cluster_id));
    }
    // One that is behind may not know the newcomer yet.
    let matches = remotes.iter().map(|remote| own_id(config, &remote.members));
    let best = matches.reduce(|best, next| if best.is_ok() { best } else { next }).expect("there is one");
    Ok(Identity { cluster_id: first.cluster_id, member_id: best? })
}

/// The id of the member that the configuration speaks of, if all of its members are those of the cluster and this one has yet to start.
fn own_id(config: &Config, members: &[Member]) -> Result<u64, JoinError> {
    let named = &config.initial_cluster;
    if named.len() != members.len() {
        return Err(JoinError::Members(format!("it names {}, the cluster has {}", named.len(), members.len())));
    }
    let mut own = None;
    for (name, urls) in named {
        let Some(member) = members.iter().find(|member| reach_same(urls, &member.peer_urls)) else {
            let urls: Vec<&str> = urls.iter().map(Url::as_str).collect();
            return Err(JoinError::Members(format!(
                "no member of the cluster has the URLs of {name}, {}",
                urls.join(",")
            )));
        };
        if *name == config.name {
            own = Some(member);
        }
    }
    let own = own.expect("--initial-cluster names this member, which was checked");
    if is_started(own) { Err(JoinError::Bootstrapped { id: own.id }) } else { Ok(own.id) }
}

pub(crate) fn reach_same(urls: &[Url], texts: &[String]) -> bool {
    let others: Vec<Url> = texts.iter().filter_map(|text| Url::parse(text).ok()).collect();
    urls.len() == texts.len() && urls.iter().all(|url| others.iter().any(|other| url.reaches_same(other)))
}

/// What the other members say that say anything.
async fn ask_others(config: &Config) -> Vec<Remote> {
    reach_others(config).await.into_iter().map(|(_, remote)| remote).collect()
}

/// Asks all others at once; those that answer, and what.
pub(crate) async fn reach_others(config: &Config) -> Vec<(Url, Remote)> {
    let others: BTreeMap<&String, &Vec<Url>> =
        config.initial_cluster.iter().filter(|(name, _)| **name != config.name).collect();
    let mut asked = JoinSet::new();
    for url in others.into_values().flatten().filter(|url| url.scheme() == Scheme::Http) {
        let url = url.clone();
        asked.spawn(async move {
            let remote = ask(&url).await?;
            Some((url, remote))
        });
    }
    asked.join_all().await.into_iter().flatten().collect()
}

/// What the member at `url` says of its cluster; `None` where there is none that says it.
async fn ask(url: &Url) -> Option<Remote> {
    let request = http::Request::get("/members").body(Full::default()).expect("this is a path");
    let answer = exchange(url, request, ANSWER_TIMEOUT).await?;
    let cluster_id = answer.headers().get(CLUSTER_ID_HEADER)?.to_str().ok()?;
    let cluster_id = u64::from_str_radix(cluster_id, 16).ok()?;
    Some(Remote { cluster_id, members: members(&serde_json::from_slice(answer.body()).ok()?)? })
}

/// Sends a request to the peer port at `url`; `None` where nothing answers in time.
pub(crate) async fn exchange(
    url: &Url,
    mut request: http::Request<Full<Bytes>>,
    timeout: Duration,
) -> Option<http::Response<Bytes>> {
    let host = http::HeaderValue::from_str(url.host()).ok()?;
    request.headers_mut().insert(http::header::HOST, host);
    let connect = TcpStream::connect((url.host(), url.port()));
    let stream = tokio::time::timeout(ANSWER_TIMEOUT, connect).await.ok()?.ok()?;
    let answered = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await.ok()?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.ok()?.to_bytes();
        Some(http::Response::from_parts(head, body))
    };
    tokio::time::timeout(timeout, answered).await.ok()?
}

/// Reads a list of members as `/members` gives it.
fn members(json: &Value) -> Option<Vec<Member>> {
    let texts = |value: &Value| -> Option<Vec<String>> {
        value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let member = |json: &Value| {
        Some(Member {
            id: json["id"].as_u64()?,
            name: json["name"].as_str().unwrap_or_default().to_owned(),
            peer_urls: texts(&json["peerURLs"])?,
            client_urls: texts(&json["clientURLs"]).unwrap_or_default(),
            is_learner: json["isLearner"].as_bool().unwrap_or_default(),
        })
    };
    json.as_array()?.iter().map(member).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Parsed;

    const THREE: &str = "a=http://h:1,b=http://h:2,c=http://127.0.0.1:3";

    fn config(name: &str, initial_cluster: &str) -> Config {
        let own = initial_cluster.split(',').filter_map(|pair| pair.strip_prefix(&format!("{name}=")));
        let own = own.collect::<Vec<_>>().join(",");
        let arguments = [
            format!("--name={name}"),
            format!("--initial-cluster={initial_cluster}"),
            format!("--initial-advertise-peer-urls={own}"),
            "--initial-cluster-state=existing".to_owned(),
        ];
        let no_env: [(&str, &str); 0] = [];
        match Config::parse(arguments, no_env) {
            Ok(Parsed::Run { config, .. }) => *config,
            other => panic!("{other:?}"),
        }
    }

    fn remote(cluster_id: u64, members: &[(u64, &str, &str)]) -> Remote {
        let members = members.iter().map(|(id, name, url)| Member {
            id: *id,
            name: (*name).to_owned(),
            peer_urls: vec![(*url).to_owned()],
            client_urls: name.chars().map(|name| format!("http://{name}:1")).collect(),
            is_learner: false,
        });
        Remote { cluster_id, members: members.collect() }
    }

    const A: (u64, &str, &str) = (1, "a", "http://h:1");
    const B: (u64, &str, &str) = (2, "b", "http://h:2");
    const C: (u64, &str, &str) = (3, "", "http://localhost:3");

    #[test]
    fn a_newcomer_is_known_by_its_urls() {
        let config = config("c", THREE);
        let found = joiner(&config, &[remote(9, &[A, B, C])]).unwrap();
        assert_eq!(found, Identity { cluster_id: 9, member_id: 3 });
        // The first has not heard of it.
        let found = joiner(&config, &[remote(9, &[A, B]), remote(9, &[A, B, C])]).unwrap();
        assert_eq!(found.member_id, 3);
    }

    #[test]
    fn who_does_not_fit_does_not_join() {
        let said = |name: &str, cluster: &str, remotes: &[Remote]| {
            joiner(&config(name, cluster), remotes).unwrap_err().to_string()
        };
        assert!(said("c", THREE, &[]).starts_with("none of the members in --initial-cluster answers"));
        let two = [remote(9, &[A, B, C]), remote(10, &[A, B, C])];
        assert!(said("c", THREE, &two).contains("different clusters (9 and a)"));
        assert!(said("c", THREE, &[remote(9, &[A, B])]).contains("it names 3, the cluster has 2"));
        let moved = remote(9, &[A, B, (3, "", "http://localhost:4")]);
        assert!(said("c", THREE, &[moved]).contains("no member of the cluster has the URLs of c, http://127.0.0.1:3"));
        // Its directory is gone: it must not come back.
        assert!(said("b", THREE, &[remote(9, &[A, B, C])]).starts_with("member 2 has already been bootstrapped"));
    }

    /// A newcomer that was stopped before it was sent anything is none of the founders, whatever its flags say later: their first state
    /// would be taken for one that the log goes on from.
    #[tokio::test]
    async fn who_has_begun_begins_with_the_same_state_again() {
        let temp = tempfile::tempdir().unwrap();
        let newcomer = Identity { cluster_id: 9, member_id: 3 };
        for is_existing in [true, false] {
            let config = Config { initial_cluster_existing: is_existing, ..config("c", THREE) };
            let (_, founder) = initial_members(&config);
            for (began, members) in [(newcomer, 0), (founder, 3)] {
                let data_dir = temp.path().join(format!("{is_existing}{members}"));
                DataDir::open(&data_dir, began).unwrap().note_log().unwrap();
                let (store, _) = beginning(&Config { data_dir, ..config.clone() }).await.unwrap();
                assert_eq!(store.view().members().iter().len(), members, "existing: {is_existing}");
            }
        }
    }

    #[test]
    fn the_list_of_members_is_read_as_etcd_writes_it() {
        let json = json!([
            {"id": 10861422917829458980_u64, "peerURLs": ["http://127.0.0.1:22002"], "name": "n", "clientURLs": ["http://c:1"]},
            {"id": 7, "peerURLs": ["http://h:1"], "isLearner": true},
        ]);
        let read = members(&json).unwrap();
        assert_eq!((read[0].id, read[0].name.as_str(), read[0].is_learner), (10_861_422_917_829_458_980, "n", false));
        assert_eq!((read[1].id, is_started(&read[1]), read[1].is_learner), (7, false, true));
        for bad in [json!({}), json!([{}]), json!([{"id": -1, "peerURLs": []}]), json!([{"id": 1, "peerURLs": [2]}])] {
            assert_eq!(members(&bad), None, "{bad}");
        }
    }
}
