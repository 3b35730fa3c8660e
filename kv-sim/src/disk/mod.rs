//! A disk that forgets: what was not synced may be lost when the power goes, sector by sector and name by name.
//!
//! # The model
//! Every file has two contents, every directory two lists of names: *cached*, what programs see, and *durable*, what is on the
//! platter. Writes change the cached side; each sector of 512 bytes that a write touches is queued as it then looked. A sync takes
//! a file's queue to the platter, a directory's sync its names.
//! * [`SimDisk::crash`]: the process dies, the machine does not. The cached side stays, unsynced or not.
//! * [`SimDisk::power_loss`]: the cached side becomes the durable one plus any part of the queues: for each sector any of the
//!   versions it went through, for each change of a name whether it arrived. Bytes that a file's length covers and that never
//!   arrived are zero. [`SimDisk::power_loss_by_pages`] and [`SimDisk::power_loss_by_words`] are coarser and finer than sectors.
//! * A failed sync drops the file's queue: cached and durable now differ, and no later sync repairs that. Real page caches do so.
//!
//! # Determinism
//! The same calls in the same order give the same contents; the only randomness, that of segment tags, comes from the seed.
//! Every changing call can be recorded as an [`Op`] and applied to another disk, so that a test can stop at each of them.

mod content;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

use fastrand::Rng;
use kv_raft::{Disk, DiskFile};

use content::{Content, Dir, NameChange, Node};

/// What the platter takes or does not take as a whole.
pub const SECTOR_BYTES: usize = 512;

const EIO: i32 = 5;

/// A change of the disk. Files are named by the number of their creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A new file under this path.
    Create(String),
    /// A write.
    Write {
        /// The file.
        file: usize,
        /// Where.
        offset: usize,
        /// What.
        bytes: Vec<u8>,
    },
    /// A file's sync.
    Sync(usize),
    /// A new name for a file.
    Rename(String, String),
    /// A file's end.
    Remove(String),
    /// A new directory.
    MakeDir(String),
    /// A directory's sync.
    SyncDir(String),
}

/// A simulated disk. Clones are the same disk, as seen by the same process; a crash ends all of them.
#[derive(Debug, Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    /// The process that this handle belongs to.
    life: u64,
}

#[derive(Debug, Clone)]
struct State {
    tags: Rng,
    /// By number of creation; never reused.
    files: Vec<Content>,
    /// By path; the root is the empty one.
    dirs: BTreeMap<String, Dir>,
    life: u64,
    calls: u64,
    fail_at: Option<u64>,
    stop_at: Option<u64>,
    space: Option<usize>,
    /// Bytes of all files as programs see them.
    used: usize,
    recorded: Option<Vec<Op>>,
}

