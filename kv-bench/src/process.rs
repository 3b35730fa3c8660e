//! What the kernel counts of a server's process, read from `/proc`.

use std::fs::read_to_string;
use std::time::Duration;

use anyhow::{Context, Result};

/// Readings of one process at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Time on a CPU, in user space and in the kernel, of all its threads. Exact to a clock tick (10 ms on Linux).
    pub(crate) cpu: Duration,
    /// The most memory it ever had resident.
    pub(crate) rss_bytes_peak: u64,
    /// Bytes of the page cache that it made dirty. The kernel counts whole folios, which on ext4 can be hundreds of KiB for
    /// one small write into an existing file: an upper bound of what reaches the device, and often a very loose one.
    pub(crate) dirtied_bytes: u64,
}

impl Counters {
    /// Reads the counters of the process `pid`.
    ///
    /// # Errors
    /// When the process is gone, or there is no `/proc` like Linux's.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            read_to_string(&path).with_context(|| format!("reading {path}"))
        };
        let ticks = cpu_ticks(&read("stat")?).with_context(|| format!("/proc/{pid}/stat has no times"))?;
        let peak = field(&read("status")?, "VmHWM:").with_context(|| format!("/proc/{pid}/status has no VmHWM"))?;
        let written = field(&read("io")?, "write_bytes:").with_context(|| format!("/proc/{pid}/io: no write_bytes"))?;
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        Ok(Self {
            cpu: Duration::from_micros(ticks * 1_000_000 / ticks_per_second),
            rss_bytes_peak: peak * 1024,
            dirtied_bytes: written,
        })
    }
}

/// The memory that the process `pid` has resident now, in bytes.
pub(crate) fn rss_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = read_to_string(&path).with_context(|| format!("reading {path}"))?;
    Ok(field(&status, "VmRSS:").with_context(|| format!("{path} has no VmRSS"))? * 1024)
}

/// Time on a CPU of the threads that the process `pid` has now, exact to nanoseconds. What threads took that have ended is not in it.
pub(crate) fn time_of_threads(pid: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in threads(pid)? {
        let path = format!("/proc/{pid}/task/{}/schedstat", thread.id);
        let text = read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let ns = text.split_whitespace().next().and_then(|ns| ns.parse().ok());
        sum += Duration::from_nanos(ns.with_context(|| format!("{path} begins with no number"))?);
    }
    Ok(sum)
}

/// A thread of a process.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) id: u32,
    pub(crate) name: String,
    status: String,
}

impl Thread {
    /// How often it waited for something.
    pub(crate) fn voluntary_switches(&self) -> Result<u64> {
        field(&self.status, "voluntary_ctxt_switches:").with_context(|| format!("thread {} has no switches", self.id))
    }
}

/// The threads of the process `pid` now.
pub(crate) fn threads(pid: u32) -> Result<Vec<Thread>> {
    let folder = format!("/proc/{pid}/task");
    let mut threads = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("listing {folder}"))? {
        let path = entry.with_context(|| format!("listing {folder}"))?.path();
        let id = path.file_name().and_then(|name| name.to_str()?.parse().ok()).context("a thread's id")?;
        // One that has just ended is none.
        let Ok(status) = read_to_string(path.join("status")) else { continue };
        let name = status.lines().find_map(|line| line.strip_prefix("Name:")).unwrap_or_default().trim().to_owned();
        threads.push(Thread { id, name, status });
    }
    Ok(threads)
}

/// Lets the peak of resident memory of the process `pid` begin anew.
pub(crate) fn reset_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    std::fs::write(&path, "5").with_context(|| format!("writing {path}"))
}

/// Bytes that the device under the directory `path` was told to write up to now, by anybody.
pub(crate) fn device_bytes_written(path: &std::path::Path) -> Result<u64> {
    let device = rustix::fs::stat(path).with_context(|| format!("asking for the device of {}", path.display()))?.st_dev;
    let stat = format!("/sys/dev/block/{}:{}/stat", rustix::fs::major(device), rustix::fs::minor(device));
    let text = read_to_string(&stat).with_context(|| format!("reading {stat}: {} is on no disk", path.display()))?;
    // The seventh field counts sectors of 512 bytes, whatever the device's own are.
    let sectors = text.split_whitespace().nth(6).and_then(|field| field.parse::<u64>().ok());
    Ok(sectors.with_context(|| format!("{stat} has no seventh field"))? * 512)
}

/// utime + stime: fields 14 and 15. The name, field 2, may itself hold spaces and parentheses, so they are counted from its end.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

/// The model of the CPU, as the kernel names it.
pub(crate) fn cpu_model() -> String {
    let text = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, model)| model.trim().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let line = |name: &str| format!("7 ({name}) S 1 7 7 0 -1 4194560 10 0 0 0 250 31 9 8 20 0 4 0 99 1 2");
        assert_eq!(cpu_ticks(&line("etcd")), Some(281));
        assert_eq!(cpu_ticks(&line("a) b (c 1 2 3")), Some(281));
        assert_eq!(cpu_ticks("7 (etcd) S 1 7"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn fields_are_found_by_their_name() {
        let text = "Name:\tkv\nVmHWM:\t    7460 kB\nVmRSS:\t 10 kB\n";
        assert_eq!(field(text, "VmHWM:"), Some(7460));
        assert_eq!(field("rchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 3\n", "write_bytes:"), Some(4096));
        assert_eq!(field(text, "VmSwap:"), None);
        assert_eq!(field("VmHWM: many\n", "VmHWM:"), None);
    }

    #[test]
    fn threads_have_taken_time() {
        assert!(!time_of_threads(std::process::id()).unwrap().is_zero());
    }

    #[test]
    fn our_own_process_has_counters() {
        let counters = Counters::of(std::process::id()).unwrap();
        assert!(counters.rss_bytes_peak > 100 * 1024, "{counters:?}");
        assert!(Counters::of(u32::MAX).unwrap_err().to_string().contains("/proc/4294967295"));
    }
}
