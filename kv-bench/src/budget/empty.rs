//! What a server costs that holds nothing and is asked for nothing, beside limits that do not move.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{rss_bytes, time_of_threads};
use crate::target::Target;

/// From its start until it is idle.
const SETTLE: Duration = Duration::from_secs(2);
/// How long it is watched while nothing happens: fifty ticks.
const IDLE: Duration = Duration::from_secs(5);
const MIB: f64 = 1024.0 * 1024.0;

/// One of its figures: the name, the unit, what it may be at most. A server that is run beside what it serves, on the smallest machine, is not
/// to be noticed there. All are far above what they are, so that machines and libraries differ within them.
const LIMITS: [(&str, &str, f64); 4] = [
    ("resident memory", "MiB", 15.0),
    ("on disk", "MiB", 8.0),
    ("CPU of one core while idle", "%", 0.3),
    ("program without symbols", "MiB", 20.0),
];

/// The figures of [`LIMITS`], as far as they can be counted here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Empty([Option<f64>; LIMITS.len()]);

impl Empty {
    /// Starts the server and leaves it alone.
    pub(super) async fn count(path: &Path) -> Result<Self> {
        let target = Target::server(path).await?;
        // On a disk, as its data are: in memory files have other sizes.
        let directory = tempfile::tempdir().context("making a directory")?;
        let server = target.start(directory.path(), &[]).await?;
        tokio::time::sleep(SETTLE).await;
        let before = time_of_threads(server.pid())?;
        tokio::time::sleep(IDLE).await;
        let busy = time_of_threads(server.pid())?.saturating_sub(before);
        let memory = rss_bytes(server.pid())? as f64;
        let disk = allocated_bytes(directory.path())? as f64;
        drop(server);
        let program = stripped_bytes(path, directory.path())?.map(|bytes| bytes as f64 / MIB);
        let cpu = busy.as_secs_f64() / IDLE.as_secs_f64() * 100.0;
        Ok(Self([Some(memory / MIB), Some(disk / MIB), Some(cpu), program]))
    }

    /// A sentence for each figure.
    pub(super) fn lines(&self) -> Vec<String> {
        let line = |(value, (name, unit, limit)): (Option<f64>, (&str, &str, f64))| match value {
            Some(value) => format!("empty server: {name}: {value:.2} {unit} of {limit} {unit}"),
            None => format!("NOT COUNTED: empty server: {name}: strip is not installed"),
        };
        self.0.into_iter().zip(LIMITS).map(line).collect()
    }

    /// Fails where a figure is over its limit.
    pub(super) fn check(&self) -> Result<()> {
        for (value, (name, unit, limit)) in self.0.into_iter().zip(LIMITS) {
            let value = value.unwrap_or_default();
            ensure!(value <= limit, "an empty server has {value:.2} {unit} of {name}: more than {limit} {unit}");
        }
        Ok(())
    }
}

/// Bytes that everything under `path` takes on its disk.
fn allocated_bytes(path: &Path) -> Result<u64> {
    let of = || {
        let metadata = std::fs::symlink_metadata(path)?;
        // The kernel counts in 512 bytes, whatever the blocks are.
        let own = metadata.blocks() * 512;
        let entries = if metadata.is_dir() { std::fs::read_dir(path)?.collect() } else { Ok(Vec::new()) };
        Ok::<_, std::io::Error>((own, entries?))
    };
    let (own, entries) = of().with_context(|| format!("looking at {}", path.display()))?;
    entries.iter().try_fold(own, |sum, entry| Ok(sum + allocated_bytes(&entry.path())?))
}

/// Bytes of a program without its symbols; nothing where there is no strip.
fn stripped_bytes(program: &Path, directory: &Path) -> Result<Option<u64>> {
    let stripped = directory.join("stripped");
    let mut strip = Command::new("strip");
    let output = strip.arg("-o").arg(&stripped).arg(program).stdin(Stdio::null()).output();
    if !output.is_ok_and(|output| output.status.success()) {
        return Ok(None);
    }
    Ok(Some(std::fs::metadata(&stripped).context("looking at what strip wrote")?.len()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_its_limit_is_named() {
        assert!(Empty([Some(15.0), Some(8.0), Some(0.3), None]).check().is_ok());
        let error = Empty([Some(9.0), Some(1.0), Some(0.31), Some(9.0)]).check().unwrap_err().to_string();
        assert_eq!(error, "an empty server has 0.31 % of CPU of one core while idle: more than 0.3 %");
        assert!(Empty([Some(15.1), None, None, None]).check().is_err());
        let lines = Empty([Some(9.5), Some(1.0), Some(0.05), None]).lines();
        assert_eq!(lines[0], "empty server: resident memory: 9.50 MiB of 15 MiB");
        assert!(lines[3].starts_with("NOT COUNTED: "), "{lines:?}");
    }

    #[test]
    fn a_directory_takes_what_its_files_take() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("a")).unwrap();
        let before = allocated_bytes(directory.path()).unwrap();
        let file = std::fs::File::create(directory.path().join("a/b")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 20_000], 0).unwrap();
        file.sync_all().unwrap();
        let taken = allocated_bytes(directory.path()).unwrap() - before;
        assert!((20_000..40_000).contains(&taken), "{taken}");
    }
}
