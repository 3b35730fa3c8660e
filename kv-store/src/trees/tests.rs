//! Who owns which block, compared with a model that knows. The test owns every block as well, so that what is released too early is seen by
//! its count, and is still there to be looked at; or it owns none, so that valgrind sees a look at what is not.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::spin_loop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// A key is put, or deleted if it lives.
    Put(u8),
    Delete(u8),
    /// The oldest block of some key is dropped, if it does not live.
    Drop(Index),
    Publish,
    /// A clone of what is published, or of what is not yet, is kept.
    Keep(bool),
    /// One of those goes.
    Forget(Index),
    /// The writer ends, and another goes on from a kept view.
    Install(Index),
    /// The same by way of a stream.
    Load,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..12_u8).prop_map(Step::Put),
        3 => (0..12_u8).prop_map(Step::Delete),
        6 => any::<Index>().prop_map(Step::Drop),
        4 => Just(Step::Publish),
        3 => any::<bool>().prop_map(Step::Keep),
        3 => any::<Index>().prop_map(Step::Forget),
        1 => any::<Index>().prop_map(Step::Install),
        1 => Just(Step::Load),
    ]
}

/// Which blocks live, are deletions, were replaced, and are there at all.
type Shown = [Vec<(Revision, Vec<u8>)>; 4];

fn shown(trees: &Trees) -> Shown {
    let name = |block: &Block| (block.revision(), block.key().to_vec());
    let latest = || trees.live().iter().chain(trees.dead().iter());
    let superseded: Vec<_> = latest().flat_map(|latest| trees.superseded(latest)).map(name).collect();
    assert_eq!(superseded.len(), trees.superseded_len());
    [
        trees.live().iter().map(name).collect(),
        trees.dead().iter().map(name).collect(),
        superseded,
        trees.changes_from(0).map(name).collect(),
    ]
}

/// Whether links lead to each revision of each key that is there, and to no other.
fn check_links(trees: &Trees) {
    let all: Vec<_> = trees.changes_from(0).collect();
    for latest in trees.live().iter().chain(trees.dead().iter()) {
        let of_key: Vec<_> = all.iter().copied().filter(|block| block.key() == latest.key()).collect();
        assert!(trees.superseded(latest).chain([latest]).eq(of_key.iter().copied()), "{of_key:?}");
        let places = of_key.iter().map(|block| block.revision());
        for place in places.flat_map(|at| [at, at.after(), Revision { main: at.main - 1, ..at }]) {
            let wanted = of_key.iter().rev().find(|block| block.revision() <= place).copied();
            assert_eq!(trees.at_or_below(latest, place), wanted, "at {place:?} of {of_key:?}");
        }
    }
}

/// One writer, what it owned, and the clones of its trees.
#[derive(Default)]
struct Line {
    /// How often blocks were made anew, by way of a stream, before it began.
    loads: usize,
    /// The era that is open, or was when the writer ended.
    era: u64,
    /// Whether something was dropped in it.
    has_dropped: bool,
    ended: bool,
    present: BTreeSet<Revision>,
    newest: Revision,
    /// What was dropped, and in which era.
    dropped: BTreeMap<Revision, u64>,
    /// The newest revision at the end of each era that is over.
    over: BTreeMap<u64, Revision>,
    /// In which era each clone that is there was made.
    clones: Vec<u64>,
}

impl Line {
    /// The writer begins with these.
    fn new(loads: usize, present: BTreeSet<Revision>) -> Self {
        Self { loads, newest: present.last().copied().unwrap_or_default(), present, ..Self::default() }
    }

    fn owns(&self, revision: Revision) -> bool {
        let is_left = self.present.contains(&revision) && (!self.ended || !self.clones.is_empty());
        let is_under_way = |era| era == self.era && !self.ended;
        // One that is open has seen all.
        let may_show = |made: u64| self.over.get(&made).is_none_or(|newest| revision <= *newest);
        let is_shown = |era| self.clones.iter().any(|made| *made <= era && may_show(*made));
        is_left || self.dropped.get(&revision).is_some_and(|era| is_under_way(*era) || is_shown(*era))
    }

