//! Whether what a member sends could be applied once it is committed. What cannot be would stop every member of the cluster, again at
//! each start: it is refused at the door, where it costs its sender a connection.

use kv_codec::DecodeError;
use kv_codec::command::{Batch, Body};
use kv_raft::{ConfChange, EntryKind, PeerMessage};

use super::wire::PeerError;

/// Reads all that `message` would bring into the log. No payload is longer than `bytes_max`: what comes in must go out again, to members
/// that take no longer frames than this one.
pub(super) fn check(message: &PeerMessage, bytes_max: usize) -> Result<(), PeerError> {
    let is_raft = matches!(message, PeerMessage::Raft(_));
    for (kind, payload) in message.payloads() {
        if payload.len() > bytes_max {
            let (len, max) = (payload.len() as u64, bytes_max as u64);
            return Err(DecodeError::TooLong { what: "entry", len, max }.into());
        }
        match kind {
            // A leader's first entry.
            EntryKind::Normal if is_raft && payload.is_empty() => {}
            EntryKind::Normal => check_batch(&payload)?,
            EntryKind::ConfChange => {
                let found = conf_change(&payload)?;
                if let PeerMessage::ForwardChange { change, .. } = message
                    && *change != found
                {
                    return Err(PeerError::Nonsense("a membership change that is another than it says"));
                }
            }
        }
    }
    Ok(())
}

/// A batch of commands, none of which changes the membership.
fn check_batch(batch: &[u8]) -> Result<(), PeerError> {
    for command in Batch::decode(batch)? {
        if Body::decode(command?.body)?.is_conf_change() {
            return Err(PeerError::Nonsense("a membership change among other commands"));
        }
    }
    Ok(())
}

/// A batch of one command, which changes the membership.
fn conf_change(batch: &[u8]) -> Result<ConfChange, PeerError> {
    let mut commands = Batch::decode(batch)?;
    let (Some(command), None) = (commands.next(), commands.next()) else {
        return Err(PeerError::Nonsense("a membership change that is not alone"));
    };
    match Body::decode(command?.body)? {
        Body::MemberAdd { member, .. } if member.is_learner => Ok(ConfChange::AddLearner(member.id)),
        Body::MemberAdd { member, .. } => Ok(ConfChange::AddVoter(member.id)),
        Body::MemberPromote(id) => Ok(ConfChange::AddVoter(id)),
        Body::MemberRemove(id) => Ok(ConfChange::Remove(id)),
        _ => Err(PeerError::Nonsense("a membership change that changes no membership")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use kv_codec::command::{BatchBuilder, CommandHeader};
    use kv_codec::member::Member;
    use kv_store::{Members, Store};

    use super::*;

    const MAX: usize = 1 << 20;

    fn batch(bodies: &[Body<'_>]) -> Bytes {
        let mut batch = BatchBuilder::default();
        bodies.iter().for_each(|body| batch.push(&body.encode(&CommandHeader::default())));
        batch.finish()
    }

    fn add(id: u64, is_learner: bool) -> Body<'static> {
        let member = Member { id, name: String::new(), peer_urls: vec![], client_urls: vec![], is_learner };
        Body::MemberAdd { member, learners_max: 1 }
    }

    fn forward(batch: Bytes) -> PeerMessage {
        PeerMessage::Forward { leader_term: 1, batch }
    }

    fn forward_change(change: ConfChange, batch: Bytes) -> PeerMessage {
        PeerMessage::ForwardChange { leader_term: 1, change, batch }
    }

    #[test]
    fn what_can_be_applied_is_let_in() {
        let grant = Body::LeaseGrant { id: 1, ttl: 1 };
        check(&forward(batch(&[grant.clone(), Body::Compact { revision: 1 }])), MAX).unwrap();
        for (change, body) in [
            (ConfChange::AddVoter(5), add(5, false)),
            (ConfChange::AddLearner(5), add(5, true)),
            (ConfChange::AddVoter(5), Body::MemberPromote(5)),
            (ConfChange::Remove(5), Body::MemberRemove(5)),
        ] {
            check(&forward_change(change, batch(&[body])), MAX).unwrap();
        }
    }

    /// Each of them stops the state machine.
    #[test]
    fn what_cannot_be_applied_is_refused() {
        let grant = || Body::LeaseGrant { id: 1, ttl: 1 };
        let mut unknown = batch(&[grant()]).to_vec();
        let kind = unknown.len() - 3;
        unknown[kind] = 0xff;
        let normal = [unknown.clone().into(), batch(&[grant(), add(5, false)]), Bytes::from_static(b"no batch")];
        for batch in normal {
            assert!(Store::genesis(Members::default()).apply(2, 1, &batch, &mut Vec::new()).is_err());
            check(&forward(batch), MAX).unwrap_err();
        }
        let changes = [unknown.into(), batch(&[grant()]), batch(&[add(5, false), add(6, false)]), Bytes::new()];
        for batch in changes {
            assert!(Store::genesis(Members::default()).apply_conf_change(2, 1, &batch).is_err());
            check(&forward_change(ConfChange::AddVoter(5), batch), MAX).unwrap_err();
        }
        check(&forward(Bytes::new()), MAX).unwrap_err();
        let other = forward_change(ConfChange::AddVoter(6), batch(&[add(5, false)]));
        assert!(check(&other, MAX).unwrap_err().to_string().contains("another than it says"));
        assert!(check(&forward(batch(&[grant()])), 8).unwrap_err().to_string().contains("entry"));
    }
}