impl SimDisk {
    /// An empty disk whose tags depend on `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            tags: Rng::with_seed(seed),
            files: Vec::new(),
            dirs: BTreeMap::from([(String::new(), Dir::default())]),
            life: 0,
            calls: 0,
            fail_at: None,
            stop_at: None,
            space: None,
            used: 0,
            recorded: None,
        };
        Self { state: Arc::new(Mutex::new(state)), life: 0 }
    }

    /// Another disk with the same content, cached and durable, for the same process. Nothing is recorded or fails there.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = State { recorded: None, fail_at: None, stop_at: None, ..self.lock().clone() };
        Self { state: Arc::new(Mutex::new(state)), life: self.life }
    }

    /// The process dies; the page cache stays. What the next process sees; all older handles fail.
    #[must_use]
    pub fn crash(&self) -> Self {
        let mut state = self.lock();
        state.life += 1;
        state.stop_at = None;
        Self { state: Arc::clone(&self.state), life: state.life }
    }

    /// The power goes. Asks `keep` about every unsynced version of every sector and every unsynced change of a name; the last
    /// version kept is what the sector holds. What the next process sees; all older handles fail.
    #[must_use]
    pub fn power_loss(&self, mut keep: impl FnMut() -> bool) -> Self {
        {
            let mut state = self.lock();
            state.files.iter_mut().for_each(|file| file.power_loss(&mut keep));
            state.after_power_loss(&mut keep);
        }
        self.crash()
    }

    /// As [`SimDisk::power_loss`], on a platter that takes pages of 4 KiB as a whole and in the order of their writes.
    #[must_use]
    pub fn power_loss_by_pages(&self, rng: &mut Rng) -> Self {
        {
            let mut state = self.lock();
            state.files.iter_mut().for_each(|file| file.power_loss_by_pages(rng));
            state.after_power_loss(&mut || rng.bool());
        }
        self.crash()
    }

    /// As [`SimDisk::power_loss`], at the worst moment: where a page was written to that held something unsynced, it was being
    /// written out meanwhile, and the platter has some words of a sector from before and the others from after.
    #[must_use]
    pub fn power_loss_by_words(&self, rng: &mut Rng) -> Self {
        {
            let mut state = self.lock();
            state.files.iter_mut().for_each(|file| file.power_loss_by_words(rng));
            state.after_power_loss(&mut || rng.bool());
        }
        self.crash()
    }

    /// How many questions [`SimDisk::power_loss`] would ask.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        let state = self.lock();
        let names: usize = state.dirs.values().map(|dir| dir.queue.len()).sum();
        state.files.iter().map(Content::unsynced).sum::<usize>() + names
    }

    /// Bytes of all files, as programs see them.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.lock().used
    }

    /// Starts recording; see [`SimDisk::recorded`].
    pub fn record(&self) {
        self.lock().recorded = Some(Vec::new());
    }

    /// How many changes were recorded.
    #[must_use]
    pub fn recorded_len(&self) -> usize {
        self.lock().recorded.as_ref().map_or(0, Vec::len)
    }

    /// What was recorded since [`SimDisk::record`].
    #[must_use]
    pub fn recorded(&self) -> Vec<Op> {
        self.lock().recorded.clone().unwrap_or_default()
    }

    /// Does what another disk of the same history recorded.
    ///
    /// # Panics
    /// When the operation cannot be done here.
    pub fn apply(&self, op: &Op) {
        let mut state = self.lock();
        let done = state.apply(op);
        assert!(done.is_ok(), "cannot apply {op:?}: {done:?}");
    }

    /// How many calls there were, reading ones included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Lets the call with this number (from 0, see [`SimDisk::calls`]) fail with EIO.
    pub fn fail_at(&self, call: u64) {
        self.lock().fail_at = Some(call);
    }

    /// Lets the process end at the call with this number: it and all later ones do nothing. What was written and not synced before
    /// stays for [`SimDisk::crash`] or [`SimDisk::power_loss`] to decide about.
    pub fn stop_at(&self, call: u64) {
        self.lock().stop_at = Some(call);
    }

    /// Lets files take so many bytes together; more is [`ErrorKind::StorageFull`].
    pub fn set_space(&self, bytes: Option<usize>) {
        self.lock().space = bytes;
    }

    /// A file's content as programs see it.
    #[must_use]
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        let file = state.file(path).ok()?;
        Some(state.files[file].cached.clone())
    }

    /// Changes a file behind everyone's back, on the platter as well: what damage or another program does. Made when absent.
    ///
    /// # Panics
    /// When the directory is not there.
    pub fn damage(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        let file = match state.file(path) {
            Ok(file) => file,
            Err(_) => {
                state.files.push(Content::default());
                let file = state.files.len() - 1;
                let (dir, name) = split(path);
                let dir = state.dirs.get_mut(dir).expect("the directory is there");
                dir.cached.insert(name.to_owned(), Node::File(file));
                dir.durable.insert(name.to_owned(), Node::File(file));
                file
            }
        };
        let content = &mut state.files[file];
        let before = content.cached.len();
        change(&mut content.cached);
        content.durable.clone_from(&content.cached);
        content.queue.clear();
        let after = content.cached.len();
        state.used = state.used + after - before;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the disk")
    }

    /// Begins a call: is this process alive, and does the call fail?
    fn call(&self) -> io::Result<(MutexGuard<'_, State>, bool)> {
        let mut state = self.lock();
        if state.life != self.life {
            return Err(io::Error::other("the process that held this disk is dead"));
        }
        state.calls += 1;
        if state.stop_at.is_some_and(|call| state.calls > call) {
            return Err(io::Error::other("the process that held this disk has stopped"));
        }
        let fails = state.fail_at == Some(state.calls - 1);
        Ok((state, fails))
    }

    fn change(&self, op: Op) -> io::Result<()> {
        let (mut state, fails) = self.call()?;
        if fails {
            if let Op::Sync(file) = op {
                state.files[file].queue.clear();
            }
            return Err(io::Error::from_raw_os_error(EIO));
        }
        state.apply(&op)?;
        if let Some(recorded) = &mut state.recorded {
            recorded.push(op);
        }
        Ok(())
    }

    fn look<T>(&self, read: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let (mut state, fails) = self.call()?;
        if fails { Err(io::Error::from_raw_os_error(EIO)) } else { read(&mut state) }
    }

    fn handle(&self, path: &str) -> io::Result<SimFile> {
        let file = self.look(|state| state.file(path))?;
        Ok(SimFile { disk: self.clone(), file })
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl State {
    fn dir(&mut self, path: &str) -> io::Result<&mut Dir> {
        self.dirs.get_mut(path).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn node(&self, path: &str) -> Option<Node> {
        let (dir, name) = split(path);
        self.dirs.get(dir)?.cached.get(name).copied()
    }

    fn file(&self, path: &str) -> io::Result<usize> {
        match self.node(path) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    /// Names after a power loss; contents had theirs.
    fn after_power_loss(&mut self, keep: &mut impl FnMut() -> bool) {
        self.dirs.values_mut().for_each(|dir| dir.power_loss(keep));
        // A directory whose own name was lost is gone with all in it.
        let lost = |path: &String| !path.is_empty() && !self.dirs[""].cached.contains_key(path);
        let lost: Vec<_> = self.dirs.keys().filter(|path| lost(path)).cloned().collect();
        for path in lost {
            self.dirs.remove(&path);
        }
        self.used = self.files.iter().map(|file| file.cached.len()).sum();
    }

    fn apply(&mut self, op: &Op) -> io::Result<()> {
        match op {
            Op::Create(path) => {
                if self.node(path).is_some() {
                    return Err(ErrorKind::AlreadyExists.into());
                }
                let (dir, name) = split(path);
                let node = Node::File(self.files.len());
                self.dir(dir)?.change(NameChange::Set(name.to_owned(), node));
                self.files.push(Content::default());
            }
            Op::Write { file, offset, bytes } => {
                let growth = (offset + bytes.len()).saturating_sub(self.files[*file].cached.len());
                if growth > 0 && self.space.is_some_and(|space| self.used + growth > space) {
                    return Err(ErrorKind::StorageFull.into());
                }
                self.used += growth;
                self.files[*file].write(*offset, bytes);
            }
            Op::Sync(file) => self.files[*file].sync(),
            Op::Rename(from, to) => {
                let node = Node::File(self.file(from)?);
                let ((dir, from), (to_dir, to)) = (split(from), split(to));
                assert_eq!(dir, to_dir, "renames between directories are not modelled");
                let replaced = self.file(&join(dir, to)).ok();
                self.dir(dir)?.change(NameChange::Move(from.to_owned(), to.to_owned(), node));
                replaced.into_iter().for_each(|file| self.free(file));
            }
            Op::Remove(path) => {
                let file = self.file(path)?;
                let (dir, name) = split(path);
                self.dir(dir)?.change(NameChange::Unset(name.to_owned()));
                self.free(file);
            }
            Op::MakeDir(path) => {
                if self.dirs.contains_key(path) {
                    return Ok(());
                }
                self.dir("")?.change(NameChange::Set(path.clone(), Node::Dir));
                self.dirs.insert(path.clone(), Dir::default());
            }
            Op::SyncDir(path) => self.dir(path)?.sync(),
        }
        Ok(())
    }

    /// A file without a name takes no space; its durable side stays, since the name may come back.
    fn free(&mut self, file: usize) {
        let content = &mut self.files[file];
        self.used -= content.cached.len();
        content.cached = Vec::new();
    }
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn create(&self, path: &str) -> io::Result<SimFile> {
        self.change(Op::Create(path.to_owned()))?;
        let file = self.lock().file(path)?;
        Ok(SimFile { disk: self.clone(), file })
    }

    fn open(&self, path: &str) -> io::Result<SimFile> {
        self.handle(path)
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.look(|state| Ok(state.node(path).is_some()))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(Op::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.change(Op::Remove(path.to_owned()))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.look(|state| Ok(state.dir(dir)?.cached.keys().cloned().collect()))
    }

    fn make_dir(&self, dir: &str) -> io::Result<()> {
        self.change(Op::MakeDir(dir.to_owned()))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.change(Op::SyncDir(dir.to_owned()))
    }

    fn random(&self) -> io::Result<[u8; 16]> {
        self.look(|state| Ok(state.tags.u128(..).to_le_bytes()))
    }
}

/// An open file of a [`SimDisk`].
#[derive(Debug)]
pub struct SimFile {
    disk: SimDisk,
    file: usize,
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.disk.look(|state| Ok(state.files[self.file].cached.len() as u64))
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.look(|state| {
            let content = &state.files[self.file].cached;
            let from = usize::try_from(offset).map_err(io::Error::other)?;
            let read = content.get(from..from + buf.len()).ok_or(ErrorKind::UnexpectedEof)?;
            buf.copy_from_slice(read);
            Ok(())
        })
    }

    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.disk.change(Op::Write { file: self.file, offset, bytes: buf.to_vec() })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.change(Op::Sync(self.file))
    }
}
