//! How many nodes a server holds: doubling until it does not, then bisecting, then a second look at what was too many.

/// Where the answer is: at least `held`, fewer than `missed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Search {
    /// The most that was held; 0 while nothing was.
    pub(super) held: u32,
    missed: Option<u32>,
    /// `missed` was missed again, once all below it was known.
    is_sure: bool,
    first: u32,
    max: u32,
}

impl Search {
    /// Begins at `first` and ends at `max`.
    pub(super) fn new(first: u32, max: u32) -> Self {
        Self { held: 0, missed: None, is_sure: false, first, max }
    }

    /// What to try next. Once the two are within a tenth of each other it is `missed` again: a slow spell of the machine while that was
    /// tried would be the answer otherwise. Nothing once that is sure.
    pub(super) fn next(&self) -> Option<u32> {
        let next = match self.missed {
            None if self.held == 0 => self.first,
            None => self.held.saturating_mul(2).min(self.max),
            Some(missed) if missed - self.held <= (missed / 10).max(1) => return (!self.is_sure).then_some(missed),
            Some(missed) => self.held.midpoint(missed),
        };
        (next > self.held).then_some(next)
    }

    /// Whether `nodes` were held.
    pub(super) fn tell(&mut self, nodes: u32, held: bool) {
        if held {
            self.held = nodes;
            self.missed = self.missed.filter(|missed| *missed > nodes);
        } else {
            self.is_sure = self.missed == Some(nodes);
            self.missed = Some(nodes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(limit: u32, max: u32) -> (Vec<u32>, u32) {
        let (mut search, mut tried) = (Search::new(8, max), Vec::new());
        while let Some(nodes) = search.next() {
            tried.push(nodes);
            search.tell(nodes, nodes <= limit);
        }
        (tried, search.held)
    }

    #[test]
    fn it_doubles_and_then_bisects() {
        assert_eq!(tried(50, 1_000), (vec![8, 16, 32, 64, 48, 56, 52, 52], 48));
        assert_eq!(tried(8, 1_000), (vec![8, 16, 12, 10, 9, 9], 8));
        assert_eq!(tried(5, 1_000), (vec![8, 4, 6, 5, 6], 5), "it goes below where it began");
        assert_eq!(tried(0, 1_000), (vec![8, 4, 2, 1, 1], 0));
        assert_eq!(tried(2_000, 40), (vec![8, 16, 32, 40], 40), "and not above the most");
    }

    /// A step that was missed by a hiccup does not stay the answer.
    #[test]
    fn what_was_missed_once_is_tried_again() {
        let (mut search, mut tried) = (Search::new(8, 1_000), Vec::new());
        while let Some(nodes) = search.next() {
            let is_hiccup = nodes == 32 && !tried.contains(&32);
            tried.push(nodes);
            search.tell(nodes, nodes <= 60 && !is_hiccup);
        }
        assert_eq!(tried, [8, 16, 32, 24, 28, 30, 32, 64, 48, 56, 60, 64]);
        assert_eq!(search.held, 60);
    }
}
