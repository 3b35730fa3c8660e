//! Whether a cluster could still decide after a change of its membership: what etcd's `--strict-reconfig-check` looks at.

use kv_store::Members;

use crate::status::ApiError;

/// How a member is reached from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contact {
    /// Not at all.
    Down,
    /// Only since a moment ago.
    New,
    /// For so long that it counts.
    Steady,
}

/// Voters that would be there with one more, and how many of them have ever published themselves.
fn started(members: &Members, except: Option<u64>) -> (usize, usize) {
    let voters = members.iter().filter(|member| !member.is_learner && Some(member.id) != except);
    voters.fold((0, 0), |(voters, started), member| (voters + 1, started + usize::from(!member.name.is_empty())))
}

/// The least voters that decide.
fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

fn steady(members: &Members, contact: impl Fn(u64) -> Contact) -> usize {
    members.voters().into_iter().filter(|id| contact(*id) == Contact::Steady).count()
}

/// Before a member is added. `contact` says of each voter, this member included, how it is reached.
pub(super) fn may_add(members: &Members, is_learner: bool, contact: impl Fn(u64) -> Contact) -> Result<(), ApiError> {
    let (voters, started) = started(members, None);
    // A learner decides nothing: the voters that there are have to be able to.
    let after = if is_learner { voters } else { voters + 1 };
    // One member that runs may always have a second: there is no other way to grow.
    let is_first = started == 1 && voters == 1;
    if !is_learner && !is_first && started < quorum(after) {
        return Err(ApiError::MemberNotEnoughStarted);
    }
    if voters > 1 && steady(members, contact) < quorum(after) {
        return Err(ApiError::Unhealthy);
    }
    Ok(())
}

/// Before `id`, which need not be one, is removed by `own`.
pub(super) fn may_remove(
    members: &Members,
    own: u64,
    id: u64,
    contact: impl Fn(u64) -> Contact,
) -> Result<(), ApiError> {
    if members.get(id).is_some_and(|member| member.is_learner) {
        return Ok(());
    }
    let (voters, started) = started(members, Some(id));
    if started < quorum(voters) {
        return Err(ApiError::MemberNotEnoughStarted);
    }
    // One that is down is no part of what decides now.
    if id != own && contact(id) == Contact::Down {
        return Ok(());
    }
    let all = members.voters().len();
    if steady(members, contact) < quorum(all.saturating_sub(1)) + 1 {
        return Err(ApiError::Unhealthy);
    }
    Ok(())
}

/// Before a learner becomes a voter; it counts as started.
pub(super) fn may_promote(members: &Members) -> Result<(), ApiError> {
    let (voters, started) = started(members, None);
    if started + 1 < quorum(voters + 1) { Err(ApiError::MemberNotEnoughStarted) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use kv_codec::member::Member;

    use super::*;

    /// Voters 1, 2, ... of which the first `started` have a name, and learner 9.
    fn members(voters: u64, started: u64) -> Members {
        let member = |id: u64, is_learner| Member {
            id,
            name: if id <= started { format!("m{id}") } else { String::new() },
            peer_urls: vec![format!("http://m{id}:1")],
            client_urls: vec![],
            is_learner,
        };
        Members::new((1..=voters).map(|id| member(id, false)).chain([member(9, true)]), [])
    }

    /// Members 1 to `up` are reached.
    fn up(up: u64) -> impl Fn(u64) -> Contact + Copy {
        move |id| if id <= up { Contact::Steady } else { Contact::Down }
    }

    #[test]
    fn a_voter_joins_where_a_quorum_remains() {
        let (few, ill) = (Err(ApiError::MemberNotEnoughStarted), Err(ApiError::Unhealthy));
        // Voters, of which so many have started, of which so many are reached.
        for (voters, started, reached, wanted) in [
            (1, 1, 1, Ok(())),
            (2, 1, 1, few.clone()),
            (2, 2, 2, Ok(())),
            (2, 2, 1, ill.clone()),
            (3, 2, 2, few.clone()),
            (3, 3, 3, Ok(())),
            (3, 3, 2, ill.clone()),
            (5, 5, 4, Ok(())),
            (5, 5, 3, ill),
            (5, 3, 5, few),
        ] {
            let outcome = may_add(&members(voters, started), false, up(reached));
            assert_eq!(outcome, wanted, "{voters} voters, {started} started, {reached} reached");
        }
    }

    /// etcd's rule as well: who comes and goes is not counted on, but neither is it safe to take away.
    #[test]
    fn who_is_connected_only_now_does_not_count_yet() {
        let contact = |id| if id == 3 { Contact::New } else { Contact::Steady };
        assert_eq!(may_add(&members(3, 3), false, contact), Err(ApiError::Unhealthy));
        assert_eq!(may_remove(&members(3, 3), 1, 3, contact), Err(ApiError::Unhealthy));
    }

    /// etcd refused a learner, who decides nothing, where one of three was down.
    #[test]
    fn a_learner_joins_wherever_something_can_be_decided() {
        assert_eq!(may_add(&members(1, 1), true, up(1)), Ok(()));
        assert_eq!(may_add(&members(3, 2), true, up(2)), Ok(()));
        assert_eq!(may_add(&members(3, 3), true, up(1)), Err(ApiError::Unhealthy));
    }

    #[test]
    fn who_leaves_leaves_a_quorum() {
        let (few, ill) = (Err(ApiError::MemberNotEnoughStarted), Err(ApiError::Unhealthy));
        for (voters, started, reached, id, wanted) in [
            (1, 1, 1, 1, few.clone()),
            (1, 1, 1, 9, Ok(())),
            (1, 1, 1, 77, Ok(())),
            (2, 1, 1, 2, Ok(())),
            (2, 1, 1, 1, few),
            (2, 2, 2, 2, Ok(())),
            (3, 3, 3, 1, Ok(())),
            (3, 3, 2, 3, Ok(())),
            (3, 3, 2, 2, ill.clone()),
            (3, 3, 2, 1, ill),
        ] {
            let outcome = may_remove(&members(voters, started), 1, id, up(reached));
            assert_eq!(outcome, wanted, "{id} of {voters} voters, {started} started, {reached} reached");
        }
    }

    #[test]
    fn a_promotion_counts_the_learner_as_started() {
        assert_eq!(may_promote(&members(1, 1)), Ok(()));
        assert_eq!(may_promote(&members(3, 2)), Ok(()));
        assert_eq!(may_promote(&members(3, 1)), Err(ApiError::MemberNotEnoughStarted));
    }
}
