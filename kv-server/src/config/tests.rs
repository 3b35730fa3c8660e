//! What the command line and the environment make of the configuration.
#![allow(clippy::unwrap_used)]

use super::flags::{FLAGS, State};
use super::*;

const NO_ENV: [(&str, &str); 0] = [];

fn run(args: &[&str], env: &[(&str, &str)]) -> (Config, Vec<String>) {
    match Config::parse(args.iter().copied(), env.iter().copied()) {
        Ok(Parsed::Run { config, warnings }) => (*config, warnings),
        other => panic!("{args:?} {env:?}: {other:?}"),
    }
}

fn refused(args: &[&str], env: &[(&str, &str)]) -> (u8, String) {
    match Config::parse(args.iter().copied(), env.iter().copied()) {
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains('\n'), "{message}");
            (error.exit_code(), message)
        }
        other => panic!("{args:?} {env:?} was taken: {other:?}"),
    }
}

/// Asserts that the arguments are refused with `code`, in words that contain each of `words`.
fn check_refused(args: &[&str], env: &[(&str, &str)], code: u8, words: &[&str]) {
    let (actual, message) = refused(args, env);
    assert_eq!(actual, code, "{args:?} {env:?}: {message}");
    for word in words {
        assert!(message.contains(word), "{args:?} {env:?}: {word:?} is not in {message:?}");
    }
}

fn texts(urls: &[Url]) -> Vec<&str> {
    urls.iter().map(Url::as_str).collect()
}

#[test]
fn a_bare_start_has_the_defaults_of_etcd() {
    let (config, warnings) = run(&[], &[]);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(config, Config::defaults().unwrap());
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir, PathBuf::from("default.etcd"));
    assert_eq!(texts(&config.listen_client_urls), ["http://localhost:2379"]);
    assert_eq!(config.listen_client_urls[0].socket_addr(), Some(([127, 0, 0, 1], 2379).into()));
    assert_eq!(texts(&config.advertise_client_urls), ["http://localhost:2379"]);
    assert_eq!(texts(&config.listen_peer_urls), ["http://localhost:2380"]);
    assert_eq!(texts(&config.initial_advertise_peer_urls), ["http://localhost:2380"]);
    assert_eq!(texts(&config.initial_cluster["default"]), ["http://localhost:2380"]);
    assert_eq!(config.initial_cluster_token, "etcd-cluster");
    assert_eq!(config.snapshot_count, None);
    assert_eq!(config.quota_backend_bytes, Some(2 << 30));
    assert_eq!(config.max_request_bytes, 1_572_864);
    assert_eq!(config.max_txn_ops, 128);
    assert_eq!(config.max_concurrent_streams, u32::MAX);
    assert_eq!(config.heartbeat_interval, Duration::from_millis(100));
    assert_eq!(config.election_timeout, Duration::from_secs(1));
    assert_eq!((config.log_level, config.log_format), (LogLevel::Info, LogFormat::Json));
    assert!(!config.unsafe_no_fsync && !config.force_new_cluster && !config.initial_cluster_existing);
    assert_eq!((config.strict_reconfig_check, config.max_learners), (true, 1));
    assert!(!config.log_chosen);
    assert_eq!(config.report_version.server(), "3.7.0");
}

#[test]
fn flags_are_written_as_for_go() {
    for args in [&["--name=m"][..], &["--name", "m"], &["-name", "m"], &["-name=m"], &["--name=x", "--name=m"]] {
        assert_eq!(run(args, &[]).0.name, "m", "{args:?}");
    }
    for (args, on) in [
        (&["--unsafe-no-fsync"][..], true),
        (&["--unsafe-no-fsync=true"], true),
        (&["--unsafe-no-fsync=0"], false),
        (&["--unsafe-no-fsync", "--unsafe-no-fsync=false"], false),
        (&["--unsafe-no-fsync", "--name", "x"], true),
    ] {
        assert_eq!(run(args, &[]).0.unsafe_no_fsync, on, "{args:?}");
    }
    // A value may begin with a dash, or hold another equals sign.
    assert_eq!(run(&["--quota-backend-bytes", "-1"], &[]).0.quota_backend_bytes, None);
    assert_eq!(run(&["--initial-cluster-token=a=b"], &[]).0.initial_cluster_token, "a=b");
    assert_eq!(run(&["--"], &[]).0, run(&[], &[]).0);
}