    fn publish(&mut self) {
        if std::mem::take(&mut self.has_dropped) {
            self.over.insert(self.era, self.newest);
            self.era += 1;
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.over.insert(self.era, self.newest);
    }
}

/// A clone, which line it is of, and what it showed when it was made.
struct Kept {
    trees: Trees,
    line: usize,
    made: u64,
    shown: Shown,
}

/// As a stream brings it.
fn streamed(block: &Block) -> Block {
    if block.is_tombstone() {
        return Block::tombstone(block.revision(), block.key(), None);
    }
    let (create, version) = (block.create_revision(), block.version());
    Block::put(block.revision(), create, version, block.lease(), block.key(), block.value(), None)
}

/// The same, made anew by way of a stream.
fn loaded(trees: &Trees) -> Trees {
    let latest = trees.live().iter().chain(trees.dead().iter());
    let latest: BTreeMap<_, _> = latest.map(|block| (block.key(), block)).collect();
    let mut loading = Loading::default();
    latest.values().for_each(|block| loading.add_latest(streamed(block)));
    let older = latest.values().flat_map(|latest| trees.superseded(latest));
    older.for_each(|block| loading.add_superseded(streamed(block)));
    loading.finish().expect("each revision is there once")
}

#[derive(Default)]
struct Scene {
    writer: Trees,
    lines: Vec<Line>,
    published: Option<Kept>,
    kept: Vec<Kept>,
    loads: usize,
    /// Every block that ever was, if the test owns them: those of before the first load, of before the second, and so on.
    all: Option<BTreeMap<(usize, Revision), Block>>,
    revision: i64,
}

impl Scene {
    fn new(owns: bool) -> Self {
        let mut scene = Self { lines: vec![Line::default()], all: owns.then(BTreeMap::new), ..Self::default() };
        scene.publish();
        scene
    }

    fn line(&mut self) -> &mut Line {
        self.lines.last_mut().expect("there is a writer")
    }

    fn next(&mut self) -> Revision {
        self.revision += 1;
        // Several changes of one command, too.
        Revision { main: self.revision / 3, sub: u32::try_from(self.revision % 3).expect("small") }
    }

    /// Notes a block that the writer is about to own.
    fn note(&mut self, block: &Block) {
        let loads = self.line().loads;
        if let Some(all) = &mut self.all {
            all.insert((loads, block.revision()), block.clone());
        }
        let line = self.line();
        line.present.insert(block.revision());
        line.newest = block.revision();
    }

    /// Clones the writer's trees.
    fn clone(&mut self) -> Kept {
        let (line, made) = (self.lines.len() - 1, self.line().era);
        self.line().clones.push(made);
        Kept { trees: self.writer.clone(), line, made, shown: shown(&self.writer) }
    }

    fn forget(&mut self, kept: Kept) {
        let clones = &mut self.lines[kept.line].clones;
        let at = clones.iter().position(|made| *made == kept.made).expect("it was made");
        clones.swap_remove(at);
        let now = shown(&kept.trees);
        assert_eq!(now, kept.shown, "what a clone shows never changes");
    }

    fn publish(&mut self) {
        self.writer.publish();
        self.line().publish();
        let next = self.clone();
        if let Some(last) = self.published.replace(next) {
            self.forget(last);
        }
    }

    /// `writer` goes on, with blocks that it owns.
    fn install(&mut self, writer: Trees, loads: usize, present: BTreeSet<Revision>) {
        self.line().end();
        self.lines.push(Line::new(loads, present));
        self.writer = writer;
    }

