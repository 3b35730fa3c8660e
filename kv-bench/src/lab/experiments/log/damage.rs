//! What a log makes of a file that is not what was written: done to the files, then opened.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{KINDS, Kind, Opened};
use crate::lab::Lab;
use crate::lab::report::Table;

const ENTRIES: u64 = 200;
/// So long that an entry takes several sectors, and so short that no log compresses it.
const PAYLOAD_BYTES: usize = 2000;
/// What a disk writes whole.
const SECTOR: usize = 512;
/// An error is cut here: the table is read on phones too.
const WORDS_MAX: usize = 110;

/// The files of a directory, subdirectories included, by their paths under it.
type Files = Vec<(OsString, Vec<u8>)>;

/// What is done to a log of two hundred entries.
const CASES: [(&str, Damage); 3] = [
    ("a bit flipped in the middle", Damage::Flip(ENTRIES / 2)),
    ("a bit flipped in the last batch", Damage::Flip(ENTRIES)),
    ("the last write torn", Damage::Tear),
];

/// The entries that are damaged.
const FLIPPED: [u64; 2] = [ENTRIES / 2, ENTRIES];

#[derive(Clone, Copy)]
enum Damage {
    /// A bit of this entry's payload, which is one of [`FLIPPED`].
    Flip(u64),
    /// Of the last write, only the first sectors arrived.
    Tear,
}

pub(super) fn table(lab: &Lab) -> Result<Table> {
    let caption = format!("A log of {ENTRIES} durable entries, damaged and opened again");
    let head: Vec<&str> = std::iter::once("log").chain(CASES.iter().map(|case| case.0)).collect();
    let mut table = Table::new(caption, &head);
    for kind in KINDS {
        lab.stop.check()?;
        let written = write(lab, kind)?;
        let mut row = vec![kind.name.to_owned()];
        for (_, damage) in CASES {
            let files = damaged(&written, damage)?;
            let dir = lab.fresh_dir()?;
            restore(dir.path(), &files)?;
            let opened = (kind.open)(dir.path(), &mut |index, found| found == payload(index));
            row.push(verdict(opened, damage));
        }
        table.rows.push(row);
    }
    Ok(table)
}

fn payload(index: u64) -> Vec<u8> {
    let text = format!("entry {index:08} ");
    text.bytes().cycle().take(PAYLOAD_BYTES).collect()
}

/// What a log wrote.
struct Written {
    /// The files before the last append.
    before: Files,
    /// The files after it.
    after: Files,
    /// For each of [`FLIPPED`], the file in which it is, and where in there the middle of its payload is. A log may not store what it is
    /// given as it is: the place is where its files changed.
    places: Vec<(u64, OsString, usize)>,
}

/// Writes a log. It is still open when its files are read, as when a machine dies.
fn write(lab: &Lab, kind: &Kind) -> Result<Written> {
    let dir = lab.fresh_dir()?;
    let mut log = (kind.create)(dir.path(), true)?;
    let mut written = Written { before: Files::new(), after: Files::new(), places: Vec::new() };
    for index in 1..=ENTRIES {
        let is_flipped = FLIPPED.contains(&index);
        if is_flipped {
            written.before = files(dir.path(), Path::new(""))?;
        }
        log.append(index, &[payload(index)])?;
        if is_flipped {
            written.after = files(dir.path(), Path::new(""))?;
            let (path, at) = grown(&written).context("an append changed no file")?;
            written.places.push((index, path, at + PAYLOAD_BYTES / 2));
        }
        if index < ENTRIES {
            log.prepare()?;
        }
    }
    Ok(written)
}

/// The file to which the last append added most, and where it began to.
fn grown(Written { before, after, .. }: &Written) -> Option<(OsString, usize)> {
    let changed = |(path, new): &(OsString, Vec<u8>)| {
        let (first, last) = changed(old_of(before, path), new)?;
        Some((last - first, path.clone(), first))
    };
    let (_, path, first) = after.iter().filter_map(changed).max_by_key(|(bytes, ..)| *bytes)?;
    Some((path, first))
}

/// What a file held before; nothing if it was not there.
fn old_of<'a>(before: &'a Files, path: &OsString) -> &'a [u8] {
    before.iter().find(|(old, _)| old == path).map_or(&[], |(_, bytes)| bytes)
}

