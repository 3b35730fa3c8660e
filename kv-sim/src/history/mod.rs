//! What clients asked and were told, in the words of neither the workload nor the store, and whether it can be right.
//!
//! Every call is noted when it is made and when it is answered; the order of writes is that of the committed log. At the end
//! [`History::check`] does every write in that order on a naive [`Model`], compares whole answers, and looks at every read at the
//! place it was served from. Time enters as a floor: a call takes its place after all that were answered before it was made.
//! Near-linear in the calls. [`blind`] looks at one key again and believes no revision.

pub mod blind;
mod model;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use kv_codec::command::Batch;
use kv_raft::LogEntry;

pub use model::Model;

/// A key-value pair as a client sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The revision that created the key.
    pub create_revision: i64,
    /// The revision of its last change.
    pub mod_revision: i64,
    /// Changes since it was created, that one included.
    pub version: i64,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// The key's last change was at this revision (0: it is not there).
    ModIs(i64),
    /// The key was put more often than this since it was created.
    VersionAbove(i64),
}

/// One operation of a transaction.
#[derive(Clone, PartialEq, Eq)]
pub enum Step {
    /// Puts a key.
    Put(Vec<u8>, Vec<u8>),
    /// Deletes keys from the first to the second (not included); one key if that is empty.
    Delete(Vec<u8>, Vec<u8>),
    /// Reads them, at a revision; at 0 as they are then.
    Range(Vec<u8>, Vec<u8>, i64),
}

/// What a client asks for.
#[derive(Clone, PartialEq, Eq)]
pub enum Request {
    /// One change.
    Write(Step),
    /// Conditions on keys, and what is done if they hold and if one does not.
    Txn {
        /// The conditions.
        guards: Vec<(Vec<u8>, Guard)>,
        /// All hold.
        success: Vec<Step>,
        /// One does not.
        failure: Vec<Step>,
    },
    /// Gives up history.
    Compact(i64),
    /// Changes the membership, which shows in no answer here.
    Member,
    /// Reads.
    Range {
        /// The first key.
        key: Vec<u8>,
        /// Where it ends, as in [`Step::Delete`].
        end: Vec<u8>,
        /// How many at most; 0 for all.
        limit: usize,
        /// At which revision; 0 for the current one.
        revision: i64,
    },
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// What was there before a put.
    Put(Option<Pair>),
    /// What was deleted.
    Deleted(Vec<Pair>),
    /// A transaction: whether its conditions held, and each step with the revision told.
    Txn(bool, Vec<(i64, Told)>),
    /// Pairs, how many there are without the limit, whether it left some out.
    Range(Vec<Pair>, u64, bool),
    /// It is done, with nothing to say about it.
    Done,
    /// The revision is gone.
    Compacted,
    /// The revision is not yet there.
    Future,
}

/// An answer: the revision in its header, and the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The revision.
    pub revision: i64,
    /// The rest.
    pub told: Told,
}

/// A call's number.
pub type CallId = usize;

/// A place in the order of the log: the entry, then the command in it. Reads come after all of their entry.
pub type Place = (u64, usize);

/// Where in its entry a read stands.
const AFTER_ALL: usize = usize::MAX;

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// Nobody knows: it may have happened, or happen still.
    Unknown,
    /// It was refused and is in no log.
    Refused,
    /// It was answered; the moment is a number of [`History::clock`].
    Answered(u64, Answer),
}

#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) request: Request,
    /// The highest place of any call that was answered before this one was made.
    floor: Place,
    /// A read that asks for no more than some state of the past.
    pub(crate) may_be_old: bool,
    pub(crate) made: u64,
    pub(crate) end: End,
    /// Of a read: where it was served.
    served: Option<Place>,
}

/// The calls of a run.
///
/// * The log's commands are each noted once, in its order, when the first member applies them.
/// * `committed` is in the order of places.
#[derive(Debug, Default)]
pub struct History {
    calls: Vec<Call>,
    /// By the command's origin, epoch and sequence number.
    names: BTreeMap<(u64, u64, u64), CallId>,
    committed: Vec<(Place, CallId)>,
    places: BTreeMap<CallId, Place>,
    last_index: u64,
    floor: Place,
    clock: u64,
}

/// Keys and values are shown as text: they are in every message about a history.
fn text(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, create_revision, mod_revision, version } = self;
        write!(f, "{}={}@{create_revision}..{mod_revision}#{version}", text(key), text(value))
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(key, value) => write!(f, "Put({}, {})", text(key), text(value)),
            Self::Delete(key, end) => write!(f, "Delete({}, {})", text(key), text(end)),
            Self::Range(key, end, revision) => write!(f, "Range({}, {}, {revision})", text(key), text(end)),
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(step) => write!(f, "{step:?}"),
            Self::Txn { guards, success, failure } => {
                let guards: Vec<String> =
                    guards.iter().map(|(key, guard)| format!("{} {guard:?}", text(key))).collect();
                write!(f, "Txn(if {} then {success:?} else {failure:?})", guards.join(" and "))
            }
            Self::Compact(revision) => write!(f, "Compact({revision})"),
            Self::Member => write!(f, "Member"),
            Self::Range { key, end, limit, revision } => {
                write!(f, "Range({}, {}, limit {limit}, revision {revision})", text(key), text(end))
            }
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.request)
    }
}

impl History {
    fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Somebody asks.
    pub fn made(&mut self, request: Request) -> CallId {
        let made = self.now();
        self.calls.push(Call { request, floor: self.floor, may_be_old: false, made, end: End::Unknown, served: None });
        self.calls.len() - 1
    }