    fn take(&mut self, step: &Step) {
        let key = |key: &u8| format!("{}/{key}", "prefix".repeat(usize::from(*key % 3))).into_bytes();
        match step {
            Step::Put(number) => {
                let (key, revision) = (key(number), self.next());
                let mut made = None;
                self.writer
                    .put(&key, |_, link| made.insert(Block::put(revision, 1, 1, 0, &key, b"value", link)).clone());
                self.note(&made.expect("it was put"));
            }
            Step::Delete(number) => {
                let key = key(number);
                if let Some(live) = self.writer.live().get(&key) {
                    let link = self.writer.link_to(live);
                    let block = Block::tombstone(self.next(), &key, Some(link));
                    self.note(&block);
                    self.writer.delete(block);
                }
            }
            Step::Drop(which) => {
                let writer = &self.writer;
                let lives = |block: &Block| writer.live().get(block.key()).is_some_and(|live| live.is_same(block));
                let gone = |block: &&Block| !lives(block) && writer.before(block).is_none();
                let gone: Vec<_> = writer.changes_from(0).filter(gone).cloned().collect();
                if !gone.is_empty() {
                    let block = which.get(&gone);
                    self.writer.drop_block(block);
                    let line = self.line();
                    line.present.remove(&block.revision());
                    line.dropped.insert(block.revision(), line.era);
                    line.has_dropped = true;
                }
            }
            Step::Publish => self.publish(),
            Step::Keep(unpublished) => {
                let kept = if *unpublished {
                    self.clone()
                } else {
                    let Kept { trees, line, made, shown } = self.published.as_ref().expect("one is published");
                    let kept = Kept { trees: trees.clone(), line: *line, made: *made, shown: shown.clone() };
                    self.lines[kept.line].clones.push(kept.made);
                    kept
                };
                self.kept.push(kept);
            }
            Step::Forget(which) => {
                if !self.kept.is_empty() {
                    let kept = self.kept.swap_remove(which.index(self.kept.len()));
                    self.forget(kept);
                }
            }
            Step::Install(which) => {
                if !self.kept.is_empty() {
                    let kept = &self.kept[which.index(self.kept.len())];
                    let present = kept.trees.changes_from(0).map(Block::revision).collect();
                    let writer = kept.trees.clone().into_writers();
                    let loads = self.lines[kept.line].loads;
                    self.install(writer, loads, present);
                }
            }
            Step::Load => {
                // All of it, or nothing.
                let half = self.writer.latest(b"/0").is_some_and(|block| block.revision().main % 2 == 0);
                let loaded = if half { Trees::default() } else { loaded(&self.writer) };
                self.loads += 1;
                let present: BTreeSet<_> = loaded.changes_from(0).map(Block::revision).collect();
                if let Some(all) = &mut self.all {
                    all.extend(loaded.changes_from(0).map(|block| ((self.loads, block.revision()), block.clone())));
                }
                if !half {
                    assert!(self.writer.changes_from(0).eq(loaded.changes_from(0)));
                }
                // As what is loaded is handed out: a view first, and a writer later.
                self.install(loaded.into_writers(), self.loads, present);
            }
        }
    }

    fn check(&self) {
        check_links(&self.writer);
        for ((loads, revision), block) in self.all.iter().flatten() {
            let owners = self.lines.iter().filter(|line| line.loads == *loads && line.owns(*revision)).count();
            assert_eq!(block.owners(), 1 + owners, "owners of {block:?}");
        }
    }
}

/// Runs `steps`, then lets go of everything.
fn run(steps: &[Step], mut scene: Scene) {
    for step in steps {
        scene.take(step);
        scene.check();
    }
    for kept in &scene.kept {
        assert_eq!(shown(&kept.trees), kept.shown);
    }
    // The store first, or its views first.
    if steps.len().is_multiple_of(2) {
        scene.install(Trees::default(), scene.loads, BTreeSet::new());
        scene.check();
    }
    let last = scene.published.take().expect("one is published");
    scene.forget(last);
    while let Some(kept) = scene.kept.pop() {
        scene.forget(kept);
        scene.check();
    }
    let Scene { writer, all, .. } = scene;
    drop(writer);
    assert!(all.iter().flatten().all(|(_, block)| block.owners() == 1), "all is released");
}

proptest! {
    #[test]
    fn blocks_are_there_as_long_as_somebody_shows_them(steps in prop::collection::vec(step(), 0..250), owns: bool) {
        run(&steps, Scene::new(owns));
    }
}

/// A writer that puts one key, again and again.
#[derive(Default)]
struct Putter {
    trees: Trees,
    last: i64,
}

impl Putter {
    fn put(&mut self) -> Block {
        self.last += 1;
        let (revision, mut made) = (Revision { main: self.last, sub: 0 }, None);
        self.trees.put(b"k", |_, link| made.insert(Block::put(revision, 1, 1, 0, b"k", b"", link)).clone());
        made.expect("it was put")
    }

