//! How fast and how much: the spacing of calls, their count, the waits.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::quota::CallCount;

/// Spaces calls evenly, so that no sliding second holds more than the pace.
///
/// The window behind the service's "4 per second" is not documented; even spacing keeps every kind of window. The 3.2 %
/// on top are for what a call's way to the service varies: 32 ms between the first and the fifth. A call that leaves late,
/// since its thread woke up late, holds back the fifth after it and not all that follow.
pub(super) struct Pace {
    spacing: Duration,
    /// How many calls a second may hold.
    a_second: u32,
    queue: Mutex<Queue>,
    /// A place was taken: another is first.
    moved: Condvar,
    calls: CallCount,
    limit: Option<u64>,
}

/// The calls that wait for their place.
struct Queue {
    /// When the next may leave.
    next: Instant,
    /// When the last ones left, as many as a second may hold; the latest is the last.
    left: VecDeque<Instant>,
    /// The turn of each and when it came, which decides among those of one turn.
    waiting: BTreeSet<(usize, u64)>,
    came: u64,
}

impl Pace {
    pub(super) fn new(per_second: f64, limit: Option<u64>) -> Pace {
        Pace {
            spacing: Duration::from_secs_f64(1.032 / per_second),
            a_second: whole(per_second),
            queue: Mutex::new(Queue { next: Instant::now(), left: VecDeque::new(), waiting: BTreeSet::new(), came: 0 }),
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
            let left = queue.next.saturating_duration_since(Instant::now());
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
            // Time in which nobody called is not made up for, only time in which a thread did not wake up.
            let due = queue.next.max(came);
            queue.left.push_back(Instant::now());
            queue.next = due + self.spacing;
            if queue.left.len() == self.a_second as usize {
                let first = queue.left.pop_front().expect("there is one");
                queue.next = queue.next.max(first + self.spacing * self.a_second);
            }
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
        queue.next = queue.next.max(Instant::now() + wait);
    }

    /// How many calls the pace allows in a time.
    pub(super) fn calls_in(&self, time: Duration) -> usize {
        usize::try_from(time.as_nanos().div_ceil(self.spacing.as_nanos().max(1))).unwrap_or(usize::MAX)
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

    use super::*;

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