#[test]
fn what_cannot_be_read_exits_with_2() {
    check_refused(&["--name"], &[], 2, &["--name", "value"]);
    check_refused(&["---name=x"], &[], 2, &["---name=x"]);
    check_refused(&["--=x"], &[], 2, &["--=x"]);
    check_refused(&["--unsafe-no-fsync=maybe"], &[], 2, &["--unsafe-no-fsync", "maybe", "true or false"]);
    check_refused(&["--heartbeat-interval=abc"], &[], 2, &["--heartbeat-interval", "whole number"]);
    check_refused(&["--heartbeat-interval=100ms"], &[], 2, &["--heartbeat-interval"]);
    check_refused(&["--max-txn-ops=-1"], &[], 2, &["--max-txn-ops"]);
    check_refused(&["--max-txn-ops=4294967296"], &[], 2, &["--max-txn-ops", "4294967295"]);
    check_refused(&["--max-request-bytes=2147483648"], &[], 2, &["--max-request-bytes", "at most"]);
    check_refused(&["--initial-cluster-state=old"], &[], 2, &["new, existing"]);
    check_refused(&["--log-level=loud"], &[], 2, &["--log-level", "debug"]);
    check_refused(&["--listen-client-urls=http://127.0.0.1"], &[], 2, &["--listen-client-urls", "port"]);
    check_refused(&["--corrupt-check-time=5"], &[], 2, &["--corrupt-check-time", "duration"]);
    check_refused(&["--version=perhaps"], &[], 2, &["--version"]);
}

#[test]
fn an_unknown_flag_exits_with_2_and_a_hint() {
    check_refused(&["--data-dri=x"], &[], 2, &["--data-dri", "did you mean --data-dir?"]);
    check_refused(&["--listen-client-url=x"], &[], 2, &["did you mean --listen-client-urls?"]);
    check_refused(&["--qqqqqqqqqqqq=x"], &[], 2, &["--help"]);
}

#[test]
fn an_extra_word_exits_with_1() {
    check_refused(&["--name=x", "extra"], &[], 1, &["extra", "not a valid flag"]);
    check_refused(&["--strict-reconfig-check", "true"], &[], 1, &["\"true\""]);
    check_refused(&["--", "--name=x"], &[], 1, &["--name=x"]);
    check_refused(&["--version", "extra"], &[], 1, &["extra"]);
    check_refused(&["-"], &[], 1, &["\"-\""]);
}

#[test]
fn help_and_version_come_before_everything_else() {
    let help = match Config::parse(["--listen-client-urls=https://x:1", "--help", "--nope"], NO_ENV) {
        Ok(Parsed::Help(text)) => text,
        other => panic!("{other:?}"),
    };
    for flag in FLAGS.iter().filter(|flag| matches!(flag.state, State::Built(_))) {
        assert!(help.contains(&format!("\n  --{} '", flag.name)), "{} is not in the help", flag.name);
    }
    assert!(help.contains("\nMember:\n") && help.contains(" wal-dir "), "{help}");
    assert!(help.lines().all(|line| line.len() <= 120), "a line is too long");
    let version = |env: &[(&str, &str)]| match Config::parse(["--version"], env.iter().copied()) {
        Ok(Parsed::Version(text)) => text,
        other => panic!("{other:?}"),
    };
    // A setting that could not be obeyed does not matter here.
    assert!(version(&[("ETCD_WAL_DIR", "/w")]).starts_with("etcd Version: 3.7.0\n"));
    assert!(version(&[("KV_REPORT_VERSION", "3.5.13")]).starts_with("etcd Version: 3.5.13\n"));
}

