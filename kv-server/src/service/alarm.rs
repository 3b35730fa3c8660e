//! Maintenance: Alarm, and the quota that raises one.

use kv_codec::command::{Alarm, AlarmKind, Body};
use kv_store::{Outcome, View};

use super::Core;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmResponse, AlarmType};
use crate::status::ApiError;

/// How full a store is, in percent of its quota, when the alarm is called off by itself: not so full that it rings again at once.
const DISARM_PERCENT: u64 = 90;

/// What etcd counts for a lease when it looks at the quota.
pub(super) const LEASE_BYTES: u64 = 64;

/// What a store takes of its quota: all revisions that can be read, and the leases, which are not among them.
pub(crate) fn taken_bytes(view: &View) -> u64 {
    view.bytes().history + leases_bytes(view)
}

/// The part of it that no compaction gives back.
pub(crate) fn in_use_bytes(view: &View) -> u64 {
    view.bytes().live + leases_bytes(view)
}

fn leases_bytes(view: &View) -> u64 {
    view.leases().iter().len() as u64 * LEASE_BYTES
}

/// An alarm as `Status` lists it.
pub(super) fn alarm_text(member: u64, kind: AlarmKind) -> String {
    format!("memberID:{member} alarm:{} ", alarm_type(kind).as_str_name())
}

fn alarm_type(kind: AlarmKind) -> AlarmType {
    match kind {
        AlarmKind::NoSpace => AlarmType::Nospace,
        AlarmKind::Corrupt => AlarmType::Corrupt,
    }
}

impl Core {
    /// Lists, raises or calls off alarms.
    pub(crate) async fn alarm(&self, request: &AlarmRequest) -> Result<AlarmResponse, ApiError> {
        let view = self.views.load_full();
        let asked = AlarmType::try_from(request.alarm).unwrap_or_default();
        let kind = match asked {
            AlarmType::None => None,
            AlarmType::Nospace => Some(AlarmKind::NoSpace),
            AlarmType::Corrupt => Some(AlarmKind::Corrupt),
        };
        let member = |member_id, alarm: AlarmType| AlarmMember { member_id, alarm: alarm.into() };
        let raise = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => {
                let listed = view.alarms().iter().filter(|(_, raised)| kind.is_none_or(|kind| kind == *raised));
                let alarms = listed.map(|(id, raised)| member(id, alarm_type(raised))).collect();
                return Ok(AlarmResponse { header: self.header(view.revision()), alarms });
            }
            Ok(AlarmAction::Activate) => true,
            Ok(AlarmAction::Deactivate) => false,
            Err(_) => return Ok(AlarmResponse { header: self.header(view.revision()), alarms: Vec::new() }),
        };
        let Some(kind) = kind else {
            return Ok(AlarmResponse { header: self.header(view.revision()), alarms: Vec::new() });
        };
        let was_raised = view.alarms().iter().any(|raised| raised == (request.member_id, kind));
        let revision = self.set_alarm(Alarm { raise, member: request.member_id, kind }).await?;
        // One that was not there cannot be called off.
        let alarms = if raise || was_raised { vec![member(request.member_id, asked)] } else { Vec::new() };
        Ok(AlarmResponse { header: self.header(revision), alarms })
    }

    async fn set_alarm(&self, alarm: Alarm) -> Result<i64, ApiError> {
        let applied = self.replicate(&Body::Alarm(alarm)).await?;
        let Outcome::Alarms(_) = applied.outcome else {
            unreachable!("an alarm is answered by the alarms");
        };
        Ok(applied.revision)
    }

    /// Raises the alarm of a member that holds other data than the others: from then on nothing is written.
    pub(crate) async fn raise_corrupt(&self, member: u64) -> Result<(), ApiError> {
        if self.views.load().alarms().iter().any(|raised| raised == (member, AlarmKind::Corrupt)) {
            return Ok(());
        }
        self.set_alarm(Alarm { raise: true, member, kind: AlarmKind::Corrupt }).await.map(drop)
    }

    /// Refuses what would take the store over its quota, and raises the alarm: from then on every member refuses.
    pub(super) async fn check_quota(&self, bytes: u64) -> Result<(), ApiError> {
        if bytes == 0 {
            // What only deletes is how a full store gets room again.
            return Ok(());
        }
        let (taken, is_raised) = {
            let view = self.views.load();
            (taken_bytes(&view), view.alarms().is_raised(AlarmKind::NoSpace))
        };
        match self.limits.quota_bytes {
            Some(quota) if taken + bytes >= quota => {
                if !is_raised {
                    let alarm = Alarm { raise: true, member: self.member_id, kind: AlarmKind::NoSpace };
                    // The refusal stands, whatever becomes of the alarm: the next one raises it again.
                    drop(self.set_alarm(alarm).await);
                }
                Err(ApiError::NoSpace)
            }
            _ => Ok(()),
        }
    }

    /// Calls off this member's alarm once the store has room again.
    pub(crate) async fn disarm_nospace(&self) {
        let has_room = {
            let view = self.views.load();
            let mine = (self.member_id, AlarmKind::NoSpace);
            let quota = self.limits.quota_bytes.unwrap_or(u64::MAX);
            view.alarms().iter().any(|raised| raised == mine) && taken_bytes(&view) < quota / 100 * DISARM_PERCENT
        };
        if has_room {
            let alarm = Alarm { raise: false, member: self.member_id, kind: AlarmKind::NoSpace };
            // Tried again at the next look.
            drop(self.set_alarm(alarm).await);
        }
    }
}
