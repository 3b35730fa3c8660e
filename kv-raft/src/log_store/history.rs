//! What a sequence of records adds up to, and which of its entries were replaced later.

use kv_codec::record::frame::LogState;
use kv_codec::record::{Record, SnapshotMark};

/// Where a record stands: its batch's ordinal, and its place in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) ordinal: u64,
    pub(crate) nth: usize,
}

/// At `place`, entries from `from` on that stand before it became void.
#[derive(Debug, Clone, Copy)]
struct Void {
    place: Place,
    from: u64,
}

/// The records so far.
///
/// * Live entries are `first..=state.last_index`, without holes; there are none when `first` is above.
/// * `voids` is in the order of places.
#[derive(Debug, Clone)]
pub(crate) struct History {
    pub(crate) state: LogState,
    /// The first entry that can be replayed.
    pub(crate) first: u64,
    /// Payload bytes of the entries since the last snapshot mark.
    pub(crate) bytes_since_snapshot: u64,
    voids: Vec<Void>,
}

impl History {
    /// Records before the first one add up to `state`, and are gone.
    pub(crate) fn after(state: LogState) -> Self {
        Self { state, first: state.last_index + 1, bytes_since_snapshot: 0, voids: Vec::new() }
    }

    /// Adds a record. `Ok(true)` when it makes all entries before it void.
    ///
    /// # Errors
    /// A sentence, for an entry that cannot follow what is there.
    pub(crate) fn add(&mut self, place: Place, record: &Record) -> Result<bool, String> {
        match record {
            Record::HardState(hard_state) => self.state.hard_state = *hard_state,
            Record::Snapshot(mark) => return Ok(self.add_mark(place, *mark)),
            Record::Entry(entry) => {
                let last = self.state.last_index;
                let base = self.state.snapshot.map_or(0, |mark| mark.index);
                if entry.index <= base {
                    return Err(format!("entry {} replaces one that the snapshot at {base} contains", entry.index));
                }
                if entry.index - 1 > last {
                    return Err(format!("entry {} does not follow entry {last}", entry.index));
                }
                if entry.index <= last {
                    self.voids.push(Void { place, from: entry.index });
                    self.first = self.first.min(entry.index);
                }
                self.state.last_index = entry.index;
                self.bytes_since_snapshot += entry.payload.len() as u64;
            }
        }
        Ok(false)
    }

    fn add_mark(&mut self, place: Place, mark: SnapshotMark) -> bool {
        self.state.snapshot = Some(mark);
        self.bytes_since_snapshot = 0;
        // A mark above the last entry leaves a hole below it, whoever took the snapshot.
        let voids_all = mark.installed || mark.index > self.state.last_index;
        if voids_all {
            self.voids.push(Void { place, from: 0 });
            self.first = mark.index.saturating_add(1);
            self.state.last_index = mark.index;
        }
        voids_all
    }

    /// Entries up to `index`, and all batches before `ordinal`, are gone.
    pub(crate) fn release(&mut self, index: u64, ordinal: u64) {
        self.first = self.first.max(index + 1);
        self.voids.retain(|void| void.place.ordinal >= ordinal);
    }

    /// Tells live entries from void ones, in one pass from the front.
    pub(crate) fn sieve(&self) -> Sieve {
        let mut voids = self.voids.clone();
        // From here on `from` is the lowest of this void and all later ones.
        let mut lowest = u64::MAX;
        for void in voids.iter_mut().rev() {
            lowest = lowest.min(void.from);
            void.from = lowest;
        }
        Sieve { voids, at: 0 }
    }
}

/// See [`History::sieve`].
#[derive(Debug)]
pub(crate) struct Sieve {
    voids: Vec<Void>,
    at: usize,
}

impl Sieve {
    /// Whether the entry at `place` was never replaced. Places must rise from call to call.
    pub(crate) fn is_live(&mut self, place: Place, index: u64) -> bool {
        while self.voids.get(self.at).is_some_and(|void| void.place <= place) {
            self.at += 1;
        }
        self.voids.get(self.at).is_none_or(|void| index < void.from)
    }
}
