//! An order-preserving parallel `flat_map`: several parents are fetched at once, and their items are passed on in order.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::error::{Error, Result};

/// How many bytes may wait for later parents. The current parent may have one more item waiting.
///
/// While the pages of a long report come one by one, the pace is kept only by reading later ones ahead. For a sending to
/// 26,000 contacts, 52 pages of 150 KB, that takes some 45 pages at 500 ms of latency.
const BUDGET: usize = 7 << 20;

/// What a parent yields: its items, then its outcome.
pub(crate) enum Step<T> {
    Item(T),
    End(Result<()>),
}

struct Handover<T> {
    state: Mutex<Fetched<T>>,
    /// Signalled when an item was added or taken.
    moved: Condvar,
}

struct Fetched<T> {
    /// What is fetched and not yet passed on, one queue per parent, from parent `head` on.
    queues: VecDeque<VecDeque<Step<T>>>,
    head: usize,
    next: usize,
    held: usize,
    /// Set when `each` has ended, so that the workers stop.
    closed: bool,
}

impl<T> Handover<T> {
    fn lock(&self) -> MutexGuard<'_, Fetched<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, Fetched<T>>) -> MutexGuard<'a, Fetched<T>> {
        self.moved.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, parent: usize, outcome: Result<()>) {
        let mut state = self.lock();
        let at = parent - state.head;
        state.queues[at].push_back(Step::End(outcome));
        self.moved.notify_all();
    }
}

/// Ends a parent even if its worker panics: a listing that just stopped would look complete.
struct Fetching<'a, T> {
    handover: &'a Handover<T>,
    parent: usize,
    outcome: Result<()>,
}

impl<T> Drop for Fetching<'_, T> {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Ok(()));
        self.handover.end(self.parent, outcome);
    }
}

/// Fetches from `parents`, up to `workers` at a time, and passes the items to `each` in the order of the parents.
///
/// `fetch` runs on the workers. It gets the position of its parent, which is the priority of its calls, since earlier
/// parents are needed first. It pushes items, and must stop when that returns false. The current parent runs one item
/// ahead of `each`; items of later parents wait, up to a budget that `weigh` measures in bytes.
///
/// # Errors
/// What `each` returns; each worker then stops after its current call.
pub(crate) fn in_order<P, T>(
    parents: Vec<P>,
    workers: usize,
    weigh: fn(&T) -> usize,
    fetch: impl Fn(usize, &P, &mut dyn FnMut(T) -> bool) -> Result<()> + Send + Sync + 'static,
    mut each: impl FnMut(&P, Step<T>) -> Result<()>,
) -> Result<()>
where
    P: Send + Sync + 'static,
    T: Send + 'static,
{
    let state = Fetched { queues: VecDeque::new(), head: 0, next: 0, held: 0, closed: false };
    let handover = Arc::new(Handover { state: Mutex::new(state), moved: Condvar::new() });
    let (parents, fetch) = (Arc::new(parents), Arc::new(fetch));
    let workers = workers.min(parents.len());
    // The threads are detached, so that an error need not wait for their calls.
    for worker in 0..workers {
        let (handover, parents, fetch) = (Arc::clone(&handover), Arc::clone(&parents), Arc::clone(&fetch));
        let work = move || work(&handover, &parents, 2 * workers, weigh, &*fetch);
        match thread::Builder::new().spawn(work) {
            Ok(_) => {}
            // With fewer threads than planned it is slower and works as well.
            Err(e) if worker > 0 => {
                log::debug!("no more than {worker} threads can be started ({e})");
                break;
            }
            Err(e) => {
                return Err(Error::Failed(format!(
                    "no thread can be started ({e}): raise the limit of processes (ulimit -u), or free memory"
                )));
            }
        }
    }
    let outcome = parents.iter().try_for_each(|parent| {
        loop {
            let step = {
                let mut state = handover.lock();
                loop {
                    match state.queues.front_mut().and_then(VecDeque::pop_front) {
                        Some(step) => break take(&handover, &mut state, step, weigh),
                        None => state = handover.wait(state),
                    }
                }
            };
            let last = matches!(step, Step::End(_));
            each(parent, step)?;
            if last {
                return Ok(());
            }
        }
    });
    handover.lock().closed = true;
    handover.moved.notify_all();
    outcome
}

