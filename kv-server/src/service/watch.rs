//! What a watch asks for, in the store's terms.

use kv_store::{KeyRange, WatchRequest};

use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcdserverpb::watch_request::RequestUnion;

/// A request on a stream of watches.
#[derive(Debug)]
pub(crate) enum WatchAsked<'a> {
    Create(&'a pb::WatchCreateRequest),
    Cancel(i64),
    Progress,
}

/// What `request` asks for; `None` for what nobody knows, which is ignored.
pub(crate) fn asked(request: &pb::WatchRequest) -> Option<WatchAsked<'_>> {
    Some(match request.request_union.as_ref()? {
        RequestUnion::CreateRequest(create) => WatchAsked::Create(create),
        RequestUnion::CancelRequest(cancel) => WatchAsked::Cancel(cancel.watch_id),
        RequestUnion::ProgressRequest(_) => WatchAsked::Progress,
    })
}

impl<'a> From<&'a pb::WatchCreateRequest> for WatchRequest<'a> {
    fn from(create: &'a pb::WatchCreateRequest) -> Self {
        // The least key stands for none at all.
        let key = if create.key.is_empty() { b"\0" } else { &create.key[..] };
        let filtered = |filter: FilterType| create.filters.contains(&filter.into());
        Self {
            start_revision: create.start_revision,
            id: create.watch_id,
            prev_kv: create.prev_kv,
            progress_notify: create.progress_notify,
            no_put: filtered(FilterType::Noput),
            no_delete: filtered(FilterType::Nodelete),
            fragment: create.fragment,
            ..Self::new(KeyRange::new(key, &create.range_end))
        }
    }
}
