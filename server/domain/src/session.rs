//! What the vault keeps of a session: whose it is, how it was obtained, what it is bound to, when it ends.
//!
//! Invariant: a session ends at `expires`, never later than `max_expires`, whatever a sweeper does; rights
//! are not in it, they are decided at each request. The token is absent: it exists only with its holder, the
//! store knows a keyed hash of it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::RecordId;
use crate::name::TenantName;
use crate::principal::{PrincipalName, PrincipalRecord};
use crate::time::{TimeError, Ttl, UnixMillis};

/// How a caller proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AuthMethod {
    /// A client certificate.
    Certificate,
    /// The bootstrap token of `init`.
    Bootstrap,
    /// A role id and a secret id.
    AppRole,
    /// A JSON web token of a configured issuer.
    Jwt,
    /// A Kubernetes service account.
    Kubernetes,
    /// A password and a one-time code.
    Password,
    /// Access issued by a quorum of share holders in an emergency.
    BreakGlass,
}

impl AuthMethod {
    /// The word that audit entries use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Bootstrap => "bootstrap",
            Self::AppRole => "approle",
            Self::Jwt => "jwt",
            Self::Kubernetes => "kubernetes",
            Self::Password => "password",
            Self::BreakGlass => "break-glass",
        }
    }
}

/// What has to accompany the token for the session to count.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SessionBinding {
    /// A certificate of the same principal, issued by this CA.
    Identity {
        /// SHA-256 of the CA's certificate.
        ca_fingerprint: [u8; 32],
    },
    /// This very certificate.
    Certificate {
        /// SHA-256 of the certificate.
        fingerprint: [u8; 32],
    },
    /// Nothing: the token alone.
    None,
}

/// A stored session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Whose it is.
    pub principal: PrincipalName,
    /// Where it counts.
    pub tenant: TenantName,
    /// How it was obtained.
    pub method: AuthMethod,
    /// What it is bound to.
    pub binding: SessionBinding,
    /// When it was made.
    pub created: UnixMillis,
    /// When it ends unless renewed.
    pub expires: UnixMillis,
    /// When it ends whatever happens.
    pub max_expires: UnixMillis,
    /// Whether it may be renewed.
    pub renewable: bool,
    /// The session it was made from; it ends with that one.
    pub parent: Option<RecordId>,
    /// The end user a service acts for.
    pub on_behalf_of: Option<String>,
    /// From which addresses it may be used; none listed means from any.
    pub cidrs: Vec<Cidr>,
    /// Whether it is the bootstrap administrator's.
    pub bootstrap: bool,
    /// Which registration of the principal it belongs to ([`PrincipalRecord::generation`]), so that a name
    /// registered anew does not inherit sessions.
    pub generation: u64,
}

impl SessionRecord {
    /// Whether it has ended by itself.
    pub const fn has_expired(&self, now: UnixMillis) -> bool {
        self.expires.has_come(now) || self.max_expires.has_come(now)
    }

    /// Whether it may be used from this address.
    pub fn admits(&self, peer: IpAddr) -> bool {
        self.cidrs.is_empty() || self.cidrs.iter().any(|cidr| cidr.contains(peer))
    }

    /// Whether it belongs to this registration of its principal.
    pub fn belongs_to(&self, record: &PrincipalRecord) -> bool {
        self.principal == record.name && self.generation == record.generation()
    }

    /// When it would end if it were renewed now.
    pub fn renewed_until(&self, ttl: Ttl, now: UnixMillis) -> Result<UnixMillis, TimeError> {
        if self.has_expired(now) || !self.renewable {
            return Err(TimeError::Over { not_after: self.expires.min(self.max_expires) });
        }
        ttl.expiry(now, self.max_expires)
    }
}

/// A range of addresses, `10.0.0.0/8` or `fd00::/8`, with no bits set past the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is not a range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not `<address>/<prefix length>` in its usual spelling.
    #[error("cidr: expected <address>/<prefix length>, as in 10.0.0.0/8")]
    Shape,
    /// The prefix is longer than the address.
    #[error("cidr: prefix length {prefix} is more than the {bits} bits of the address")]
    PrefixTooLong {
        /// The prefix length.
        prefix: u8,
        /// How many bits there are.
        bits: u8,
    },
    /// Bits are set past the prefix.
    #[error("cidr: the address has bits set past the first {prefix}")]
    HostBits {
        /// The prefix length.
        prefix: u8,
    },
}

impl Cidr {
    /// Checks a text.
    pub fn parse(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = text.split_once('/').ok_or(CidrError::Shape)?;
        let parsed = Self {
            address: address.parse().map_err(|_| CidrError::Shape)?,
            prefix: prefix.parse().map_err(|_| CidrError::Shape)?,
        };
        let bits = if parsed.address.is_ipv4() { 32 } else { 128 };
        if parsed.prefix > bits {
            return Err(CidrError::PrefixTooLong { prefix: parsed.prefix, bits });
        }
        if parsed.masked(parsed.address) != Some(widen(parsed.address)) {
            return Err(CidrError::HostBits { prefix: parsed.prefix });
        }
        if parsed.to_string() != text { Err(CidrError::Shape) } else { Ok(parsed) }
    }