    /// A read that may be as old as it likes.
    pub fn made_without_floor(&mut self, request: Request) -> CallId {
        let call = self.made(request);
        self.calls[call].floor = (0, 0);
        self.calls[call].may_be_old = true;
        call
    }

    /// The call became this command.
    pub fn named(&mut self, call: CallId, origin: u64, epoch: u64, seq: u64) {
        self.names.insert((origin, epoch, seq), call);
    }

    /// The call takes its place with `index`: it is the change that is made there, or, where it changes nothing, comes after it. For orders
    /// that are known from elsewhere than from entries of a log.
    ///
    /// # Errors
    /// Another call makes the change there.
    pub fn placed(&mut self, call: CallId, index: u64, changes: bool) -> Result<(), String> {
        let place = (index, if changes { 0 } else { AFTER_ALL });
        let after = self.committed.partition_point(|(other, _)| *other <= place);
        if let Some((_, other)) = self.committed[..after].last().filter(|(other, _)| changes && *other == place) {
            return Err(format!("{} and {} both take effect at {index}", self.calls[*other], self.calls[call]));
        }
        self.committed.insert(after, (place, call));
        self.places.insert(call, place);
        self.last_index = self.last_index.max(index);
        Ok(())
    }

    /// It was said to be in no log.
    pub fn refused(&mut self, call: CallId) {
        self.calls[call].end = End::Refused;
    }

    /// A write was answered.
    ///
    /// # Errors
    /// Its command is not committed.
    pub fn answered(&mut self, call: CallId, answer: Answer) -> Result<(), String> {
        let Some(place) = self.places.get(&call).copied() else {
            return Err(format!("{} was answered and is not committed", self.calls[call]));
        };
        self.end(call, place, answer);
        Ok(())
    }

    /// A read was served from the state after entry `index`.
    pub fn served(&mut self, call: CallId, index: u64, answer: Answer) {
        let place = (index, AFTER_ALL);
        self.calls[call].served = Some(place);
        self.end(call, place, answer);
    }

    fn end(&mut self, call: CallId, place: Place, answer: Answer) {
        let now = self.now();
        self.calls[call].end = End::Answered(now, answer);
        // A read that may be old promises nothing to later ones.
        if !self.calls[call].may_be_old {
            self.floor = self.floor.max(place);
        }
    }

    /// How many calls were answered.
    #[must_use]
    pub fn answered_count(&self) -> u64 {
        self.calls.iter().filter(|call| matches!(call.end, End::Answered(..))).count() as u64
    }

    /// How many writes have an outcome that nobody was told.
    #[must_use]
    pub fn unknown_count(&self) -> u64 {
        self.calls.iter().filter(|call| call.end == End::Unknown).count() as u64
    }

    /// An entry was applied somewhere. Only the first time counts.
    ///
    /// # Errors
    /// It holds a command that nobody sent, or one that is in the log already.
    pub fn committed(&mut self, entry: &LogEntry) -> Result<(), String> {
        if entry.index <= self.last_index {
            return Ok(());
        }
        self.last_index = entry.index;
        if entry.payload.is_empty() {
            return Ok(());
        }
        let unreadable = |error| format!("committed entry {} is unreadable: {error}", entry.index);
        for (nth, command) in Batch::decode(&entry.payload).map_err(unreadable)?.enumerate() {
            let header = command.map_err(unreadable)?.header;
            let name = (header.origin, header.epoch, header.seq);
            let Some(&call) = self.names.get(&name) else {
                return Err(format!("entry {} holds command {name:?}, which nobody sent", entry.index));
            };
            let place = (entry.index, nth);
            if let Some(first) = self.places.insert(call, place) {
                return Err(format!("{} takes effect at {first:?} and again at {place:?}", self.calls[call]));
            }
            self.committed.push((place, call));
        }
        Ok(())
    }

    /// Compares every answer with the model's, and every place with its floor. The model after all of them.
    ///
    /// # Errors
    /// The first answer that is not what it should be.
    pub fn check(&self) -> Result<Model, String> {
        let mut reads: Vec<(Place, &Call)> =
            self.calls.iter().filter_map(|call| call.served.map(|place| (place, call))).collect();
        reads.sort_by_key(|(place, call)| (*place, call.made));
        let mut reads = reads.into_iter().peekable();
        let mut model = Model::default();
        let read = |model: &Model, place: Place, call: &Call| {
            if place < call.floor {
                return Err(format!("{call} was served at {place:?}, and {:?} was answered before", call.floor));
            }
            compare(call, &model.read(&call.request))
        };
        for &(place, call) in &self.committed {
            while let Some((at, call)) = reads.next_if(|(at, _)| *at < place) {
                read(&model, at, call)?;
            }
            let call = &self.calls[call];
            if place < call.floor {
                return Err(format!("{call} is at {place:?}, and {:?} was answered before it was made", call.floor));
            }
            let expected = model.write(&call.request);
            compare(call, &expected)?;
        }
        for (at, call) in reads {
            read(&model, at, call)?;
        }
        Ok(model)
    }

    /// The last entry that was noted; 1, which all members begin with, at first.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.last_index.max(1)
    }

    /// What a call asks for.
    #[must_use]
    pub fn request(&self, call: CallId) -> &Request {
        &self.calls[call].request
    }

    pub(crate) fn calls(&self) -> &[Call] {
        &self.calls
    }
}

fn compare(call: &Call, expected: &Answer) -> Result<(), String> {
    match &call.end {
        End::Answered(_, told) if told == expected => Ok(()),
        End::Answered(_, told) => Err(format!("{call} was answered by {told:?}, not by {expected:?}")),
        End::Unknown => Ok(()),
        End::Refused => Err(format!("{call} was refused, and is committed")),
    }
}
