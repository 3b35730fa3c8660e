//! The disk, as the log and the snapshot files see it: a trait, and the real one.
//!
//! Paths are relative to one root and made by us alone (`log/0000000000000001.log`). The other implementor is the simulated disk
//! of `kv-sim`, which loses and tears what was not synced.
//!
//! What callers rely on, and no more: [`DiskFile::sync`] makes a file's content durable, [`Disk::sync_dir`] the names in a
//! directory; before that a power loss may keep any part of either, sector by sector and name by name. A failed sync may have
//! dropped the writes for good, so that a second one proves nothing.

#![allow(clippy::disallowed_methods, reason = "the one reader and writer of files")]

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Names and directories under one root. The empty path is the root itself.
pub trait Disk: Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;

    /// Makes a file, readable by its owner alone, and opens it for reading and writing.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`]; whatever the disk says.
    fn create(&self, path: &str) -> io::Result<Self::File>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; whatever the disk says.
    fn open(&self, path: &str) -> io::Result<Self::File>;

    /// Whether there is a file or directory of this name.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn exists(&self, path: &str) -> io::Result<bool>;

    /// Gives a file another name, replacing one that has it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; whatever the disk says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; whatever the disk says.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; whatever the disk says.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Makes a directory, open to its owner alone. Fine if it exists.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn make_dir(&self, dir: &str) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// Whatever the disk says; which names are durable is then unknown.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Sixteen bytes that nobody can foretell.
    ///
    /// # Errors
    /// Whatever the source of randomness says.
    fn random(&self) -> io::Result<[u8; 16]>;
}

/// An open file.
#[allow(clippy::len_without_is_empty, reason = "a length on disk, not a collection's")]
pub trait DiskFile: Send + 'static {
    /// Its length in bytes.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn len(&self) -> io::Result<u64>;

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedEof`]; whatever the disk says.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `buf` at `offset`, extending the file where needed. Not durable before [`DiskFile::sync`].
    ///
    /// # Errors
    /// Whatever the disk says; what was written is then unknown.
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Makes content and length durable.
    ///
    /// # Errors
    /// Whatever the disk says; what is durable is then unknown, and stays so.
    fn sync(&mut self) -> io::Result<()>;
}

/// Whether a sync reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncMode {
    /// Yes.
    #[default]
    Fsync,
    /// No: acknowledged writes survive the end of the process, but not of the machine.
    UnsafeNone,
}

/// A directory of this machine.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    sync: SyncMode,
}

/// Refuses to follow a symbolic link in the last component.
#[cfg(target_os = "linux")]
const NO_FOLLOW: i32 = if cfg!(any(target_arch = "aarch64", target_arch = "arm")) { 0o100_000 } else { 0o400_000 };
#[cfg(not(target_os = "linux"))]
const NO_FOLLOW: i32 = 0x100;

impl RealDisk {
    /// Everything under `root`, which must exist.
    pub fn new(root: impl Into<PathBuf>, sync: SyncMode) -> Self {
        Self { root: root.into(), sync }
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, path: &str) -> io::Result<PathBuf> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if path.split('/').all(is_name) {
            Ok(self.root.join(path))
        } else {
            Err(io::Error::new(ErrorKind::InvalidInput, format!("{path:?} is no path of ours")))
        }
    }

    fn options(&self) -> OpenOptions {
        let mut options = File::options();
        options.read(true).write(true).mode(0o600).custom_flags(NO_FOLLOW);
        options
    }
}

/// Names that we make: no way out of the root, nothing hidden, nothing that differs in case only.
fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(allowed)
}

impl Disk for RealDisk {
    type File = RealFile;

    fn create(&self, path: &str) -> io::Result<RealFile> {
        let file = self.options().create_new(true).open(self.path(path)?)?;
        Ok(RealFile { file, sync: self.sync })
    }

    fn open(&self, path: &str) -> io::Result<RealFile> {
        let file = self.options().open(self.path(path)?)?;
        Ok(RealFile { file, sync: self.sync })
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        match std::fs::symlink_metadata(self.path(path)?) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from)?, self.path(to)?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(path)?)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.path(dir)?)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn make_dir(&self, dir: &str) -> io::Result<()> {
        let path = self.path(dir)?;
        match DirBuilder::new().mode(0o700).create(&path) {
            // `is_dir` of a link's own metadata is false: a link is refused.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && std::fs::symlink_metadata(&path)?.is_dir() => {
                Ok(())
            }
            made => made,
        }
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        match self.sync {
            SyncMode::Fsync => File::open(self.path(dir)?)?.sync_all(),
            SyncMode::UnsafeNone => Ok(()),
        }
    }

    fn random(&self) -> io::Result<[u8; 16]> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// A file of this machine.
#[derive(Debug)]
pub struct RealFile {
    file: File,
    sync: SyncMode,
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        match self.sync {
            SyncMode::Fsync => self.file.sync_data(),
            SyncMode::UnsafeNone => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn disk() -> (tempfile::TempDir, RealDisk) {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path(), SyncMode::Fsync);
        (dir, disk)
    }

    #[test]
    fn files_and_directories_belong_to_their_owner_alone() {
        let (root, disk) = disk();
        disk.make_dir("log").unwrap();
        disk.make_dir("log").unwrap();
        let mut file = disk.create("log/a.tmp").unwrap();
        file.write_all_at(b"abc", 2).unwrap();
        file.sync().unwrap();
        assert_eq!(file.len().unwrap(), 5);
        assert_eq!(disk.create("log/a.tmp").unwrap_err().kind(), ErrorKind::AlreadyExists);
        disk.rename("log/a.tmp", "log/b.log").unwrap();
        disk.sync_dir("log").unwrap();
        disk.sync_dir("").unwrap();
        assert_eq!(disk.list("log").unwrap(), ["b.log"]);
        assert_eq!(disk.open("log/a.tmp").unwrap_err().kind(), ErrorKind::NotFound);
        let mut read = [9; 5];
        disk.open("log/b.log").unwrap().read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"\0\0abc");
        let mode = |path: &str| std::fs::metadata(root.path().join(path)).unwrap().mode() & 0o777;
        assert_eq!((mode("log"), mode("log/b.log")), (0o700, 0o600));
        disk.remove("log/b.log").unwrap();
        assert!(!disk.exists("log/b.log").unwrap() && disk.exists("log").unwrap());
        assert_ne!(disk.random().unwrap(), disk.random().unwrap());
    }

    #[test]
    fn no_path_leads_out_of_the_root() {
        let (_root, disk) = disk();
        for path in ["..", "../a", "/etc/passwd", "log/../../a", "log//a", "a\0b", ".hidden", "UP", "log/"] {
            assert_eq!(disk.open(path).unwrap_err().kind(), ErrorKind::InvalidInput, "{path:?}");
        }
    }

    #[test]
    fn symbolic_links_are_refused() {
        let (root, disk) = disk();
        std::fs::write(root.path().join("target"), b"x").unwrap();
        std::os::unix::fs::symlink("target", root.path().join("link")).unwrap();
        assert!(disk.open("target").is_ok());
        assert!(disk.open("link").is_err());
        std::os::unix::fs::symlink(".", root.path().join("dir")).unwrap();
        assert!(disk.make_dir("dir").is_err());
    }
}