    /// Puts, drops what was there, and publishes.
    fn replace(&mut self, last: &Block) -> Block {
        let next = self.put();
        self.trees.drop_block(last);
        self.trees.publish();
        next
    }
}

#[test]
fn a_view_that_is_held_keeps_what_it_shows_and_nothing_later() {
    let mut writer = Putter::default();
    let first = writer.put();
    let held = writer.trees.clone();
    // Put before the era of the view was over.
    let second = writer.replace(&first);
    let mut last = writer.replace(&second);
    for _ in 0..1_000 {
        let next = writer.replace(&last);
        assert_eq!(last.owners(), 1, "nobody shows it");
        last = next;
    }
    assert_eq!((first.owners(), second.owners()), (2, 2), "the view's era may show them");
    drop(held);
    assert_eq!((first.owners(), second.owners(), last.owners()), (1, 1, 2));
}

#[test]
fn views_that_go_from_the_last_to_the_first_hand_on_what_those_before_show() {
    let mut writer = Putter::default();
    let (mut last, mut held) = (writer.put(), Vec::new());
    for _ in 0..10 {
        held.push((last.clone(), writer.trees.clone()));
        last = writer.replace(&last);
        last = writer.replace(&last);
    }
    // Each view shows a block of its own, and all are in different eras.
    while let Some((shown, view)) = held.pop() {
        assert_eq!(shown.owners(), 2);
        drop(view);
        assert_eq!(shown.owners(), 1, "{shown:?}");
    }
}

/// The first view goes on showing the block that every later one showed as well.
#[test]
fn the_first_of_many_views_is_the_last_to_go() {
    let mut writer = Putter::default();
    let one = |main, key: &[u8]| Block::put(Revision { main, sub: 0 }, 1, 1, 0, key, b"", None);
    let (shown, other) = (one(1, b"shown"), one(1_000_001, b"other"));
    writer.trees.put(b"shown", |_, _| shown.clone());
    writer.last = 1;
    let mut held = Vec::new();
    let mut last = writer.put();
    for _ in 0..10 {
        held.push(writer.trees.clone());
        last = writer.replace(&last);
    }
    writer
        .trees
        .put(b"shown", |_, link| Block::put(Revision { main: 1_000_000, sub: 0 }, 1, 2, 0, b"shown", b"", link));
    writer.trees.drop_block(&shown);
    writer.trees.put(b"other", |_, _| other.clone());
    writer.trees.publish();
    while held.len() > 1 {
        held.pop();
        assert_eq!(shown.owners(), 2);
    }
    held.pop();
    assert_eq!((shown.owners(), other.owners()), (1, 2));
}

/// Two threads let go of neighbouring eras, as views do, at once, so that one may end while it is being given to.
#[test]
#[allow(clippy::disallowed_methods)] // Real threads are what is tested.
fn eras_that_end_at_once_leave_nothing_behind() {
    let mut writer = Putter::default();
    let mut all = vec![writer.put()];
    let waiting = &AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let views = || {
            let (to, from) = sync_channel::<Arc<Era>>(10);
            scope.spawn(move || {
                for (round, era) in from.into_iter().enumerate() {
                    waiting.fetch_add(1, Ordering::SeqCst);
                    // At once, to some nanoseconds: a thread that sleeps wakes too late.
                    while waiting.load(Ordering::SeqCst) < 2 * (round + 1) {
                        spin_loop();
                    }
                    drop(era);
                }
            });
            to
        };
        let threads = [views(), views()];
        for _ in 0..300 {
            let first = all.len() - 1;
            (0..1_000).for_each(|_| all.push(writer.put()));
            let [next, rest @ .., _] = &all[first..] else { panic!("more than two were put") };
            let earlier = Arc::clone(&writer.trees.era);
            writer.trees.drop_block(next);
            writer.trees.publish();
            // This one is about to own what the earlier one may show as well.
            let later = Arc::clone(&writer.trees.era);
            rest.iter().for_each(|block| writer.trees.drop_block(block));
            writer.trees.publish();
            for (thread, era) in threads.iter().zip([earlier, later]) {
                thread.send(era).expect("its thread waits for it");
            }
        }
    });
    drop(writer);
    let left = all.iter().filter(|block| block.owners() > 1).count();
    assert_eq!(left, 0, "of {} blocks", all.len());
}

