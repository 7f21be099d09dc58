//! Time comes from here and nowhere else, so that tests can steer it.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keystead_domain::time::UnixMillis;

/// Wall clock and monotonic clock.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock, milliseconds since 1970.
    fn now(&self) -> UnixMillis;
    /// A clock that never goes back, for latencies and timeouts.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks.
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Starts the monotonic clock at zero.
    #[expect(clippy::disallowed_methods, reason = "the one home of the machine's clock")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one home of the machine's clock")]
    fn now(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that moves when told to, for tests.
pub struct ManualClock {
    now: Mutex<(UnixMillis, Duration)>,
}

impl ManualClock {
    /// Starts at `now`.
    pub fn new(now: UnixMillis) -> Self {
        Self { now: Mutex::new((now, Duration::ZERO)) }
    }

    /// Moves both clocks on.
    pub fn advance(&self, by: Duration) {
        let mut now = self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        now.0 = UnixMillis(now.0.0.saturating_add(millis));
        now.1 = now.1.saturating_add(by);
    }

    /// Steps only the wall clock, as an operator or NTP would.
    pub fn step_wall(&self, to: UnixMillis) {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0 = to;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMillis {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0
    }

    fn monotonic(&self) -> Duration {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1
    }
}
