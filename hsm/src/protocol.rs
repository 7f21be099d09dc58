//! What parent and child say to each other. Invariant: decoding takes exactly what encoding gives; limits of the ports
//! hold on both sides. Absent: who may ask (only the parent holds the other end of the socket).

mod error;

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use keystead_crypto::ports::{
    HsmError, HsmKey, HsmKeyPurpose, HsmSealed, SignatureAlgorithm, TokenInfo, VerifyingKey,
};
use keystead_crypto::secret::SecretBytes;
use zeroize::Zeroizing;

use crate::config::MechanismChoice;
use crate::frame::{Fields, FrameError, Writer};
use crate::report::Report;
use error::{put_error, take_error};

/// The largest blob that is wrapped, and the largest AAD.
pub(crate) const MAX_BLOB: usize = 4096;
/// The largest message that is signed: a seal header with 255 share digests is about 9 KiB.
pub(crate) const MAX_MESSAGE: usize = 16 * 1024;
/// The largest anchored value.
pub(crate) const MAX_ANCHOR: usize = 1024;
/// The most random bytes of one call.
pub(crate) const MAX_RANDOM: usize = 1024;
/// AES-GCM's tag in bytes, always whole.
pub(crate) const TAG: usize = 16;
/// The most that any mechanism adds to a blob: a block of padding and a MAC.
pub(crate) const MAX_ADDED: usize = 48;

/// What the parent asks.
#[derive(Debug)]
pub(crate) enum Request {
    Start(Start),
    Login { pin: SecretBytes, care: Care },
    Bind { vault_tag: [u8; 8], keys: Vec<HsmKey> },
    CreateKey { vault_tag: [u8; 8], key: HsmKey },
    DestroyKey { vault_tag: [u8; 8], key: HsmKey },
    Wrap { key: HsmKey, aad: Vec<u8>, plaintext: SecretBytes },
    Unwrap { key: HsmKey, aad: Vec<u8>, sealed: HsmSealed },
    WrapAndUnwrap { key: HsmKey, aad: Vec<u8>, plaintext: SecretBytes },
    VerifyingKey,
    Sign { message: Vec<u8> },
    AnchorStore { counter: u64, value: Vec<u8> },
    AnchorLoad,
    Random { bytes: u32 },
    Shutdown,
    ListKeys { vault_tag: [u8; 8] },
    ChangePin { current: SecretBytes, new: SecretBytes },
    Inspect { login: Option<(SecretBytes, Care)> },
}

/// On whose word a PIN is sent, since each wrong one brings a token nearer to locking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// A person gave it just now.
    ByPerson,
    /// The token took it before: not while the token has only one try left.
    Again,
    /// Nobody acts, and nobody knows that it is right, or whether a login without an answer was counted: not while the token
    /// counts wrong PINs.
    Unattended,
}

/// Which module and token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) module: PathBuf,
    pub(crate) module_sha256: Option<[u8; 32]>,
    pub(crate) token_label: String,
    pub(crate) token_serial: Option<String>,
    pub(crate) sessions: u8,
    pub(crate) mechanism: MechanismChoice,
    pub(crate) gcm_mechanism: Option<u32>,
}

/// What the child answers when it did it.
#[derive(Debug)]
pub(crate) enum Reply {
    Done,
    Token(TokenInfo),
    Sealed(HsmSealed),
    SealedAndOpened(HsmSealed, SecretBytes),
    Bytes(SecretBytes),
    Key(VerifyingKey),
    Anchor(Option<(u64, Vec<u8>)>),
    Keys(Vec<HsmKey>),
    Report(Box<Report>),
}

impl Request {
    /// Whether doing it twice is the same as doing it once.
    pub(crate) fn repeatable(&self) -> bool {
        !matches!(self, Self::CreateKey { .. } | Self::ChangePin { .. })
    }

