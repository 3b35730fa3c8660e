//! The text of `--help`, made from the table of flags.

use super::flags::{FLAGS, Flag, Group, State};

/// Width the lists at the end are wrapped to.
const COLUMNS: usize = 100;

const USAGE: &str = "\
Usage:

  kv-server [flags]
    Start a server that speaks the etcd v3 API.

  kv-server put KEY [VALUE]
  kv-server get KEY [--prefix] [--limit N] [--keys-only]
  kv-server del KEY [--prefix]
    Write, read or delete keys of a running server. Without VALUE, or with -, it is read from stdin.
    --endpoints HOST:PORT[,..] chooses the server, 127.0.0.1:2379 by default; -w json prints JSON.

  kv-server --version
    Show the version.

Every flag can be set by an environment variable too: --data-dir by ETCD_DATA_DIR.
";

/// The whole text.
pub(super) fn text() -> String {
    let mut text = USAGE.to_owned();
    for (group, title) in Group::SHOWN {
        let flags = || FLAGS.iter().filter(move |flag| flag.group == group);
        if flags().any(|flag| matches!(flag.state, State::Built(_))) {
            text.push_str(&format!("\n{title}:\n"));
        }
        for flag in flags() {
            if let State::Built(help) = flag.state {
                text.push_str(&format!("  --{} '{}'\n    {help}\n", flag.name, flag.default));
            }
        }
    }
    text.push_str("\nFlags of etcd that are refused unless set to what is done anyway:\n");
    text.push_str(&list(|flag| matches!(flag.state, State::NotBuilt { .. })));
    text.push_str("\nFlags of etcd that have no effect:\n");
    text.push_str(&list(|flag| matches!(flag.state, State::Ignored(_))));
    text
}

/// The names of the flags that `wanted` picks, as a paragraph.
fn list(wanted: impl Fn(&Flag) -> bool) -> String {
    let mut text = String::new();
    let mut line = String::from(" ");
    for flag in FLAGS.iter().filter(|flag| wanted(flag)) {
        if line.len() + 1 + flag.name.len() > COLUMNS {
            text.push_str(&line);
            text.push('\n');
            line = String::from(" ");
        }
        line.push(' ');
        line.push_str(flag.name);
    }
    text.push_str(&line);
    text.push('\n');
    text
}
