//! The modules of a crate, parsed, tests left out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use syn::{Attribute, Item, Visibility};

/// One module: its items, and the modules below it by name.
pub(super) struct Module {
    pub(super) public: bool,
    pub(super) items: Vec<Item>,
    pub(super) children: BTreeMap<String, Module>,
}

impl Module {
    /// The tree from the crate's root file on.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let folder = root.parent().context("a file is in a folder")?;
        Self::from_file(root, folder)
    }

    /// The tree of one file without modules in other files.
    #[cfg(test)]
    pub(super) fn parse(text: &str) -> Result<Self> {
        Self::from_items(syn::parse_file(text)?.items, true, Path::new("nowhere"))
    }

    fn from_file(file: &Path, folder: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let parsed = syn::parse_file(&text).with_context(|| format!("parsing {}", file.display()))?;
        Self::from_items(parsed.items, true, folder)
    }

    /// `folder` is where the files of the modules below are.
    fn from_items(items: Vec<Item>, public: bool, folder: &Path) -> Result<Self> {
        let mut module = Self { public, items: Vec::new(), children: BTreeMap::new() };
        for item in items {
            let Item::Mod(below) = item else {
                module.items.push(item);
                continue;
            };
            if is_test(&below.attrs) {
                continue;
            }
            let name = below.ident.to_string();
            let below_folder = folder.join(&name);
            let mut child = match below.content {
                Some((_, items)) => Self::from_items(items, true, &below_folder)?,
                None => Self::from_file(&file_of(folder, &name), &below_folder)?,
            };
            child.public = matches!(below.vis, Visibility::Public(_));
            module.children.insert(name, child);
        }
        Ok(module)
    }

    /// The module at a path from here.
    pub(super) fn at(&self, path: &[String]) -> Option<&Self> {
        path.iter().try_fold(self, |module, name| module.children.get(name))
    }

    /// Calls `each` with every module and its path.
    pub(super) fn walk<'a>(&'a self, path: &mut Vec<String>, each: &mut dyn FnMut(&[String], &'a Self)) {
        each(path, self);
        for (name, child) in &self.children {
            path.push(name.clone());
            child.walk(path, each);
            path.pop();
        }
    }
}

fn file_of(folder: &Path, name: &str) -> PathBuf {
    let flat = folder.join(format!("{name}.rs"));
    if flat.exists() { flat } else { folder.join(name).join("mod.rs") }
}

/// Whether `#[cfg(test)]` stands before it.
pub(super) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|word| word == "test")
    })
}
