//! File sizes, words that must not stay, module docs, `unsafe`, the toolchain.

use crate::tidy::tree::File;

/// A file this long deserves a second look: it is said, and fails nothing.
const LINES_LONG: usize = 600;
/// No one reads a file this long as one thing.
const LINES_MAX: usize = 1_500;

/// Marks of unfinished work. Put together here, so that this file does not hold them itself.
const UNFINISHED: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("to", "do!"),
    concat!("unimplem", "ented!"),
    concat!("for ", "now"),
];

/// Pinned toolchains: the project builds with whatever stable cargo its user has, from `rust-version` on.
const TOOLCHAIN_FILES: [&str; 2] = ["rust-toolchain", "rust-toolchain.toml"];

/// Rust files to look at twice, for printing only.
pub(super) fn long_files(files: &[File]) -> Vec<String> {
    by_lines(files, |lines| lines > LINES_LONG && lines <= LINES_MAX)
}

/// Rust files over the limit.
pub(super) fn oversized_files(files: &[File]) -> Vec<String> {
    by_lines(files, |lines| lines > LINES_MAX)
}

fn by_lines(files: &[File], wanted: impl Fn(usize) -> bool) -> Vec<String> {
    let rust = files.iter().filter(|file| file.path.ends_with(".rs"));
    rust.map(|file| (file, file.text.lines().count()))
        .filter(|(_, lines)| wanted(*lines))
        .map(|(file, lines)| format!("{} has {lines} lines (long from {LINES_LONG}, limit {LINES_MAX})", file.path))
        .collect()
}

/// Marks of unfinished work, in any text file.
pub(super) fn forbidden_words(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for (file, number, line) in lines(files) {
        for word in UNFINISHED {
            if holds_word(line, word) {
                found.push(format!("{}:{number}: `{word}`: finish it, or write down what is", file.path));
            }
        }
    }
    found
}

/// Source files that do not open with what they are.
pub(super) fn module_docs(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|file| file.path.ends_with(".rs") && file.path.contains("/src/"))
        .filter(|file| !file.text.trim_start().starts_with("//!"))
        .map(|file| format!("{} does not open with `//!`: say what it is", file.path))
        .collect()
}

/// `unsafe` code, or a lint that lets it in, on a line that names no decision.
pub(super) fn unsafe_code(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for (file, number, line) in lines(files) {
        let rust = file.path.ends_with(".rs");
        if rust
            && (opens_unsafe(line) || line.contains(concat!("allow(un", "safe_code")))
            && !line.contains("docs/adr/")
        {
            found.push(format!(
                "{}:{number}: unsafe without a decision: name its docs/adr/ file on the line",
                file.path
            ));
        }
    }
    found
}

/// Files that would pin a toolchain.
pub(super) fn no_toolchain_file(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|file| TOOLCHAIN_FILES.iter().any(|name| file.path.rsplit('/').next() == Some(name)))
        .map(|file| format!("{} pins a toolchain: `rust-version` in Cargo.toml says what is needed", file.path))
        .collect()
}

/// Every line with its file and its number from 1.
fn lines(files: &[File]) -> impl Iterator<Item = (&File, usize, &str)> {
    files.iter().flat_map(|file| file.text.lines().zip(1..).map(move |(line, number)| (file, number, line)))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Whether `word` stands in `line` by itself: `todos` and `before noon` hold none.
fn holds_word(line: &str, word: &str) -> bool {
    after_each(line, word)
        .any(|rest| !word.ends_with(|last: char| last.is_alphanumeric()) || !rest.bytes().next().is_some_and(is_word))
}

/// What follows each `word` that does not continue another one.
fn after_each<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(word)
        .filter(|(at, _)| !at.checked_sub(1).is_some_and(|before| is_word(line.as_bytes()[before])))
        .map(|(at, _)| &line[at + word.len()..])
}

