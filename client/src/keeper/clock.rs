//! The time that the keeper goes by, so that its tests steer it.

use futures::future::BoxFuture;
use tokio::time::Instant;

/// A monotonic clock.
pub(super) trait Clock: Send + Sync + 'static {
    /// What it shows.
    fn now(&self) -> Instant;
    /// Comes back when it shows `at`, or at once if it does already.
    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()>;
}

/// The runtime's.
pub(super) struct RuntimeClock;

impl Clock for RuntimeClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep_until(at))
    }
}
