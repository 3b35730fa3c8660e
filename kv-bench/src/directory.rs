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

/// What a tool's report ends with: as text, figures, a chart, a page.
const REPORT_ENDS: [&str; 4] = ["md", "json", "svg", "html"];

/// Makes the directory `out` and sees to it that the report of `tool` can be written there: before the work, not after it.
///
/// # Errors
/// When it cannot; in one line that names the flag.
pub(crate) fn for_report(out: &Path, tool: &str) -> Result<()> {
    let complaint = || format!("--out {}: give a directory that can be written", out.display());
    std::fs::create_dir_all(out).with_context(complaint)?;
    // Tried, not asked for: a file system may be read-only, or full.
    drop(tempfile::tempfile_in(out).with_context(complaint)?);
    for end in REPORT_ENDS {
        let path = out.join(tool).with_extension(end);
        if path.exists() {
            let opened = std::fs::File::options().append(true).open(&path);
            opened.with_context(|| format!("--out: {} is in the way; remove it", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_could_not_be_written_is_told_of_before_the_work() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("a/b");
        for_report(&out, "wire").unwrap();
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0, "nothing is left of the trial");
        std::fs::write(out.join("wire.md"), "an earlier one").unwrap();
        for_report(&out, "wire").unwrap();
        assert_eq!(std::fs::read_to_string(out.join("wire.md")).unwrap(), "an earlier one");

        let refused = |out: &Path, says: &str| {
            let error = format!("{:#}", for_report(out, "wire").unwrap_err());
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        };
        refused(&out.join("wire.md"), "wire.md: give a directory that can be written");
        refused(&out.join("wire.md/c"), "give a directory that can be written");
        refused(Path::new("/proc"), "--out /proc: give a directory that can be written");
        std::fs::create_dir(out.join("wire.svg")).unwrap();
        refused(&out, "wire.svg is in the way; remove it");
    }
}
