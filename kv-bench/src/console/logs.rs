//! What members write to their logs, on the terminal: each line with its member's number, in its member's colour.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Red is for what is wrong, and white is the prompt's.
const COLOURS: [&str; 6] = ["36", "33", "35", "32", "34", "96"];
/// Pause between two looks at a log that has nothing new.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// Whether to colour what goes to standard output.
fn coloured() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn prefix(slot: usize, coloured: bool) -> String {
    let number = slot + 1;
    if coloured { format!("\x1b[{}m{number} |\x1b[0m ", COLOURS[slot % COLOURS.len()]) } else { format!("{number} | ") }
}

/// Prints what the log of the member in `slot` gets, for as long as it is polled.
pub(super) async fn follow(slot: usize, log: PathBuf) {
    let prefix = prefix(slot, coloured());
    let (mut reader, mut line) = (None, Vec::new());
    loop {
        // It is made with the member's first start.
        if reader.is_none() {
            reader = File::open(&log).ok().map(BufReader::new);
        }
        let read = reader.as_mut().and_then(|reader| reader.read_until(b'\n', &mut line).ok()).unwrap_or(0);
        if line.ends_with(b"\n") {
            // Whoever closed our standard output wants no logs.
            let _ = write!(std::io::stdout(), "{prefix}{}", String::from_utf8_lossy(&line));
            line.clear();
        }
        if read == 0 {
            tokio::time::sleep(POLL_EVERY).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_has_its_number_and_its_colour() {
        assert_eq!(prefix(0, false), "1 | ");
        assert_ne!(prefix(0, true)[..6], prefix(1, true)[..6]);
        assert!(prefix(8, true).contains("9 |"));
    }
}
