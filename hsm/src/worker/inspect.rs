//! A look at a token that changes nothing on it. Invariant: a PIN is sent once at most; what is tried is tried with keys
//! of the session. Absent: binding, and everything that a server does with the token.

use std::collections::BTreeSet;

use cryptoki::mechanism::{MechanismInfo, MechanismType};
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::Session;
use keystead_crypto::ports::{HsmError, HsmKey, HsmKeyPurpose, SignatureAlgorithm};
use keystead_crypto::secret::SecretBytes;
use tokio::time::Instant;

use super::cipher::Rung;
use super::fault::{Fault, verdict};
use super::ladder::{self, Mechanisms};
use super::token::{Token, answer};
use super::{objects, selftest};
use crate::config::MechanismChoice;
use crate::protocol::Care;
use crate::report::{KeyState, MechanismState, Outcome, Report, RungState, Times, TokenState};

/// Calls that a time is the mean of.
const ROUNDS: u32 = 8;
/// As many keys as a message holds with certainty.
const MOST_KEYS: usize = 64;
/// The longest reason that is kept of a failure.
const MOST_REASON: usize = 240;

/// Looks, with a login if a PIN is given.
pub(super) fn inspect(token: &Token, login: Option<(SecretBytes, Care)>) -> Result<Report, HsmError> {
    let state = token_state(token)?;
    let session = login.map(|(pin, care)| token.open_logged_in(pin, care)).transpose()?;
    let mechanisms = token.mechanisms();
    let rungs: Vec<(Rung, Outcome, bool)> = ladder::rungs(MechanismChoice::Auto)
        .iter()
        .map(|rung| match try_rung(token, session.as_ref(), *rung) {
            Ok(test) => (*rung, test, false),
            Err(error) => {
                let trouble = matches!(error, HsmError::Unavailable { .. });
                (*rung, failed(&error), trouble)
            }
        })
        .collect();
    let used = used_rung(&rungs, token.choice());
    let signature = mechanisms.signature();
    let keys = session.as_ref().map(keys).transpose().map_err(answer)?;
    Ok(Report {
        token: state,
        logged_in: session.is_some(),
        mechanisms: needed(token).iter().map(|kind| mechanism_state(mechanisms, *kind)).collect(),
        rungs: by_name(&rungs, token.choice()),
        mechanism: used.map(|rung| ladder::name(rung).to_owned()),
        signature: signature.as_ref().ok().map(|algorithm| algorithm_name(*algorithm).to_owned()),
        signature_test: tested(session.as_ref(), |session| match &signature {
            Ok(algorithm) => selftest::signature(session, *algorithm),
            Err(error) => Err(error.clone().into()),
        }),
        random_test: tested(session.as_ref(), |session| selftest::random_source(session, &token.draws)),
        keys: keys.unwrap_or_default(),
        times: session.as_ref().zip(used).and_then(|(session, rung)| times(token, session, rung).ok()),
    })
}

fn token_state(token: &Token) -> Result<TokenState, HsmError> {
    let found = token.token_info()?;
    let info = token.info();
    Ok(TokenState {
        label: info.label.clone(),
        serial: info.serial.clone(),
        model: info.model.clone(),
        firmware: found.firmware_version().to_string(),
        pin_min_bytes: found.min_pin_length(),
        pin_max_bytes: found.max_pin_length(),
        pin_set: found.user_pin_initialized(),
        pin_count_low: found.user_pin_count_low(),
        pin_final_try: found.user_pin_final_try(),
        pin_locked: found.user_pin_locked(),
    })
}

fn try_rung(token: &Token, session: Option<&Session>, rung: Rung) -> Result<Outcome, HsmError> {
    match session {
        Some(session) => {
            ladder::try_rung(token.mechanisms(), session, &token.cipher, &token.draws, rung)?;
            Ok(Outcome::Passed)
        }
        None => match token.mechanisms().lack(&token.cipher, rung) {
            Some(what) => Err(HsmError::Unsupported { what }),
            None => Ok(Outcome::NotTested),
        },
    }
}

/// What a login would take: the first that is allowed and works, unless the device was in trouble before.
fn used_rung(rungs: &[(Rung, Outcome, bool)], choice: MechanismChoice) -> Option<Rung> {
    let allowed = ladder::rungs(choice);
    let mut candidates = rungs.iter().filter(|(rung, _, _)| allowed.contains(rung));
    let (rung, test, _) = candidates.find(|(_, test, trouble)| *trouble || test.failure().is_none())?;
    test.failure().is_none().then_some(*rung)
}

/// One line a name: a rung with two sizes of IV works if one does.
fn by_name(rungs: &[(Rung, Outcome, bool)], choice: MechanismChoice) -> Vec<RungState> {
    let mut states: Vec<RungState> = Vec::new();
    for (rung, test, _) in rungs {
        let name = ladder::name(*rung);
        match states.iter_mut().find(|state| state.name == name) {
            Some(state) if state.test.failure().is_some() => state.test = test.clone(),
            Some(_) => {}
            None => states.push(RungState {
                name: name.to_owned(),
                allowed: ladder::rungs(choice).contains(rung),
                test: test.clone(),
            }),
        }
    }
    states
}

