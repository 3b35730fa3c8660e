//! The public API of each library, as a file that a reviewer reads: a change of it is a change of that file.
//!
//! What is public is read from the source: items marked `pub` that are reached from the root through public modules and
//! re-exports, without bodies and docs, sorted. Generated code is not in it. Methods stand with their type; of a trait that is
//! implemented only its name.

mod module;
mod surface;

use std::path::Path;

use anyhow::{Context, Result};

use module::Module;

/// The crates that others build on.
const LIBRARIES: [&str; 4] = ["kv-codec", "kv-store", "kv-raft", "kv-server"];
/// Where the files are.
const FOLDER: &str = "docs/api";

/// Compares each library's API with its file, or writes the file anew.
pub(super) fn check(root: &Path, bless: bool) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in LIBRARIES {
        let crate_root = root.join(name).join("src/lib.rs");
        let module = Module::read(&crate_root).with_context(|| format!("reading the modules of {name}"))?;
        let text = surface::text(&module);
        let path = root.join(FOLDER).join(format!("{name}.txt"));
        if bless {
            std::fs::create_dir_all(root.join(FOLDER)).with_context(|| format!("creating {FOLDER}"))?;
            std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            continue;
        }
        let known = std::fs::read_to_string(&path).unwrap_or_default();
        if let Some(difference) = first_difference(&known, &text) {
            found.push(format!(
                "the public API of {name} is not what {FOLDER}/{name}.txt says: {difference}; if it is meant, `cargo xtask tidy --bless`"
            ));
        }
    }
    Ok(found)
}

/// The first line that is in one and not in the other at its place.
fn first_difference(known: &str, now: &str) -> Option<String> {
    let (mut known, mut now) = (known.lines(), now.lines());
    loop {
        match (known.next(), now.next()) {
            (None, None) => return None,
            (Some(known), Some(now)) if known == now => {}
            (known, now) => {
                let shown = |line: Option<&str>| line.map_or("its end".to_owned(), |line| format!("`{}`", line.trim()));
                return Some(format!("{} where it has {}", shown(now), shown(known)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_differs_is_named() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        let said = first_difference("a\n    pub fn b();\n", "a\n").expect("a line is gone");
        assert_eq!(said, "its end where it has `pub fn b();`");
        assert_eq!(first_difference("", "a\n").as_deref(), Some("`a` where it has its end"));
    }
}
