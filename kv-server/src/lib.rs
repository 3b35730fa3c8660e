//! An etcd v3 compatible key-value server, as a program and as a library.
//!
//! # What it is
//! The edge of kv: flags, listeners, the gRPC API and HTTP, metrics and logs. It joins a [`kv_store::Store`] to a
//! [`kv_raft::Driver`] and answers clients from the published view. It is the only crate that knows a runtime, a transport and
//! protobuf.
//!
//! # What it is not
//! It decides nothing that is replicated: what a command does is `kv-store`'s, when it is durable is `kv-raft`'s.
//!
//! # How data flow
//! ```text
//! connection -> hyper (h2c, HTTP/1) -> axum routes -> grpc (tonic skin) -> service (logic)
//!    write: service encodes a command -> driver's queue ... applied -> waiters wake the call -> response
//!    watch: watches (the hub) hands changes of published views to grpc's streams, which encode them
//!    read:  service waits for the read index if it must, loads the view, answers from it
//! driver  -> peer (a bounded queue, a connection) -> another member's peer -> its driver
//! ```
//!
//! # Invariants
//! * No tonic type outside `grpc` and `status`; no logic inside `grpc`.
//! * A call that is not answered in time, or whose leader is lost, is told so: its outcome is unknown, never "failed".
//! * Every flag of etcd is obeyed, or refused with a sentence.
//!
//! # Embedding
//! ```
//! use kv_server::{Server, config::Config};
//! # #[tokio::main]
//! # async fn main() -> anyhow::Result<()> {
//! # let dir = tempfile::tempdir()?;
//! let mut config = Config::defaults()?;
//! config.data_dir = dir.path().join("member");
//! config.listen_client_urls = vec!["http://127.0.0.1:0".parse()?];
//! config.listen_peer_urls = vec!["http://127.0.0.1:0".parse()?];
//! let server = Server::start(config, &slog::Logger::root(slog::Discard, slog::o!())).await?;
//! println!("serving on {}", server.client_addresses()[0]);
//! server.shutdown().await;
//! # Ok(()) }
//! ```

mod alone;
mod authority;
mod backup;
pub mod banner;
mod bell;
pub mod client;
pub mod config;
mod corruption;
mod data_dir;
mod gateway;
mod gathered;
mod grpc;
mod http;
pub mod ids;
mod join;
mod lessors;
mod listener;
pub mod logging;
mod machine;
mod metrics;
mod peer;
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "generated"
)]
pub mod proto;
mod reads;
pub mod restore;
mod resync;
mod server;
mod service;
pub mod status;
mod steps;
mod turns;
mod upkeep;
pub mod version;
mod waiters;
mod watches;

pub use alone::AloneError;
pub use data_dir::DataDirError;
pub use join::JoinError;
pub use resync::ResyncError;
pub use server::{Server, StartError};