fn needed(token: &Token) -> [MechanismType; 9] {
    [
        MechanismType::AES_KEY_GEN,
        token.cipher.gcm.kind(),
        MechanismType::AES_CBC_PAD,
        MechanismType::GENERIC_SECRET_KEY_GEN,
        MechanismType::SHA256_HMAC,
        MechanismType::ECC_EDWARDS_KEY_PAIR_GEN,
        MechanismType::EDDSA,
        MechanismType::ECC_KEY_PAIR_GEN,
        MechanismType::ECDSA,
    ]
}

fn mechanism_state(mechanisms: Mechanisms<'_>, kind: MechanismType) -> MechanismState {
    let info = mechanisms.info(kind);
    let uses = |info: &MechanismInfo| {
        let all = [
            ("encrypt", info.encrypt()),
            ("decrypt", info.decrypt()),
            ("sign", info.sign()),
            ("generate", info.generate()),
            ("generate-pair", info.generate_key_pair()),
        ];
        all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name.to_owned()).collect()
    };
    MechanismState {
        name: kind.to_string(),
        present: info.is_some(),
        uses: info.as_ref().map(uses).unwrap_or_default(),
        key_sizes: info.as_ref().map(|info| (info.min_key_size(), info.max_key_size())),
    }
}

/// The keys of every vault, by their labels, each with its flags checked.
fn keys(session: &Session) -> Result<Vec<KeyState>, Fault> {
    let mut found = BTreeSet::new();
    for class in [ObjectClass::SECRET_KEY, ObjectClass::PRIVATE_KEY] {
        for handle in session.find_objects(&[Attribute::Class(class), Attribute::Token(true)])? {
            let label = session.get_attributes(handle, &[AttributeType::Label])?;
            found.extend(label.iter().find_map(|attribute| match attribute {
                Attribute::Label(label) => of_some_vault(std::str::from_utf8(label).ok()?),
                _ => None,
            }));
        }
    }
    let states = found.into_iter().take(MOST_KEYS).map(|(vault_tag, key)| {
        let looked = if key.purpose == HsmKeyPurpose::Audit {
            objects::find_pair(session, vault_tag, key).map(drop)
        } else {
            objects::find_cipher(session, vault_tag, key).map(drop)
        };
        let test = looked.map_or_else(|fault| failed(&answer(fault)), |()| Outcome::Passed);
        KeyState { label: key.label(vault_tag), test }
    });
    Ok(states.collect())
}

fn of_some_vault(label: &str) -> Option<([u8; 8], HsmKey)> {
    let (tag, _) = label.strip_prefix("keystead/")?.split_once('/')?;
    let vault_tag = u64::from_str_radix(tag, 16).ok()?.to_be_bytes();
    Some((vault_tag, HsmKey::from_label(vault_tag, label)?))
}

fn tested(session: Option<&Session>, test: impl FnOnce(&Session) -> Result<(), Fault>) -> Outcome {
    match session.map(test) {
        None => Outcome::NotTested,
        Some(Ok(())) => Outcome::Passed,
        Some(Err(fault)) => failed(&answer(fault)),
    }
}

fn failed(error: &HsmError) -> Outcome {
    let mut why = error.to_string();
    why.truncate(why.floor_char_boundary(MOST_REASON));
    Outcome::Failed { why }
}

fn times(token: &Token, session: &Session, rung: Rung) -> Result<Times, Fault> {
    let key = objects::session_key(session, rung)?;
    let mut sealed = Vec::new();
    let start = Instant::now();
    for _ in 0..ROUNDS {
        sealed.push(token.cipher.seal(session, rung, key, b"", &[0; 48])?);
    }
    let wrapped = Instant::now();
    for one in &sealed {
        token.cipher.open(session, key, None, b"", one)?;
    }
    let unwrapped = Instant::now();
    for handle in [Some(key.aes), key.mac].into_iter().flatten() {
        session.destroy_object(handle)?;
    }
    let mean = |from: Instant, to: Instant| {
        u64::try_from((to.duration_since(from) / ROUNDS).as_micros()).unwrap_or(u64::MAX)
    };
    Ok(Times { wrap_us: mean(start, wrapped), unwrap_us: mean(wrapped, unwrapped) })
}

fn algorithm_name(algorithm: SignatureAlgorithm) -> &'static str {
    match algorithm {
        SignatureAlgorithm::Ed25519 => "Ed25519",
        SignatureAlgorithm::EcdsaP256 => "ECDSA P-256",
    }
}

impl Token {
    /// The token as it describes itself now.
    fn token_info(&self) -> Result<cryptoki::slot::TokenInfo, HsmError> {
        let mechanisms = self.mechanisms();
        mechanisms.module.get_token_info(mechanisms.slot).map_err(|error| verdict(&error))
    }
}