    /// Whether the address is in this range. An IPv4 address in IPv6 clothes counts as the IPv4 address it
    /// is.
    pub fn contains(&self, peer: IpAddr) -> bool {
        self.masked(peer.to_canonical()) == Some(widen(self.address))
    }

    fn masked(&self, address: IpAddr) -> Option<u128> {
        if address.is_ipv4() != self.address.is_ipv4() {
            return None;
        }
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
        Some(widen(address) & mask)
    }
}

/// The address's bits, from the top.
fn widen(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Self, CidrError> {
        Self::parse(&text)
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session() -> SessionRecord {
        SessionRecord {
            principal: PrincipalName::bootstrap(),
            tenant: TenantName::default(),
            method: AuthMethod::Bootstrap,
            binding: SessionBinding::Certificate { fingerprint: [7; 32] },
            created: UnixMillis(1_000),
            expires: UnixMillis(5_000),
            max_expires: UnixMillis(9_000),
            renewable: true,
            parent: Some(RecordId([1; 16])),
            on_behalf_of: Some("user@example.org".into()),
            cidrs: vec![Cidr::parse("10.0.0.0/8").unwrap()],
            bootstrap: true,
            generation: 4,
        }
    }

    #[test]
    fn a_session_ends_at_its_time_and_renewal_stays_within_the_maximum() {
        let mut session = session();
        let hour = Ttl::from_secs(3_600).unwrap();
        assert!(!session.has_expired(UnixMillis(4_999)));
        assert!(session.has_expired(UnixMillis(5_000)));
        assert_eq!(session.renewed_until(hour, UnixMillis(4_999)), Ok(UnixMillis(9_000)));
        assert!(session.renewed_until(hour, UnixMillis(5_000)).is_err());
        session.expires = UnixMillis(20_000);
        assert!(session.has_expired(UnixMillis(9_000)), "max_expires holds whatever expires says");
        session.renewable = false;
        assert!(session.renewed_until(hour, UnixMillis(2_000)).is_err());
    }

    #[test]
    fn a_session_is_used_from_its_addresses_only() {
        let mut session = session();
        assert!(session.admits("10.255.0.1".parse().unwrap()));
        assert!(session.admits("::ffff:10.255.0.1".parse().unwrap()));
        assert!(!session.admits("11.0.0.1".parse().unwrap()));
        assert!(!session.admits("::1".parse().unwrap()));
        session.cidrs.clear();
        assert!(session.admits("::1".parse().unwrap()));
    }

    #[test]
    fn a_name_registered_anew_does_not_inherit_sessions() {
        let session = session();
        let mut record = PrincipalRecord {
            name: session.principal.clone(),
            groups: vec![],
            matchers: vec![],
            disabled: false,
            created: UnixMillis(4),
        };
        assert!(session.belongs_to(&record));
        record.created = UnixMillis(5);
        assert!(!session.belongs_to(&record));
    }

    #[test]
    fn ranges_have_one_spelling() {
        for good in ["0.0.0.0/0", "10.0.0.0/8", "192.168.7.9/32", "::/0", "fd00::/8", "::1/128"] {
            assert_eq!(Cidr::parse(good).unwrap().to_string(), good);
        }
        assert_eq!(Cidr::parse("10.0.0.1/8"), Err(CidrError::HostBits { prefix: 8 }));
        assert_eq!(Cidr::parse("10.0.0.0/33"), Err(CidrError::PrefixTooLong { prefix: 33, bits: 32 }));
        for bad in
            ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/08", "10.0.0.0/+8", "FD00::/8", "10.0.0/8", "10.0.0.0/8 "]
        {
            assert_eq!(Cidr::parse(bad), Err(CidrError::Shape), "{bad:?}");
        }
        assert!(Cidr::parse("0.0.0.0/0").unwrap().contains("1.2.3.4".parse().unwrap()));
    }

    #[test]
    fn a_session_round_trips_through_its_stored_form() {
        let stored = postcard::to_stdvec(&session()).unwrap();
        assert_eq!(postcard::from_bytes::<SessionRecord>(&stored).unwrap(), session());
        for length in 0..stored.len() {
            assert!(postcard::from_bytes::<SessionRecord>(&stored[..length]).is_err());
        }
    }

    proptest! {
        #[test]
        fn a_range_holds_what_shares_its_prefix(bits: u32, other: u32, prefix in 0u8..=32) {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            let network = std::net::Ipv4Addr::from_bits(bits & mask);
            let cidr = Cidr::parse(&format!("{network}/{prefix}")).unwrap();
            let peer = IpAddr::from(std::net::Ipv4Addr::from_bits(other));
            prop_assert_eq!(cidr.contains(peer), other & mask == bits & mask);
        }
    }
}
