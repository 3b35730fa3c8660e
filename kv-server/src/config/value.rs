//! Values of flags, read as Go reads them, since that is how every script that starts etcd writes
//! them.

use super::url::{self, Url};

/// What values a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Switched on by its name alone.
    Bool,
    Text,
    Unsigned {
        max: u64,
    },
    Signed,
    Duration,
    /// URLs separated by commas.
    Urls,
    /// `name=URL` pairs separated by commas.
    Cluster,
    Choice(&'static [&'static str]),
    /// `Gate=true` pairs separated by commas.
    Gates,
    /// Of a flag that is ignored: a value that may be left out.
    Any,
}

impl Kind {
    /// Whether the name alone is enough, the next argument being none of the flag's.
    pub(super) fn stands_alone(self) -> bool {
        matches!(self, Kind::Bool)
    }

    /// Checks a value, the error saying what it should look like.
    pub(super) fn check(self, text: &str) -> Result<(), String> {
        match self {
            Kind::Bool => boolean(text).map(drop).ok_or_else(|| "it takes true or false".to_owned()),
            Kind::Unsigned { max } => match unsigned(text) {
                Some(number) if number <= max => Ok(()),
                Some(_) => Err(format!("it takes at most {max}")),
                None => Err("it takes a whole number, such as 1000".to_owned()),
            },
            Kind::Signed => signed(text).map(drop).ok_or_else(|| "it takes a whole number, such as -1".to_owned()),
            Kind::Duration => duration_nanos(text)
                .map(drop)
                .ok_or_else(|| "it takes a duration, such as 500ms, 10s or 1h30m".to_owned()),
            Kind::Urls => urls(text).map(drop),
            Kind::Cluster => url::parse_cluster(text).map(drop),
            Kind::Choice(choices) if choices.contains(&text) => Ok(()),
            Kind::Choice(choices) => Err(format!("it takes one of {}", choices.join(", "))),
            Kind::Gates => gates(text).map(drop),
            Kind::Text | Kind::Any => Ok(()),
        }
    }

    /// Whether two values, checked before, ask for the same.
    pub(super) fn same(self, a: &str, b: &str) -> bool {
        match self {
            Kind::Bool => boolean(a) == boolean(b),
            Kind::Unsigned { .. } => unsigned(a) == unsigned(b),
            Kind::Signed => signed(a) == signed(b),
            Kind::Duration => duration_nanos(a) == duration_nanos(b),
            Kind::Gates => match (gates(a), gates(b)) {
                (Ok(a), Ok(b)) => GATES.iter().all(|gate| gate.on(&a) == gate.on(&b)),
                _ => false,
            },
            _ => a == b,
        }
    }
}

/// A boolean: the spellings Go takes, and no others.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// A whole number in base 10, or in base 16, 8 or 2 after `0x`, `0o` (also a bare `0`) or `0b`.
pub(super) fn unsigned(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = if let Some(digits) = lower.strip_prefix("0x") {
        (digits, 16)
    } else if let Some(digits) = lower.strip_prefix("0b") {
        (digits, 2)
    } else if let Some(digits) = lower.strip_prefix("0o") {
        (digits, 8)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (&lower[1..], 8)
    } else {
        (lower.as_str(), 10)
    };
    // from_str_radix would take a sign.
    if !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// As [`unsigned`], with an optional sign.
pub(super) fn signed(text: &str) -> Option<i64> {
    match text.strip_prefix('-') {
        Some(digits) => 0i64.checked_sub_unsigned(unsigned(digits)?),
        None => 0i64.checked_add_unsigned(unsigned(text.strip_prefix('+').unwrap_or(text))?),
    }
}

/// A duration in nanoseconds: numbers with units, such as `1h0m0s`, `1.5s`, `100ms` or `1µs`; only
/// `0` needs no unit. Both ways of writing the micro sign are taken, as is `us`.
pub(super) fn duration_nanos(text: &str) -> Option<i64> {
    /// Longest match first: `m` begins `ms`.
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1.0),
        ("us", 1e3),
        ("\u{b5}s", 1e3),
        ("\u{3bc}s", 1e3),
        ("ms", 1e6),
        ("s", 1e9),
        ("m", 6e10),
        ("h", 3.6e12),
    ];
    /// 2^63, past which an i64 of nanoseconds (292 years) ends.
    const END: f64 = 9_223_372_036_854_775_808.0;
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let number: f64 = if number.starts_with(|c: char| c == '.' || c.is_ascii_digit()) {
            number.parse().ok()?
        } else {
            return None;
        };
        let (unit, scale) = UNITS.iter().find(|(unit, _)| tail.starts_with(unit))?;
        nanos += number * scale;
        rest = &tail[unit.len()..];
    }
    if nanos >= END {
        return None;
    }
    // Exact up to 2^53 ns, which is 104 days: what is compared is well below.
    #[allow(clippy::cast_possible_truncation)]
    let nanos = nanos as i64;
    Some(if negative { -nanos } else { nanos })
}

/// URLs separated by commas, sorted and each once, as etcd keeps them; an empty text is no URL.
pub(super) fn urls(text: &str) -> Result<Vec<Url>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut urls = text.split(',').map(Url::parse).collect::<Result<Vec<Url>, String>>()?;
    urls.sort();
    urls.dedup();
    Ok(urls)
}

