//! The live self-test after each login, with session keys that nobody keeps. Invariant: a token that fails it is not
//! used. Absent: tests of the vault's own keys; binding makes those (`cipher::KnownAnswer`).

use cryptoki::session::Session;
use keystead_crypto::ports::{HsmError, SignatureAlgorithm};

use super::cipher::{Cipher, CipherKey, KnownAnswer, Rung};
use super::fault::Fault;
use super::random::{self, Draws};
use super::sign::Pair;
use super::{objects, sign};

const AAD: &[u8] = b"keystead/self-test/v1";
const OTHER_AAD: &[u8] = b"keystead/self-test/v2";

/// Round trip, fresh IV, wrong AAD, flipped bits. The length of tag and MAC is part of every sealing's own check.
pub(super) fn rung(session: &Session, cipher: &Cipher, draws: &Draws, rung: Rung) -> Result<(), Fault> {
    let key = objects::session_key(session, rung)?;
    let outcome = cipher_test(session, cipher, draws, rung, key);
    for handle in [Some(key.aes), key.mac].into_iter().flatten() {
        session.destroy_object(handle)?;
    }
    outcome
}

fn cipher_test(
    session: &Session,
    cipher: &Cipher,
    draws: &Draws,
    rung: Rung,
    key: CipherKey,
) -> Result<(), Fault> {
    let known = KnownAnswer::make(cipher, session, rung, key)?;
    let plaintext = random::draw(session, draws, 60)?;
    let sealed = cipher.seal(session, rung, key, AAD, plaintext.expose())?;
    let again = cipher.seal(session, rung, key, AAD, plaintext.expose())?;
    demand(again.iv != sealed.iv, "two sealings have one IV")?;
    demand(again.ciphertext != sealed.ciphertext, "two sealings are equal: the IV is not used")?;
    let opened = cipher.open(session, key, Some(&known), AAD, &sealed)?;
    demand(opened.expose() == plaintext.expose(), "a round trip changed the plaintext")?;
    let refused = |aad, sealed: &_, what| match cipher.open(session, key, Some(&known), aad, sealed) {
        Err(Fault::Answer(HsmError::NotAuthentic)) => Ok(()),
        Ok(_) => demand(false, what),
        Err(fault) => Err(fault),
    };
    refused(OTHER_AAD, &sealed, "a ciphertext opened under another AAD")?;
    let mut flipped = sealed.clone();
    flip(flipped.ciphertext.first_mut());
    refused(AAD, &flipped, "a changed ciphertext opened")?;
    let mut flipped = sealed.clone();
    flip(flipped.ciphertext.last_mut());
    refused(AAD, &flipped, "a ciphertext with a changed tag opened")?;
    let mut flipped = sealed;
    flip(flipped.iv.first_mut());
    refused(AAD, &flipped, "a ciphertext opened under another IV")
}

/// Two draws from the random source differ, and neither is constant.
pub(super) fn random_source(session: &Session, draws: &Draws) -> Result<(), Fault> {
    let one = random::draw(session, draws, 60)?;
    let other = random::draw(session, draws, 60)?;
    demand(one.expose() != other.expose(), "its random source is constant")
}

/// A signature verifies, outside the token, for its message alone.
pub(super) fn signature(session: &Session, algorithm: SignatureAlgorithm) -> Result<(), Fault> {
    let pair = objects::session_pair(session, algorithm)?;
    let outcome = signature_test(session, pair);
    session.destroy_object(pair.private)?;
    session.destroy_object(pair.public)?;
    outcome
}

fn signature_test(session: &Session, pair: Pair) -> Result<(), Fault> {
    let key = sign::verifying_key(session, pair)?;
    let signature = sign::sign(session, pair, AAD)?;
    let verifies = |message| key.verify("self-test", message, signature.expose()).is_ok();
    demand(verifies(AAD), "a signature does not verify against its public key")?;
    demand(!verifies(OTHER_AAD), "a signature verifies for another message")
}

fn flip(byte: Option<&mut u8>) {
    if let Some(byte) = byte {
        *byte ^= 1;
    }
}

fn demand(met: bool, what: &str) -> Result<(), Fault> {
    if met { Ok(()) } else { Err(HsmError::Lied { what: what.to_owned() }.into()) }
}
