//! Reading a range of keys: the order of steps is etcd's, to the letter.

use crate::{Block, KeyRange, ReadError, View};

/// At an earlier revision, so many keys behind a limit are counted by walking on: that costs less than to look the count up.
const COUNTED_KEYS: usize = 64;

/// By what a range is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortTarget {
    /// The key.
    #[default]
    Key,
    /// The version.
    Version,
    /// The create revision.
    Create,
    /// The mod revision.
    Mod,
    /// The value, by its bytes.
    Value,
}

/// In which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortOrder {
    /// Key order for the key, ascending for any other target.
    #[default]
    None,
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// What to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeQuery<'a> {
    /// Which keys.
    pub range: KeyRange<'a>,
    /// How many at most; 0 or less for all.
    pub limit: i64,
    /// At which revision; 0 or less for the current one.
    pub revision: i64,
    /// The sort order.
    pub order: SortOrder,
    /// What to sort by.
    pub target: SortTarget,
    /// Count only, return no keys.
    pub count_only: bool,
    /// Leave out keys with a smaller mod revision; 0 for off.
    pub min_mod_revision: i64,
    /// Leave out keys with a larger mod revision; 0 for off.
    pub max_mod_revision: i64,
    /// Leave out keys with a smaller create revision; 0 for off.
    pub min_create_revision: i64,
    /// Leave out keys with a larger create revision; 0 for off.
    pub max_create_revision: i64,
}

impl<'a> RangeQuery<'a> {
    /// All of `range`, now, in key order.
    #[must_use]
    pub fn new(range: KeyRange<'a>) -> Self {
        Self {
            range,
            limit: 0,
            revision: 0,
            order: SortOrder::None,
            target: SortTarget::Key,
            count_only: false,
            min_mod_revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
        }
    }

    /// One key, now.
    #[must_use]
    pub fn single(key: &'a [u8]) -> Self {
        Self::new(KeyRange::Single(key))
    }

    fn filters(&self) -> bool {
        self.min_mod_revision != 0
            || self.max_mod_revision != 0
            || self.min_create_revision != 0
            || self.max_create_revision != 0
    }

    fn keeps(&self, block: &Block) -> bool {
        let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
        within(block.mod_revision(), self.min_mod_revision, self.max_mod_revision)
            && within(block.create_revision(), self.min_create_revision, self.max_create_revision)
    }

    /// Whether the answer is a stretch of the keys in their own order.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.target == SortTarget::Key && self.order != SortOrder::Descend && !self.filters()
    }

    /// The limit as a length; `usize::MAX` for none.
    fn limit(&self) -> usize {
        if self.limit <= 0 { usize::MAX } else { usize::try_from(self.limit).unwrap_or(usize::MAX) }
    }
}

/// What a range holds. The blocks are the view's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranged<'v> {
    /// The pairs, in the order asked for.
    pub kvs: Vec<&'v Block>,
    /// How many keys the range has at that revision, whatever limit and filters say.
    pub count: u64,
    /// Whether the limit left some out.
    pub more: bool,
}

impl View {
    /// Reads a range: in key order, drop by revision, sort, cut at the limit.
    ///
    /// In key order and without filters it visits as many keys as it returns, and counts the others by [`View::count`]; otherwise it
    /// visits all keys of the range. The ones before it cost a logarithm.
    ///
    /// # Errors
    /// [`ReadError`] for a revision that is gone or not yet there.
    pub fn range(&self, query: &RangeQuery<'_>) -> Result<Ranged<'_>, ReadError> {
        let revision = self.readable(query.revision)?;
        if let KeyRange::Single(key) = query.range
            && revision == self.revision
            && !query.filters()
        {
            return Ok(single(self.get(key), query.count_only));
        }
        if query.count_only {
            return Ok(Ranged { kvs: Vec::new(), count: self.count(&query.range, revision), more: false });
        }
        let mut found = self.walk(&query.range, revision, None);
        if query.is_plain() {
            let kvs: Vec<_> = found.by_ref().take(query.limit()).collect();
            let next = found.left().unwrap_or_else(|| found.by_ref().take(COUNTED_KEYS).count());
            let is_whole = revision == self.revision || next < COUNTED_KEYS;
            let count = if is_whole { (kvs.len() + next) as u64 } else { self.count(&query.range, revision) };
            return Ok(Ranged { count, more: next > 0, kvs });
        }
        let mut count = 0;
        let mut kvs: Vec<_> = found.inspect(|_| count += 1).filter(|block| query.keeps(block)).collect();
        sort(&mut kvs, query.target, query.order);
        let more = kvs.len() > query.limit();
        kvs.truncate(query.limit());
        Ok(Ranged { kvs, count, more })
    }
}

fn single(block: Option<&Block>, count_only: bool) -> Ranged<'_> {
    let count = u64::from(block.is_some());
    let kvs = if count_only { Vec::new() } else { block.into_iter().collect() };
    Ranged { kvs, count, more: false }
}

/// Stable, so that equal elements keep key order, whatever the direction.
fn sort(kvs: &mut [&Block], target: SortTarget, order: SortOrder) {
    let compare = match target {
        SortTarget::Key => |a: &Block, b: &Block| a.key().cmp(b.key()),
        SortTarget::Version => |a: &Block, b: &Block| a.version().cmp(&b.version()),
        SortTarget::Create => |a: &Block, b: &Block| a.create_revision().cmp(&b.create_revision()),
        SortTarget::Mod => |a: &Block, b: &Block| a.mod_revision().cmp(&b.mod_revision()),
        SortTarget::Value => |a: &Block, b: &Block| a.value().cmp(b.value()),
    };
    match order {
        // Reversing the result would turn equal elements round as well.
        SortOrder::Descend => kvs.sort_by(|a, b| compare(b, a)),
        SortOrder::None | SortOrder::Ascend => kvs.sort_by(|a, b| compare(a, b)),
    }
}
