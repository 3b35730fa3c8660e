//! The log: one line for each event on stderr, in the shape of zap's, which is what tools around etcd
//! read.
//!
//! ```text
//! {"level":"info","ts":"2026-01-01T00:00:00.000000Z","caller":"server.rs:42","msg":"ready","port":2379}
//! ```
//!
//! A caller waits for nothing: `Queue` notes the time and hands the event to a thread of its own,
//! where `Lines` writes it. When that thread is behind by `QUEUE_RECORDS` events, further ones are
//! dropped, and their number is logged with the next one that finds room.
//!
//! Invariants:
//! - in the JSON format every line is one JSON object, whatever is in a message or a value;
//! - no key comes twice in a line; of two values, the one nearest to the event is kept;
//! - numbers and booleans stay numbers and booleans.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use slog::{BorrowedKV, Drain, KV, Key, Level, Logger, Never, OwnedKVList, Record, RecordStatic, Serializer, SingleKV};
use slog_async::{AsyncCore, AsyncError, AsyncGuard};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::config::{LogFormat, LogLevel};

/// Events that may wait to be written: seconds of a busy log, and a few MB at worst.
const QUEUE_RECORDS: usize = 4096;

/// The key under which [`Queue`] hands the time to [`Lines`].
const TIME_KEY: &str = "ts";

const TIME_FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// Writes out what was logged when dropped. To be kept until the program ends.
#[must_use = "dropped at once, it ends the log at once"]
pub struct LogGuard {
    _flush: AsyncGuard,
}

impl fmt::Debug for LogGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogGuard")
    }
}

/// The root logger, to stderr.
pub fn root(level: LogLevel, format: LogFormat) -> (Logger, LogGuard) {
    root_to(io::stderr(), level, format)
}

/// A root logger to `out`, which gets each line, its end included, in one write. An error of `out`
/// is dropped: there is nowhere to tell it.
pub fn root_to<W>(out: W, level: LogLevel, format: LogFormat) -> (Logger, LogGuard)
where
    W: Write + Send + 'static,
{
    let lines = Lines { out: RefCell::new(out), format };
    let (thread, guard) = AsyncCore::custom(lines)
        .chan_size(QUEUE_RECORDS)
        .blocking(false)
        .thread_name("log".to_owned())
        .build_with_guard();
    let queue = Queue { thread, dropped: AtomicU64::new(0) };
    let least = match level {
        LogLevel::Debug => Level::Debug,
        LogLevel::Info => Level::Info,
        LogLevel::Warn => Level::Warning,
        LogLevel::Error => Level::Error,
        LogLevel::Panic | LogLevel::Fatal => Level::Critical,
    };
    // The level is looked at first, so that what is not wanted costs nothing.
    let drain = queue.filter_level(least).ignore_res();
    (Logger::root(drain, slog::o!()), LogGuard { _flush: guard })
}

/// The way to the log thread.
///
/// slog-async's own overflow report counts an event that finds the queue full twice, so that the
/// count is kept here.
struct Queue {
    thread: AsyncCore,
    /// Events dropped that no line has told of.
    dropped: AtomicU64,
}

impl Queue {
    /// Hands an event over with the time it happened at.
    fn push(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), AsyncError> {
        let stamped = (SingleKV(TIME_KEY, now()), record.kv());
        let place = RecordStatic { location: record.location(), tag: record.tag(), level: record.level() };
        self.thread.log(&Record::new(&place, record.msg(), BorrowedKV(&stamped)), values)
    }

    fn report_dropped(&self) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped == 0 {
            return;
        }
        let message = format_args!("log events were dropped, stderr is too slow");
        let fields = slog::b!("count" => dropped);
        let report = slog::record!(Level::Warning, "", &message, fields);
        if self.push(&report, &slog::o!().into()).is_err() {
            self.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
    }
}

impl Drain for Queue {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        self.report_dropped();
        if self.push(record, values).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn now() -> String {
    // Years past 9999 do not fit the format.
    OffsetDateTime::now_utc().format(TIME_FORMAT).unwrap_or_default()
}

/// Writes events as lines.
struct Lines<W> {
    /// Only the log thread has it.
    out: RefCell<W>,
    format: LogFormat,
}

impl<W: Write> Drain for Lines<W> {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let mut fields = Fields::default();
        // Collecting values cannot fail: Fields answers Ok always.
        let _ = record.kv().serialize(record, &mut fields);
        let _ = values.serialize(record, &mut fields);
        let line = match self.format {
            LogFormat::Json => json_line(record, fields),
            LogFormat::Console => console_line(record, fields),
        };
        let mut out = self.out.borrow_mut();
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
        Ok(())
    }
}

