//! Tools that measure kv and try to break it.
//!
//! # What it is
//! * [`crash`]: kills a real server under load, over and over, and checks after each restart that it kept every write it
//!   had acknowledged.
//!
//! # What it is not
//! No part of a server: nothing here is linked into `kv-server`. It sees a server as any client does, through its
//! gRPC API and its process, so the same tools run against anything that speaks the etcd API.
//!
//! # How data flow
//! A tool starts the server's binary, talks to it with the client generated from our protos, writes down what it was
//! told, and hands that to a checker. Checkers are pure: histories in, violations out, so that each has tests with
//! histories that must fail.
//!
//! # Invariants
//! * A run prints its seed first, and a failing run prints the command that repeats it.
//! * An answer that did not come is *unknown*, never *failed*: the checkers allow both fates.
//! * No process outlives its tool.

pub mod crash;
