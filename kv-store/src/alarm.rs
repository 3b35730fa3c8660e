//! Alarms: what is wrong with a member, and what no member does until somebody has seen to it.

use std::collections::BTreeSet;
use std::sync::Arc;

use kv_codec::command::{Alarm, AlarmKind, Body, Op, Txn};

use crate::{Rejection, View};

/// The alarms that are raised. Cloning copies a pointer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alarms(Arc<BTreeSet<(u64, AlarmKind)>>);

impl Alarms {
    pub(crate) fn new(raised: impl IntoIterator<Item = (u64, AlarmKind)>) -> Self {
        Self(Arc::new(raised.into_iter().collect()))
    }

    /// Member and kind of each, by member.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u64, AlarmKind)> + '_ {
        self.0.iter().copied()
    }

    /// Whether any member has raised it.
    #[must_use]
    pub fn is_raised(&self, kind: AlarmKind) -> bool {
        self.iter().any(|(_, raised)| raised == kind)
    }

    fn change(&mut self, alarm: Alarm) {
        let raised = Arc::make_mut(&mut self.0);
        if alarm.raise {
            raised.insert((alarm.member, alarm.kind));
        } else {
            raised.remove(&(alarm.member, alarm.kind));
        }
    }
}

impl View {
    /// The alarms that are raised.
    #[must_use]
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// Raises an alarm, or calls it off: the alarms then.
    pub(crate) fn change_alarms(&mut self, alarm: Alarm) -> Alarms {
        self.alarms.change(alarm);
        self.alarms.clone()
    }

    /// Whether an alarm forbids the command. What gives room, and what only reads, is always allowed.
    pub(crate) fn check_alarms(&self, body: &Body<'_>) -> Result<(), Rejection> {
        if self.alarms.0.is_empty() {
            return Ok(());
        }
        let (changes, adds) = match body {
            Body::Put(_) | Body::LeaseGrant { .. } => (true, true),
            Body::Txn(txn) => (true, puts(txn)),
            Body::DeleteRange(_) | Body::Compact { .. } | Body::LeaseRevoke { .. } => (true, false),
            _ => (false, false),
        };
        if changes && self.alarms.is_raised(AlarmKind::Corrupt) {
            return Err(Rejection::Corrupt);
        }
        if adds && self.alarms.is_raised(AlarmKind::NoSpace) {
            return Err(Rejection::NoSpace);
        }
        Ok(())
    }
}

/// Whether a put stands anywhere in a transaction.
fn puts(txn: &Txn<'_>) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Op::Put(_) => true,
        Op::Txn(txn) => puts(txn),
        Op::Range(_) | Op::DeleteRange(_) => false,
    })
}
