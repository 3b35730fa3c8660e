//! The version of etcd this server answers as, and the text of `--version`.
//!
//! Clients switch features on what a server reports, so that this is the version of etcd whose
//! behaviour is offered, not the version of this program. It is one constant; the environment
//! variable [`REPORT_VERSION_ENV`] overrides it for tools that insist on another.

use std::fmt;

/// The version of etcd reported unless overridden.
pub const ETCD_VERSION: &str = "3.7.0";

/// Environment variable that overrides the reported version.
pub const REPORT_VERSION_ENV: &str = "KV_REPORT_VERSION";

/// A version of etcd to report: `major.minor.patch` with an optional `-pre` tail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedVersion {
    server: String,
    cluster: String,
}

impl ReportedVersion {
    /// Reads `major.minor.patch[-pre]`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (numbers, pre) = match text.split_once('-') {
            Some((numbers, pre)) => (numbers, Some(pre)),
            None => (text, None),
        };
        let pre_is_plain =
            |pre: &str| !pre.is_empty() && pre.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
        if !pre.is_none_or(pre_is_plain) {
            return None;
        }
        let mut parts = numbers.split('.').map(number);
        let (major, minor, _patch) = (parts.next()??, parts.next()??, parts.next()??);
        if parts.next().is_some() {
            return None;
        }
        Some(Self { server: text.to_owned(), cluster: format!("{major}.{minor}.0") })
    }

    /// What Status and `/version` report for this server, such as `3.7.0`.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// What they report for the cluster: the same with the patch level 0, such as `3.7.0`.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The text of `--version`. The first line is read by tooling before it starts a server; the
    /// labels are etcd's, since tools look for them.
    pub fn version_text(&self) -> String {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        format!(
            "etcd Version: {}\nGit SHA: {}\nGo Version: none (Rust)\nGo OS/Arch: {}/{arch}\nkv-server Version: {}\n",
            self.server,
            option_env!("KV_GIT_SHA").unwrap_or("Not provided"),
            std::env::consts::OS,
            env!("CARGO_PKG_VERSION"),
        )
    }
}

impl Default for ReportedVersion {
    fn default() -> Self {
        Self::parse(ETCD_VERSION).expect("the constant is a version, which a test holds true")
    }
}

impl fmt::Display for ReportedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.server)
    }
}

/// Whether etcd's Downgrade takes this for a version: `major.minor`, or with `.patch[-pre][+metadata]`.
pub(crate) fn is_version(text: &str) -> bool {
    is_full_version(text) || is_full_version(&format!("{text}.0"))
}

fn is_full_version(text: &str) -> bool {
    let is_word = |word: &str| word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
    let (text, metadata) = text.split_once('+').unwrap_or((text, ""));
    let (numbers, pre) = text.split_once('-').unwrap_or((text, ""));
    // Of each part, as many digits as fit, zeroes before them included.
    let is_number = |part: &str| part.parse::<i64>().is_ok();
    is_word(metadata) && is_word(pre) && numbers.split('.').count() == 3 && numbers.split('.').all(is_number)
}

/// A part of a version: digits without a leading zero.
fn number(part: &str) -> Option<u32> {
    let plain = part == "0" || (!part.starts_with('0') && part.bytes().all(|b| b.is_ascii_digit()));
    if plain { part.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_a_version() {
        let version = ReportedVersion::default();
        assert_eq!((version.server(), version.cluster()), ("3.7.0", "3.7.0"));
    }

    #[test]
    fn the_cluster_has_no_patch_level() {
        let version = ReportedVersion::parse("3.8.4-alpha.0").expect("a version");
        assert_eq!((version.server(), version.cluster()), ("3.8.4-alpha.0", "3.8.0"));
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in ["", "3", "3.7", "3.7.0.1", "v3.7.0", "3.7.x", "3.07.0", "3.7.0-", "3.7.0-a b", "+3.7.0"] {
            assert_eq!(ReportedVersion::parse(text), None, "{text:?}");
        }
    }

    /// As etcd 3.5.1 answers.
    #[test]
    fn the_target_of_a_downgrade_is_read_as_etcd_reads_it() {
        for text in ["3.4", "3.4.0", "3.4.7", "4.4.0", "3.4.0-rc.1", "3.04.0", "3.4.0+b", "2.4.0"] {
            assert!(is_version(text), "{text:?}");
        }
        let (long, bad) =
            ("3.99999999999999999999.0", ["", "3", "v3.4", "x", "3.4.0.1", " 3.4.0", "3.4.", "-3.4", "+3.4"]);
        for text in bad.into_iter().chain([long, "3.4-rc", "3..0", "3.4.-1", "3.4.0-a b", "3.4.0+\u{e9}"]) {
            assert!(!is_version(text), "{text:?}");
        }
    }

    #[test]
    fn tooling_reads_the_first_line() {
        let text = ReportedVersion::default().version_text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "etcd Version: 3.7.0");
        assert!(lines[1].starts_with("Git SHA: "), "{text}");
        assert_eq!(lines[2], "Go Version: none (Rust)");
        assert!(lines[3].starts_with("Go OS/Arch: "), "{text}");
        assert_eq!(lines[4], format!("kv-server Version: {}", env!("CARGO_PKG_VERSION")));
        assert_eq!(lines.len(), 5);
    }
}
