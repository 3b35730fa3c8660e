//! The data directory: whose it is, and that only one server uses it.
//!
//! ```text
//! <data-dir>/        0700
//!   member           text: what this is, the format, the ids. A file where etcd has a directory, so that etcd refuses it.
//!   LOCK             locked while a server runs
//!   log/             the write-ahead log's segments
//!   snap/            snapshots
//!   next/            a log and snapshots that are to replace these
//!   damaged-<n>/     a log and snapshots that cannot be read any more, of an earlier id of the member; for people
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The layout that this build writes.
const FORMAT: u64 = 1;
/// The file that says whose directory this is.
const MARKER: &str = "member";
/// The marker while it is written.
const MARKER_TMP: &str = "member.tmp";
const LOCK: &str = "LOCK";
/// What a member has to say: its log and its snapshots.
const STATE: [&str; 2] = ["log", "snap"];
/// Where a state is put together that is to replace the one in use.
const NEXT: &str = "next";
/// Where a state is kept that is of no more use to us, followed by a number.
const DAMAGED: &str = "damaged-";
/// What may be in a directory of ours, beside what is [`DAMAGED`]. `lost+found` belongs to the file system.
const KNOWN: [&str; 7] = [MARKER, MARKER_TMP, LOCK, STATE[0], STATE[1], NEXT, "lost+found"];
/// The first line of the marker.
const TITLE: &str = "This is a data directory of kv-server. It is not etcd's: etcd cannot use it.";

/// Why a directory cannot be used. Each message says what to do.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}; give --data-dir a directory this user may write to")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another server runs on it.
    #[error("data directory {path} is in use by another running server; stop it, or give this one its own --data-dir")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// etcd's.
    #[error(
        "data directory {path} belongs to etcd (it has a member/ directory), which this server cannot read; give --data-dir another directory"
    )]
    Etcd {
        /// The directory.
        path: PathBuf,
    },
    /// Somebody else's.
    #[error("data directory {path} holds {name:?}, which is not this server's; give --data-dir an empty directory")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What was found.
        name: String,
    },
    /// A marker that cannot be read.
    #[error("{path} cannot be read as the mark of a data directory: {why}; restore the directory from a backup")]
    Marker {
        /// The marker.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Written by a newer build.
    #[error(
        "data directory {path} has format {found}, this build knows {FORMAT}; start the newer version that wrote it"
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// The log of a member that had one is gone.
    #[error(
        "data directory {path} has been in use, but its log is gone; restore it from a backup, or remove the whole directory to start a new member; in a cluster, --resync-from-cluster has the other members send it, if there is no log/ at all: an empty one may be where a volume is not mounted"
    )]
    LogGone {
        /// The directory.
        path: PathBuf,
    },
    /// A part of it is a file system of its own, which cannot be renamed.
    #[error(
        "{path} is a mount point, so that what is damaged cannot be set aside; move its files to where they are kept, or remove this member and add it anew"
    )]
    MountPoint {
        /// The part.
        path: PathBuf,
    },
}

/// Who a data directory belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The cluster.
    pub(crate) cluster_id: u64,
    /// The member.
    pub(crate) member_id: u64,
}

/// How far a member has come that gives up a damaged state and has the others send it theirs, under another id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resync {
    /// The others may have been asked to replace the id that the marker names. The state in use is that id's.
    Asked {
        /// The learner's id that was asked for. Nobody has begun under it.
        new: u64,
        /// The id that is replaced is a learner's of a re-sync as well.
        catches_up: bool,
    },
    /// The id is the new one; the state in use is the old one's, and on its way to [`DAMAGED`] with this number.
    SettingAside(u32),
    /// The state in use, if there is one, is the new id's, which is to get a vote once it is complete.
    CatchingUp,
}

/// A data directory, locked until it is dropped.
///
/// * Its marker decides which state counts: that in use, or, while it says that one is being replaced, whatever of [`NEXT`] is there.
/// * An identity is kept once there is a log, and from [`Resync::SettingAside`] on: nobody else will be given it.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    marker: Marker,
    _lock: File,
}

/// What the marker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Marker {
    identity: Identity,
    /// A log was begun.
    started: bool,
    /// The state in [`NEXT`] is the one that counts.
    replacing: bool,
    resync: Option<Resync>,
}

impl Marker {
    /// Whether its identity is kept without a log.
    fn is_kept(&self) -> bool {
        self.started || self.resync.is_some()
    }
}

