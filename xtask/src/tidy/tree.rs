//! The text files of the project.

use std::path::Path;

use anyhow::{Context, Result};

/// Endings of the files that are read; everything else (binaries, lock files, data) is passed over.
const ENDINGS: [&str; 7] = ["rs", "md", "toml", "proto", "sh", "yml", "yaml"];
/// Files without an ending that are text all the same, and files whose presence alone says something.
const NAMES: [&str; 2] = ["run", "rust-toolchain"];
/// Hidden folders that belong to the project.
const HIDDEN: [&str; 3] = [".ci", ".cargo", ".github"];

/// One file: its path from the root with `/` between the parts, and its text.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) path: String,
    pub(super) text: String,
}

/// The tree, read once for all checks, ordered by path.
pub(super) struct Tree {
    pub(super) files: Vec<File>,
}

impl Tree {
    /// Reads the tree under `root`; build output, data directories and hidden folders are left out.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        walk(root, "", &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { files })
    }

    /// The text of the file at `path`.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|file| file.path == path).map(|file| file.text.as_str())
    }
}

fn walk(folder: &Path, prefix: &str, files: &mut Vec<File>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let left_out = name == "target" || name.ends_with(".etcd");
            let hidden = name.starts_with('.') && !HIDDEN.contains(&name.as_str());
            if !left_out && !hidden {
                walk(&entry.path(), &path, files)?;
            }
        } else if kind.is_file() && wanted(&name) {
            let text = std::fs::read_to_string(entry.path()).with_context(|| format!("reading {path}"))?;
            files.push(File { path, text });
        }
    }
    Ok(())
}

fn wanted(name: &str) -> bool {
    NAMES.contains(&name) || name.rsplit_once('.').is_some_and(|(_, ending)| ENDINGS.contains(&ending))
}

/// A file for the tests of the checks.
#[cfg(test)]
pub(super) fn file(path: &str, text: &str) -> File {
    File { path: path.into(), text: text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_of_this_project_is_found() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let tree = Tree::read(&root).expect("the project's own tree is readable");
        assert!(tree.text("xtask/src/tidy/tree.rs").is_some_and(|text| text.contains("fn walk(")));
        assert!(tree.files.iter().all(|file| !file.path.starts_with("target/") && !file.path.starts_with(".git/")));
    }
}
