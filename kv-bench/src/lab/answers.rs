//! The six bottlenecks of the analysis, each answered with the figures of this report.

use super::experiments::CLIENTS;
use super::report::Section;
use crate::figures::number;

/// A bottleneck and what was measured about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The bottleneck, in the analysis's words.
    pub(crate) bottleneck: String,
    /// What the figures say.
    pub(crate) text: String,
}

/// Figures by section and name.
struct Figures<'a>(&'a [Section]);

impl Figures<'_> {
    fn get(&self, section: &str, name: &str) -> Option<f64> {
        self.0.iter().find(|one| one.id == section)?.figures.get(name).copied()
    }

    fn ratio(&self, section: &str, above: &str, below: &str) -> Option<String> {
        Some(number(self.get(section, above)? / self.get(section, below)?))
    }

    fn text(&self, section: &str, name: &str) -> Option<String> {
        self.get(section, name).map(number)
    }
}

/// All of them, in the analysis's order. What was not measured is said to be so.
#[must_use]
pub(crate) fn all(sections: &[Section]) -> Vec<Answer> {
    let figures = Figures(sections);
    let answers: [(&str, &str, Option<String>); 10] = [
        ("Where it began: RocksDB did 3.4 x the operations of the in-memory engine.", "1", began(&figures)),
        ("1. One lock over the whole map.", "2", lock(&figures)),
        ("2. Sequence numbers from a mutex, formatted into a string.", "6", sequence(&figures)),
        ("3. No write batch.", "3", batch(&figures)),
        ("4. Ranges scan everything and sort.", "4", range(&figures)),
        ("5. A second lock for the answer.", "8", read_back(&figures)),
        ("6a. The revision read under a lock.", "2", revision(&figures)),
        ("6b. No batch proposer.", "3", proposer(&figures)),
        ("6c. JSON commands.", "5", codec(&figures)),
        ("What this machine can show, and where an operation's time goes.", "1", machine(&figures)),
    ];
    answers
        .into_iter()
        .map(|(bottleneck, section, text)| Answer {
            bottleneck: bottleneck.into(),
            text: text.unwrap_or_else(|| format!("Not in this report: run experiment {section}.")),
        })
        .collect()
}

fn began(figures: &Figures<'_>) -> Option<String> {
    let times = |section: &str, above: &str, below: &str| figures.ratio(section, above, below);
    if figures.get("1a", "rocksdb").is_none() {
        let ratio = times("1a", "snapshot", "global-lock")?;
        return Some(format!(
            "RocksDB was not built into what ran here. On the analysis's mix the engine alone, snapshot does {ratio} x the \
             operations of global-lock."
        ));
    }
    let alone = format!(
        "On the analysis's mix the engine alone, snapshot does {} x the operations of rocksdb at {} x of its CPU for each; \
         global-lock, with all its faults, does {} x those of rocksdb.",
        times("1a", "snapshot", "rocksdb")?,
        times("1a", "snapshot.cpu_us", "rocksdb.cpu_us")?,
        times("1a", "global-lock", "rocksdb")?
    );
    let not_the_lock = if figures.get("1a", "global-lock")? > figures.get("1a", "rocksdb")? {
        " So on this machine one lock over a hash map does not make an engine slower than RocksDB: what made 1,455 operations a \
         second of it lies around it."
    } else {
        ""
    };
    let raft = match (times("1b", "snapshot", "rocksdb"), times("1c", "global-lock", "rocksdb")) {
        (Some(ours), Some(theirs)) => format!(
            " Through raft and log snapshot does {ours} x the operations of rocksdb; global-lock without a batch proposer, as it \
             was analysed, {theirs} x."
        ),
        _ => String::new(),
    };
    Some(alone + not_the_lock + &raft)
}

fn lock(figures: &Figures<'_>) -> Option<String> {
    let kept = |design: &str| {
        let (beside, alone) = (format!("{design}.1r1w"), format!("{design}.1r0w"));
        Some(number(100.0 * figures.get("2", &beside)? / figures.get("2", &alone)?))
    };
    // A very short round may have timed no get at all.
    let slowest = |design: &str| figures.text("2", &format!("{design}.1r1w.p999_us")).unwrap_or_else(|| "-".into());
    let times = |kind: &str| figures.ratio("1e", &format!("snapshot.{kind}"), &format!("global-lock.{kind}"));
    let harder = match (times("puts"), times("prefix reads"), times("gets")) {
        (Some(puts), Some(prefixes), Some(gets)) => format!(
            " What a lock costs shows on the harder mix through raft and log, where the thread that applies has to wait for \
             readers: snapshot does {puts} x the puts of global-lock and {prefixes} x its reads of a prefix, beside {gets} x its \
             gets."
        ),
        _ => String::new(),
    };
    Some(format!(
        "A reader of ours loads a pointer and takes no lock. Beside a writer that never stops, one reader keeps {} % of its speed \
         (global-lock {} %, btree-lock {} %), and one in a thousand of its gets takes {} us or more (global-lock {} us).{harder}",
        kept("snapshot")?,
        kept("global-lock")?,
        kept("btree-lock")?,
        slowest("snapshot"),
        slowest("global-lock"),
    ))
}