impl DataDir {
    /// Opens `path`, creating it if it does not exist. A directory that has a log keeps its identity; any other takes `new`.
    ///
    /// # Errors
    /// [`DataDirError`]; nothing was written to a directory that is not ours. [`DataDirError::LogGone`] when a directory that
    /// had a log has none: a member must not come back empty, now or at the next attempt.
    pub(crate) fn open(path: &Path, new: Identity) -> Result<Self, DataDirError> {
        let dir = Self::open_damaged(path, new)?;
        if dir.marker.started && !has_log(path)? {
            return Err(DataDirError::LogGone { path: path.to_owned() });
        }
        Ok(dir)
    }

    /// As [`DataDir::open`], log or none.
    ///
    /// # Errors
    /// [`DataDirError`], but for [`DataDirError::LogGone`].
    pub(crate) fn open_damaged(path: &Path, new: Identity) -> Result<Self, DataDirError> {
        let io = |action, source| DataDirError::Io { action, path: path.to_owned(), source };
        if !path.exists() {
            create(path).map_err(|error| io("create", error))?;
        }
        check_contents(path)?;
        let lock = lock(path)?;
        let found = read_marker(path)?;
        let fresh = Marker { identity: new, started: false, replacing: false, resync: None };
        let marker = if has_log(path)? { found } else { found.filter(Marker::is_kept) };
        let marker = marker.unwrap_or(fresh);
        let mut dir = Self { path: path.to_owned(), marker, _lock: lock };
        if marker.replacing {
            dir.finish_replacing()?;
        } else {
            // Whoever began to put it together did not come to its end.
            remove_all(&dir.path.join(NEXT)).map_err(|source| dir.io("remove an unfinished state in", source))?;
        }
        if let Some(Resync::SettingAside(number)) = marker.resync {
            dir.finish_setting_aside(number)?;
        }
        if found != Some(dir.marker) && !marker.started {
            dir.write_marker()?;
        }
        Ok(dir)
    }

    /// Whose log is in `path`; `None` without one. Touches nothing.
    ///
    /// # Errors
    /// [`DataDirError`] for a directory that is not ours.
    pub(crate) fn begun_by(path: &Path) -> Result<Option<Identity>, DataDirError> {
        if !path.exists() {
            return Ok(None);
        }
        check_contents(path)?;
        let Some(marker) = read_marker(path)? else {
            return Ok(None);
        };
        Ok((marker.is_kept() || has_log(path)?).then_some(marker.identity))
    }