fn json_line(record: &Record<'_>, mut fields: Fields) -> String {
    let time = fields.take_time();
    let mut line = String::with_capacity(256);
    line.push_str("{\"level\":");
    line.push_str(&quoted(level_name(record.level())));
    line.push_str(",\"ts\":");
    line.push_str(&quoted(&time));
    line.push_str(",\"caller\":");
    line.push_str(&quoted(&caller(record)));
    line.push_str(",\"msg\":");
    line.push_str(&quoted(&record.msg().to_string()));
    for (key, value) in fields.in_order() {
        line.push(',');
        // A field must not come in the place of what every line has.
        let taken = ["level", "ts", "caller", "msg"].contains(&key);
        line.push_str(&quoted(&if taken { format!("field_{key}") } else { key.to_owned() }));
        line.push(':');
        line.push_str(value);
    }
    line.push_str("}\n");
    line
}

fn console_line(record: &Record<'_>, mut fields: Fields) -> String {
    let time = fields.take_time();
    let mut line = format!("{time}\t{}\t{}\t", level_name(record.level()), caller(record));
    // A line stays a line.
    for c in record.msg().to_string().chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    for (i, (key, value)) in fields.in_order().enumerate() {
        line.push_str(if i == 0 { "\t{" } else { ", " });
        // Writing to a String cannot fail.
        let _ = write!(line, "{}: {value}", quoted(key));
    }
    line.push_str(if fields.0.is_empty() { "\n" } else { "}\n" });
    line
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Critical => "fatal",
        Level::Error => "error",
        Level::Warning => "warn",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    }
}

/// File, without its directories, and line.
fn caller(record: &Record<'_>) -> String {
    let file = record.file();
    format!("{}:{}", file.rsplit(['/', '\\']).next().unwrap_or(file), record.line())
}

/// A JSON string, quotes included.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Keys with their values as JSON, nearest to the event first.
#[derive(Default)]
struct Fields(Vec<(Key, String)>);

impl Fields {
    fn add(&mut self, key: Key, value: impl Into<serde_json::Value>) -> slog::Result {
        if !self.0.iter().any(|(other, _)| *other == key) {
            self.0.push((key, value.into().to_string()));
        }
        Ok(())
    }

    /// The time of the event, as [`Queue`] noted it.
    fn take_time(&mut self) -> String {
        match self.0.iter().position(|(key, _)| *key == TIME_KEY) {
            Some(at) => self.0.remove(at).1.trim_matches('"').to_owned(),
            None => String::new(),
        }
    }

    /// In the order they were written in: slog hands values over last first.
    fn in_order(&self) -> impl Iterator<Item = (Key, &str)> {
        self.0.iter().rev().map(|(key, value)| (*key, value.as_str()))
    }
}

