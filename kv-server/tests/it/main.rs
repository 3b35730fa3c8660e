//! The server as its clients see it: started as it is started, talked to with the generated client, stopped as machines stop it.
//!
//! * [`harness`]: servers in this process and out of it, clients, HTTP by hand.
//! * [`kv`], [`watch`], [`lease`], [`maintenance`], [`members`], [`api`], [`http`]: what is answered; [`differential`]: that it is what etcd answers.
//! * [`durability`], [`disk_error`]: what is still there after the worst.
//! * [`places`]: where it refuses to start, and what it says then.
//! * [`garbage`], [`streams`], [`cancel`]: clients that misbehave.
//! * [`cluster`]: three members, and what becomes of them when one dies; [`growth`]: members that come and go; [`corruption`]: members
//!   that hold something else; [`resync`]: members whose disk has; [`rolling`]: all of them restarted under load; [`peer`]: members, and others, that misbehave.

#![allow(clippy::unwrap_used)]

mod api;
mod cancel;
mod cluster;
mod corruption;
mod differential;
mod disk_error;
mod durability;
mod garbage;
mod growth;
mod harness;
mod http;
mod kv;
mod lease;
mod limits;
mod maintenance;
mod members;
mod peer;
mod places;
mod range;
mod resync;
mod rolling;
mod streams;
mod watch;