#[test]
fn the_environment_sets_flags() {
    let (config, warnings) = run(&[], &[("ETCD_NAME", "m"), ("ETCD_MAX_TXN_OPS", "7"), ("PATH", "/bin")]);
    assert_eq!((config.name.as_str(), config.max_txn_ops), ("m", 7));
    assert_eq!(warnings, Vec::<String>::new());
    assert!(config.log_chosen);
    // Empty is as good as unset.
    assert_eq!(run(&["--name=m"], &[("ETCD_NAME", "")]).0.name, "m");
    check_refused(&[], &[("ETCD_HEARTBEAT_INTERVAL", "zz")], 1, &["ETCD_HEARTBEAT_INTERVAL", "zz"]);
    check_refused(&[], &[("ETCD_WAL_DIR", "/w")], 1, &["ETCD_WAL_DIR"]);
    check_refused(&[], &[("KV_REPORT_VERSION", "new")], 1, &["KV_REPORT_VERSION"]);
    assert_eq!(run(&[], &[("KV_REPORT_VERSION", "3.5.13")]).0.report_version.cluster(), "3.5.0");
}

#[test]
fn a_flag_and_its_variable_exclude_each_other() {
    check_refused(&["--name=a"], &[("ETCD_NAME", "b")], 1, &["--name", "ETCD_NAME"]);
    check_refused(&["-name=a"], &[("ETCD_NAME", "a")], 1, &["--name", "ETCD_NAME"]);
}

#[test]
fn unknown_variables_only_warn() {
    let env = [("ETCD_VERIFY", "all"), ("ETCD_name", "x"), ("ETCDCTL_API", "3"), ("ETCD", "x")];
    let (config, warnings) = run(&[], &env);
    assert_eq!(config.name, "default");
    assert_eq!(
        warnings,
        ["unrecognized environment variable ETCD_VERIFY", "unrecognized environment variable ETCD_name"]
    );
}

#[test]
fn what_is_not_built_is_taken_at_its_default_only() {
    for flag in FLAGS {
        if let State::NotBuilt { harmless, why } = flag.state {
            for value in std::iter::once(&flag.default).chain(harmless) {
                let arg = format!("--{}={value}", flag.name);
                let (config, warnings) = run(&[&arg], &[]);
                assert_eq!(config, run(&[], &[]).0, "{arg}");
                assert_eq!(warnings, Vec::<String>::new(), "{arg}");
            }
            assert!(!why.contains('\n') && !why.ends_with('.'), "{why}");
        }
    }
    check_refused(&["--wal-dir=/w"], &[], 1, &["--wal-dir=/w", "not available in this version"]);
    check_refused(&["--cert-file", "c.pem"], &[], 1, &["--cert-file=c.pem", "TLS"]);
    check_refused(&["--client-cert-auth"], &[], 1, &["--client-cert-auth=true", "TLS"]);
    check_refused(&["--auto-compaction-retention=soon"], &[], 1, &["--auto-compaction-retention"]);
    check_refused(&["--auto-compaction-retention=-1"], &[], 1, &["--auto-compaction-retention"]);
    let by_revision = ["--auto-compaction-mode=revision", "--auto-compaction-retention=1h"];
    check_refused(&by_revision, &[], 1, &["--auto-compaction-retention", "a number of revisions"]);
    check_refused(&["--pre-vote=false"], &[], 1, &["--pre-vote=false"]);
    check_refused(&["--feature-gates=CompactHashCheck=true,LeaseCheckpoint=true"], &[], 1, &["LeaseCheckpoint"]);
    check_refused(&["--log-outputs=/var/log/x"], &[], 1, &["--log-outputs", "stderr"]);
    check_refused(&["--config-file=x.yaml"], &[], 1, &["--config-file"]);
    check_refused(&["--proxy=on"], &[], 1, &["--proxy"]);
    check_refused(&["--discovery=https://x"], &[], 1, &["--initial-cluster"]);
    // Another way of writing the default, and the last of two.
    run(&["--compact-hash-check-time=60s", "--grpc-keepalive-interval=2h0m0s", "--pre-vote=T"], &[]);
    run(&["--wal-dir=/w", "--wal-dir="], &[]);
}

