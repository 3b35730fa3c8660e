//! What the disk keeps and what it forgets.

#![allow(clippy::unwrap_used)]

use super::*;

const NOTHING: fn() -> bool = || false;
const EVERYTHING: fn() -> bool = || true;

#[test]
fn what_was_not_synced_is_lost_with_the_power_alone() {
    let disk = SimDisk::new(1);
    let mut file = disk.create("a").unwrap();
    file.write_all_at(b"one", 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir("").unwrap();
    file.write_all_at(b"two", 0).unwrap();
    disk.rename("a", "b").unwrap();
    let crashed = disk.fork().crash();
    assert_eq!(crashed.content("b").as_deref(), Some(&b"two"[..]));
    let everything = disk.fork().power_loss(EVERYTHING);
    assert_eq!((everything.content("a"), everything.content("b").as_deref()), (None, Some(&b"two"[..])));
    let nothing = disk.power_loss(NOTHING);
    assert_eq!((nothing.content("a").as_deref(), nothing.content("b")), (Some(&b"one"[..]), None));
    assert!(file.len().is_err(), "the handle's process is dead");
}

#[test]
fn a_write_is_torn_at_sectors() {
    let disk = SimDisk::new(1);
    let mut file = disk.create("a").unwrap();
    file.write_all_at(&[1; 2048], 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir("").unwrap();
    file.write_all_at(&[2; 1024], 256).unwrap();
    let mut turn = 0;
    let torn = disk.power_loss(|| {
        turn += 1;
        turn == 2
    });
    let content = torn.content("a").unwrap();
    let runs: Vec<_> = content.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect();
    assert_eq!(runs, [(1, 512), (2, 512), (1, 1024)]);
}

#[test]
fn a_failed_sync_loses_writes_that_no_later_one_brings_back() {
    let disk = SimDisk::new(1);
    let mut file = disk.create("a").unwrap();
    disk.sync_dir("").unwrap();
    file.write_all_at(b"one", 0).unwrap();
    disk.fail_at(disk.calls());
    assert!(file.sync().is_err());
    file.sync().unwrap();
    assert_eq!(disk.fork().crash().content("a").as_deref(), Some(&b"one"[..]));
    assert_eq!(disk.power_loss(EVERYTHING).content("a").as_deref(), Some(&b""[..]));
}

#[test]
fn what_was_recorded_can_be_applied_elsewhere() {
    let disk = SimDisk::new(1);
    disk.record();
    disk.make_dir("d").unwrap();
    let mut file = disk.create("d/a").unwrap();
    file.write_all_at(b"abc", 4).unwrap();
    disk.rename("d/a", "d/b").unwrap();
    let other = SimDisk::new(2);
    disk.recorded().iter().for_each(|op| other.apply(op));
    assert_eq!(other.content("d/b"), disk.content("d/b"));
    let lost = disk.power_loss(NOTHING);
    assert!(!lost.exists("d").unwrap());
}

#[test]
fn a_full_disk_says_so() {
    let disk = SimDisk::new(1);
    disk.set_space(Some(10));
    let mut file = disk.create("a").unwrap();
    file.write_all_at(&[1; 10], 0).unwrap();
    assert_eq!(file.write_all_at(&[1; 1], 10).unwrap_err().kind(), ErrorKind::StorageFull);
    disk.remove("a").unwrap();
    disk.create("b").unwrap().write_all_at(&[1; 10], 0).unwrap();
}

#[test]
fn a_page_arrives_whole_as_some_write_left_it() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let disk = SimDisk::new(1);
        let mut file = disk.create("a").unwrap();
        disk.sync_dir("").unwrap();
        for value in 1..=3 {
            file.write_all_at(&[value; 2 * 4096], 0).unwrap();
        }
        let content = disk.power_loss_by_pages(&mut Rng::with_seed(seed)).content("a").unwrap();
        for page in content.chunks(4096) {
            assert!(page.iter().all(|byte| *byte == page[0]), "seed {seed}");
        }
        seen.insert(content.chunks(4096).map(|page| page[0]).collect::<Vec<_>>());
    }
    assert!(seen.len() > 8, "{seen:?}");
}

/// A sector is torn where its page held something unsynced when it was written, in words, and nowhere else.
#[test]
fn a_page_on_its_way_is_torn_at_words() {
    let (mut torn, mut whole) = (0, 0);
    for seed in 0..256 {
        let disk = SimDisk::new(1);
        let mut file = disk.create("a").unwrap();
        disk.sync_dir("").unwrap();
        file.write_all_at(&[0; 2 * 4096], 0).unwrap();
        file.sync().unwrap();
        file.write_all_at(&[1; 8], 0).unwrap();
        file.write_all_at(&[2; 2 * 4096 - 8], 8).unwrap();
        let content = disk.power_loss_by_words(&mut Rng::with_seed(seed)).content("a").unwrap();
        for (number, sector) in content.chunks(SECTOR_BYTES).enumerate() {
            let runs = sector[8 * usize::from(number == 0)..].chunk_by(|a, b| a == b);
            let runs: Vec<_> = runs.map(<[u8]>::len).collect();
            assert!(runs.iter().all(|run| run.is_multiple_of(8)) && runs.len() <= if number < 8 { 2 } else { 1 });
            torn += usize::from(runs.len() == 2);
            whole += usize::from(runs.len() == 1);
        }
    }
    assert!(torn > 256 && whole > 256, "{torn} torn, {whole} whole");
}
