//! What valgrind and strace wrote, as numbers.

use std::path::Path;

use anyhow::{Context, Result};

/// What the device gets: whole pages of the file.
const PAGE_BYTES: u64 = 4096;

/// Instructions between the marks before and after the `nth` interval.
pub(super) fn instructions(traces: &Path, nth: usize) -> Result<u64> {
    // The dump of a mark counts what came since the mark before.
    let path = traces.join(format!("callgrind.{}", nth + 2));
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals:").or_else(|| line.strip_prefix("summary:")));
    let total = total.and_then(|total| total.split_whitespace().next()?.parse().ok());
    total.with_context(|| format!("{} has no total", path.display()))
}

/// The system calls of one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Calls {
    /// All of them.
    pub(super) all: u64,
    /// Bytes that the driver's writes to the log make the device write: whole pages, each as often as it is written to. Segments
    /// that another thread prepares are not in it.
    pub(super) device_bytes: u64,
    /// Calls by which the driver wakes another thread.
    pub(super) driver_wakes: u64,
}

/// The calls of each interval between two marks.
pub(super) fn calls(text: &str, driver: u32) -> Vec<Calls> {
    let mut intervals = vec![Calls::default()];
    for line in text.lines() {
        let Some((thread, call)) = line.trim_start().split_once(' ') else { continue };
        let call = call.trim_start();
        // The second half of one that another thread interrupted, and how the process ended.
        if call.starts_with("<...") || call.starts_with("+++") || call.starts_with("---") {
            continue;
        }
        if call.starts_with("write(1, \"mark ") {
            intervals.push(Calls::default());
            continue;
        }
        let interval = intervals.last_mut().expect("there is a first one");
        interval.all += 1;
        if thread.parse() == Ok(driver) {
            interval.device_bytes += pages(call).unwrap_or(0) * PAGE_BYTES;
            let wakes = call.starts_with("futex(") && call.contains("FUTEX_WAKE") || call.starts_with("write(");
            interval.driver_wakes += u64::from(wakes);
        }
    }
    intervals
}

/// The pages that a `pwrite64(fd, "..."..., length, offset)` touches.
fn pages(call: &str) -> Option<u64> {
    let arguments = call.strip_prefix("pwrite64(")?;
    let end = arguments.rfind(") = ").or_else(|| arguments.find(" <unfinished"))?;
    let mut last = arguments[..end].rsplit(", ");
    let offset: u64 = last.next()?.trim().parse().ok()?;
    let length: u64 = last.next()?.trim().parse().ok()?;
    Some((offset + length).div_ceil(PAGE_BYTES) - offset / PAGE_BYTES)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_between_marks() {
        let text = "\
            7  read(0, \"mark\\n\", 8192) = 5\n\
            7  write(1, \"mark 100\"..., 9) = 9\n\
            8  pwrite64(9, \"KVB1\\1\\0\\0\\0\"..., 300, 8000 <unfinished ...>\n\
            7  epoll_wait(3, [], 1024, 0) = 0\n\
            8  <... pwrite64 resumed>) = 300\n\
            8  fdatasync(9) = 0\n\
            8  write(5, \"\\1\\0\\0\\0\\0\\0\\0\\0\", 8) = 8\n\
            7  futex(0x7f, FUTEX_WAKE_PRIVATE, 1) = 1\n\
            7  write(1, \"mark 105\"..., 9) = 9\n\
            8  pwrite64(9, \"a)\"..., 4096, 4096) = 4096\n\
            8  futex(0x7f, FUTEX_WAKE_PRIVATE, 1) = 1\n\
            8  +++ exited with 0 +++\n";
        let calls = calls(text, 8);
        assert_eq!(calls.len(), 3);
        assert_eq!(calls[1], Calls { all: 5, device_bytes: 2 * 4096, driver_wakes: 1 });
        assert_eq!((calls[2].all, calls[2].driver_wakes), (2, 1));
    }

    #[test]
    fn a_write_costs_the_pages_it_touches() {
        assert_eq!(pages("pwrite64(9, \"x\"..., 1, 0) = 1"), Some(1));
        assert_eq!(pages("pwrite64(9, \"x\"..., 4096, 4096) = 4096"), Some(1));
        assert_eq!(pages("pwrite64(9, \"x\"..., 4096, 4097) = 4096"), Some(2));
        assert_eq!(pages("write(9, \"x\", 1) = 1"), None);
    }

    #[test]
    fn an_interval_is_the_dump_at_its_end() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("callgrind.2"), "events: Ir\ntotals: 1234\n").unwrap();
        assert_eq!(instructions(directory.path(), 0).unwrap(), 1234);
        assert!(instructions(directory.path(), 1).unwrap_err().to_string().contains("callgrind.3"));
    }
}