    pub(crate) fn encode(&self, id: u64) -> Result<Zeroizing<Vec<u8>>, FrameError> {
        let mut to = Writer::new(id);
        match self {
            Self::Start(start) => {
                to.u8(1);
                to.field(start.module.as_os_str().as_bytes());
                to.field(start.module_sha256.as_ref().map_or(&[], |hash| hash.as_slice()));
                to.field(start.token_label.as_bytes());
                to.field(start.token_serial.as_deref().unwrap_or_default().as_bytes());
                to.u8(start.sessions);
                to.field(start.mechanism.word().as_bytes());
                to.u32(start.gcm_mechanism.unwrap_or(0));
            }
            Self::Login { pin, care } => {
                to.u8(2);
                put_pin(&mut to, pin, *care);
            }
            Self::Bind { vault_tag, keys } => {
                to.u8(3);
                to.raw(vault_tag);
                put_keys(&mut to, keys);
            }
            Self::CreateKey { vault_tag, key } => {
                to.u8(4);
                to.raw(vault_tag);
                put_key(&mut to, *key);
            }
            Self::DestroyKey { vault_tag, key } => {
                to.u8(5);
                to.raw(vault_tag);
                put_key(&mut to, *key);
            }
            Self::Wrap { key, aad, plaintext } => {
                to.u8(6);
                put_key(&mut to, *key);
                to.field(aad);
                to.field(plaintext.expose());
            }
            Self::Unwrap { key, aad, sealed } => {
                to.u8(7);
                put_key(&mut to, *key);
                to.field(aad);
                put_sealed(&mut to, sealed);
            }
            Self::WrapAndUnwrap { key, aad, plaintext } => {
                to.u8(18);
                put_key(&mut to, *key);
                to.field(aad);
                to.field(plaintext.expose());
            }
            Self::VerifyingKey => to.u8(8),
            Self::Sign { message } => {
                to.u8(9);
                to.field(message);
            }
            Self::AnchorStore { counter, value } => {
                to.u8(10);
                to.u64(*counter);
                to.field(value);
            }
            Self::AnchorLoad => to.u8(11),
            Self::Random { bytes } => {
                to.u8(12);
                to.u32(*bytes);
            }
            Self::Shutdown => to.u8(13),
            Self::ListKeys { vault_tag } => {
                to.u8(14);
                to.raw(vault_tag);
            }
            Self::ChangePin { current, new } => {
                to.u8(15);
                to.field(current.expose());
                to.field(new.expose());
            }
            Self::Inspect { login: None } => to.u8(16),
            Self::Inspect { login: Some((pin, care)) } => {
                to.u8(17);
                put_pin(&mut to, pin, *care);
            }
        }
        to.finish()
    }

    pub(crate) fn decode(frame: &[u8]) -> Result<(u64, Self), FrameError> {
        let mut from = Fields::new(frame);
        let id = from.u64()?;
        let request = match from.u8()? {
            1 => Self::Start(Start {
                module: PathBuf::from(OsString::from_vec(from.field()?.to_vec())),
                module_sha256: match from.field()? {
                    [] => None,
                    hash => Some(hash.try_into().map_err(|_| FrameError::Truncated)?),
                },
                token_label: from.text()?,
                token_serial: Some(from.text()?).filter(|serial| !serial.is_empty()),
                sessions: from.u8()?,
                mechanism: MechanismChoice::from_word(&from.text()?)
                    .ok_or(FrameError::UnknownTag { what: "mechanism", tag: 0 })?,
                gcm_mechanism: Some(from.u32()?).filter(|number| *number != 0),
            }),
            2 => {
                let (pin, care) = take_pin(&mut from)?;
                Self::Login { pin, care }
            }
            3 => Self::Bind { vault_tag: from.array()?, keys: take_keys(&mut from)? },
            4 => Self::CreateKey { vault_tag: from.array()?, key: take_key(&mut from)? },
            5 => Self::DestroyKey { vault_tag: from.array()?, key: take_key(&mut from)? },
            6 => Self::Wrap {
                key: take_key(&mut from)?,
                aad: from.field()?.to_vec(),
                plaintext: SecretBytes::copy_from(from.field()?),
            },
            7 => Self::Unwrap {
                key: take_key(&mut from)?,
                aad: from.field()?.to_vec(),
                sealed: take_sealed(&mut from)?,
            },
            8 => Self::VerifyingKey,
            9 => Self::Sign { message: from.field()?.to_vec() },
            10 => Self::AnchorStore { counter: from.u64()?, value: from.field()?.to_vec() },
            11 => Self::AnchorLoad,
            12 => Self::Random { bytes: from.u32()? },
            13 => Self::Shutdown,
            14 => Self::ListKeys { vault_tag: from.array()? },
            15 => Self::ChangePin {
                current: SecretBytes::copy_from(from.field()?),
                new: SecretBytes::copy_from(from.field()?),
            },
            16 => Self::Inspect { login: None },
            17 => Self::Inspect { login: Some(take_pin(&mut from)?) },
            18 => Self::WrapAndUnwrap {
                key: take_key(&mut from)?,
                aad: from.field()?.to_vec(),
                plaintext: SecretBytes::copy_from(from.field()?),
            },
            tag => return Err(FrameError::UnknownTag { what: "request", tag }),
        };
        from.end()?;
        Ok((id, request))
    }
}