/// Like [`in_order`], for parents that yield one small item each, or an error.
///
/// # Errors
/// What `each` returns.
pub(crate) fn map_in_order<P, T>(
    parents: Vec<P>,
    workers: usize,
    fetch: impl Fn(usize, &P) -> Result<T> + Send + Sync + 'static,
    mut each: impl FnMut(&P, Result<T>) -> Result<()>,
) -> Result<()>
where
    P: Send + Sync + 'static,
    T: Send + 'static,
{
    let fetch_one = move |priority: usize, parent: &P, push: &mut dyn FnMut(T) -> bool| {
        push(fetch(priority, parent)?);
        Ok(())
    };
    // The number of workers limits how many are fetched ahead.
    in_order(
        parents,
        workers,
        |_| 1,
        fetch_one,
        |parent, step| match step {
            Step::Item(item) => each(parent, Ok(item)),
            Step::End(Err(e)) => each(parent, Err(e)),
            Step::End(Ok(())) => Ok(()),
        },
    )
}

fn take<T>(handover: &Handover<T>, state: &mut Fetched<T>, step: Step<T>, weigh: fn(&T) -> usize) -> Step<T> {
    match &step {
        Step::Item(item) => state.held -= weigh(item),
        Step::End(_) => {
            state.queues.pop_front();
            state.head += 1;
        }
    }
    handover.moved.notify_all();
    step
}

