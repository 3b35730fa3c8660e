//! What Lock and Election have in common: a queue of keys under one name, whose oldest is the owner.
//!
//! Each client puts a key `name/lease`, the lease in hexadecimal, which ends with its lease. The keys stand in the order of their create
//! revisions; who is behind waits until the one before it is gone. The keys are those that etcd's own recipes make, so that clients which
//! run these themselves stand in the same queue.

use std::sync::Arc;

use kv_codec::command::{Body, Compare, CompareResult, CompareTarget, DeleteRange, Op, Put, Range, Txn};
use kv_store::{
    Block, KeyRange, OpOutcome, Outcome, RangeQuery, SortOrder, SortTarget, TxnOutcome, View, WatchMessage,
    WatchRequest,
};

use super::Core;
use crate::proto::etcdserverpb::LeaseGrantRequest;
use crate::status::ApiError;
use crate::watches::WatchCall;

/// Seconds of the lease of who brings none. Nobody keeps it alive.
const LEASE_TTL: i64 = 60;

/// A place in the queue.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) key: Vec<u8>,
    /// The create revision of the key.
    pub(super) revision: i64,
    pub(super) lease: i64,
    /// What its value was, if it was there before.
    pub(super) found: Option<Block>,
    /// The store's revision then.
    pub(super) at: i64,
}

/// All keys of a name.
pub(super) fn prefix(name: &[u8]) -> Vec<u8> {
    [name, b"/"].concat()
}

/// The end of the range of a prefix, which ends in a slash.
pub(super) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    let last = end.last_mut().expect("a prefix ends in a slash");
    *last += 1;
    end
}

/// The key under a prefix that was created first, or last, at or before `created_max` (0 for any).
pub(super) fn by_creation<'v>(view: &'v View, prefix: &[u8], order: SortOrder, created_max: i64) -> Option<&'v Block> {
    let end = prefix_end(prefix);
    let query = RangeQuery {
        limit: 1,
        order,
        target: SortTarget::Create,
        max_create_revision: created_max,
        ..RangeQuery::new(KeyRange::Span(prefix, &end))
    };
    let found = view.range(&query).expect("the current revision can be read");
    found.kvs.first().copied()
}

impl Core {
    /// Puts a key at the end of the queue, or finds the one that is there.
    pub(super) async fn take_place(&self, name: &[u8], lease: i64, value: &[u8]) -> Result<Place, ApiError> {
        let lease = match lease {
            0 => self.lease_grant(&LeaseGrantRequest { ttl: LEASE_TTL, id: 0 }).await?.id,
            lease => lease,
        };
        let sign = if lease < 0 { "-" } else { "" };
        let key = [&prefix(name)[..], format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat();
        let put = Put { key: &key, value, lease, prev_kv: false, ignore_value: false, ignore_lease: false };
        let read = Op::Range(Range {
            key: &key,
            range_end: b"",
            limit: 0,
            revision: 0,
            sort_order: 0,
            sort_target: 0,
            keys_only: false,
            count_only: false,
            mod_revisions: (0, 0),
            create_revisions: (0, 0),
        });
        let (revision, mut outcome) = self.if_created_at(&key, 0, vec![Op::Put(put)], vec![read]).await?;
        let found = match outcome.responses.pop() {
            Some(OpOutcome::Range { mut kvs, .. }) => kvs.pop(),
            _ => None,
        };
        let created = found.as_ref().map_or(revision, Block::create_revision);
        Ok(Place { revision: created, key, lease, found, at: revision })
    }

    /// Runs `then` if the key was created at `created` (0: is not there), else `otherwise`.
    pub(super) async fn if_created_at<'a>(
        &self,
        key: &'a [u8],
        created: i64,
        then: Vec<Op<'a>>,
        otherwise: Vec<Op<'a>>,
    ) -> Result<(i64, TxnOutcome), ApiError> {
        let target = CompareTarget::Create(created);
        let compare = vec![Compare { key, range_end: b"", result: CompareResult::Equal, target }];
        let applied = self.replicate(&Body::Txn(Txn { compare, success: then, failure: otherwise })).await?;
        let Outcome::Txn(outcome) = applied.outcome else {
            unreachable!("a transaction is answered by a transaction");
        };
        Ok((applied.revision, outcome))
    }

    /// Waits until every key that came before `place` is gone, and looks whether that is still there: its lease may have ended
    /// meanwhile. The revision at which it is the owner.
    pub(super) async fn wait_for_place(&self, name: &[u8], place: &Place) -> Result<Option<i64>, ApiError> {
        let prefix = prefix(name);
        loop {
            self.read_barrier().await?;
            let view = self.views.load_full();
            let Some(before) = by_creation(&view, &prefix, SortOrder::Descend, place.revision - 1) else {
                let is_there = view.get(&place.key).is_some_and(|block| block.create_revision() == place.revision);
                return Ok(is_there.then(|| view.revision()));
            };
            self.wait_for_deletion(before.key(), view.revision() + 1).await;
        }
    }

    /// Waits until a key is deleted, at `from` or later; or until nobody can say any more whether it was.
    async fn wait_for_deletion(&self, key: &[u8], from: i64) {
        let mut call = WatchCall::open(Arc::clone(&self.watches), self.views.clone());
        call.create(&WatchRequest { start_revision: from, no_put: true, ..WatchRequest::new(KeyRange::Single(key)) });
        while matches!(call.message().await, WatchMessage::Created { .. }) {}
    }

    /// Gives up a place, if it is still held.
    pub(super) async fn leave_place(&self, key: &[u8], created: i64) -> Result<(i64, bool), ApiError> {
        let delete = Op::DeleteRange(DeleteRange { key, range_end: b"", prev_kv: false });
        let (revision, outcome) = self.if_created_at(key, created, vec![delete], Vec::new()).await?;
        Ok((revision, outcome.succeeded))
    }
}

/// Gives a place up if its client goes before it is the owner.
pub(super) struct Waiting {
    place: Option<(Arc<Core>, Vec<u8>, i64)>,
}

impl Waiting {
    pub(super) fn new(core: &Arc<Core>, place: &Place) -> Self {
        Self { place: Some((Arc::clone(core), place.key.clone(), place.revision)) }
    }

    /// The place is kept.
    pub(super) fn keep(mut self) {
        self.place = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((core, key, created)) = self.place.take() {
            // Should it fail, the key ends with its lease.
            tokio::spawn(async move { drop(core.leave_place(&key, created).await) });
        }
    }
}
