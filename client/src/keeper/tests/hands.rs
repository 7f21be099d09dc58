//! A clock that stands still until it is moved.

use std::sync::Mutex;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::keeper::clock::Clock;

pub(super) struct Hands(Mutex<State>);

struct State {
    now: Instant,
    sleepers: Vec<(Instant, oneshot::Sender<()>)>,
}

impl Hands {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { now: Instant::now(), sleepers: Vec::new() }))
    }

    pub(super) fn move_to(&self, at: Instant) {
        let mut state = self.0.lock().unwrap();
        assert!(at >= state.now);
        state.now = at;
        for (until, wake) in std::mem::take(&mut state.sleepers) {
            if until > at {
                state.sleepers.push((until, wake));
            } else {
                // Whoever slept may have gone.
                wake.send(()).ok();
            }
        }
    }

    pub(super) fn move_by(&self, span: Duration) {
        self.move_to(self.now() + span);
    }

    /// When the next of those who sleep wakes up.
    pub(super) fn next_wake(&self) -> Instant {
        let mut state = self.0.lock().unwrap();
        state.sleepers.retain(|(_, wake)| !wake.is_closed());
        state.sleepers.iter().map(|(until, _)| *until).min().expect("nobody sleeps")
    }
}

impl Clock for Hands {
    fn now(&self) -> Instant {
        self.0.lock().unwrap().now
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        let mut state = self.0.lock().unwrap();
        if at <= state.now {
            return Box::pin(std::future::ready(()));
        }
        let (wake, woken) = oneshot::channel();
        state.sleepers.push((at, wake));
        Box::pin(async {
            woken.await.ok();
        })
    }
}