    /// Makes room to put a state together that is to replace the one in use.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(crate) fn begin_replacing(&self) -> Result<PathBuf, DataDirError> {
        let next = self.path.join(NEXT);
        let make = || {
            remove_all(&next)?;
            create(&next)
        };
        make().map_err(|source| self.io("make room in", source))?;
        Ok(next)
    }

    /// Lets the state that was put together take the place of the one in use, as that of `identity`. A crash leaves the one or the other:
    /// what is begun here is finished by the next [`DataDir::open`].
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(crate) fn replace(&mut self, identity: Identity) -> Result<(), DataDirError> {
        self.marker = Marker { identity, replacing: true, ..self.marker };
        self.write_marker()?;
        self.finish_replacing()
    }

    /// Every step may have been done before.
    fn finish_replacing(&mut self) -> Result<(), DataDirError> {
        let next = self.path.join(NEXT);
        let replace = || {
            for name in STATE {
                if next.join(name).exists() {
                    remove_all(&self.path.join(name))?;
                    fs::rename(next.join(name), self.path.join(name))?;
                }
            }
            remove_all(&next)?;
            File::open(&self.path)?.sync_all()
        };
        replace().map_err(|source| self.io("replace the state in", source))?;
        self.marker.replacing = false;
        self.write_marker()
    }

    /// Notes that the others are asked to replace this member by a learner whose id is `new`.
    ///
    /// # Errors
    /// [`DataDirError::MountPoint`] if what is damaged could not be set aside, [`DataDirError::Io`].
    pub(crate) fn begin_resync(&mut self, new: u64) -> Result<(), DataDirError> {
        self.check_movable()?;
        let catches_up = self.marker.resync == Some(Resync::CatchingUp);
        self.marker = Marker { started: true, resync: Some(Resync::Asked { new, catches_up }), ..self.marker };
        self.write_marker()
    }

    /// Notes that nothing came of [`DataDir::begin_resync`], and nothing will.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(crate) fn take_back_resync(&mut self) -> Result<(), DataDirError> {
        let Some(Resync::Asked { catches_up, .. }) = self.marker.resync else {
            return Ok(());
        };
        self.marker.resync = catches_up.then_some(Resync::CatchingUp);
        self.write_marker()
    }

    /// What is on another file system than the directory cannot be renamed into it.
    fn check_movable(&self) -> Result<(), DataDirError> {
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev());
        let own = device(&self.path).map_err(|source| self.io("read", source))?;
        for path in STATE.map(|name| self.path.join(name)).into_iter().filter(|path| path.exists()) {
            if device(&path).map_err(|source| self.io("read", source))? != own {
                return Err(DataDirError::MountPoint { path });
            }
        }
        Ok(())
    }

    /// Sets the state in use aside, for good, and begins anew as `identity`, without a log; where it is now. A crash leaves the one or the
    /// other: what is begun here is finished by the next [`DataDir::open`].
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(crate) fn set_aside(&mut self, identity: Identity) -> Result<PathBuf, DataDirError> {
        let number =
            (1..).find(|number| !self.damaged(*number).exists()).expect("there are more numbers than directories");
        let resync = Some(Resync::SettingAside(number));
        self.marker = Marker { identity, started: false, replacing: false, resync };
        self.write_marker()?;
        self.finish_setting_aside(number)?;
        Ok(self.damaged(number))
    }

    fn damaged(&self, number: u32) -> PathBuf {
        self.path.join(format!("{DAMAGED}{number}"))
    }

    /// Every step may have been done before.
    fn finish_setting_aside(&mut self, number: u32) -> Result<(), DataDirError> {
        let damaged = self.damaged(number);
        let set_aside = || {
            if !damaged.exists() {
                create(&damaged)?;
            }
            for name in STATE.iter().filter(|name| self.path.join(name).exists()) {
                fs::rename(self.path.join(name), damaged.join(name))?;
            }
            File::open(&damaged)?.sync_all()?;
            File::open(&self.path)?.sync_all()
        };
        set_aside().map_err(|source| self.io("set aside the state in", source))?;
        self.marker.resync = Some(Resync::CatchingUp);
        self.write_marker()
    }

    /// Notes that this member needs nobody to replace it: it is complete.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(crate) fn end_resync(&mut self) -> Result<(), DataDirError> {
        self.marker.resync = None;
        self.write_marker()
    }

    /// How far it has come, if it is re-synced.
    #[must_use]
    pub(crate) fn resync(&self) -> Option<Resync> {
        self.marker.resync
    }

    fn io(&self, action: &'static str, source: io::Error) -> DataDirError {
        DataDirError::Io { action, path: self.path.clone(), source }
    }

    /// Where it is.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    #[must_use]
    pub(crate) fn identity(&self) -> Identity {
        self.marker.identity
    }

    /// Whether it has a log that was noted.
    #[must_use]
    pub(crate) fn is_started(&self) -> bool {
        self.marker.started
    }

    /// Notes that this directory has a log, from now on.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(crate) fn note_log(&mut self) -> Result<(), DataDirError> {
        if self.marker.started {
            return Ok(());
        }
        self.marker.started = true;
        self.write_marker()
    }

    /// Replaces the marker: written apart, synced, renamed, and the directory synced.
    fn write_marker(&self) -> Result<(), DataDirError> {
        let Marker { identity: Identity { cluster_id, member_id }, started, replacing, resync } = self.marker;
        let mut text = format!(
            "{TITLE}\nformat = {FORMAT}\ncluster-id = {cluster_id:016x}\nmember-id = {member_id:016x}\nstarted = {started}\n"
        );
        if replacing {
            text.push_str("replacing = true\n");
        }
        match resync {
            None => {}
            Some(Resync::Asked { new, catches_up }) => {
                text.push_str(&format!("resync = asked\nnew-member-id = {new:016x}\ncatches-up = {catches_up}\n"));
            }
            Some(Resync::SettingAside(number)) => text.push_str(&format!("resync = setting-aside\naside = {number}\n")),
            Some(Resync::CatchingUp) => text.push_str("resync = catching-up\n"),
        }
        let tmp = self.path.join(MARKER_TMP);
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&tmp)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&tmp, self.path.join(MARKER))?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| self.io("write to", source))
    }
}

