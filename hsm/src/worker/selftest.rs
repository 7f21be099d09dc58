//! The live self-test after each login, with a session key that nobody keeps. Invariant: a token that fails it is not
//! used. Absent: tests of the vault's own keys; binding makes those (`cipher::KnownAnswer`).

use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use keystead_crypto::ports::HsmError;

use super::cipher::{self, KnownAnswer};
use super::fault::Fault;
use super::objects;
use super::random::{self, Draws};

const AAD: &[u8] = b"keystead/self-test/v1";
const OTHER_AAD: &[u8] = b"keystead/self-test/v2";

/// Round trip, wrong AAD, the host's IV, the random source.
pub(super) fn run(session: &Session, draws: &Draws) -> Result<(), Fault> {
    let key = objects::session_key(session)?;
    let outcome = cipher_test(session, key, draws);
    session.destroy_object(key)?;
    outcome
}

fn cipher_test(session: &Session, key: ObjectHandle, draws: &Draws) -> Result<(), Fault> {
    let known = KnownAnswer::make(session, key)?;
    let plaintext = random::draw(session, draws, 60)?;
    let iv = cipher::fresh_iv()?;
    let sealed = cipher::encrypt(session, key, iv, AAD, plaintext.expose())?;
    if cipher::encrypt(session, key, iv, AAD, plaintext.expose())? != sealed {
        let what = "AES-GCM with the host's IV: the token does not use it".to_owned();
        return Err(HsmError::Unsupported { what }.into());
    }
    let opened = cipher::decrypt(session, key, &known, iv, AAD, &sealed)?;
    demand(opened.expose() == plaintext.expose(), "a round trip changed the plaintext")?;
    match cipher::decrypt(session, key, &known, iv, OTHER_AAD, &sealed) {
        Err(Fault::Answer(HsmError::NotAuthentic)) => {}
        Ok(_) => return demand(false, "a ciphertext opened under another AAD"),
        Err(fault) => return Err(fault),
    }
    let again = random::draw(session, draws, 60)?;
    demand(again.expose() != plaintext.expose(), "its random source is constant")
}

fn demand(met: bool, what: &str) -> Result<(), Fault> {
    if met { Ok(()) } else { Err(HsmError::Lied { what: what.to_owned() }.into()) }
}
