//! What an entry says: who did what to which resource, how it was decided and how it ended.
//!
//! Invariant: one body has one encoding (fields in the order of their tags, defaults left out), and decoding takes
//! nothing else, so `decode` and `encode` are inverse. Absent: secret values; no field is meant to hold one.

use crate::wire::Cursor;
use serde::Serialize;
use std::borrow::Cow;
use thiserror::Error;

/// The most bytes an encoded body may have: with its header and a seal it stays below the 65,535 bytes that an
/// entry of a tlog-tiles bundle can hold.
pub const MAX_BODY_BYTES: usize = 48 * 1024;

const BODY_FORMAT: u8 = 1;

/// The content of an entry. Empty strings and lists, and absent options, take no room.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Body {
    /// Who acted: `service/x`, `operator/x` or `system/<job>`; empty where nobody was identified.
    pub principal: String,
    /// The tenant whose data was concerned.
    pub tenant: Cow<'static, str>,
    /// How the caller was authenticated.
    pub method: Cow<'static, str>,
    /// The end user the principal acted for, where one was verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// The address the request came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// What was asked for, as policies name it: `secrets:read`.
    pub action: Cow<'static, str>,
    /// On what, as policies name it: `secret/a/b`.
    pub resource: String,
    /// What the gate decided: `allow`, `deny` or `needs-approval`.
    pub decision: Cow<'static, str>,
    /// The policies that decided.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// How it ended: `ok`, or the reason that the caller was given.
    pub outcome: Cow<'static, str>,
    /// The caller's request id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The W3C trace id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// How long the request took, in microseconds, up to this entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<u64>,
    /// On an outcome: the sequence number of its intent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intent: Option<u64>,
    /// The lease concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// The store's revision after a change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_revision: Option<String>,
    /// Further facts by name, in the order given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub detail: Vec<(String, String)>,
}

/// Why a body cannot be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the body is {size} bytes, more than the {MAX_BODY_BYTES} an entry holds")]
pub struct BodyTooLarge {
    /// How large it would be (at least).
    pub size: usize,
}

/// Why bytes are not a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BodyError {
    /// The bytes are longer than any body.
    #[error("the body is {size} bytes, more than the {MAX_BODY_BYTES} an entry holds")]
    TooLarge {
        /// How long they are.
        size: usize,
    },
    /// Another format than this program knows.
    #[error("body format {found} is not known")]
    UnknownFormat {
        /// The format byte.
        found: u8,
    },
    /// The bytes end inside a field.
    #[error("the body ends inside field {tag}")]
    Truncated {
        /// The field's tag, 0 for the format byte.
        tag: u8,
    },
    /// A field that this program does not know.
    #[error("field {tag} is not known")]
    UnknownField {
        /// The field's tag.
        tag: u8,
    },
    /// A field comes twice, or after one with a higher tag.
    #[error("field {tag} is out of order")]
    OutOfOrder {
        /// The field's tag.
        tag: u8,
    },
    /// A field that holds its default and must therefore be left out.
    #[error("field {tag} is empty and should be absent")]
    Empty {
        /// The field's tag.
        tag: u8,
    },
    /// A text that is not UTF-8.
    #[error("field {tag} is not UTF-8")]
    NotText {
        /// The field's tag.
        tag: u8,
    },
    /// A number that is not eight bytes.
    #[error("field {tag} is not a number")]
    NotNumber {
        /// The field's tag.
        tag: u8,
    },
}

mod tag {
    pub(super) const PRINCIPAL: u8 = 1;
    pub(super) const TENANT: u8 = 2;
    pub(super) const METHOD: u8 = 3;
    pub(super) const ON_BEHALF_OF: u8 = 4;
    pub(super) const PEER: u8 = 5;
    pub(super) const ACTION: u8 = 6;
    pub(super) const RESOURCE: u8 = 7;
    pub(super) const DECISION: u8 = 8;
    pub(super) const POLICY: u8 = 9;
    pub(super) const OUTCOME: u8 = 10;
    pub(super) const REQUEST_ID: u8 = 11;
    pub(super) const TRACE_ID: u8 = 12;
    pub(super) const LATENCY_US: u8 = 13;
    pub(super) const INTENT: u8 = 14;
    pub(super) const LEASE: u8 = 15;
    pub(super) const STORE_REVISION: u8 = 16;
    pub(super) const DETAIL: u8 = 17;
}

impl Body {
    /// The canonical encoding.
    pub fn encode(&self) -> Result<Vec<u8>, BodyTooLarge> {
        let mut out = Vec::new();
        self.encode_into(&mut out)?;
        Ok(out)
    }

