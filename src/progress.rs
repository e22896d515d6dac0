//! A line a stream for who watches a terminal: records, calls, share of the daily quota, and time left where the calls
//! are known beforehand.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::quota::{CallCount, share_of_quota};

/// Not drawn unless [`show`] is called.
static LINES: LazyLock<MultiProgress> = LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::hidden()));

/// Draws the lines, on stderr.
pub(crate) fn show() {
    LINES.set_draw_target(ProgressDrawTarget::stderr());
}

/// Writes something to stderr with the lines out of its way.
pub(crate) fn aside(write: impl FnOnce()) {
    LINES.suspend(write);
}

/// The line of a stream.
pub(crate) struct Line {
    bar: ProgressBar,
    drawn: bool,
    records: u64,
}

impl Line {
    /// Counts a record.
    pub(crate) fn count(&mut self) {
        self.records += 1;
        // Looks at the clock, which is much for a record.
        if self.drawn {
            self.bar.inc(1);
        }
    }

    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Since its SCHEMA was written.
    pub(crate) fn elapsed(&self) -> Duration {
        self.bar.elapsed()
    }

    pub(crate) fn finish(&self) {
        self.bar.finish();
    }
}

/// The lines of a run.
pub(crate) struct Progress {
    calls: CallCount,
    calls_a_second: f64,
    /// How many calls the run will have made when the read that was planned is over.
    planned: Arc<AtomicU64>,
}

impl Progress {
    pub(crate) fn new(calls: CallCount, calls_a_second: f64) -> Progress {
        Progress { calls, calls_a_second, planned: Arc::default() }
    }

    /// The line of a stream.
    pub(crate) fn line(&self, stream: &'static str) -> Line {
        let count = self.calls.clone();
        let calls = move |_: &ProgressState, out: &mut dyn Write| {
            let calls = count.get();
            let _ = write!(out, "{calls} calls, {} % of the quota", share_of_quota(calls));
        };
        let (count, planned, pace) = (self.calls.clone(), Arc::clone(&self.planned), self.calls_a_second);
        let left = move |state: &ProgressState, out: &mut dyn Write| {
            let left = planned.load(Ordering::Relaxed).saturating_sub(count.get());
            if left > 0 && !state.is_finished() {
                #[expect(clippy::cast_precision_loss, reason = "an estimate")]
                let time = Duration::from_secs_f64(left as f64 / pace);
                let _ = write!(out, ", {} left", HumanDuration(time));
            }
        };
        let style = ProgressStyle::with_template("{prefix}: {human_pos} records, {calls}{left}")
            .expect("the template is well formed")
            .with_key("calls", calls)
            .with_key("left", left);
        let bar = LINES.add(ProgressBar::no_length().with_style(style).with_prefix(stream));
        // Nobody looks at a line that is not drawn, and a tick takes a thread.
        let drawn = !LINES.is_hidden();
        if drawn {
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        Line { bar, drawn, records: 0 }
    }

    /// Says how many more calls a read is going to make.
    pub(crate) fn planned(&self, calls: u64) {
        self.planned.store(self.calls.get() + calls, Ordering::Relaxed);
    }
}
