//! Several requests at a time, whose answers are taken in the order of the requests.
//!
//! It is for waiting on servers, not for arithmetic.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::channel;
use std::thread::scope;

use crate::Result;

/// Items that are begun before the first one without an answer is answered, for each request at a time: a slow one soon holds no
/// other, and a kill loses no more answers than these.
const AHEAD: usize = 4;

/// Asks for all `items`, `parallel` at a time, and hands each answer on in order, with the place of its item. After an error
/// nothing more is asked, but what was asked before is handed on, be it behind the error; of several errors the first in order is
/// told. An error of `take` ends it.
pub(crate) fn in_parallel<I: Sync, T: Send>(
    items: &[I],
    parallel: usize,
    ask: impl Fn(&I) -> Result<T> + Sync,
    mut take: impl FnMut(usize, T) -> Result<()>,
) -> Result<()> {
    let (parallel, ask) = (parallel.max(1), &ask);
    let (sender, receiver) = channel();
    scope(|scope| {
        let (mut asked, mut taken, mut under_way) = (0, 0, 0);
        let mut waiting = BTreeMap::new();
        let (mut has_failed, mut failed) = (false, Ok(()));
        loop {
            let end = items.len().min(taken + AHEAD * parallel);
            while !has_failed && under_way < parallel && asked < end {
                let (index, sender) = (asked, sender.clone());
                scope.spawn(move || {
                    let answer = catch_unwind(AssertUnwindSafe(|| ask(&items[index])));
                    // Nobody waits for it where `take` failed.
                    _ = sender.send((index, answer));
                });
                asked += 1;
                under_way += 1;
            }
            let Some(Ok((index, answer))) = (under_way > 0).then(|| receiver.recv()) else { return failed };
            under_way -= 1;
            let answer = answer.unwrap_or_else(|panic| resume_unwind(panic));
            has_failed |= answer.is_err();
            waiting.insert(index, answer);
            while let Some(answer) = waiting.remove(&taken) {
                match answer {
                    Ok(answer) => take(taken, answer)?,
                    Err(error) => failed = failed.and(Err(error)),
                }
                taken += 1;
            }
        }
    })
}

/// The same, where an answer behind an error has no place.
pub(crate) fn in_order<I: Sync, T: Send>(
    items: &[I],
    parallel: usize,
    ask: impl Fn(&I) -> Result<T> + Sync,
    mut take: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let mut next = 0;
    in_parallel(items, parallel, ask, |place, answer| {
        if place == next {
            next += 1;
            take(answer)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::Error;

    fn wait_until(is_so: impl Fn() -> bool) {
        let begin = Instant::now();
        while !is_so() {
            assert!(begin.elapsed() < Duration::from_secs(20), "it never is");
            sleep(Duration::from_millis(1));
        }
    }

    fn error(place: usize) -> Error {
        Error::Option { option: "place", problem: place.to_string() }
    }

    #[test]
    fn a_slow_answer_holds_no_other_and_order_stays() {
        let items: Vec<usize> = (0..40).collect();
        let (begun, under_way, most) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let ask = |item: &usize| {
            begun.fetch_add(1, SeqCst);
            most.fetch_max(under_way.fetch_add(1, SeqCst) + 1, SeqCst);
            if *item < 3 {
                wait_until(|| most.load(SeqCst) == 3);
            }
            if *item == 0 {
                wait_until(|| begun.load(SeqCst) == AHEAD * 3);
                sleep(Duration::from_millis(30));
                assert_eq!(begun.load(SeqCst), AHEAD * 3, "no more than these wait");
            }
            under_way.fetch_sub(1, SeqCst);
            Ok(item * 2)
        };
        let mut taken = Vec::new();
        let take = |place, answer| {
            taken.push((place, answer));
            Ok(())
        };
        in_parallel(&items, 3, ask, take).unwrap();
        assert_eq!(taken, items.iter().map(|item| (*item, item * 2)).collect::<Vec<_>>());
        assert_eq!(most.load(SeqCst), 3);
        in_parallel(&items[..0], 3, |_| Ok(()), |_, ()| Ok(())).unwrap();
    }

    #[test]
    fn what_was_asked_beside_an_error_is_handed_on_and_nothing_more_is_asked() {
        let items: Vec<usize> = (0..40).collect();
        // The second fails only when the fourth has failed, and the third is answered last.
        let begun = AtomicUsize::new(0);
        let failed = AtomicUsize::new(0);
        let ask = |item: &usize| {
            begun.fetch_add(1, SeqCst);
            match item {
                1 => wait_until(|| failed.load(SeqCst) == 1),
                2 => wait_until(|| failed.load(SeqCst) == 2),
                3 => wait_until(|| begun.load(SeqCst) == 4),
                _ => {}
            }
            if item % 2 == 1 {
                failed.fetch_add(1, SeqCst);
                return Err(error(*item));
            }
            Ok(*item)
        };
        let mut taken = Vec::new();
        let take = |place, _| {
            taken.push(place);
            Ok(())
        };
        let found = in_parallel(&items[..4], 4, ask, take).unwrap_err();
        assert_eq!((found.to_string(), taken), (error(1).to_string(), vec![0, 2]));
        begun.store(0, SeqCst);
        let mut taken = Vec::new();
        let fails = |item: &usize| {
            begun.fetch_add(1, SeqCst);
            if *item == 5 { Err(error(5)) } else { Ok(*item) }
        };
        let take = |item| {
            taken.push(item);
            Ok(())
        };
        assert_eq!(in_order(&items, 2, fails, take).unwrap_err().to_string(), error(5).to_string());
        assert_eq!(taken, [0, 1, 2, 3, 4]);
        assert!(begun.load(SeqCst) < 5 + 2 * AHEAD + 1, "{begun:?}");
    }

    #[test]
    fn an_answer_that_is_not_taken_ends_it() {
        let items: Vec<usize> = (0..40).collect();
        let begun = AtomicUsize::new(0);
        let ask = |item: &usize| {
            begun.fetch_add(1, SeqCst);
            Ok(*item)
        };
        let take = |item| if item == 3 { Err(error(item)) } else { Ok(()) };
        assert_eq!(in_order(&items, 2, ask, take).unwrap_err().to_string(), error(3).to_string());
        assert!(begun.load(SeqCst) <= 3 + 2 * AHEAD, "{begun:?}");
    }
}