/// A feature gate of etcd.
struct Gate {
    name: &'static str,
    default: bool,
    /// Whether both settings are the same to this server.
    moot: bool,
    /// Whether it can be switched.
    built: bool,
}

impl Gate {
    /// Whether the gate asks for something, and for what, under `settings`.
    fn on(&self, settings: &[(&'static str, bool)]) -> bool {
        let given = settings.iter().rev().find(|(name, _)| *name == self.name);
        match given {
            Some((_, on)) if !self.moot => *on,
            _ => self.default,
        }
    }
}

const fn gate(name: &'static str, default: bool) -> Gate {
    Gate { name, default, moot: false, built: false }
}

const GATES: [Gate; 9] = [
    gate("StopGRPCServiceOnDefrag", false),
    Gate { built: true, ..gate("InitialCorruptCheck", false) },
    Gate { built: true, ..gate("CompactHashCheck", false) },
    gate("LeaseCheckpoint", false),
    gate("LeaseCheckpointPersist", false),
    gate("SetMemberLocalAddr", false),
    gate("PriorityRequest", false),
    // How etcd's backend buffers writes, of which there is none here.
    Gate { moot: true, ..gate("TxnModeWriteWithSharedBuffer", true) },
    gate("FastLeaseKeepAlive", true),
];

/// `Gate=true` pairs separated by commas.
fn gates(text: &str) -> Result<Vec<(&'static str, bool)>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, on) = pair.split_once('=').unwrap_or((pair, ""));
            let on = boolean(on.trim()).ok_or_else(|| format!("{pair:?} should be {}=true or =false", name.trim()))?;
            let gate = GATES.iter().find(|gate| gate.name == name.trim());
            let gate = gate.ok_or_else(|| format!("there is no feature gate {:?}", name.trim()))?;
            Ok((gate.name, on))
        })
        .collect()
}

/// Whether a gate is switched on; the text was checked before.
pub(super) fn gate_on(text: &str, name: &str) -> bool {
    let settings = gates(text).unwrap_or_default();
    GATES.iter().any(|gate| gate.name == name && gate.on(&settings))
}

/// The first gate that is asked to be what it cannot be.
pub(super) fn gate_refused(text: &str) -> Option<&'static str> {
    let settings = gates(text).ok()?;
    GATES.iter().find(|gate| !gate.built && gate.on(&settings) != gate.default).map(|gate| gate.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_those_of_go() {
        assert_eq!(boolean("t"), Some(true));
        assert_eq!(boolean("False"), Some(false));
        assert_eq!(boolean("yes"), None);
        assert_eq!(boolean("tRUE"), None);
    }

    #[test]
    fn numbers_have_the_bases_of_go() {
        for (text, number) in [
            ("0", Some(0)),
            ("1572864", Some(1_572_864)),
            ("0x10", Some(16)),
            ("0b11", Some(3)),
            ("017", Some(15)),
            ("0o17", Some(15)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("", None),
            ("0x", None),
            ("+1", None),
            ("-1", None),
            ("1e3", None),
            ("09", None),
        ] {
            assert_eq!(unsigned(text), number, "{text:?}");
        }
        assert_eq!(signed("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(signed("+5"), Some(5));
        assert_eq!(signed("9223372036854775808"), None);
        assert_eq!(signed("--5"), None);
    }

    #[test]
    fn durations_are_those_of_go() {
        for (text, nanos) in [
            ("0", Some(0)),
            ("1s", Some(1_000_000_000)),
            ("1h0m0s", Some(3_600_000_000_000)),
            ("100ms", Some(100_000_000)),
            ("1\u{b5}s", Some(1_000)),
            ("1\u{3bc}s", Some(1_000)),
            ("1us", Some(1_000)),
            ("1.5s", Some(1_500_000_000)),
            (".5s", Some(500_000_000)),
            ("-2m", Some(-120_000_000_000)),
            ("1", None),
            ("", None),
            ("-", None),
            ("s", None),
            (".s", None),
            ("1.2.3s", None),
            ("1d", None),
            ("1 s", None),
            ("300000000h", None),
        ] {
            assert_eq!(duration_nanos(text), nanos, "{text:?}");
        }
    }

    #[test]
    fn gates_compare_by_effect() {
        let same = |text| Kind::Gates.same(text, "");
        assert!(same("FastLeaseKeepAlive=true,CompactHashCheck=false"));
        assert!(same("TxnModeWriteWithSharedBuffer=false"));
        assert!(same("CompactHashCheck=true,CompactHashCheck=false"), "the last one wins");
        assert!(!same("CompactHashCheck=true"));
        assert!(!same("FastLeaseKeepAlive=false"));
        assert!(gate_on("CompactHashCheck=true", "CompactHashCheck"));
        assert!(!gate_on("CompactHashCheck=true", "InitialCorruptCheck"));
        assert_eq!(gate_refused("CompactHashCheck=true,TxnModeWriteWithSharedBuffer=false"), None);
        assert_eq!(gate_refused("FastLeaseKeepAlive=false"), Some("FastLeaseKeepAlive"));
        assert!(Kind::Gates.check("NoSuchGate=true").is_err());
        assert!(Kind::Gates.check("CompactHashCheck").is_err());
    }
}
