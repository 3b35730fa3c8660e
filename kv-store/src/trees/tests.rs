//! Who owns which block, compared with a model that knows. The test owns every block as well: so what is released too early is seen by
//! its count, and is still there to be looked at.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// A key is put, or deleted if it lives.
    Put(u8),
    Delete(u8),
    /// Some block that does not live is dropped.
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

/// Which blocks each tree shows.
type Shown = [Vec<(Revision, Vec<u8>)>; 4];

fn shown(trees: &Trees) -> Shown {
    let name = |block: &Block| (block.revision(), block.key().to_vec());
    [
        trees.live().iter().map(name).collect(),
        trees.dead().iter().map(name).collect(),
        trees.superseded().map(name).collect(),
        trees.changes_from(0).map(name).collect(),
    ]
}

/// One writer, what it owned, and the clones of its trees.
#[derive(Default)]
struct Line {
    /// States that were published: the passage that is under way.
    passage: u64,
    ended: bool,
    present: BTreeSet<Revision>,
    retired: BTreeMap<Revision, u64>,
    /// In which passage each clone that is there was made.
    clones: Vec<u64>,
}

impl Line {
    fn owns(&self, revision: Revision) -> bool {
        let is_left = self.present.contains(&revision) && (!self.ended || !self.clones.is_empty());
        // What is retired is not looked through before the passage ends.
        let is_under_way = |passage: &u64| *passage == self.passage && !self.ended;
        let is_retired = |passage: &u64| is_under_way(passage) || self.clones.iter().any(|made| made <= passage);
        is_left || self.retired.get(&revision).is_some_and(is_retired)
    }
}

/// A clone, which line it is of, and what it showed when it was made.
struct Kept {
    trees: Trees,
    line: usize,
    made: u64,
    shown: Shown,
}

#[derive(Default)]
struct Scene {
    writer: Trees,
    lines: Vec<Line>,
    published: Option<Kept>,
    kept: Vec<Kept>,
    /// Every block that ever was.
    all: BTreeMap<Revision, Block>,
    revision: i64,
}

impl Scene {
    fn new() -> Self {
        let mut scene = Self { lines: vec![Line::default()], ..Self::default() };
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

    /// Clones the writer's trees.
    fn clone(&mut self) -> Kept {
        let (line, made) = (self.lines.len() - 1, self.line().passage);
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
        self.line().passage += 1;
        let next = self.clone();
        if let Some(last) = self.published.replace(next) {
            self.forget(last);
        }
    }

    /// `writer` goes on, with blocks that it owns.
    fn install(&mut self, writer: Trees, present: BTreeSet<Revision>) {
        self.line().ended = true;
        self.lines.push(Line { present, ..Line::default() });
        self.writer = writer;
    }

    fn take(&mut self, step: &Step) {
        let key = |key: &u8| format!("{}/{key}", "prefix".repeat(usize::from(*key % 3))).into_bytes();
        match step {
            Step::Put(number) => {
                let (key, revision) = (key(number), self.next());
                let block = Block::put(revision, 1, 1, 0, &key, b"value");
                self.all.insert(revision, block.clone());
                self.line().present.insert(revision);
                self.writer.put(&key, |_| block);
            }
            Step::Delete(number) => {
                let key = key(number);
                if self.writer.live().get(&key).is_some() {
                    let revision = self.next();
                    let block = Block::tombstone(revision, &key);
                    self.all.insert(revision, block.clone());
                    self.line().present.insert(revision);
                    self.writer.delete(block);
                }
            }
            Step::Drop(which) => {
                let gone: Vec<_> = self.writer.dead().iter().chain(self.writer.superseded()).cloned().collect();
                if !gone.is_empty() {
                    let block = which.get(&gone);
                    self.writer.drop_block(block);
                    let passage = self.line().passage;
                    self.line().present.remove(&block.revision());
                    self.line().retired.insert(block.revision(), passage);
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
                    self.install(writer, present);
                }
            }
            Step::Load => {
                let mut loading = Loading::default();
                let latest = self.writer.live().iter().chain(self.writer.dead().iter());
                let latest: BTreeMap<_, _> = latest.map(|block| (block.key(), block)).collect();
                latest.values().for_each(|block| loading.add_latest((*block).clone()));
                self.writer.superseded().for_each(|block| loading.add_superseded(block.clone()));
                let present = self.writer.changes_from(0).map(Block::revision).collect();
                let half = loading.latest(b"/0").is_some_and(|block| block.revision().main % 2 == 0);
                let loading = if half { Loading::default() } else { loading };
                let loaded = loading.finish().expect("each revision is there once");
                let present = if half { BTreeSet::new() } else { present };
                // As what is loaded is handed out: a view first, and a writer later.
                self.install(loaded.into_writers(), present);
            }
        }
    }

    fn check(&self) {
        for (revision, block) in &self.all {
            let owners = self.lines.iter().filter(|line| line.owns(*revision)).count();
            assert_eq!(block.owners(), 1 + owners, "owners of {block:?}");
        }
    }
}

proptest! {
    #[test]
    fn blocks_are_there_as_long_as_somebody_shows_them(steps in prop::collection::vec(step(), 0..250)) {
        let mut scene = Scene::new();
        for step in &steps {
            scene.take(step);
            scene.check();
        }
        for kept in &scene.kept {
            prop_assert_eq!(&shown(&kept.trees), &kept.shown);
        }
        // The store first, or its views first.
        if steps.len() % 2 == 0 {
            scene.install(Trees::default(), BTreeSet::new());
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
        prop_assert!(all.values().all(|block| block.owners() == 1), "all is released");
    }
}

/// A view that is held for long holds all eras since. They go one after the other, not each within the one before.
#[test]
fn a_long_line_of_eras_needs_no_stack() {
    let mut writer = Trees::default();
    writer.publish();
    let held = writer.clone();
    let mut main = 0;
    let mut put = |writer: &mut Trees| {
        main += 1;
        let block = Block::put(Revision { main, sub: 0 }, 1, 1, 0, b"k", b"");
        writer.put(b"k", |_| block.clone());
        block
    };
    let first = put(&mut writer);
    let mut last = first.clone();
    for _ in 0..200_000 {
        let next = put(&mut writer);
        writer.drop_block(&last);
        writer.publish();
        last = next;
    }
    assert_eq!(first.owners(), 2, "the era of the first view has it");
    let told = format!("{held:?}");
    assert!(told.contains("passed") && told.len() < 1_000, "{told}");
    drop(held);
    assert_eq!((first.owners(), last.owners()), (1, 2));
    drop(writer);
    assert_eq!(last.owners(), 1);
}

/// As a whole history is dropped: that of a store that got a snapshot.
#[test]
fn the_last_view_takes_all_with_it() {
    let mut writer = Trees::default();
    let mut all = Vec::new();
    for main in 1..=10_000 {
        let block = Block::put(Revision { main, sub: 0 }, 1, 1, 0, &main.to_be_bytes(), b"");
        all.push(block.clone());
        writer.put(block.key(), |_| block.clone());
    }
    let view = writer.clone();
    drop(writer);
    assert!(all.iter().all(|block| block.owners() == 2));
    assert!(view.live().iter().eq(all.iter()));
    drop(view);
    assert!(all.iter().all(|block| block.owners() == 1));
}
