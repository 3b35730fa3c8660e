//! Versions and sources in `Cargo.lock`.

use cargo_metadata::semver::Version;

/// The lowest version that may be locked, and what is wrong with those before it. A package that is not locked is fine.
const FLOORS: [(&str, &str, &str); 10] = [
    ("arc-swap", "1.9.1", "soundness fixes of guards"),
    ("bcrypt", "0.19.2", "panics on a hash that is not ASCII, RUSTSEC-2026-0199"),
    ("bytes", "1.11.1", "overflow in reserve, RUSTSEC-2026-0007"),
    ("crossbeam-channel", "0.5.15", "double free on drop, RUSTSEC-2025-0024"),
    ("h2", "0.4.16", "floods by empty frames and resets, RUSTSEC-2026-0258"),
    ("prost", "0.14.6", "the version the generated code is written against"),
    ("rustls", "0.23.18", "panics and endless loops on the network, RUSTSEC-2024-0399"),
    ("rustls-webpki", "0.103.13", "panics on revocation lists, RUSTSEC-2026-0104"),
    ("tokio", "1.44.2", "unsound broadcast channel, RUSTSEC-2025-0023"),
    ("tonic", "0.14.9", "the version the generated code is written against"),
];

/// The one place packages come from.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// One `[[package]]` of the lock file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Locked {
    name: String,
    version: String,
    /// Absent for the packages of the workspace.
    source: Option<String>,
}

/// What the lock file must hold: floors kept, and every package from crates.io (so none from git).
pub(super) fn check(lock: &str) -> Vec<String> {
    let packages = packages(lock);
    if packages.is_empty() {
        return vec!["Cargo.lock lists no package: is it the lock file?".into()];
    }
    let mut found = Vec::new();
    for package in &packages {
        let Locked { name, version, source } = package;
        if let Some(source) = source.as_deref().filter(|source| *source != CRATES_IO) {
            found.push(format!("{name} {version} comes from {source}: only crates.io is allowed"));
        }
        for (floored, floor, why) in FLOORS {
            if floored == name && is_below(version, floor) {
                found.push(format!(
                    "{name} {version} is below {floor} ({why}): run `cargo update -p {name}@{version} --precise {floor}`"
                ));
            }
        }
    }
    found
}

/// Whether `version` comes before `floor`; a version that cannot be read counts as below.
fn is_below(version: &str, floor: &str) -> bool {
    let floor = Version::parse(floor).expect("floors are written as x.y.z");
    Version::parse(version).map_or(true, |version| version < floor)
}

/// The packages of a lock file. Cargo writes one `key = "value"` a line, which is all the TOML needed here.
fn packages(lock: &str) -> Vec<Locked> {
    let mut packages: Vec<Locked> = Vec::new();
    let mut inside = false;
    for line in lock.lines() {
        if line.starts_with('[') {
            inside = line == "[[package]]";
            if inside {
                packages.push(Locked::default());
            }
        }
        let Some((key, value)) = line.split_once(" = ") else {
            continue;
        };
        let Some(package) = packages.last_mut().filter(|_| inside) else {
            continue;
        };
        let value = value.trim_matches('"').to_string();
        match key {
            "name" => package.name = value,
            "version" => package.version = value,
            "source" => package.source = Some(value),
            _ => {}
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(name: &str, version: &str, source: &str) -> String {
        format!(
            "version = 4\n\n[[package]]\nname = \"kv-codec\"\nversion = \"0.1.0\"\ndependencies = [\n \"{name}\",\n]\n\n\
             [[package]]\nname = \"{name}\"\nversion = \"{version}\"\nsource = \"{source}\"\nchecksum = \"00\"\n"
        )
    }

    #[test]
    fn packages_are_read() {
        let packages = packages(&lock("h2", "0.4.16", CRATES_IO));
        let expected = [
            Locked { name: "kv-codec".into(), version: "0.1.0".into(), source: None },
            Locked { name: "h2".into(), version: "0.4.16".into(), source: Some(CRATES_IO.into()) },
        ];
        assert_eq!(packages, expected);
    }

    #[test]
    fn at_the_floor_is_fine_and_below_it_is_not() {
        for (name, floor, _) in FLOORS {
            assert_eq!(check(&lock(name, floor, CRATES_IO)), Vec::<String>::new());
            let found = check(&lock(name, "0.0.9", CRATES_IO));
            assert!(found.len() == 1 && found[0].contains(floor), "{name}: {found:?}");
        }
        // Versions are numbers, not text: 0.4.9 is below 0.4.16, and a pre-release is below its release.
        assert_eq!(check(&lock("h2", "0.4.9", CRATES_IO)).len(), 1);
        assert_eq!(check(&lock("h2", "0.4.16-rc.1", CRATES_IO)).len(), 1);
        assert_eq!(check(&lock("h2", "not a version", CRATES_IO)).len(), 1);
    }

    #[test]
    fn git_and_other_registries_are_named() {
        for source in ["git+https://example.org/h2?rev=1#abc", "registry+https://example.org/index"] {
            let found = check(&lock("h2", "0.4.16", source));
            assert!(found.len() == 1 && found[0].contains(source), "{found:?}");
        }
    }

    #[test]
    fn an_empty_lock_file_is_not_a_pass() {
        assert_eq!(check("version = 4\n").len(), 1);
    }
}
