//! The dates of the server's own certificate. Invariant: one that callers would refuse today never comes into force,
//! whether at the start or at a reload; one that ends soon is warned of while there is time to replace it.
//!
//! Absent on purpose: the dates of the certificates above it, which callers may have newer versions of.

use std::path::Path;

use keystead_audit::{UnixMillis, rfc3339};
use rustls::pki_types::CertificateDer;

use super::error::{CertificateRefused, TlsError};
use super::identity::{dates_ms, parse};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// How long before its end a certificate is warned of.
pub(super) const WARN_DAYS: u64 = 14;

/// Until when the server's certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastDate {
    not_after_ms: u64,
}

impl LastDate {
    /// Of a file's chain, whose first certificate must be valid at this time.
    pub(super) fn of(path: &Path, chain: &[CertificateDer<'_>], now_ms: u64) -> Result<Self, TlsError> {
        let refused = |source| TlsError::Certificate { path: path.to_owned(), entry: 1, source };
        let leaf = chain.first().ok_or(CertificateRefused::Malformed).and_then(parse).map_err(refused)?;
        let (not_before_ms, not_after_ms) = dates_ms(&leaf);
        if now_ms < not_before_ms {
            return Err(refused(CertificateRefused::NotYetValid {
                begins: rfc3339(UnixMillis(not_before_ms)),
            }));
        }
        if now_ms > not_after_ms {
            return Err(refused(CertificateRefused::Expired { ended: rfc3339(UnixMillis(not_after_ms)) }));
        }
        Ok(Self { not_after_ms })
    }

    /// The whole days that are left, if they are few.
    pub(super) fn few_days_left(self, now_ms: u64) -> Option<u64> {
        let left = self.not_after_ms.saturating_sub(now_ms);
        (left < WARN_DAYS * DAY_MS).then_some(left / DAY_MS)
    }

    /// Says when it ends.
    pub(super) fn log(self, now_ms: u64) {
        let not_after = rfc3339(UnixMillis(self.not_after_ms));
        tracing::info!(not_after, "the server's certificate is loaded");
        if let Some(days) = self.few_days_left(now_ms) {
            tracing::warn!(not_after, days, "the server's certificate ends soon: replace it and send SIGHUP");
        }
    }
}