#[test]
fn every_refusal_has_its_sentence() {
    for flag in FLAGS {
        if let State::NotBuilt { harmless, why: "" } = flag.state {
            // Only where no value is refused.
            let all = match flag.kind {
                value::Kind::Bool => 2,
                value::Kind::Choice(choices) => choices.len(),
                _ => usize::MAX,
            };
            assert_eq!(1 + harmless.len(), all, "--{} can be refused without a word", flag.name);
        }
    }
}

#[test]
fn the_table_is_sound() {
    for (i, flag) in FLAGS.iter().enumerate() {
        assert!(FLAGS[..i].iter().all(|other| other.name != flag.name), "{} twice", flag.name);
        if !matches!(flag.state, State::Ignored(_)) {
            assert_eq!(flag.kind.check(flag.default), Ok(()), "{}", flag.name);
        }
    }
}

#[test]
fn removed_flags_warn_and_go_on() {
    let args = [
        "--enable-v2=true",
        "--experimental-bootstrap-defrag",
        "--experimental-compaction-batch-limit",
        "50",
        "--max-snapshots=3",
        "--name=m",
    ];
    let (config, warnings) = run(&args, &[("ETCD_EXPERIMENTAL_X", "1")]);
    assert_eq!(config.name, "m");
    assert_eq!(warnings.len(), 5, "{warnings:#?}");
    for word in ["--enable-v2", "--experimental-bootstrap-defrag", "--max-snapshots", "ETCD_EXPERIMENTAL_X"] {
        assert!(warnings.iter().any(|warning| warning.contains(word)), "{word}: {warnings:#?}");
    }
}

#[test]
fn listeners_need_an_address_of_this_machine() {
    let listen = |url: &str| [format!("--listen-client-urls={url}"), "--advertise-client-urls=http://h:1".to_owned()];
    for (url, word) in [
        ("http://foo.bar:2379", "expected IP in URL for binding (http://foo.bar:2379)"),
        ("https://127.0.0.1:2379", "TLS"),
        ("unix://localhost:2379", "Unix"),
        ("unix:///run/kv.sock", "Unix"),
        ("", "at least one URL"),
    ] {
        let args = listen(url);
        check_refused(&[&args[0], &args[1]], &[], 1, &["--listen-client-urls", word]);
    }
    check_refused(&["--listen-peer-urls=https://127.0.0.1:2380"], &[], 1, &["--listen-peer-urls", "TLS"]);
    let args = listen("http://127.0.0.1:5, http://[::1]:4,http://127.0.0.1:5");
    let (config, _) = run(&[&args[0], &args[1]], &[]);
    assert_eq!(texts(&config.listen_client_urls), ["http://127.0.0.1:5", "http://[::1]:4"]);
    check_refused(
        &["--listen-client-urls=http://127.0.0.1:5"],
        &[],
        1,
        &["--advertise-client-urls is required when --listen-client-urls is set explicitly"],
    );
}

#[test]
fn the_initial_cluster_follows_name_and_peer_urls() {
    let (config, _) = run(&["--name=m"], &[]);
    assert_eq!(config.data_dir, PathBuf::from("m.etcd"));
    assert_eq!(texts(&config.initial_cluster["m"]), ["http://localhost:2380"]);
    let (config, _) = run(&["--initial-advertise-peer-urls=http://10.0.0.1:1,http://10.0.0.1:0"], &[]);
    assert_eq!(texts(&config.initial_cluster["default"]), ["http://10.0.0.1:0", "http://10.0.0.1:1"]);
}