/// One answer as a frame.
pub(crate) fn encode_answer(
    id: u64,
    answer: &Result<Reply, HsmError>,
) -> Result<Zeroizing<Vec<u8>>, FrameError> {
    let mut to = Writer::new(id);
    match answer {
        Ok(Reply::Done) => to.u8(0),
        Ok(Reply::Token(info)) => {
            to.u8(1);
            to.field(info.serial.as_bytes());
            to.field(info.label.as_bytes());
            to.field(info.model.as_bytes());
        }
        Ok(Reply::Sealed(sealed)) => {
            to.u8(2);
            put_sealed(&mut to, sealed);
        }
        Ok(Reply::SealedAndOpened(sealed, opened)) => {
            to.u8(9);
            put_sealed(&mut to, sealed);
            to.field(opened.expose());
        }
        Ok(Reply::Bytes(bytes)) => {
            to.u8(3);
            to.field(bytes.expose());
        }
        Ok(Reply::Key(key)) => {
            to.u8(4);
            to.u8(match key.algorithm {
                SignatureAlgorithm::Ed25519 => 1,
                SignatureAlgorithm::EcdsaP256 => 2,
            });
            to.field(&key.bytes);
        }
        Ok(Reply::Anchor(None)) => to.u8(5),
        Ok(Reply::Anchor(Some((counter, value)))) => {
            to.u8(6);
            to.u64(*counter);
            to.field(value);
        }
        Ok(Reply::Keys(keys)) => {
            to.u8(7);
            put_keys(&mut to, keys);
        }
        Ok(Reply::Report(report)) => {
            to.u8(8);
            to.field(&serde_json::to_vec(report).map_err(|_| FrameError::NoReport)?);
        }
        Err(error) => put_error(&mut to, error),
    }
    to.finish()
}

/// One frame as an answer.
pub(crate) fn decode_answer(frame: &[u8]) -> Result<(u64, Result<Reply, HsmError>), FrameError> {
    let mut from = Fields::new(frame);
    let id = from.u64()?;
    let answer = match from.u8()? {
        0 => Ok(Reply::Done),
        1 => Ok(Reply::Token(TokenInfo { serial: from.text()?, label: from.text()?, model: from.text()? })),
        2 => Ok(Reply::Sealed(take_sealed(&mut from)?)),
        3 => Ok(Reply::Bytes(SecretBytes::copy_from(from.field()?))),
        4 => Ok(Reply::Key(VerifyingKey {
            algorithm: match from.u8()? {
                1 => SignatureAlgorithm::Ed25519,
                2 => SignatureAlgorithm::EcdsaP256,
                tag => return Err(FrameError::UnknownTag { what: "algorithm", tag }),
            },
            bytes: from.field()?.to_vec(),
        })),
        5 => Ok(Reply::Anchor(None)),
        6 => Ok(Reply::Anchor(Some((from.u64()?, from.field()?.to_vec())))),
        7 => Ok(Reply::Keys(take_keys(&mut from)?)),
        8 => {
            let report = serde_json::from_slice(from.field()?).map_err(|_| FrameError::NoReport)?;
            Ok(Reply::Report(Box::new(report)))
        }
        9 => Ok(Reply::SealedAndOpened(take_sealed(&mut from)?, SecretBytes::copy_from(from.field()?))),
        tag => Err(take_error(tag, &mut from)?),
    };
    from.end()?;
    Ok((id, answer))
}

fn put_pin(to: &mut Writer, pin: &SecretBytes, care: Care) {
    to.field(pin.expose());
    to.u8(match care {
        Care::ByPerson => 0,
        Care::Again => 1,
        Care::Unattended => 2,
    });
}

fn take_pin(from: &mut Fields<'_>) -> Result<(SecretBytes, Care), FrameError> {
    let pin = SecretBytes::copy_from(from.field()?);
    let care = match from.u8()? {
        0 => Care::ByPerson,
        1 => Care::Again,
        2 => Care::Unattended,
        tag => return Err(FrameError::UnknownTag { what: "care", tag }),
    };
    Ok((pin, care))
}

fn put_key(to: &mut Writer, key: HsmKey) {
    to.u8(match key.purpose {
        HsmKeyPurpose::Master => 1,
        HsmKeyPurpose::Epoch => 2,
        HsmKeyPurpose::Audit => 3,
        HsmKeyPurpose::Auto => 4,
    });
    to.u32(key.version);
}

fn take_key(from: &mut Fields<'_>) -> Result<HsmKey, FrameError> {
    let purpose = match from.u8()? {
        1 => HsmKeyPurpose::Master,
        2 => HsmKeyPurpose::Epoch,
        3 => HsmKeyPurpose::Audit,
        4 => HsmKeyPurpose::Auto,
        tag => return Err(FrameError::UnknownTag { what: "key purpose", tag }),
    };
    Ok(HsmKey { purpose, version: from.u32()? })
}

fn put_keys(to: &mut Writer, keys: &[HsmKey]) {
    to.length(keys.len());
    keys.iter().for_each(|key| put_key(to, *key));
}

fn take_keys(from: &mut Fields<'_>) -> Result<Vec<HsmKey>, FrameError> {
    (0..from.length()?).map(|_| take_key(from)).collect()
}

fn put_sealed(to: &mut Writer, sealed: &HsmSealed) {
    to.u8(sealed.mechanism);
    to.field(&sealed.iv);
    to.field(&sealed.ciphertext);
}

fn take_sealed(from: &mut Fields<'_>) -> Result<HsmSealed, FrameError> {
    Ok(HsmSealed { mechanism: from.u8()?, iv: from.field()?.to_vec(), ciphertext: from.field()?.to_vec() })
}

#[cfg(test)]
mod tests;
