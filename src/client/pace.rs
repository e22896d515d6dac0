//! How fast and how much: the spacing of calls, their count, the waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Spaces calls evenly, so that no sliding second holds more than the pace.
///
/// The window behind the service's "4 per second" is not documented; even spacing keeps every kind of window.
/// The 2 % on top are for what a call's way to the service varies.
pub(super) struct Pace {
    spacing: Duration,
    next: Mutex<Instant>,
    calls: AtomicU64,
    limit: Option<u64>,
}

impl Pace {
    pub(super) fn new(per_second: f64, limit: Option<u64>) -> Pace {
        Pace {
            spacing: Duration::from_secs_f64(1.02 / per_second),
            next: Mutex::new(Instant::now()),
            calls: AtomicU64::new(0),
            limit,
        }
    }

    /// Waits for this call's place and counts it; false when `max_requests` are used up.
    pub(super) fn take_place(&self) -> bool {
        // The lock is held while waiting: whoever wakes late pushes all behind back, and no two leave together.
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if self.limit.is_some_and(|limit| self.calls() >= limit) {
            return false;
        }
        // A throttled call may move `next` while this one waits only after it has left: the lock sees to it.
        let now = Instant::now();
        if *next > now {
            thread::sleep(*next - now);
        }
        *next = Instant::now() + self.spacing;
        self.calls.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Nobody calls for this long: the service said that all together are too fast.
    pub(super) fn hold(&self, wait: Duration) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(Instant::now() + wait);
    }

    /// How many calls the pace allows in a time.
    pub(super) fn calls_in(&self, time: Duration) -> usize {
        usize::try_from(time.as_nanos().div_ceil(self.spacing.as_nanos().max(1))).unwrap_or(usize::MAX)
    }

    /// API calls made so far, failed ones included.
    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

/// Full-jitter backoff before try `attempt` (1, 2, …): anything up to 1, 2, 4 … 60 seconds.
pub(crate) fn backoff(attempt: u32) -> Duration {
    let ceiling = 2f64.powi(attempt.min(7).cast_signed() - 1).min(60.0);
    Duration::from_secs_f64(fastrand::f64() * ceiling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_several_threads_keep_the_pace() {
        let pace = Pace::new(50.0, Some(20));
        let times = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while pace.take_place() {
                        times.lock().unwrap().push(Instant::now());
                    }
                });
            }
        });
        let mut times = times.into_inner().unwrap();
        times.sort();
        assert_eq!(times.len(), 20);
        assert!(times[19] - times[0] >= Duration::from_millis(19 * 20 - 15));
    }

    #[test]
    fn backoff_grows_to_a_minute_and_no_further() {
        for attempt in 1..40u32 {
            let ceiling = 2f64.powi(attempt.min(7).cast_signed() - 1).min(60.0);
            for _ in 0..50 {
                assert!(backoff(attempt).as_secs_f64() <= ceiling);
            }
        }
    }
}
