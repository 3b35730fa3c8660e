//! The tools against the real server. The crash tool here: a few rounds of what `cargo xtask crash` does for long.

#![allow(clippy::unwrap_used)]

mod clusters;
mod lab;
mod races;
mod wire;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use kv_bench::crash::{self, Options};

/// Builds kv-server as this test was built, and says where it is.
///
/// Cargo tells a test the path of its own package's binaries only, so this asks cargo. `--workspace`, and an example beside it, make it
/// choose the same features as `cargo test --workspace`, those that only tests need among them: it has the binary ready then.
fn server_binary() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        // target/<profile>/deps/<this test>
        let profile_dir = test.ancestors().nth(2).unwrap();
        let target_dir = profile_dir.parent().unwrap();
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["build", "--quiet", "--workspace", "--bin", "kv-server", "--example", "counter"]);
        build.arg("--target-dir").arg(target_dir);
        if profile_dir.ends_with("release") {
            build.arg("--release");
        }
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let status = build.current_dir(workspace).status().unwrap();
        assert!(status.success(), "building kv-server: {status}");
        profile_dir.join("kv-server")
    });
    built.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_kills() {
    let options = Options {
        server: server_binary(),
        rounds: 3,
        writers: 16,
        seed: None,
        keys: 8,
        load_ms_max: 300,
        power_loss: false,
        dir: None,
        keep: false,
    };
    let report = crash::run(options).await.unwrap();
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
    assert_eq!((report.rounds, report.restarts), (3, 5), "{report}");
    assert_eq!(report.early_errors, 0, "{report}");
    assert!(report.hashes_compared > 0, "{report}");
}