fn sequence(figures: &Figures<'_>) -> Option<String> {
    Some(format!(
        "The analysis says 50 to 100 ns. One thread pays {} ns for a mutex and a string, {} ns for an atomic; eight threads \
         {} ns against {} ns. Our ids are integers, and none is allocated.",
        figures.text("6", "text.1")?,
        figures.text("6", "atomic.1")?,
        figures.text("6", "text.8")?,
        figures.text("6", "atomic.8")?
    ))
}

fn batch(figures: &Figures<'_>) -> Option<String> {
    Some(format!(
        "A commit of ours publishes one view, whatever its length: {} publishes a put in a commit of 1,000, where \
         global-lock takes {} locks. A put costs {} ns in a commit of one, {} ns in one of ten and {} ns in one of a thousand \
         (global-lock: {}, {}, {}).",
        figures.get("3", "snapshot.1000.locks").map(|locks| format!("{locks:.3}"))?,
        figures.text("3", "global-lock.1000.locks")?,
        figures.text("3", "snapshot.1.ns")?,
        figures.text("3", "snapshot.10.ns")?,
        figures.text("3", "snapshot.1000.ns")?,
        figures.text("3", "global-lock.1.ns")?,
        figures.text("3", "global-lock.10.ns")?,
        figures.text("3", "global-lock.1000.ns")?
    ))
}

fn range(figures: &Figures<'_>) -> Option<String> {
    let of = |design: &str, size: u32, what: &str| figures.text("4", &format!("{design}.{size}.{what}"));
    let large = match (of("snapshot", 1_000_000, "ns"), of("global-lock", 1_000_000, "ns")) {
        (Some(ours), Some(theirs)) => format!(" At a million keys it is {ours} ns against {theirs} ns."),
        _ => String::new(),
    };
    Some(format!(
        "The analysis says 15,033 steps against 23 at 10,000 keys, 650 x. Measured there: {} ns and {} entries looked at, against \
         {} ns and {} entries, {} x.{large}",
        of("snapshot", 10_000, "ns")?,
        of("snapshot", 10_000, "visited")?,
        of("global-lock", 10_000, "ns")?,
        of("global-lock", 10_000, "visited")?,
        figures.ratio("4", "global-lock.10000.ns", "snapshot.10000.ns")?
    ))
}

fn read_back(figures: &Figures<'_>) -> Option<String> {
    Some(format!(
        "The answer travels with the wake-up; after a commit nobody reads the store. The analysis says that this is worth 10 to \
         20 %. Reading it back, ours takes {} x of the CPU for a put and does {} x of the puts per second; that is a read \
         without a lock. The analysed engine locks for it: see global-lock in 1.",
        figures.ratio("8", "puts only.read back after commit.cpu_us", "puts only.snapshot.cpu_us")?,
        figures.ratio("8", "puts only.read back after commit", "puts only.snapshot")?
    ))
}

fn revision(figures: &Figures<'_>) -> Option<String> {
    figures.get("2", "snapshot.1r1w").map(|_| {
        "The revision is a number in the view: whoever has loaded the view has it, of the same moment as everything else it \
         reads. There is no second load to time."
            .into()
    })
}

fn proposer(figures: &Figures<'_>) -> Option<String> {
    Some(format!(
        "With 30 clients an entry holds {} puts; {} puts/s against {} without the proposer, {} x (the analysis: 2 to 3 x); with 200 \
         clients {} x. At low load: one client waits {} us for a put with it, {} us without.",
        figures.text("3", "pipeline.30.on.per_entry")?,
        figures.text("3", "pipeline.30.on.per_second")?,
        figures.text("3", "pipeline.30.off.per_second")?,
        figures.ratio("3", "pipeline.30.on.per_second", "pipeline.30.off.per_second")?,
        figures.ratio("3", "pipeline.200.on.per_second", "pipeline.200.off.per_second")?,
        figures.text("3", "pipeline.1.on.p50_us")?,
        figures.text("3", "pipeline.1.off.p50_us")?
    ))
}

fn codec(figures: &Figures<'_>) -> Option<String> {
    let of = |format: &str, what: &str| figures.text("5", &format!("small put.{format}.{what}"));
    let row = |format: &str| {
        Some(format!("{} / {} ns, {} bytes", of(format, "encode_ns")?, of(format, "decode_ns")?, of(format, "bytes")?))
    };
    Some(format!(
        "The analysis says, to encode and decode an operation: JSON 500 / 800 ns, gob 300 / 400, binary 100 / 150. Measured for a \
         small put: JSON {}; MessagePack, which stands for gob, {}; protobuf {}; ours {}.",
        row("JSON")?,
        row("MessagePack, for gob")?,
        row("protobuf")?,
        row("ours")?
    ))
}

/// What ours was meant to have over rocksdb on the analysis's mix: the analysis's ratio, turned round.
const OVER_ROCKSDB: f64 = 3.4;