#[test]
fn the_initial_cluster_must_be_this_member() {
    let given = "--initial-cluster";
    check_refused(&["--name=x", "--initial-cluster=y=http://localhost:2380"], &[], 1, &[given, "\"x\""]);
    check_refused(&["--initial-cluster=default=http://localhost:9"], &[], 1, &[given, "must be the same"]);
    check_refused(
        &["--initial-cluster=default=http://localhost:2380,default=http://localhost:2380"],
        &[],
        1,
        &[given, "twice"],
    );
    let two = "--initial-cluster=default=http://localhost:2380,b=http://localhost:3380";
    let (config, _) = run(&[two], &[]);
    assert!(!config.initial_cluster_existing && config.initial_cluster.len() == 2);
    let (config, _) = run(&[two, "--initial-cluster-state=existing"], &[]);
    assert!(config.initial_cluster_existing && config.initial_cluster.len() == 2);
    let long = format!("{two},{}=http://localhost:4380", "c".repeat(2000));
    check_refused(&[&long], &[], 1, &["--initial-cluster", "longer than"]);
    run(&["--initial-cluster=default=http://127.0.0.1:2380"], &[]);
    run(&["--initial-cluster-state=new", "--initial-cluster=default=http://localhost:2380"], &[]);
}

#[test]
fn timeouts_fit_together() {
    check_refused(&["--election-timeout=499"], &[], 1, &["--election-timeout", "5 times"]);
    run(&["--election-timeout=500"], &[]);
    check_refused(&["--election-timeout=50001"], &[], 1, &["too long"]);
    run(&["--election-timeout=50000"], &[]);
    check_refused(&["--heartbeat-interval=0"], &[], 1, &["--heartbeat-interval"]);
}

#[test]
fn limits_and_their_warnings() {
    assert_eq!(run(&["--quota-backend-bytes=0"], &[]).0.quota_backend_bytes, Some(2 << 30));
    assert_eq!(run(&["--quota-backend-bytes=53248"], &[]).0.quota_backend_bytes, Some(53_248));
    assert_eq!(run(&["--snapshot-count=10000"], &[]).0.snapshot_count, Some(10_000));
    assert_eq!(run(&["--snapshot-count=0"], &[]).0.snapshot_count, None);
    let warned = |arg: &str| run(&[arg], &[]).1.len();
    assert_eq!(warned("--max-request-bytes=10485760"), 0);
    assert_eq!(warned("--max-request-bytes=10485761"), 1);
    assert_eq!(warned("--quota-backend-bytes=8589934592"), 0);
    assert_eq!(warned("--quota-backend-bytes=8589934593"), 1);
    assert_eq!(warned("--quota-backend-bytes=-1"), 0);
    assert_eq!(warned("--unsafe-no-fsync"), 1);
}

#[test]
fn choosing_a_log_is_noticed() {
    assert!(run(&["--log-format=console"], &[]).0.log_chosen);
    assert!(run(&["--log-level=info"], &[]).0.log_chosen);
    assert!(!run(&["--name=m"], &[("PATH", "/bin")]).0.log_chosen);
}