    /// Writes the canonical encoding over what `out` holds, so that a writer can reuse its buffer.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), BodyTooLarge> {
        out.clear();
        out.push(BODY_FORMAT);
        let mut put = Put { out };
        put.text(tag::PRINCIPAL, &self.principal)?;
        put.text(tag::TENANT, &self.tenant)?;
        put.text(tag::METHOD, &self.method)?;
        put.option(tag::ON_BEHALF_OF, self.on_behalf_of.as_deref())?;
        put.option(tag::PEER, self.peer.as_deref())?;
        put.text(tag::ACTION, &self.action)?;
        put.text(tag::RESOURCE, &self.resource)?;
        put.text(tag::DECISION, &self.decision)?;
        for policy in &self.policies {
            put.field(tag::POLICY, &[policy.as_bytes()])?;
        }
        put.text(tag::OUTCOME, &self.outcome)?;
        put.option(tag::REQUEST_ID, self.request_id.as_deref())?;
        put.option(tag::TRACE_ID, self.trace_id.as_deref())?;
        put.number(tag::LATENCY_US, self.latency_us)?;
        put.number(tag::INTENT, self.intent)?;
        put.option(tag::LEASE, self.lease.as_deref())?;
        put.option(tag::STORE_REVISION, self.store_revision.as_deref())?;
        for (name, value) in &self.detail {
            let name_length = u16::try_from(name.len()).map_err(|_| BodyTooLarge { size: name.len() })?;
            put.field(tag::DETAIL, &[&name_length.to_be_bytes(), name.as_bytes(), value.as_bytes()])?;
        }
        Ok(())
    }

    /// Reads the canonical encoding, and nothing but it.
    pub fn decode(bytes: &[u8]) -> Result<Self, BodyError> {
        if bytes.len() > MAX_BODY_BYTES {
            return Err(BodyError::TooLarge { size: bytes.len() });
        }
        let mut cursor = Cursor::new(bytes);
        match cursor.u8() {
            Some(BODY_FORMAT) => {}
            Some(found) => return Err(BodyError::UnknownFormat { found }),
            None => return Err(BodyError::Truncated { tag: 0 }),
        }
        let mut body = Self::default();
        let mut last = 0;
        while let Some(tag) = cursor.u8() {
            let repeats = tag == last && matches!(tag, tag::POLICY | tag::DETAIL);
            if tag <= last && !repeats {
                return Err(BodyError::OutOfOrder { tag });
            }
            last = tag;
            let length = cursor.u16().ok_or(BodyError::Truncated { tag })?;
            let value = cursor.take(usize::from(length)).ok_or(BodyError::Truncated { tag })?;
            body.set(tag, value)?;
        }
        Ok(body)
    }

    fn set(&mut self, tag: u8, value: &[u8]) -> Result<(), BodyError> {
        match tag {
            tag::PRINCIPAL => self.principal = filled(tag, value)?,
            tag::TENANT => self.tenant = filled(tag, value)?.into(),
            tag::METHOD => self.method = filled(tag, value)?.into(),
            tag::ON_BEHALF_OF => self.on_behalf_of = Some(text(tag, value)?),
            tag::PEER => self.peer = Some(text(tag, value)?),
            tag::ACTION => self.action = filled(tag, value)?.into(),
            tag::RESOURCE => self.resource = filled(tag, value)?,
            tag::DECISION => self.decision = filled(tag, value)?.into(),
            tag::POLICY => self.policies.push(text(tag, value)?),
            tag::OUTCOME => self.outcome = filled(tag, value)?.into(),
            tag::REQUEST_ID => self.request_id = Some(text(tag, value)?),
            tag::TRACE_ID => self.trace_id = Some(text(tag, value)?),
            tag::LATENCY_US => self.latency_us = Some(number(tag, value)?),
            tag::INTENT => self.intent = Some(number(tag, value)?),
            tag::LEASE => self.lease = Some(text(tag, value)?),
            tag::STORE_REVISION => self.store_revision = Some(text(tag, value)?),
            tag::DETAIL => {
                let mut cursor = Cursor::new(value);
                let length = cursor.u16().ok_or(BodyError::Truncated { tag })?;
                let name = cursor.take(usize::from(length)).ok_or(BodyError::Truncated { tag })?;
                self.detail.push((text(tag, name)?, text(tag, cursor.rest())?));
            }
            _ => return Err(BodyError::UnknownField { tag }),
        }
        Ok(())
    }
}

struct Put<'a> {
    out: &'a mut Vec<u8>,
}

impl Put<'_> {
    fn text(&mut self, tag: u8, value: &str) -> Result<(), BodyTooLarge> {
        if value.is_empty() { Ok(()) } else { self.field(tag, &[value.as_bytes()]) }
    }

    fn option(&mut self, tag: u8, value: Option<&str>) -> Result<(), BodyTooLarge> {
        value.map_or(Ok(()), |value| self.field(tag, &[value.as_bytes()]))
    }

    fn number(&mut self, tag: u8, value: Option<u64>) -> Result<(), BodyTooLarge> {
        value.map_or(Ok(()), |value| self.field(tag, &[&value.to_be_bytes()]))
    }

    fn field(&mut self, tag: u8, parts: &[&[u8]]) -> Result<(), BodyTooLarge> {
        let length = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        let size = self.out.len().saturating_add(length).saturating_add(3);
        let length = u16::try_from(length).map_err(|_| BodyTooLarge { size })?;
        if size > MAX_BODY_BYTES {
            return Err(BodyTooLarge { size });
        }
        self.out.push(tag);
        self.out.extend_from_slice(&length.to_be_bytes());
        for part in parts {
            self.out.extend_from_slice(part);
        }
        Ok(())
    }
}

fn text(tag: u8, value: &[u8]) -> Result<String, BodyError> {
    std::str::from_utf8(value).map(str::to_owned).map_err(|_| BodyError::NotText { tag })
}

fn filled(tag: u8, value: &[u8]) -> Result<String, BodyError> {
    if value.is_empty() { Err(BodyError::Empty { tag }) } else { text(tag, value) }
}

fn number(tag: u8, value: &[u8]) -> Result<u64, BodyError> {
    <[u8; 8]>::try_from(value).map(u64::from_be_bytes).map_err(|_| BodyError::NotNumber { tag })
}

#[cfg(test)]
mod tests;