impl Serializer for Fields {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        self.add(key, value.to_string())
    }

    fn emit_str(&mut self, key: Key, value: &str) -> slog::Result {
        self.add(key, value)
    }

    fn emit_char(&mut self, key: Key, value: char) -> slog::Result {
        self.add(key, value.to_string())
    }

    fn emit_bool(&mut self, key: Key, value: bool) -> slog::Result {
        self.add(key, value)
    }

    fn emit_none(&mut self, key: Key) -> slog::Result {
        self.add(key, serde_json::Value::Null)
    }

    fn emit_unit(&mut self, key: Key) -> slog::Result {
        self.add(key, serde_json::Value::Null)
    }

    fn emit_u8(&mut self, key: Key, value: u8) -> slog::Result {
        self.add(key, value)
    }

    fn emit_u16(&mut self, key: Key, value: u16) -> slog::Result {
        self.add(key, value)
    }

    fn emit_u32(&mut self, key: Key, value: u32) -> slog::Result {
        self.add(key, value)
    }

    fn emit_u64(&mut self, key: Key, value: u64) -> slog::Result {
        self.add(key, value)
    }

    fn emit_usize(&mut self, key: Key, value: usize) -> slog::Result {
        self.add(key, value)
    }

    fn emit_i8(&mut self, key: Key, value: i8) -> slog::Result {
        self.add(key, value)
    }

    fn emit_i16(&mut self, key: Key, value: i16) -> slog::Result {
        self.add(key, value)
    }

    fn emit_i32(&mut self, key: Key, value: i32) -> slog::Result {
        self.add(key, value)
    }

    fn emit_i64(&mut self, key: Key, value: i64) -> slog::Result {
        self.add(key, value)
    }

    fn emit_isize(&mut self, key: Key, value: isize) -> slog::Result {
        self.add(key, value)
    }

    fn emit_f32(&mut self, key: Key, value: f32) -> slog::Result {
        self.emit_f64(key, f64::from(value))
    }

    fn emit_f64(&mut self, key: Key, value: f64) -> slog::Result {
        // JSON has no infinities and no NaN.
        if value.is_finite() { self.add(key, value) } else { self.add(key, value.to_string()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::Value;
    use slog::{crit, debug, error, info, o, trace, warn};
    use std::sync::{Arc, Mutex, mpsc};

    /// Collects what is written, each write as it came.
    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Buffer {
        fn lines(&self) -> Vec<String> {
            let writes = self.0.lock().unwrap();
            writes.iter().map(|line| String::from_utf8(line.clone()).unwrap()).collect()
        }
    }

    /// What `log` writes.
    fn written(level: LogLevel, format: LogFormat, log: impl FnOnce(&Logger)) -> Vec<String> {
        let buffer = Buffer::default();
        let (logger, guard) = root_to(buffer.clone(), level, format);
        log(&logger);
        drop(logger);
        drop(guard);
        buffer.lines()
    }

    fn json(log: impl FnOnce(&Logger)) -> Vec<Value> {
        written(LogLevel::Debug, LogFormat::Json, log)
            .iter()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?}: {error}")))
            .collect()
    }

    #[test]
    fn a_line_has_the_shape_of_zap() {
        let line_number = line!() + 2;
        let lines = written(LogLevel::Info, LogFormat::Json, |log| {
            info!(log, "listening on {}", "here"; "port" => 2379, "ok" => true, "name" => "a");
        });
        assert_eq!(lines.len(), 1);
        let line = &lines[0];
        let (head, tail) = line.split_at(r#"{"level":"info","ts":""#.len());
        assert_eq!(head, r#"{"level":"info","ts":""#);
        let (time, tail) = tail.split_at("2026-01-01T00:00:00.000000Z".len());
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000000Z");
        assert_eq!(
            tail,
            format!(
                "\",\"caller\":\"logging.rs:{line_number}\",\"msg\":\"listening on here\",\"port\":2379,\"ok\":true,\"name\":\"a\"}}\n"
            )
        );
    }

    #[test]
    fn numbers_stay_numbers() {
        let lines = json(|log| {
            info!(log, "m"; "a" => u64::MAX, "b" => i64::MIN, "c" => 1.5, "d" => f64::NAN, "e" => 3u8,
                "f" => None::<u32>, "g" => Some(4usize), "h" => 'x', "i" => -1i16, "j" => ());
        });
        let line = &lines[0];
        assert_eq!(line["a"], Value::from(u64::MAX));
        assert_eq!(line["b"], Value::from(i64::MIN));
        assert_eq!(line["c"], Value::from(1.5));
        assert_eq!(line["d"], Value::from("NaN"));
        assert_eq!(line["e"], Value::from(3));
        assert_eq!(line["f"], Value::Null);
        assert_eq!(line["g"], Value::from(4));
        assert_eq!(line["h"], Value::from("x"));
        assert_eq!(line["i"], Value::from(-1));
        assert_eq!(line["j"], Value::Null);
    }

    #[test]
    fn every_line_is_json_whatever_it_says() {
        let nasty = "line\nbreak\r\t\"quote\" \\ \u{0}\u{1b}[31m \u{2028} \u{7f} é";
        let lines = json(|log| {
            info!(log, "{nasty}"; "value" => nasty, "debug" => ?nasty.as_bytes(), "shown" => %nasty);
        });
        assert_eq!(lines[0]["msg"], Value::from(nasty));
        assert_eq!(lines[0]["value"], Value::from(nasty));
        assert_eq!(lines[0]["shown"], Value::from(nasty));
        let lines = written(LogLevel::Debug, LogFormat::Json, |log| info!(log, "{nasty}"));
        assert_eq!(lines[0].find('\n'), Some(lines[0].len() - 1), "one line end, at the end");
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("no log")]
        struct NoLog(#[source] io::Error);
        let error = NoLog(io::Error::other("disk gone"));
        let lines = json(|log| error!(log, "stopping"; "error" => #&error));
        assert_eq!(lines[0]["error"], Value::from("no log: disk gone"));
    }

    #[test]
    fn no_key_comes_twice() {
        let lines = written(LogLevel::Info, LogFormat::Json, |log| {
            let log = log.new(o!("id" => "outer", "role" => "leader"));
            info!(log, "m"; "id" => "inner", "msg" => "field", "ts" => "then");
        });
        let line = &lines[0];
        for key in ["\"level\":", "\"ts\":", "\"caller\":", "\"msg\":", "\"id\":", "\"role\":"] {
            assert_eq!(line.matches(key).count(), 1, "{key} in {line}");
        }
        assert!(line.contains(r#""id":"inner""#) && line.contains(r#""field_msg":"field""#), "{line}");
    }

    #[test]
    fn levels_are_filtered_and_named() {
        let log_all = |log: &Logger| {
            trace!(log, "t");
            debug!(log, "d");
            info!(log, "i");
            warn!(log, "w");
            error!(log, "e");
            crit!(log, "c");
        };
        for (level, names) in [
            (LogLevel::Debug, &["debug", "info", "warn", "error", "fatal"][..]),
            (LogLevel::Info, &["info", "warn", "error", "fatal"]),
            (LogLevel::Warn, &["warn", "error", "fatal"]),
            (LogLevel::Error, &["error", "fatal"]),
            (LogLevel::Panic, &["fatal"]),
            (LogLevel::Fatal, &["fatal"]),
        ] {
            let lines = written(level, LogFormat::Json, log_all);
            let levels: Vec<Value> =
                lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["level"].clone()).collect();
            assert_eq!(levels, names, "{level:?}");
        }
    }

    #[test]
    fn the_console_has_columns() {
        let lines = written(LogLevel::Info, LogFormat::Console, |log| {
            info!(log, "two\nlines"; "port" => 2379, "name" => "a\tb");
            warn!(log, "bare");
        });
        let columns: Vec<&str> = lines[0].split('\t').collect();
        assert_eq!(columns[1], "info");
        assert!(columns[2].starts_with("logging.rs:"), "{lines:?}");
        assert_eq!(&columns[3..], ["two\\nlines", "{\"port\": 2379, \"name\": \"a\\tb\"}\n"]);
        assert!(lines[1].ends_with("\tbare\n"), "{lines:?}");
    }

    /// A writer that waits for leave before each write.
    struct Gated {
        leave: mpsc::Receiver<()>,
        entered: mpsc::Sender<()>,
        out: Buffer,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.entered.send(());
            // An error says that all further writes may pass.
            let _ = self.leave.recv();
            self.out.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_queue_drops_and_says_so_in_json() {
        let out = Buffer::default();
        let (open, leave) = mpsc::channel();
        let (enter, entered) = mpsc::channel();
        let gated = Gated { leave, entered: enter, out: out.clone() };
        let (log, guard) = root_to(gated, LogLevel::Info, LogFormat::Json);
        info!(log, "first");
        // The log thread now holds the first event, and the queue is empty.
        entered.recv().unwrap();
        let logged = QUEUE_RECORDS + 100;
        for n in 0..logged {
            info!(log, "more"; "n" => n);
        }
        drop(open);
        // The count of what was dropped travels with the next event that finds room.
        while out.lines().len() <= QUEUE_RECORDS {
            std::thread::yield_now();
        }
        info!(log, "last");
        drop(log);
        drop(guard);
        let lines: Vec<Value> = out.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let more = lines.iter().filter(|line| line["msg"] == "more").count();
        assert_eq!(more, QUEUE_RECORDS);
        let report = lines.iter().find(|line| line["level"] == "warn").expect("a report of the loss");
        assert_eq!(report["count"], Value::from(logged - more));
        assert!(lines.iter().all(|line| line["ts"].as_str().is_some_and(|ts| ts.len() == 27)));
    }
}
