//! How fast and how much: the spacing of calls, their count, the waits.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::quota::CallCount;

/// Spaces calls evenly, and lets one call at a time leave: of those that wait, the one with the lowest turn.
pub(super) struct Pace {
    queue: Mutex<Queue>,
    /// A place was taken: another is first.
    moved: Condvar,
    calls: CallCount,
    limit: Option<u64>,
}

/// The calls that wait for their place.
struct Queue {
    schedule: Schedule,
    /// The turn of each and when it came, which decides among those of one turn.
    waiting: BTreeSet<(usize, u64)>,
    came: u64,
}

/// When calls may leave.
///
/// The window behind the service's "4 per second" is not documented; even spacing keeps every kind of window. The way to
/// the service takes one call longer than another, so a second's worth of calls is given a little more than a second.
struct Schedule {
    spacing: Duration,
    /// How many calls a second may hold, at least one.
    a_second: usize,
    /// The least time in which one more call than that may leave.
    window: Duration,
    /// When the next may leave.
    next: Instant,
    /// When the last ones left, as many as a second may hold; the latest is the last.
    left: VecDeque<Instant>,
}

/// The calls of a second are spread over this much of it: 3.857 calls a second at a pace of 4.
const SPREAD: f64 = 1.037;
/// And take at least this much: the ways of two calls may differ by 30 ms. The difference to the spread is what a thread
/// may wake up too late without slowing the others down.
const LEAST_SPREAD: f64 = 1.031;

impl Schedule {
    fn new(per_second: f64, now: Instant) -> Schedule {
        let a_second = whole(per_second);
        let window = Duration::from_secs_f64(LEAST_SPREAD * f64::from(a_second) / per_second);
        let spacing = Duration::from_secs_f64(SPREAD / per_second);
        Schedule { spacing, a_second: a_second as usize, window, next: now, left: VecDeque::new() }
    }

    /// Notes that a call leaves now, which came at `came`. Time in which nobody called is not made up for, only time in
    /// which a thread did not wake up.
    fn leave(&mut self, came: Instant, now: Instant) {
        self.next = self.next.max(came) + self.spacing;
        self.left.push_back(now);
        if self.left.len() == self.a_second {
            let first = self.left.pop_front().expect("there is one");
            self.next = self.next.max(first + self.window);
        }
    }
}

impl Pace {
    pub(super) fn new(per_second: f64, limit: Option<u64>) -> Pace {
        let schedule = Schedule::new(per_second, Instant::now());
        Pace {
            queue: Mutex::new(Queue { schedule, waiting: BTreeSet::new(), came: 0 }),
            moved: Condvar::new(),
            calls: CallCount::default(),
            limit,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for this call's place and counts it; false when `max_requests` are used up. Of the calls that wait, the
    /// one of the lowest turn is the first to leave.
    pub(super) fn take_place(&self, turn: usize) -> bool {
        let mut queue = self.lock();
        let came = Instant::now();
        let place = (turn, queue.came);
        queue.came += 1;
        queue.waiting.insert(place);
        let leaves = loop {
            if self.limit.is_some_and(|limit| self.calls() >= limit) {
                break false;
            }
            let left = queue.schedule.next.saturating_duration_since(Instant::now());
            let first = queue.waiting.first() == Some(&place);
            if first && left.is_zero() {
                break true;
            }
            // The first waits for the time, the others to be first.
            queue = if first {
                self.moved.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.moved.wait(queue).unwrap_or_else(PoisonError::into_inner)
            };
        };
        queue.waiting.remove(&place);
        if leaves {
            queue.schedule.leave(came, Instant::now());
            self.calls.add();
        }
        self.moved.notify_all();
        leaves
    }

    /// Uncounts a call that could not connect: the service has not seen it.
    pub(super) fn give_back(&self) {
        self.calls.take_back();
    }

    /// Nobody calls for this long: the service said that all together are too fast.
    pub(super) fn hold(&self, wait: Duration) {
        let mut queue = self.lock();
        queue.schedule.next = queue.schedule.next.max(Instant::now() + wait);
    }

    /// How many calls the pace allows in a time.
    pub(super) fn calls_in(&self, time: Duration) -> usize {
        let spacing = self.lock().schedule.spacing.as_nanos().max(1);
        usize::try_from(time.as_nanos().div_ceil(spacing)).unwrap_or(usize::MAX)
    }

    /// API calls made so far, failed ones included.
    pub(super) fn calls(&self) -> u64 {
        self.calls.get()
    }

    /// The counter itself.
    pub(super) fn call_count(&self) -> CallCount {
        self.calls.clone()
    }
}

/// The calls that a second may hold, at least one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "floored, and `as` saturates")]
fn whole(per_second: f64) -> u32 {
    (per_second.floor() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// When each call arrives, if it always has one more to make: `late` is how late each thread wakes up, and `way` how
    /// long each call's way takes, both in microseconds.
    fn arrivals(per_second: f64, late: &[u64], way: &[u64]) -> Vec<Duration> {
        let begin = Instant::now();
        let mut schedule = Schedule::new(per_second, begin);
        let (mut arrivals, mut now) = (Vec::new(), begin);
        for (late, way) in late.iter().zip(way) {
            now = schedule.next.max(now) + Duration::from_micros(*late);
            schedule.leave(begin, now);
            arrivals.push(now + Duration::from_micros(*way) - begin);
        }
        arrivals.sort();
        arrivals
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn no_sliding_second_holds_more_than_the_pace(
            late in prop::collection::vec(0u64..200_000, 60), way in prop::collection::vec(0u64..=30_000, 60), pace in 1u8..9,
        ) {
            let arrivals = arrivals(pace.into(), &late, &way);
            prop_assert!(arrivals.windows(usize::from(pace) + 1).all(|calls| calls[usize::from(pace)] - calls[0] > Duration::from_secs(1)));
        }

        #[test]
        fn threads_that_wake_up_a_little_late_cost_no_pace(late in prop::collection::vec(0u64..=6_000, 401)) {
            let arrivals = arrivals(4.0, &late, &[0; 401]);
            prop_assert!(400.0 / (arrivals[400] - arrivals[0]).as_secs_f64() >= 3.85);
        }
    }

    #[test]
    fn the_lowest_turn_leaves_first() {
        let pace = Pace::new(5.0, None);
        pace.hold(Duration::from_millis(500));
        let left = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for turn in [3, 1, 4, 0, 2] {
                let (pace, left) = (&pace, &left);
                scope.spawn(move || {
                    pace.take_place(turn);
                    left.lock().unwrap().push(turn);
                });
            }
        });
        assert_eq!(left.into_inner().unwrap(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn calls_of_several_threads_keep_the_pace() {
        let pace = Pace::new(50.0, Some(20));
        let times = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while pace.take_place(0) {
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
}
