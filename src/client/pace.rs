//! The pace of the calls: spaces them evenly, counts them, and stops at `max_requests`.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use ureq::unversioned::transport::{ConnectionDetails, Connector, Transport};

use crate::quota::CallCount;

/// Spaces calls evenly, and sends one call at a time: of those that wait, the one with the lowest priority number.
pub(super) struct Pace {
    queue: Mutex<Queue>,
    /// Signalled when a call was sent, so that another one is first in the queue.
    advanced: Condvar,
    calls: CallCount,
    limit: Option<u64>,
}

/// The calls that wait to be sent.
struct Queue {
    schedule: Schedule,
    /// The priority of each waiting call, and its number: among equal priorities, the first to arrive goes first.
    waiting: BTreeSet<(usize, u64)>,
    arrivals: u64,
    /// When each thread sent its last call.
    sent: HashMap<ThreadId, Instant>,
}

/// When calls may be sent.
///
/// The service does not document which window its "4 per second" refers to; evenly spaced calls fit any. The time to reach
/// the service varies, so the calls of a second are spread over a little more than a second.
struct Schedule {
    spacing: Duration,
    /// The most calls in any one second, at least one.
    a_second: usize,
    /// The least time in which one more call than that may be sent.
    window: Duration,
    /// When the next call may be sent.
    next: Instant,
    /// When the last calls were sent, at most `a_second` of them, the latest at the end.
    sent: VecDeque<Instant>,
}

/// The calls of a second are spread over this much of it: 3.855 calls a second at a pace of 4.
const SPREAD: f64 = 1.0375;
/// They take at least this much of it: the times of two calls to reach the service may differ by 30 ms, and a thread may
/// take some ms to send. What lies between both is how late a thread may wake up without slowing the others down.
const LEAST_SPREAD: f64 = 1.0335;

impl Schedule {
    fn new(per_second: f64, now: Instant) -> Schedule {
        let a_second = whole(per_second);
        let window = Duration::from_secs_f64(LEAST_SPREAD * f64::from(a_second) / per_second);
        let spacing = Duration::from_secs_f64(SPREAD / per_second);
        Schedule { spacing, a_second: a_second as usize, window, next: now, sent: VecDeque::new() }
    }

    /// Notes that a call is sent now, which arrived at `arrived`. Only the delay of a thread that woke up late is made up
    /// for, not time in which there was nothing to send.
    fn send(&mut self, arrived: Instant, now: Instant) {
        self.next = self.next.max(arrived) + self.spacing;
        self.note(now);
    }

    /// Notes that a call which was sent at `sent` leaves only now, since it had to open a connection first. The next ones
    /// keep their distance from it, if that took less than a second.
    fn leave(&mut self, sent: Instant, now: Instant) {
        self.sent.retain(|time| *time != sent);
        self.note(now);
    }

    fn note(&mut self, now: Instant) {
        self.sent.push_back(now);
        if self.sent.len() > self.a_second {
            self.sent.pop_front();
        }
        if self.sent.len() == self.a_second {
            self.next = self.next.max(self.sent[0] + self.window);
        }
    }
}

impl Pace {
    pub(super) fn new(per_second: f64, limit: Option<u64>) -> Pace {
        let schedule = Schedule::new(per_second, Instant::now());
        Pace {
            queue: Mutex::new(Queue { schedule, waiting: BTreeSet::new(), arrivals: 0, sent: HashMap::new() }),
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
            let wait = queue.schedule.next.saturating_duration_since(Instant::now());
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
            let now = Instant::now();
            queue.schedule.send(arrived, now);
            queue.sent.insert(thread::current().id(), now);
            self.calls.add();
        }
        self.advanced.notify_all();
        may_send
    }

    /// Notes that this thread's call has its connection and leaves now.
    fn leave(&self) {
        let mut queue = self.lock();
        if let Some(sent) = queue.sent.get(&thread::current().id()).copied() {
            queue.schedule.leave(sent, Instant::now());
        }
    }

    /// Takes back the count of a call that could not connect: the service has not seen it.
    pub(super) fn uncount(&self) {
        self.calls.subtract();
    }

    /// Sends no call for this long, because the service has said that there were too many.
    pub(super) fn pause(&self, wait: Duration) {
        let mut queue = self.lock();
        queue.schedule.next = queue.schedule.next.max(Instant::now() + wait);
    }

    /// How many calls the pace allows in this time.
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

/// The last connector. Opening a connection takes 100 ms or more, and its call arrives later by that, so it tells the pace
/// when the connection is open.
pub(super) struct Connected(pub(super) Arc<Pace>);

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Connected")
    }
}

impl<T: Transport> Connector<T> for Connected {
    type Out = T;

    fn connect(&self, _: &ConnectionDetails, connection: Option<T>) -> Result<Option<T>, ureq::Error> {
        self.0.leave();
        Ok(connection)
    }
}

/// The most calls in one second, at least one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "floored, and `as` saturates")]
fn whole(per_second: f64) -> u32 {
    (per_second.floor() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// When the calls reach the service if there is always one more to make: `late` is how late each thread wakes up,
    /// `opens` how long each call takes to open a connection, or 0 where there is one, and `way` how long it is on its
    /// way, all in microseconds.
    fn arrivals(per_second: f64, late: &[u64], opens: &[u64], way: &[u64]) -> Vec<Instant> {
        let begin = Instant::now();
        let mut schedule = Schedule::new(per_second, begin);
        let (mut arrivals, mut now) = (Vec::new(), begin);
        let mut opening: Vec<(Instant, Instant)> = Vec::new();
        for ((late, opens), way) in late.iter().zip(opens).zip(way) {
            loop {
                let due = schedule.next.max(now) + Duration::from_micros(*late);
                opening.sort_by_key(|(opened, _)| std::cmp::Reverse(*opened));
                match opening.pop_if(|(opened, _)| *opened <= due) {
                    Some((opened, sent)) => schedule.leave(sent, opened),
                    None => break now = due,
                }
            }
            schedule.send(begin, now);
            let leaves = now + Duration::from_micros(*opens);
            if leaves > now {
                opening.push((leaves, now));
            }
            arrivals.push(leaves + Duration::from_micros(*way));
        }
        arrivals.sort();
        arrivals
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn no_sliding_second_holds_more_than_the_pace(
            late in prop::collection::vec(0u64..200_000, 60),
            opens in prop::collection::vec(prop_oneof![Just(0), 0u64..1_000_000], 60),
            way in prop::collection::vec(0u64..=30_000, 60),
            pace in 1u8..9,
        ) {
            let arrivals = arrivals(pace.into(), &late, &opens, &way);
            prop_assert!(arrivals.windows(usize::from(pace) + 1).all(|calls| calls[usize::from(pace)] > calls[0] + Duration::from_secs(1)));
        }

        #[test]
        fn threads_that_wake_up_a_little_late_cost_no_pace(late in prop::collection::vec(0u64..=4_000, 401)) {
            let arrivals = arrivals(4.0, &late, &[0; 401], &[0; 401]);
            prop_assert!(400.0 / arrivals[400].duration_since(arrivals[0]).as_secs_f64() >= 3.85);
        }
    }

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