fn machine(figures: &Figures<'_>) -> Option<String> {
    let (cores, ours, global) =
        (figures.get("1a", "cores")?, figures.get("1a", "snapshot")?, figures.get("1a", "global-lock")?);
    let (cpu, bare) = (figures.get("1a", "snapshot.cpu_us")?, figures.get("1a", "(no engine).cpu_us")?);
    let mut text = format!(
        "{cores:.0} core(s) run as many threads at a time. A lock that lets one through where all could go costs all clients \
         together about that factor here, sleeping and waking aside, however many there are: the analysed engine's 1,455 operations a \
         second cannot come of a lock that is held for about a microsecond (global-lock does {} here), and no cure of a lock can bring \
         all of them together more than the cores.",
        number(global)
    );
    if let Some(rocksdb) = figures.get("1a", "rocksdb") {
        text += &format!(
            " To do {OVER_ROCKSDB} x what rocksdb does on the analysis's mix, an operation may take {} us of CPU; ours takes {cpu}, \
             rocksdb's {}, and does {} x as many: it keeps {} of the cores busy, rocksdb {}. Ours has one writer at a \
             time: a client that finds another at it leaves its batch, and that one or the next applies all that wait and publishes \
             once, as RocksDB's group of writers does.",
            number(cores * 1e6 / (OVER_ROCKSDB * rocksdb)),
            figures.text("1a", "rocksdb.cpu_us")?,
            number(ours / rocksdb),
            number(ours * cpu / 1e6),
            number(rocksdb * figures.get("1a", "rocksdb.cpu_us")? / 1e6),
            cpu = number(cpu),
        );
    }
    if let (Some(gets), Some(put)) = (figures.get("2", "snapshot.1r0w"), figures.get("3", "snapshot.1.ns")) {
        let (get, put) = (1e6 / gets, put / 1000.0);
        let rest = (cpu - bare - 0.8 * get - 0.2 * put).max(0.0);
        text += &format!(
            " Of ours, {} us is around any engine (clients, commands, clock), {} the gets and {} the puts, at what they cost a thread that \
             is alone ({} and {} us, from 2 and 3); {} is what {} threads on {:.0} core(s) add: they take turns at the writer and the \
             cores, and find in the caches what others left.",
            number(bare),
            number(0.8 * get),
            number(0.2 * put),
            number(get),
            number(put),
            number(rest),
            CLIENTS,
            cores,
        );
    }
    let ratio = |section: &str, rival: &str, what: &str| {
        figures.ratio(section, &format!("snapshot{what}"), &format!("{rival}{what}"))
    };
    if let (Some(sum), Some(keys)) = (ratio("1f", "global-lock", ""), ratio("1d", "global-lock", ".keys")) {
        text += &format!(
            " On the harder mix ours reads {keys} x the keys of global-lock with a client for each kind (1d), and does {sum} x its operations \
             in fixed proportions (1f)"
        );
        for (part, what) in [("1g", "through raft and log"), ("1h", "with ten times the keys, engine alone")] {
            if let Some(times) = ratio(part, "global-lock", "") {
                text += &format!(", {times} x {what} ({part})");
            }
        }
        text += ". Of a prefix both copy up to a thousand keys; what global-lock does beside that grows with all keys there are.";
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_said() {
        let answers = all(&[]);
        assert_eq!(answers.len(), 10);
        assert!(answers.iter().all(|answer| answer.text.starts_with("Not in this report: run experiment ")));
    }

    #[test]
    fn an_answer_has_its_figures() {
        let mut section = Section::new("6", "Sequence numbers", String::new());
        for (name, value) in [("text.1", 81.5), ("atomic.1", 5.25), ("text.8", 300.0), ("atomic.8", 20.0)] {
            section.keep(name, &[value]);
        }
        let answers = all(&[section]);
        assert!(answers[2].text.contains("81.5 ns") && answers[2].text.contains("5.25 ns"), "{}", answers[2].text);
    }
    #[test]
    fn what_an_operation_may_take_comes_of_cores_and_rocksdb() {
        let mut first = Section::new("1a", "", String::new());
        let figures = [
            ("cores", 2.0),
            ("snapshot", 1e6),
            ("global-lock", 3e6),
            ("rocksdb", 5e5),
            ("snapshot.cpu_us", 2.0),
            ("rocksdb.cpu_us", 4.0),
            ("(no engine).cpu_us", 0.25),
        ];
        for (name, value) in figures {
            first.keep(name, &[value]);
        }
        let text = |sections: &[Section]| all(sections).pop().map(|answer| answer.text).unwrap_or_default();
        let short = text(std::slice::from_ref(&first));
        assert!(short.contains("may take 1.18 us of CPU; ours takes 2.00, rocksdb's 4.00, and does 2.00 x"), "{short}");
        let (mut second, mut third) = (Section::new("2", "", String::new()), Section::new("3", "", String::new()));
        second.keep("snapshot.1r0w", &[4e6]);
        third.keep("snapshot.1.ns", &[2000.0]);
        let long = text(&[first, second, third]);
        // 2.00 of 0.25 around, 0.8 of 0.25, and 0.2 of 2.00.
        assert!(long.contains("0.20 the gets and 0.40 the puts") && long.contains("; 1.15 is what 30"), "{long}");
    }
}
