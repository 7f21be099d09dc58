//! Unidentified callers, counted by address: an anonymous flood must not fill the audit log. Bounded; when there are too
//! many addresses the newest share one count.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::request::Peer;

const WINDOW: Duration = Duration::from_secs(60);
const ADDRESSES_KEPT: usize = 1024;

#[derive(Default)]
pub(crate) struct Refusals(Mutex<HashMap<Option<Peer>, Window>>);

struct Window {
    began: Duration,
    unrecorded: u64,
}

impl Refusals {
    /// Whether to record this refusal, and how many were only counted before it.
    pub(crate) fn record(&self, peer: Peer, now: Duration) -> Option<u64> {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= ADDRESSES_KEPT {
            // Of an address that is long gone only its count is kept, with the shared one.
            let mut gone = 0_u64;
            windows.retain(|key, window| {
                let stays = key.is_none() || now.saturating_sub(window.began) < WINDOW;
                if !stays {
                    gone = gone.saturating_add(window.unrecorded);
                }
                stays
            });
            if gone > 0 {
                let shared = windows.entry(None).or_insert(Window { began: now, unrecorded: 0 });
                shared.unrecorded = shared.unrecorded.saturating_add(gone);
            }
        }
        let crowded = windows.len() >= ADDRESSES_KEPT && !windows.contains_key(&Some(peer));
        let key = if crowded { None } else { Some(peer) };
        match windows.get_mut(&key) {
            Some(window) if now.saturating_sub(window.began) < WINDOW => {
                window.unrecorded = window.unrecorded.saturating_add(1);
                None
            }
            Some(window) => {
                window.began = now;
                Some(std::mem::take(&mut window.unrecorded))
            }
            None => {
                windows.insert(key, Window { began: now, unrecorded: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn peer(n: u32) -> Peer {
        Peer::Remote(IpAddr::V4(Ipv4Addr::from(n)))
    }

    #[test]
    fn the_first_of_a_minute_is_recorded_and_the_rest_are_counted() {
        let refusals = Refusals::default();
        assert_eq!(refusals.record(peer(1), Duration::ZERO), Some(0));
        assert_eq!(refusals.record(peer(1), Duration::from_secs(1)), None);
        assert_eq!(refusals.record(peer(1), Duration::from_secs(59)), None);
        assert_eq!(refusals.record(peer(2), Duration::from_secs(59)), Some(0));
        assert_eq!(refusals.record(peer(1), Duration::from_secs(61)), Some(2));
    }

    #[test]
    fn a_flood_of_addresses_is_bounded() {
        let refusals = Refusals::default();
        let recorded = (0..5_000).filter(|n| refusals.record(peer(*n), Duration::ZERO).is_some()).count();
        assert!(recorded <= ADDRESSES_KEPT + 1, "{recorded}");
        let later = Duration::from_secs(120);
        assert!(refusals.record(peer(1), later).is_some(), "the crowd has gone");
        assert!(refusals.record(peer(200_000), later).is_some(), "a newcomer has a count of its own again");
    }
}