fn work<P, T>(
    handover: &Handover<T>,
    parents: &[P],
    lookahead: usize,
    weigh: fn(&T) -> usize,
    fetch: &impl Fn(usize, &P, &mut dyn FnMut(T) -> bool) -> Result<()>,
) {
    loop {
        let mut state = handover.lock();
        while !state.closed && state.next < parents.len() && state.next >= state.head + lookahead {
            state = handover.wait(state);
        }
        if state.closed || state.next == parents.len() {
            return;
        }
        let parent = state.next;
        state.next += 1;
        state.queues.push_back(VecDeque::new());
        drop(state);
        let died = Err(Error::Failed("a thread ended before its work; this is a defect of the tap".into()));
        let mut fetching = Fetching { handover, parent, outcome: died };
        fetching.outcome = fetch(parent, &parents[parent], &mut |item| {
            let weight = weigh(&item);
            let mut state = handover.lock();
            loop {
                if state.closed {
                    return false;
                }
                let at = parent - state.head;
                let fits = if at == 0 { state.queues[0].is_empty() } else { state.held + weight <= BUDGET };
                if fits {
                    state.queues[at].push_back(Step::Item(item));
                    state.held += weight;
                    handover.moved.notify_all();
                    return true;
                }
                state = handover.wait(state);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn run(parents: Vec<Vec<u32>>, workers: usize, weigh: fn(&u32) -> usize) -> Vec<Vec<u32>> {
        let mut out = Vec::new();
        let mut current = Vec::new();
        let fetch = |_: usize, items: &Vec<u32>, push: &mut dyn FnMut(u32) -> bool| {
            for item in items {
                if item % 3 == 0 {
                    thread::sleep(Duration::from_micros(u64::from(item % 50)));
                }
                assert!(push(*item));
            }
            Ok(())
        };
        in_order(parents, workers, weigh, fetch, |_, step| {
            match step {
                Step::Item(item) => current.push(item),
                Step::End(_) => out.push(std::mem::take(&mut current)),
            }
            Ok(())
        })
        .unwrap();
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_the_plain_loop(
            parents in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..12), 0..40),
            workers in 1usize..9,
            heavy: bool,
        ) {
            // Heavy items fill the budget with one.
            let weigh: fn(&u32) -> usize = if heavy { |_| BUDGET } else { |_| 1 };
            prop_assert_eq!(run(parents.clone(), workers, weigh), parents);
        }
    }

    /// Waits until a counter says so many, then a while longer, and returns what it says then.
    fn settled(counter: &AtomicUsize, expected: usize) -> usize {
        for _ in 0..1000 {
            if counter.load(Ordering::SeqCst) >= expected {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(Duration::from_millis(20));
        counter.load(Ordering::SeqCst)
    }

    #[test]
    fn the_current_parent_is_one_item_ahead() {
        static PUSHED: AtomicUsize = AtomicUsize::new(0);
        let fetch = |_: usize, (): &(), push: &mut dyn FnMut(usize) -> bool| {
            for n in 0..5 {
                push(n);
                PUSHED.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        };
        let each = |(): &(), step: Step<usize>| {
            if let Step::Item(n) = step {
                let ahead = (n + 2).min(5);
                assert_eq!(settled(&PUSHED, ahead), ahead);
            }
            Ok(())
        };
        in_order(vec![()], 1, |_| 2 * BUDGET, fetch, each).unwrap();
    }

    #[test]
    fn later_parents_fill_the_budget_and_no_more() {
        static WAITING: AtomicUsize = AtomicUsize::new(0);
        let fetch = |parent: usize, (): &(), push: &mut dyn FnMut(usize) -> bool| {
            let items = if parent == 0 { 1 } else { 9 };
            for n in 0..items {
                push(n);
                WAITING.fetch_add(parent, Ordering::SeqCst);
            }
            Ok(())
        };
        let mut is_first = true;
        let each = |(): &(), _| {
            if std::mem::take(&mut is_first) {
                assert_eq!(settled(&WAITING, 3), 3);
            }
            Ok(())
        };
        in_order(vec![(), ()], 2, |_| BUDGET / 3, fetch, each).unwrap();
        assert_eq!(WAITING.load(Ordering::SeqCst), 9);
    }

    #[test]
    fn an_error_ends_it_without_waiting_for_the_workers() {
        let begun = std::time::Instant::now();
        let fetch = |_: usize, n: &u32, push: &mut dyn FnMut(u32) -> bool| {
            if *n > 0 {
                thread::sleep(Duration::from_secs(30));
            }
            push(*n);
            Err(Error::Failed("no".into()))
        };
        let outcome = in_order(
            vec![0, 1, 2, 3],
            4,
            |_| 1,
            fetch,
            |_, step| match step {
                Step::Item(_) => Ok(()),
                Step::End(outcome) => outcome,
            },
        );
        assert!(outcome.is_err());
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_worker_that_dies_is_an_error_and_no_end_of_a_listing() {
        let fetch = |_: usize, n: &u32, _: &mut dyn FnMut(u32) -> bool| {
            assert_ne!(*n, 1, "on purpose");
            Ok(())
        };
        let ends = AtomicUsize::new(0);
        let outcome = in_order(
            vec![0, 1],
            1,
            |_| 1,
            fetch,
            |_, step| match step {
                Step::Item(_) => Ok(()),
                Step::End(outcome) => {
                    ends.fetch_add(1, Ordering::Relaxed);
                    outcome
                }
            },
        );
        assert!(matches!(outcome, Err(Error::Failed(_))));
        assert_eq!(ends.into_inner(), 2);
    }

    #[test]
    fn no_more_than_the_workers_are_in_flight() {
        static FLYING: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        let fetch = |_: usize, _: &u32, _: &mut dyn FnMut(u32) -> bool| {
            MOST.fetch_max(FLYING.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(5));
            FLYING.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        };
        in_order((0..40).collect(), 4, |_: &u32| 1, fetch, |_, _| Ok(())).unwrap();
        assert_eq!(MOST.load(Ordering::SeqCst), 4);
    }
}
