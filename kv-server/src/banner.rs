//! What a person sees who starts the server bare on a terminal: where it listens, where it keeps its
//! data, and what to type next.

use std::path::Path;

use crate::config::Config;

/// Whether to greet: a person is looking at stderr, and nobody has said how to log.
pub fn wanted(config: &Config, stderr_is_terminal: bool) -> bool {
    stderr_is_terminal && !config.log_chosen
}

/// The lines, the last with its end.
///
/// `client_address` is a `host:port` that clients on this machine reach, `revision` the store's.
pub fn text(client_address: &str, data_dir: &Path, revision: i64) -> String {
    // The client's own default needs no flag.
    let endpoint = match client_address {
        "127.0.0.1:2379" | "localhost:2379" => String::new(),
        other => format!(" --endpoints={other}"),
    };
    format!(
        "kv-server is ready at {client_address}, at revision {revision}; data in {}

In another terminal:
  etcdctl{endpoint} put greeting hello
  etcdctl{endpoint} get greeting
or, without etcdctl:
  kv-server put greeting hello{endpoint}
  kv-server get greeting{endpoint}
  kv-server del greeting{endpoint}

Ctrl-C stops the server. With --log-format=json it logs as etcd does instead; --help has the rest.
",
        data_dir.display()
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Parsed;

    fn config(args: &[&str], env: &[(&str, &str)]) -> Config {
        match Config::parse(args.iter().copied(), env.iter().copied()).unwrap() {
            Parsed::Run { config, .. } => *config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_person_is_greeted() {
        let bare = config(&[], &[]);
        assert!(wanted(&bare, true));
        assert!(!wanted(&bare, false));
        assert!(!wanted(&config(&["--log-format=json"], &[]), true));
        assert!(!wanted(&config(&["--log-level=debug"], &[]), true));
        assert!(!wanted(&config(&[], &[("ETCD_NAME", "m")]), true));
        assert!(wanted(&config(&["--name=m"], &[("HOME", "/")]), true));
    }

    #[test]
    fn it_says_where_and_what_to_type() {
        let text = text("127.0.0.1:2379", Path::new("default.etcd"), 7);
        assert!(text.starts_with("kv-server is ready at 127.0.0.1:2379, at revision 7; data in default.etcd\n"));
        assert!(text.contains("\n  etcdctl put greeting hello\n"), "{text}");
        assert!(text.contains("\n  kv-server get greeting\n"), "{text}");
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn what_to_type_works_on_another_port() {
        let text = text("127.0.0.1:9999", Path::new("d"), 1);
        assert!(text.contains("\n  etcdctl --endpoints=127.0.0.1:9999 get greeting\n"), "{text}");
        assert!(text.contains("\n  kv-server put greeting hello --endpoints=127.0.0.1:9999\n"), "{text}");
    }
}
