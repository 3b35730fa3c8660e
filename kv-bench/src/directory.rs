//! Where a run keeps its files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// A directory that was empty: one given by the user, which stays, or a temporary one, which is removed when this is dropped.
#[derive(Debug)]
pub(crate) enum Directory {
    Given(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Directory {
    /// The one given, or a temporary one whose name begins with `prefix`.
    ///
    /// # Errors
    /// It cannot be made, or is not empty.
    pub(crate) fn new(given: Option<&Path>, prefix: &str) -> Result<Self> {
        let Some(given) = given else {
            let temporary = tempfile::Builder::new().prefix(prefix).tempdir();
            return Ok(Self::Temporary(temporary.context("making a temporary directory")?));
        };
        std::fs::create_dir_all(given).with_context(|| format!("making {}", given.display()))?;
        let mut entries = std::fs::read_dir(given).with_context(|| format!("listing {}", given.display()))?;
        ensure!(entries.next().is_none(), "{} is not empty: a run starts from nothing", given.display());
        Ok(Self::Given(given.canonicalize()?))
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(temporary) => temporary.path(),
        }
    }

    /// Removes a temporary directory unless it is to be kept. Returns what is left.
    pub(crate) fn finish(self, keep: bool) -> Option<PathBuf> {
        match self {
            Self::Given(path) => Some(path),
            Self::Temporary(temporary) => keep.then(|| temporary.keep()),
        }
    }
}