/// The first and the last byte that are not what they were.
fn changed(old: &[u8], new: &[u8]) -> Option<(usize, usize)> {
    let differs = |at: &usize| old.get(*at) != new.get(*at);
    let first = (0..new.len()).find(differs)?;
    Some((first, (first..new.len()).rev().find(differs).unwrap_or(first)))
}

fn files(root: &Path, under: &Path) -> Result<Files> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root.join(under)).context("listing a log")? {
        let entry = entry.context("listing a log")?;
        let path = under.join(entry.file_name());
        if entry.file_type().context("listing a log")?.is_dir() {
            found.extend(files(root, &path)?);
        } else {
            let bytes = std::fs::read(root.join(&path)).context("reading a log")?;
            found.push((path.into_os_string(), bytes));
        }
    }
    Ok(found)
}

fn restore(root: &Path, files: &Files) -> Result<()> {
    for (path, bytes) in files {
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).context("making a directory")?;
        }
        std::fs::write(path, bytes).context("writing a log")?;
    }
    Ok(())
}

fn damaged(written: &Written, damage: Damage) -> Result<Files> {
    let mut files = written.after.clone();
    let mut hits = 0;
    for (path, bytes) in &mut files {
        match damage {
            Damage::Flip(index) => {
                let place = written.places.iter().find(|(of, file, _)| *of == index && file == path);
                if let Some(byte) = place.and_then(|(.., at)| bytes.get_mut(*at)) {
                    *byte ^= 1;
                    hits += 1;
                }
            }
            Damage::Tear => hits += usize::from(tear(old_of(&written.before, path), bytes)),
        }
    }
    ensure!(hits > 0, "the damage found nothing to hit");
    Ok(files)
}

/// Takes back the second half of what changed, from a sector's border on; whether something changed.
fn tear(old: &[u8], new: &mut Vec<u8>) -> bool {
    let Some((first, last)) = changed(old, new) else { return false };
    let cut = (first + (last - first) / 2).next_multiple_of(SECTOR).min(new.len());
    if old.len() < new.len() {
        new.truncate(cut.max(old.len()));
    }
    let kept = new.len().min(old.len());
    if cut < kept {
        new[cut..kept].copy_from_slice(&old[cut..kept]);
    }
    true
}

fn verdict(opened: Result<Opened>, damage: Damage) -> String {
    let expected = match damage {
        Damage::Flip(_) => ENTRIES,
        // It was never durable.
        Damage::Tear => ENTRIES - 1,
    };
    match opened {
        Err(error) => {
            let words: String = format!("{error:#}").chars().take(WORDS_MAX).collect();
            format!("refuses: {words}")
        }
        Ok(Opened { damaged: 1.., .. }) => "hands out damaged bytes as if they were right".into(),
        Ok(Opened { entries, cut, .. }) if entries < expected => {
            let word = if cut.is_some() { "says so" } else { "says nothing" };
            format!("opens with {entries} of {expected} durable entries, {word}")
        }
        Ok(Opened { cut: Some(_), .. }) => "cuts the torn write, says where, keeps the rest".into(),
        Ok(_) => "opens, keeps all that was durable, says nothing".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_write_keeps_its_first_sectors() {
        let old = vec![0; 4 * SECTOR];
        let mut new = vec![7; 4 * SECTOR];
        assert!(tear(&old, &mut new));
        assert_eq!(new, [vec![7; 2 * SECTOR], vec![0; 2 * SECTOR]].concat());
        // A file that grew is shorter again.
        let mut grown = vec![7; 4 * SECTOR];
        assert!(tear(&[], &mut grown));
        assert_eq!(grown.len(), 2 * SECTOR);
        let mut same = old.clone();
        assert!(!tear(&old, &mut same) && same == old);
    }

    #[test]
    fn verdicts_tell_loss_from_damage() {
        let opened = |entries, damaged, cut: Option<&str>| Ok(Opened { entries, damaged, cut: cut.map(Into::into) });
        let flip = Damage::Flip(9);
        assert!(verdict(opened(200, 1, None), flip).starts_with("hands out damaged"));
        assert_eq!(verdict(opened(99, 0, None), flip), "opens with 99 of 200 durable entries, says nothing");
        assert!(verdict(opened(199, 0, Some("cut")), Damage::Tear).starts_with("cuts the torn write"));
        assert!(verdict(Err(anyhow::anyhow!("corrupt")), flip).starts_with("refuses: corrupt"));
    }
}
