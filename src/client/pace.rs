//! The pace of the calls: spaces them evenly, counts them, and stops at `max_requests`.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::quota::CallCount;

/// Spaces calls evenly, so that no sliding second holds more than the pace.
///
/// The service does not document which window its "4 per second" refers to; evenly spaced calls fit any. The spacing is
/// 3.2 % longer than the pace requires, since the time to reach the service varies: it leaves 32 ms between the first
/// and the fifth call. If a thread wakes up late and sends its call late, only the fifth call after it is delayed, not
/// all that follow.
pub(super) struct Pace {
    spacing: Duration,
    /// The most calls in any one second.
    per_second: u32,
    queue: Mutex<Queue>,
    /// Signalled when a call was sent, so that another one is first in the queue.
    advanced: Condvar,
    calls: CallCount,
    limit: Option<u64>,
}

/// The calls that wait to be sent.
struct Queue {
    /// When the next call may be sent.
    next: Instant,
    /// When the last calls were sent, at most `per_second` of them, the latest at the end.
    sent: VecDeque<Instant>,
    /// The priority of each waiting call, and its number: among equal priorities, the first to arrive goes first.
    waiting: BTreeSet<(usize, u64)>,
    arrivals: u64,
}

impl Pace {
    pub(super) fn new(per_second: f64, limit: Option<u64>) -> Pace {
        Pace {
            spacing: Duration::from_secs_f64(1.032 / per_second),
            per_second: whole(per_second),
            queue: Mutex::new(Queue {
                next: Instant::now(),
                sent: VecDeque::new(),
                waiting: BTreeSet::new(),
                arrivals: 0,
            }),
            advanced: Condvar::new(),
            calls: CallCount::default(),
            limit,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a call may be sent, and counts it. Returns false once `max_requests` is used up. Among waiting
    /// calls, the one with the lowest `priority` is sent first.
    pub(super) fn wait_to_send(&self, priority: usize) -> bool {
        let mut queue = self.lock();
        let arrived = Instant::now();
        let place = (priority, queue.arrivals);
        queue.arrivals += 1;
        queue.waiting.insert(place);
        let may_send = loop {
            if self.limit.is_some_and(|limit| self.calls() >= limit) {
                break false;
            }
            let wait = queue.next.saturating_duration_since(Instant::now());
            let is_first = queue.waiting.first() == Some(&place);
            if is_first && wait.is_zero() {
                break true;
            }
            // The first call waits until it is due; the others wait until they are first.
            queue = if is_first {
                self.advanced.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.advanced.wait(queue).unwrap_or_else(PoisonError::into_inner)
            };
        };
        queue.waiting.remove(&place);
        if may_send {
            // Only the delay of a thread that woke up late is made up for, not time in which there was nothing to send.
            let due = queue.next.max(arrived);
            queue.sent.push_back(Instant::now());
            queue.next = due + self.spacing;
            if queue.sent.len() == self.per_second as usize {
                let first = queue.sent.pop_front().expect("there is one");
                queue.next = queue.next.max(first + self.spacing * self.per_second);
            }
            self.calls.add();
        }
        self.advanced.notify_all();
        may_send
    }

    /// Takes back the count of a call that could not connect: the service has not seen it.
    pub(super) fn uncount(&self) {
        self.calls.subtract();
    }

    /// Sends no call for this long, because the service has said that there were too many.
    pub(super) fn pause(&self, wait: Duration) {
        let mut queue = self.lock();
        queue.next = queue.next.max(Instant::now() + wait);
    }

    /// How many calls the pace allows in this time.
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

/// The most calls in one second, at least one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "floored, and `as` saturates")]
fn whole(per_second: f64) -> u32 {
    (per_second.floor() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn the_lowest_priority_is_sent_first() {
        let pace = Pace::new(5.0, None);
        pace.pause(Duration::from_millis(500));
        let sent = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for priority in [3, 1, 4, 0, 2] {
                let (pace, sent) = (&pace, &sent);
                scope.spawn(move || {
                    pace.wait_to_send(priority);
                    sent.lock().unwrap().push(priority);
                });
            }
        });
        assert_eq!(sent.into_inner().unwrap(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn calls_of_several_threads_keep_the_pace() {
        let pace = Pace::new(50.0, Some(20));
        let times = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while pace.wait_to_send(0) {
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
