//! Counts what a run has read, for its metrics, its summary, and the progress lines on a terminal.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::logger;
use crate::quota::{CallCount, in_words, share_of_quota};
use crate::shown::one_line;

/// One stream of a run.
pub(crate) struct Line {
    stream: &'static str,
    started: Instant,
    records: AtomicU64,
    /// How many records the stream will have; 0 while that is unknown.
    total: AtomicU64,
}

impl Line {
    /// Counts a record.
    pub(crate) fn count(&self) {
        self.records.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Sets how many records the stream will have, according to the service's count.
    pub(crate) fn set_total(&self, records: u64) {
        self.total.store(records, Ordering::Relaxed);
    }

    /// The time since the stream began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The counts of a run.
pub(crate) struct Progress {
    calls: CallCount,
    calls_a_second: f64,
    started: Instant,
    /// How many calls the run will have made at the end of the planned read; 0 while that is unknown.
    planned: AtomicU64,
    streams: Mutex<Streams>,
}

#[derive(Default)]
struct Streams {
    /// The streams so far, each with the calls made for it. For the current stream, these are the calls before it
    /// became the current one.
    lines: Vec<(Arc<Line>, u64)>,
    /// The index of the current stream in `lines`, and the run's number of calls when it became the current one.
    current: Option<(usize, u64)>,
}

impl Streams {
    fn find_or_add(&mut self, stream: &'static str) -> usize {
        self.lines.iter().position(|(line, _)| line.stream == stream).unwrap_or_else(|| {
            let (records, total) = (AtomicU64::new(0), AtomicU64::new(0));
            self.lines.push((Arc::new(Line { stream, started: Instant::now(), records, total }), 0));
            self.lines.len() - 1
        })
    }

    /// Every stream with the calls made for it so far.
    fn with_calls(&self, calls: u64) -> impl Iterator<Item = (&Line, u64)> {
        self.lines.iter().enumerate().map(move |(at, (line, earlier))| match self.current {
            Some((current, since)) if current == at => (&**line, earlier + calls.saturating_sub(since)),
            _ => (&**line, *earlier),
        })
    }
}

impl Progress {
    /// For a run whose progress is not shown.
    pub(crate) fn hidden(calls: CallCount, calls_a_second: f64) -> Progress {
        let (planned, streams) = (AtomicU64::new(0), Mutex::default());
        Progress { calls, calls_a_second, started: Instant::now(), planned, streams }
    }

    /// Starts a run, and shows its progress if stderr is a terminal.
    pub(crate) fn start(calls: CallCount, calls_a_second: f64) -> Arc<Progress> {
        let progress = Arc::new(Progress::hidden(calls, calls_a_second));
        let shown = Arc::clone(&progress);
        logger::show_status(Some(Arc::new(move |columns| shown.lines(columns))));
        progress
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts all later calls for this stream, or for none.
    pub(crate) fn enter(&self, stream: Option<&'static str>) {
        logger::set_stream(stream);
        let calls = self.calls.get();
        let mut streams = self.streams();
        if let Some((current, since)) = streams.current.take() {
            streams.lines[current].1 += calls.saturating_sub(since);
        }
        streams.current = stream.map(|stream| (streams.find_or_add(stream), calls));
    }

    /// The line of a stream; a new one if it has none yet.
    pub(crate) fn line(&self, stream: &'static str) -> Arc<Line> {
        let mut streams = self.streams();
        let at = streams.find_or_add(stream);
        Arc::clone(&streams.lines[at].0)
    }

    /// The calls made for a stream. If two streams are read together, all their calls count for the first.
    pub(crate) fn calls_of(&self, stream: &str) -> u64 {
        self.streams()
            .with_calls(self.calls.get())
            .find(|(line, _)| line.stream == stream)
            .map_or(0, |(_, calls)| calls)
    }

    /// Sets how many more calls the read will make.
    pub(crate) fn expect_calls(&self, calls: u64) {
        self.planned.store(self.calls.get() + calls, Ordering::Relaxed);
    }

    /// Logs the summary of the run.
    pub(crate) fn log_summary(&self) {
        let calls = self.calls.get();
        let records: u64 = self.streams().lines.iter().map(|(line, _)| line.records()).sum();
        log::info!(
            "{} and {} ({} % of the daily quota) in {}",
            counted(records, "record"),
            counted(calls, "API call"),
            share_of_quota(calls),
            stopwatch(self.started.elapsed())
        );
    }

    /// The lines for a terminal: one per stream, and one for the run. Each is narrower than the terminal, since some
    /// terminals move the cursor to the next line after the last column.
    fn lines(&self, columns: usize) -> Vec<String> {
        let calls = self.calls.get();
        let fitting = |variants: [String; 2]| {
            let [long, short] = variants;
            if long.chars().count() < columns { long } else { one_line(&short, columns - 1) }
        };
        let mut lines: Vec<String> = Vec::new();
        for (line, calls) in self.streams().with_calls(calls) {
            let of_total = match line.total.load(Ordering::Relaxed) {
                0 => String::new(),
                total => format!(" of {}", grouped(total)),
            };
            let so_far = format!("{}: {}{of_total}", line.stream, grouped(line.records()));
            lines.push(fitting([format!("{so_far} records, {}", counted(calls, "call")), so_far]));
        }
        let left = match self.planned.load(Ordering::Relaxed).saturating_sub(calls) {
            0 => String::new(),
            left => {
                #[expect(clippy::cast_precision_loss, reason = "an estimate")]
                let time = Duration::try_from_secs_f64(left as f64 / self.calls_a_second).unwrap_or(Duration::MAX);
                format!(", {} left", in_words(time))
            }
        };
        let (share, calls) = (share_of_quota(calls), counted(calls, "call"));
        lines.push(fitting([
            format!("in all: {calls}, {share} % of the daily quota{left}"),
            format!("in all: {calls}{left}"),
        ]));
        lines
    }
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// `1 call`, `1,234 calls`.
fn counted(number: u64, unit: &str) -> String {
    format!("{} {unit}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// A measured time, such as `12.3 s` or `5 min 12 s`.
fn stopwatch(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(calls_a_second: f64) -> (Arc<Progress>, CallCount) {
        let calls = CallCount::default();
        (Progress::start(calls.clone(), calls_a_second), calls)
    }

    #[test]
    fn calls_belong_to_the_stream_that_is_being_read() {
        let (progress, calls) = progress(4.0);
        calls.add();
        progress.enter(Some("contacts"));
        calls.add();
        calls.add();
        assert_eq!(progress.calls_of("contacts"), 2);
        // A second stream is read together with the first.
        progress.line("contact_lists").count();
        calls.add();
        progress.enter(Some("contact_lists"));
        calls.add();
        progress.enter(None);
        calls.add();
        assert_eq!((progress.calls_of("contacts"), progress.calls_of("contact_lists")), (3, 1));
        assert_eq!(progress.calls_of("campaigns"), 0);
    }

    #[test]
    fn a_line_says_what_it_can_in_the_columns_there_are() {
        let (progress, calls) = progress(4.0);
        progress.enter(Some("contact_activity_details"));
        let line = progress.line("contact_activity_details");
        (0..1234).for_each(|_| line.count());
        calls.add();
        assert_eq!(progress.lines(80)[0], "contact_activity_details: 1,234 records, 1 call");
        line.set_total(26_012);
        progress.expect_calls(2400);
        let wide = [
            "contact_activity_details: 1,234 of 26,012 records, 1 call",
            "in all: 1 call, 0.01 % of the daily quota, 10 minutes left",
        ];
        let middle = ["contact_activity_details: 1,234 of 26,012", "in all: 1 call, 10 minutes left"];
        let narrow = ["contact_activity_details: 1,234 of 26,…", "in all: 1 call, 10 minutes left"];
        assert_eq!([84, 59, 50, 40].map(|columns| progress.lines(columns)), [&wide, &wide, &middle, &narrow]);
        for columns in 2..100 {
            assert!(progress.lines(columns).iter().all(|line| line.chars().count() < columns), "{columns}");
        }
    }

    #[test]
    fn numbers_and_times_are_easy_to_read() {
        let numbers = [0, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "999", "1,000", "1,234,567"]);
        let times = [0.04, 12.34, 59.94, 312.0, 7500.0].map(|s| stopwatch(Duration::from_secs_f64(s)));
        assert_eq!(times, ["0.0 s", "12.3 s", "59.9 s", "5 min 12 s", "2 h 5 min"]);
        let estimates =
            [0.3, 1.0, 89.0, 90.0, 3600.0, 86_400.0, 518_400.0].map(|s| in_words(Duration::from_secs_f64(s)));
        assert_eq!(estimates, ["1 second", "1 second", "89 seconds", "2 minutes", "60 minutes", "24 hours", "6 days"]);
    }
}