/// Whether the keyword stands before what it can open. Flags (`--unsafe-no-fsync`) and prose do not count.
fn opens_unsafe(line: &str) -> bool {
    after_each(line, concat!("un", "safe")).any(|rest| {
        let rest = rest.strip_prefix('(').map_or(rest.trim_start(), |_| "(");
        ["{", "(", "fn ", "impl ", "impl<", "trait ", "extern "].iter().any(|opened| rest.starts_with(opened))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::file;

    fn one(path: &str, text: &str) -> Vec<File> {
        vec![file(path, text)]
    }

    #[test]
    fn long_files_are_said_and_longer_ones_refused() {
        let of = |lines: usize| one("kv-a/src/a.rs", &"x\n".repeat(lines));
        assert_eq!((long_files(&of(600)).len(), oversized_files(&of(600)).len()), (0, 0));
        assert_eq!((long_files(&of(601)).len(), oversized_files(&of(601)).len()), (1, 0));
        assert_eq!((long_files(&of(1_501)).len(), oversized_files(&of(1_501)).len()), (0, 1));
        assert!(oversized_files(&one("docs/a.md", &"x\n".repeat(1_501))).is_empty());
    }

    #[test]
    fn unfinished_work_is_found_with_its_line() {
        for word in UNFINISHED {
            let found = forbidden_words(&one("docs/a.md", &format!("fine\nsee {word}: later\n")));
            assert!(found.len() == 1 && found[0].starts_with("docs/a.md:2:"), "{word}: {found:?}");
        }
        let macro_call = forbidden_words(&one("kv-a/src/a.rs", concat!("    to", "do!(\"later\")")));
        assert_eq!(macro_call.len(), 1, "{macro_call:?}");
    }

    #[test]
    fn words_that_only_look_like_it_are_fine() {
        let text = "todo = \"deny\"\nlasted before nowadays\nMAXXX\nTODOS\n";
        assert_eq!(forbidden_words(&one("Cargo.toml", text)), Vec::<String>::new());
    }

    #[test]
    fn a_source_file_without_module_docs_is_found() {
        assert_eq!(module_docs(&one("kv-a/src/a.rs", "use std::io;\n")).len(), 1);
        assert_eq!(module_docs(&one("kv-a/src/a.rs", "// no docs\n//! too late\n")).len(), 1);
        assert!(module_docs(&one("kv-a/src/a.rs", "//! What it is.\nuse std::io;\n")).is_empty());
        assert!(module_docs(&one("kv-a/tests/it/main.rs", "mod a;\n")).is_empty());
    }

    #[test]
    fn unsafe_code_needs_a_decision() {
        let keyword = concat!("un", "safe");
        for code in ["{ f() }", "fn f() {}", "impl Send for A {}", "extern \"C\" {}", "(no_mangle)"] {
            let found = unsafe_code(&one("kv-a/src/a.rs", &format!("//! A.\n    let a = {keyword} {code}\n")));
            assert!(found.len() == 1 && found[0].starts_with("kv-a/src/a.rs:2:"), "{code}: {found:?}");
        }
        assert_eq!(unsafe_code(&one("kv-a/src/a.rs", concat!("#[allow(un", "safe_code)]"))).len(), 1);
        assert_eq!(unsafe_code(&one("kv-a/src/a.rs", &format!("#[{keyword}(no_mangle)]"))).len(), 1);
        let fine = [
            format!("{keyword} {{ f() }} // docs/adr/0009-fast-copy.md"),
            format!("\"--{keyword}-no-fsync\" {keyword}_no_fsync Sync::UnsafeNone"),
            format!("// it would be {keyword} to go on"),
        ];
        for line in fine {
            assert_eq!(unsafe_code(&one("kv-a/src/a.rs", &line)), Vec::<String>::new());
        }
    }

    #[test]
    fn a_pinned_toolchain_is_found() {
        assert_eq!(no_toolchain_file(&one("rust-toolchain", "stable")).len(), 1);
        assert_eq!(no_toolchain_file(&one("kv-a/rust-toolchain.toml", "")).len(), 1);
        assert!(no_toolchain_file(&one("clippy.toml", "")).is_empty());
    }
}