#[test]
fn client_commands() {
    let client = |args: &[&str]| match Config::parse(args.iter().copied(), NO_ENV) {
        Ok(Parsed::Client(command)) => command,
        other => panic!("{args:?}: {other:?}"),
    };
    let put = client(&["put", "k", "v"]);
    assert_eq!(put.endpoints, ["127.0.0.1:2379"]);
    assert_eq!(put.output, Output::Simple);
    assert_eq!(put.action, Action::Put { key: b"k".to_vec(), value: Some(b"v".to_vec()) });
    for args in [&["put", "k"][..], &["put", "k", "-"]] {
        assert_eq!(client(args).action, Action::Put { key: b"k".to_vec(), value: None }, "{args:?}");
    }
    let get = client(&["get", "--prefix", "k", "--limit=3", "--keys-only", "-w", "json"]);
    assert_eq!(get.output, Output::Json);
    let key = b"k".to_vec();
    assert_eq!(get.action, Action::Get { key, prefix: true, limit: 3, keys_only: true });
    let del = client(&["del", "--endpoints", "a:1,http://b:2/", "--", "--k"]);
    assert_eq!(del.endpoints, ["a:1", "b:2"]);
    assert_eq!(del.action, Action::Del { key: b"--k".to_vec(), prefix: false });
    for args in [
        &["put"][..],
        &["get", "a", "b"],
        &["put", "k", "v", "w"],
        &["put", "k", "v", "--prefix"],
        &["del", "k", "--limit", "3"],
        &["get", "k", "--limit", "few"],
        &["get", "k", "--nope"],
        &["get", "k", "-w", "yaml"],
        &["get", "k", "--endpoints", "nowhere"],
        &["get", "k", "--endpoints"],
        &["get", "k", "--endpoints=https://a:1"],
    ] {
        let (code, message) = refused(args, &[]);
        assert_eq!(code, 2, "{args:?}: {message}");
        assert!(message.contains("usage: kv-server"), "{args:?}: {message}");
    }
}

#[test]
fn an_earlier_name_of_a_flag_is_that_flag() {
    assert_eq!(run(&["--experimental-max-learners=3"], &[]).0.max_learners, 3);
    assert_eq!(run(&["--experimental-max-learners=3", "--max-learners=2"], &[]).0.max_learners, 2);
    assert_eq!(run(&[], &[("ETCD_EXPERIMENTAL_MAX_LEARNERS", "4")]).0.max_learners, 4);
    check_refused(&["--max-learners=2"], &[("ETCD_EXPERIMENTAL_MAX_LEARNERS", "4")], 1, &["both set"]);
    check_refused(&["--max-learners=0"], &[], 1, &["--max-learners", "at least 1"]);
}

#[test]
fn corruption_checks_have_two_sets_of_names() {
    let (off, _) = run(&["--compact-hash-check-time=5s"], &[]);
    assert_eq!((off.initial_corrupt_check, off.corrupt_check_time, off.compact_hash_check_time), (false, None, None));
    let old = [
        "--experimental-initial-corrupt-check",
        "--experimental-corrupt-check-time=3s",
        "--experimental-compact-hash-check-enabled=true",
        "--experimental-compact-hash-check-time=4s",
    ];
    let new = [
        "--feature-gates=InitialCorruptCheck=true,CompactHashCheck=true",
        "--corrupt-check-time=3s",
        "--compact-hash-check-time=4s",
    ];
    for args in [&old[..], &new] {
        let (config, warnings) = run(args, &[]);
        assert!(config.initial_corrupt_check);
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!((config.corrupt_check_time, config.compact_hash_check_time), (seconds(3), seconds(4)));
        assert_eq!(warnings, Vec::<String>::new());
    }
    let (config, _) = run(&["--feature-gates=CompactHashCheck=true"], &[]);
    assert_eq!((config.initial_corrupt_check, config.compact_hash_check_time), (false, Some(Duration::from_secs(60))));
    let never = ["--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=0"];
    check_refused(&never, &[], 1, &["--compact-hash-check-time"]);
}

#[test]
fn a_resync_needs_others_and_no_new_cluster() {
    let two = "--initial-cluster=default=http://localhost:2380,b=http://b:2380";
    let resync = "--resync-from-cluster";
    assert!(run(&[two, resync], &NO_ENV).0.resync_from_cluster);
    assert!(!run(&[two, "--resync-from-cluster=false", "--force-new-cluster"], &NO_ENV).0.resync_from_cluster);
    check_refused(&[resync], &NO_ENV, 1, &[resync, "--initial-cluster", "member list"]);
    check_refused(&[two, resync, "--force-new-cluster"], &NO_ENV, 1, &[resync, "--force-new-cluster", "give one"]);
}