/// As a whole history is dropped: that of a store that got a snapshot.
#[test]
fn the_last_view_takes_all_with_it() {
    let mut writer = Trees::default();
    let mut all = Vec::new();
    for main in 1..=10_000 {
        let block = Block::put(Revision { main, sub: 0 }, 1, 1, 0, &main.to_be_bytes(), b"", None);
        all.push(block.clone());
        writer.put(block.key(), |_, _| block.clone());
    }
    let view = writer.clone();
    drop(writer);
    assert!(all.iter().all(|block| block.owners() == 2));
    assert!(view.live().iter().eq(all.iter()));
    drop(view);
    assert!(all.iter().all(|block| block.owners() == 1));
}

/// One key is put, its oldest revisions are dropped, and all is loaded anew, as often as `steps` say.
fn check_one_key(steps: &[(u8, Index)]) {
    let mut writer = Putter::default();
    for (kind, which) in steps {
        match kind {
            0..6 => (0..which.index(12)).for_each(|_| drop(writer.put())),
            6..9 => {
                let superseded = writer.trees.superseded_len();
                let dropped = which.index(superseded + 1);
                let oldest: Vec<_> = writer.trees.changes_from(0).take(dropped).cloned().collect();
                oldest.iter().for_each(|block| writer.trees.drop_block(block));
            }
            _ => {
                let loaded = loaded(&writer.trees);
                assert!(loaded.changes_from(0).eq(writer.trees.changes_from(0)));
                writer.trees = loaded;
            }
        }
        check_links(&writer.trees);
        check_way(&writer.trees, 1);
    }
}

proptest! {
    #[test]
    fn links_lead_to_each_revision_that_is_left(steps in prop::collection::vec((0..10_u8, any::<Index>()), 1..30)) {
        check_one_key(&steps);
    }
}

/// Whether no revision of the one key is many steps away.
fn check_way(trees: &Trees, one_in: usize) {
    let Some(latest) = trees.live().get(b"k") else { return };
    // From marker to marker two steps, at most three times for each doubling of how many there were; the rest at both ends.
    let last = u32::try_from(latest.revision().main).expect("few were put");
    let most = 6 * usize::try_from(last.ilog2() + 1).expect("at most 32") + 4;
    for block in trees.changes_from(0).step_by(one_in) {
        let steps = trees.way(latest, block.revision()).count();
        assert!(steps <= most, "{steps} steps from {latest:?} to {block:?}, not {most}");
    }
}

/// As a store is compacted all the time, and now and then begins with a snapshot.
#[test]
fn few_steps_lead_to_what_is_left_of_a_long_history() {
    const KEPT: usize = 5_000;
    let mut writer = Putter::default();
    for round in 1..=40 {
        (0..1_000).for_each(|_| drop(writer.put()));
        let over = writer.trees.history_len().saturating_sub(KEPT);
        let oldest: Vec<_> = writer.trees.changes_from(0).take(over).cloned().collect();
        oldest.iter().for_each(|block| writer.trees.drop_block(block));
        if round % 13 == 0 {
            writer.trees = loaded(&writer.trees);
        }
        check_way(&writer.trees, 7);
    }
    assert_eq!(writer.trees.history_len(), KEPT);
}

#[test]
fn what_a_key_was_is_found_in_few_steps() {
    let mut writer = Putter::default();
    (0..100_000).for_each(|_| drop(writer.put()));
    check_way(&writer.trees, 97);
    let latest = writer.trees.live().get(b"k").expect("it was put");
    for main in (1..=100_000).step_by(97) {
        let at = Revision { main, sub: 0 };
        assert_eq!(writer.trees.at_or_below(latest, at).map(Block::revision), Some(at));
    }
    assert!(writer.trees.at_or_below(latest, Revision::default()).is_none());
}