/// Removes a directory with all that is in it, if it is there.
fn remove_all(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Creates a directory and those above it that are missing. Their names are durable on return: a power loss must not take the
/// whole directory, and with it every acknowledged write, for one that never was.
fn create(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    let made: Vec<&Path> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
    for parent in made.iter().filter_map(|made| made.parent()) {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

fn check_contents(path: &Path) -> Result<(), DataDirError> {
    let io = |source| DataDirError::Io { action: "read", path: path.to_owned(), source };
    if path.join(MARKER).is_dir() {
        return Err(DataDirError::Etcd { path: path.to_owned() });
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(io)? {
        names.push(entry.map_err(io)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    if let Some(name) = names.iter().find(|name| !KNOWN.contains(&name.as_str()) && !name.starts_with(DAMAGED)) {
        return Err(DataDirError::Foreign { path: path.to_owned(), name: name.clone() });
    }
    // Without its marker nothing says whose log this is.
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    if let Some(name) = [STATE[0], STATE[1], NEXT].into_iter().find(|name| has(name) && !has(MARKER)) {
        return Err(DataDirError::Foreign { path: path.to_owned(), name: name.to_owned() });
    }
    Ok(())
}

/// Whether there is a segment of a log.
fn has_log(path: &Path) -> Result<bool, DataDirError> {
    let log = path.join("log");
    let list = || fs::read_dir(&log)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    match list() {
        Ok(paths) => Ok(paths.iter().any(|path| path.extension().is_some_and(|extension| extension == "log"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(DataDirError::Io { action: "read", path: log, source }),
    }
}

fn lock(path: &Path) -> Result<File, DataDirError> {
    let at = path.join(LOCK);
    let io = |action, source| DataDirError::Io { action, path: at.clone(), source };
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&at);
    let file = file.map_err(|error| io("open", error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DataDirError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(io("lock", error)),
    }
}

/// What the marker says; `None` where there is none.
fn read_marker(path: &Path) -> Result<Option<Marker>, DataDirError> {
    let at = path.join(MARKER);
    let text = match fs::read(&at) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DataDirError::Io { action: "read", path: at, source }),
    };
    let bad = |why: &str| DataDirError::Marker { path: at.clone(), why: why.to_owned() };
    let text = String::from_utf8(text).map_err(|_| bad("it is not text"))?;
    let field = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(" = "));
        lines.find(|(field, _)| *field == name).map(|(_, value)| value)
    };
    let format = field("format").and_then(|value| value.parse().ok());
    match format {
        Some(FORMAT) => {}
        Some(found) if found > FORMAT => return Err(DataDirError::Newer { path: path.to_owned(), found }),
        _ => return Err(bad("it names no format")),
    }
    let id = |name| field(name).and_then(|value| u64::from_str_radix(value, 16).ok());
    let cluster_id = id("cluster-id").ok_or_else(|| bad("it has no cluster-id"))?;
    let member_id = id("member-id").ok_or_else(|| bad("it has no member-id"))?;
    let started = field("started").and_then(|value| value.parse().ok());
    let started = started.ok_or_else(|| bad("it does not say whether it was started"))?;
    let replacing = field("replacing") == Some("true");
    let resync = match field("resync") {
        None => None,
        Some("asked") => Some(Resync::Asked {
            new: id("new-member-id").ok_or_else(|| bad("it does not say who was asked for"))?,
            catches_up: field("catches-up") == Some("true"),
        }),
        Some("setting-aside") => {
            let number = field("aside").and_then(|value| value.parse().ok());
            Some(Resync::SettingAside(number.ok_or_else(|| bad("it does not say what is set aside where"))?))
        }
        Some("catching-up") => Some(Resync::CatchingUp),
        Some(_) => return Err(bad("it has a resync that this build does not know")),
    };
    Ok(Some(Marker { identity: Identity { cluster_id, member_id }, started, replacing, resync }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NEW: Identity = Identity { cluster_id: 1, member_id: 2 };

    fn temp() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_directory_keeps_its_identity_and_its_lock() {
        let temp = temp();
        let path = temp.path().join("a/b");
        let mut dir = DataDir::open(&path, NEW).unwrap();
        assert!(!dir.marker.started);
        dir.note_log().unwrap();
        fs::create_dir(path.join("log")).unwrap();
        fs::write(path.join("log/1.log"), "").unwrap();
        let other = Identity { cluster_id: 8, member_id: 9 };
        assert!(matches!(DataDir::open(&path, other), Err(DataDirError::InUse { .. })));
        drop(dir);
        let dir = DataDir::open(&path, other).unwrap();
        assert_eq!((dir.identity(), dir.marker.started), (NEW, true));
        drop(dir);
        fs::rename(path.join("log/1.log"), path.join("log/1.tmp")).unwrap();
        assert!(matches!(DataDir::open(&path, other), Err(DataDirError::LogGone { .. })));
        fs::remove_dir_all(path.join("log")).unwrap();
        assert!(matches!(DataDir::open(&path, other), Err(DataDirError::LogGone { .. })));
    }

    /// Nothing was done under the identity of a start that did not come to a log: the next one may be another member.
    #[test]
    fn an_identity_counts_once_there_is_a_log() {
        let temp = temp();
        drop(DataDir::open(temp.path(), NEW).unwrap());
        assert_eq!(DataDir::begun_by(temp.path()).unwrap(), None);
        let other = Identity { cluster_id: 8, member_id: 9 };
        let mut dir = DataDir::open(temp.path(), other).unwrap();
        assert_eq!(dir.identity(), other);
        dir.note_log().unwrap();
        assert_eq!(DataDir::begun_by(temp.path()).unwrap(), Some(other));
    }

    /// A directory with a log and snapshots, and others beside them that are to take their place.
    fn replacing() -> (tempfile::TempDir, DataDir) {
        let temp = temp();
        let mut dir = DataDir::open(temp.path(), NEW).unwrap();
        dir.note_log().unwrap();
        let next = dir.begin_replacing().unwrap();
        for (state, content) in [(temp.path(), "old"), (&next, "new")] {
            for name in STATE {
                fs::create_dir(state.join(name)).unwrap();
                fs::write(state.join(name).join("1.log"), content).unwrap();
            }
        }
        (temp, dir)
    }

    /// What is in use.
    fn in_use(path: &Path) -> Vec<String> {
        STATE.iter().map(|name| fs::read_to_string(path.join(name).join("1.log")).unwrap()).collect()
    }

    #[test]
    fn a_state_is_replaced_as_a_whole() {
        let other = Identity { cluster_id: 8, ..NEW };
        let (temp, mut dir) = replacing();
        dir.replace(other).unwrap();
        assert_eq!((dir.identity(), in_use(temp.path())), (other, vec!["new".to_owned(); 2]));
        assert!(!temp.path().join(NEXT).exists());
        drop(dir);
        assert_eq!(DataDir::open(temp.path(), NEW).unwrap().identity(), other);
    }

    /// Each crash in between, and what the next start makes of it.
    #[test]
    fn a_replacement_that_was_cut_short_is_finished_or_forgotten() {
        let other = Identity { cluster_id: 8, ..NEW };
        let (temp, dir) = replacing();
        drop(dir);
        let dir = DataDir::open(temp.path(), NEW).unwrap();
        assert_eq!((dir.identity(), in_use(temp.path())), (NEW, vec!["old".to_owned(); 2]), "it was not decided yet");
        assert!(!temp.path().join(NEXT).exists());
        for steps in 0..=5 {
            let (temp, mut dir) = replacing();
            dir.marker = Marker { identity: other, replacing: true, ..dir.marker };
            dir.write_marker().unwrap();
            let (path, next) = (temp.path(), temp.path().join(NEXT));
            let all: [&dyn Fn() -> io::Result<()>; 5] = [
                &|| fs::remove_dir_all(path.join("log")),
                &|| fs::rename(next.join("log"), path.join("log")),
                &|| fs::remove_dir_all(path.join("snap")),
                &|| fs::rename(next.join("snap"), path.join("snap")),
                &|| fs::remove_dir(&next),
            ];
            for step in &all[..steps] {
                step().unwrap();
            }
            drop(dir);
            let dir = DataDir::open(path, NEW).unwrap();
            assert_eq!((dir.identity(), in_use(path)), (other, vec!["new".to_owned(); 2]), "after {steps} steps");
            assert!(!next.exists() && !dir.marker.replacing);
        }
    }

    /// Each crash in between, and what the next start makes of it: the old state is whole, and in one place.
    #[test]
    fn setting_aside_that_was_cut_short_is_finished() {
        let new = Identity { cluster_id: 1, member_id: 3 };
        for steps in 0..=4 {
            let (temp, mut dir) = replacing();
            let (path, damaged) = (temp.path(), temp.path().join("damaged-7"));
            dir.begin_resync(new.member_id).unwrap();
            assert_eq!(DataDir::begun_by(path).unwrap(), Some(NEW));
            let resync = Some(Resync::SettingAside(7));
            dir.marker = Marker { identity: new, started: false, replacing: false, resync };
            dir.write_marker().unwrap();
            let all: [&dyn Fn() -> io::Result<()>; 4] = [
                &|| fs::create_dir(&damaged),
                &|| fs::rename(path.join("log"), damaged.join("log")),
                &|| fs::rename(path.join("snap"), damaged.join("snap")),
                &|| Ok(()),
            ];
            for step in &all[..steps] {
                step().unwrap();
            }
            drop(dir);
            let dir = DataDir::open(path, NEW).unwrap();
            assert_eq!((dir.identity(), dir.resync()), (new, Some(Resync::CatchingUp)), "after {steps} steps");
            assert!(!dir.is_started() && in_use(&damaged) == ["old", "old"]);
            assert!(!path.join("log").exists() && !path.join("snap").exists());
            drop(dir);
            // Whoever asks for it, it is this member's from now on, log or none.
            assert_eq!(DataDir::begun_by(path).unwrap(), Some(new));
            let mut dir = DataDir::open(path, NEW).unwrap();
            dir.note_log().unwrap();
            dir.end_resync().unwrap();
            drop(dir);
            assert!(matches!(DataDir::open(path, NEW), Err(DataDirError::LogGone { .. })));
            assert_eq!(DataDir::open_damaged(path, NEW).unwrap().set_aside(NEW).unwrap(), path.join("damaged-1"));
        }
    }

    #[test]
    fn what_was_asked_for_is_kept_until_it_is_taken_back() {
        let (temp, mut dir) = replacing();
        for catches_up in [false, true] {
            dir.marker.resync = catches_up.then_some(Resync::CatchingUp);
            dir.begin_resync(0xab).unwrap();
            drop(dir);
            dir = DataDir::open(temp.path(), NEW).unwrap();
            assert_eq!(dir.resync(), Some(Resync::Asked { new: 0xab, catches_up }));
            dir.take_back_resync().unwrap();
            drop(dir);
            dir = DataDir::open(temp.path(), NEW).unwrap();
            assert_eq!(dir.resync(), catches_up.then_some(Resync::CatchingUp));
        }
    }

    #[test]
    fn a_mount_point_is_not_set_aside() {
        let (temp, mut dir) = replacing();
        // Any other file system does.
        fs::remove_dir_all(temp.path().join("snap")).unwrap();
        std::os::unix::fs::symlink("/proc", temp.path().join("snap")).unwrap();
        assert!(matches!(dir.begin_resync(3), Err(DataDirError::MountPoint { .. })));
        assert_eq!(dir.resync(), None);
    }

    #[test]
    fn etcds_and_foreign_directories_are_left_alone() {
        let etcd = temp();
        fs::create_dir_all(etcd.path().join("member/wal")).unwrap();
        assert!(matches!(DataDir::open(etcd.path(), NEW), Err(DataDirError::Etcd { .. })));
        for name in ["photos", "log", "snap", "next"] {
            let foreign = temp();
            fs::create_dir(foreign.path().join(name)).unwrap();
            let refused = DataDir::open(foreign.path(), NEW);
            assert!(matches!(refused, Err(DataDirError::Foreign { .. })), "{name}: {refused:?}");
            assert_eq!(fs::read_dir(foreign.path()).unwrap().count(), 1, "nothing was written");
        }
    }

    #[test]
    fn a_newer_format_and_a_damaged_marker_are_refused() {
        let temp = temp();
        drop(DataDir::open(temp.path(), NEW).unwrap());
        let marker = temp.path().join(MARKER);
        let text = fs::read_to_string(&marker).unwrap();
        fs::write(&marker, text.replace("format = 1", "format = 2")).unwrap();
        assert!(matches!(DataDir::open(temp.path(), NEW), Err(DataDirError::Newer { found: 2, .. })));
        for damaged in [text.replace("cluster-id", "x"), text.replace("started = false", ""), String::new()] {
            fs::write(&marker, damaged).unwrap();
            assert!(matches!(DataDir::open(temp.path(), NEW), Err(DataDirError::Marker { .. })));
        }
        fs::write(&marker, [0xff, 0xfe]).unwrap();
        assert!(matches!(DataDir::open(temp.path(), NEW), Err(DataDirError::Marker { .. })));
    }
}
