//! Counting calls that stream.

use std::sync::Arc;

use tonic::Code;

use super::code_name;
use crate::service::Core;

/// A call that streams. Given up before its end, it counts as canceled: that is the only way in which a client leaves one.
pub(super) struct Streamed {
    core: Arc<Core>,
    service: &'static str,
    method: &'static str,
    kind: &'static str,
    code: Code,
}

impl Streamed {
    /// Counts a call that begins. `kind` is `server_stream` or `bidi_stream`.
    pub(super) fn begin(core: &Arc<Core>, service: &'static str, method: &'static str, kind: &'static str) -> Self {
        core.metrics.grpc_started.with_label_values(&[method, service, kind]).inc();
        Self { core: Arc::clone(core), service, method, kind, code: Code::Cancelled }
    }

    /// The call has come to its end.
    pub(super) fn end(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        let labels = [code_name(self.code), self.method, self.service, self.kind];
        self.core.metrics.grpc_handled.with_label_values(&labels).inc();
    }
}
