//! Answers that are not what the real module said. Invariant: works on copies of answers only. Absent: keys.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::engine::{Engine, Live, lock};
use crate::rules::{Effect, Output};

/// An answer and the length that is claimed for it.
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    /// Beyond the bytes.
    pub(crate) claimed: usize,
}

/// Where two answers are exchanged, or one is kept for the next time.
#[derive(Default)]
pub(crate) struct Exchange {
    place: Mutex<Place>,
    met: Condvar,
}

#[derive(Default)]
enum Place {
    #[default]
    Empty,
    Offered(Vec<u8>),
    Taken(Vec<u8>),
}

impl Exchange {
    /// Gives an answer away for another's, if one comes in time.
    fn swap(&self, mine: &mut Vec<u8>, limit: Duration) -> bool {
        let mut place = lock(&self.place);
        match std::mem::take(&mut *place) {
            Place::Offered(theirs) => {
                *place = Place::Taken(std::mem::replace(mine, theirs));
                self.met.notify_all();
                true
            }
            Place::Taken(theirs) => {
                *place = Place::Taken(theirs);
                false
            }
            Place::Empty => {
                *place = Place::Offered(mine.clone());
                let waited =
                    self.met.wait_timeout_while(place, limit, |place| matches!(place, Place::Offered(_)));
                let (mut place, _) = waited.unwrap_or_else(PoisonError::into_inner);
                match std::mem::take(&mut *place) {
                    Place::Taken(theirs) => {
                        *mine = theirs;
                        true
                    }
                    Place::Offered(_) | Place::Empty => false,
                }
            }
        }
    }

    /// Answers what was kept, and keeps it; the first answer is kept and true.
    fn former(&self, mine: &mut Vec<u8>) -> bool {
        let mut place = lock(&self.place);
        match &*place {
            Place::Taken(kept) => {
                mine.clone_from(kept);
                true
            }
            Place::Empty | Place::Offered(_) => {
                *place = Place::Taken(mine.clone());
                false
            }
        }
    }
}

/// Changes an answer by all lies that are due for it.
pub(crate) fn tell(engine: &Engine, function: &'static str, bytes: Vec<u8>) -> Answer {
    let mut answer = Answer { bytes, claimed: 0 };
    for live in engine.lies(function) {
        if lie(&live, &mut answer) {
            engine.fire(&live, function);
        }
    }
    answer
}

fn lie(live: &Arc<Live>, answer: &mut Answer) -> bool {
    let Effect::Output(output) = &live.rule.effect else { return false };
    let bytes = &mut answer.bytes;
    match output {
        Output::Corrupt(at) => match bytes.get_mut(*at) {
            Some(byte) => *byte ^= 1,
            None => return false,
        },
        Output::Swap(limit) => return live.exchange.swap(bytes, *limit),
        Output::Former => return live.exchange.former(bytes),
        Output::Short(by) => bytes.truncate(bytes.len().saturating_sub(*by)),
        Output::Long(by) => bytes.resize(bytes.len().saturating_add(*by), 0),
        Output::Overlong(by) => answer.claimed = *by,
        Output::Empty => bytes.clear(),
        Output::Constant(byte) => bytes.fill(*byte),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_at_once_get_each_others_answer_and_one_alone_its_own() {
        let exchange = Exchange::default();
        let swapped = |own: u8| {
            let mut mine = vec![own];
            (exchange.swap(&mut mine, Duration::from_secs(10)), mine)
        };
        std::thread::scope(|scope| {
            let one = scope.spawn(|| swapped(1));
            let two = scope.spawn(|| swapped(2));
            assert_eq!(one.join().unwrap(), (true, vec![2]));
            assert_eq!(two.join().unwrap(), (true, vec![1]));
        });
        let mut alone = vec![3];
        assert!(!exchange.swap(&mut alone, Duration::from_millis(1)));
        assert_eq!(alone, [3]);
    }

    #[test]
    fn the_first_answer_is_repeated() {
        let exchange = Exchange::default();
        let mut answers = [vec![1], vec![2], vec![3]];
        let lied = answers.each_mut().map(|answer| exchange.former(answer));
        assert_eq!(lied, [false, true, true]);
        assert_eq!(answers, [[1], [1], [1]]);
    }
}
