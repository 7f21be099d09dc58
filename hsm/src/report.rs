//! What a look at a token found (`keystead-server hsm check`). Invariant: no field holds a PIN or key material; texts are
//! names, counts and reasons. Absent: the looking, which the child does.

use serde::{Deserialize, Serialize};

/// A token as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The token itself.
    pub token: TokenState,
    /// Whether somebody logged in for this look. Without that, nothing is tried and no key is seen.
    pub logged_in: bool,
    /// Every mechanism that some way of using the token needs.
    pub mechanisms: Vec<MechanismState>,
    /// The rungs of the mechanism ladder, in the order of `auto`.
    pub rungs: Vec<RungState>,
    /// The rung that a server would use by this configuration; without a login, the first that may work.
    pub mechanism: Option<String>,
    /// The algorithm that new audit keys would have.
    pub signature: Option<String>,
    /// Whether its signatures verify.
    pub signature_test: Outcome,
    /// Whether the random source is alive.
    pub random_test: Outcome,
    /// The keys of vaults on the token.
    pub keys: Vec<KeyState>,
    /// How long wrapping takes by that rung.
    pub times: Option<Times>,
}

/// What became of one test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It was not made, for want of a login.
    NotTested,
    /// It failed.
    Failed {
        /// Why.
        why: String,
    },
}

/// The token, and what it says of its PIN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenState {
    /// Its label, trimmed.
    pub label: String,
    /// Its serial, trimmed.
    pub serial: String,
    /// Its maker and model.
    pub model: String,
    /// Its firmware's version.
    pub firmware: String,
    /// The fewest bytes of a PIN.
    pub pin_min_bytes: usize,
    /// The most bytes of a PIN.
    pub pin_max_bytes: usize,
    /// Whether a PIN was set.
    pub pin_set: bool,
    /// A wrong PIN was given since the last login.
    pub pin_count_low: bool,
    /// The next wrong PIN locks the token.
    pub pin_final_try: bool,
    /// The token takes no PIN any more.
    pub pin_locked: bool,
}

/// One mechanism.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MechanismState {
    /// Its name in PKCS#11, or its number.
    pub name: String,
    /// Whether the token has it.
    pub present: bool,
    /// What the token does by it.
    pub uses: Vec<String>,
    /// The smallest and the largest key, in the mechanism's own unit: bits or bytes.
    pub key_sizes: Option<(usize, usize)>,
}

/// One rung.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RungState {
    /// Its name, as in `hsm.mechanism`.
    pub name: String,
    /// Whether the configuration allows it.
    pub allowed: bool,
    /// Whether it works.
    pub test: Outcome,
}

/// One key of some vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyState {
    /// Its label.
    pub label: String,
    /// Whether it is there once and has the flags that it must have.
    pub test: Outcome,
}

/// The mean of a few calls, in microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// To wrap 48 bytes.
    pub wrap_us: u64,
    /// To unwrap them.
    pub unwrap_us: u64,
}

impl Outcome {
    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Failed { why } => Some(why),
            Self::Passed | Self::NotTested => None,
        }
    }
}

impl Report {
    /// Everything that keeps a server from using the token, in words; nothing if it is usable as far as was looked.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let token = &self.token;
        if token.pin_locked {
            problems.push(
                "the PIN is locked; the token's security officer unlocks it with the vendor's tool".into(),
            );
        }
        if !token.pin_set {
            problems
                .push("no PIN is set; the token's security officer sets one with the vendor's tool".into());
        }
        if self.mechanism.is_none() {
            problems.push("no rung that hsm.mechanism allows is usable; the table says why".into());
        }
        if self.signature.is_none() {
            problems.push("the token signs neither by Ed25519 nor by ECDSA P-256; take another token".into());
        }
        problems.extend(self.signature_test.failure().map(|why| format!("signatures: {why}")));
        problems.extend(self.random_test.failure().map(|why| format!("random source: {why}")));
        problems.extend(self.keys.iter().filter_map(|key| key.test.failure().map(str::to_owned)));
        problems
    }

    /// What was not looked at, in words.
    pub fn unseen(&self) -> Option<&'static str> {
        (!self.logged_in).then_some(
            "not logged in, so not looked at: whether a rung, a signature and the random source really work, the vaults' \
             keys and their flags, times",
        )
    }
}
