//! Tools that measure kv and try to break it.
//!
//! # What it is
//! * [`chaos`]: hurts a cluster of real processes, and checks everything that its clients were told.
//! * [`cluster`]: clusters of processes side by side, and how long one is without a leader.
//! * [`console`]: a cluster on this machine, with a prompt to kill, pause and cut its members.
//! * [`budget`]: what one operation costs in instructions, allocations, system calls, syncs, wakes, bytes: figures that repeat.
//! * [`cliffs`]: the longest that small operations take while something large goes on.
//! * [`crash`]: kills a real server under load, over and over, and checks after each restart that it kept every write it
//!   had acknowledged.
//! * [`first`]: a first look: `wire` and the engines of `lab`, as short as they can be.
//! * [`lab`]: our engine, log and codec beside other designs, each alone.
//! * [`kube`]: how many nodes of a Kubernetes cluster a server holds.
//! * [`leases`]: leases that end all at once, and leases that are kept alive.
//! * [`million`]: one store of a million keys, from the first put to a restart: memory, pages, lists, stalls.
//! * [`watch`]: how late changes come to those who watch, and what that costs.
//! * [`wire`]: runs a real server, a control and rivals under the same clients, and compares what they cost.
//!
//! # What it is not
//! No part of a server: nothing here is linked into `kv-server`. But for the lab, which takes ours apart, it sees a server as
//! any client does, through its gRPC API and its process, so the same tools run against anything that speaks the etcd API.
//!
//! # How data flow
//! A tool starts the server's binary, talks to it with the client generated from our protos, writes down what it was
//! told, and hands that to a checker or to a table. Both are pure: histories in, violations out; rounds in, figures out.
//! So each checker has tests with histories that must fail.
//!
//! # Invariants
//! * A run prints its seed first, and a crash run that fails prints the command that repeats it.
//! * An answer that did not come is *unknown*, never *failed*: the checkers allow both fates.
//! * No process outlives its tool.

mod audience;
pub mod budget;
pub mod chaos;
pub mod cliffs;
pub mod cluster;
pub mod console;
pub mod crash;
mod directory;
pub mod figures;
pub mod first;
pub mod kube;
pub mod lab;
pub mod leases;
mod list;
mod members;
pub mod million;
mod pace;
mod process;
mod pulse;
pub mod race;
mod target;
pub mod watch;
mod watching;
pub mod wire;
