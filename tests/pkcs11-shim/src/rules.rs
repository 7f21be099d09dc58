//! The control file: one fault a line, `<name> <kind> [on=<function>,…] [after=<calls>] [times=<n>] [<key>=<value>…]`.
//! Invariant: a line that is not understood whole is an error, so that no test passes by a misspelling. Absent: the
//! doing.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use cryptoki_sys::*;
use data_encoding::HEXLOWER_PERMISSIVE;

use crate::functions::NAMES;
use crate::names;

/// One fault.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Under which it is counted; a fault with a used-up name stays used up.
    pub(crate) name: String,
    /// The functions that it is about.
    pub(crate) on: Vec<&'static str>,
    /// Calls of them that pass first, in each process.
    pub(crate) after: u64,
    /// How often it happens at most, in all processes together.
    pub(crate) times: Option<u64>,
    pub(crate) effect: Effect,
}

/// What happens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Before the real module is asked.
    Entry(Entry),
    /// To what the real module answered.
    Output(Output),
    /// The real module does it, and the answer never comes.
    Mute,
    /// The operation begins with another key of its kind.
    OtherKey,
    /// A search answers its first object twice.
    Twice,
    /// An attribute has another value.
    Attribute { kind: CK_ATTRIBUTE_TYPE, value: Vec<u8> },
    /// AES-GCM with IVs of the token's own.
    Iv(Iv),
    /// Mechanisms that the token does not have.
    Hide(Vec<CK_MECHANISM_TYPE>),
    /// AES-GCM has this number too.
    Vendor(CK_MECHANISM_TYPE),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Delay(Duration),
    Hang,
    Abort,
    Exit(i32),
    Return(CK_RV),
    /// No token: sessions answer this code, slots that there is none.
    Pulled(CK_RV),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// One bit differs, at this place from the start.
    Corrupt(usize),
    /// Two calls at once get each other's answer; the first waits this long for a second.
    Swap(Duration),
    /// The answer before this one again.
    Former,
    /// Fewer bytes.
    Short(usize),
    /// More bytes.
    Long(usize),
    /// A length beyond what was written.
    Overlong(usize),
    Empty,
    /// Every byte the same.
    Constant(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Iv {
    pub(crate) how: How,
    pub(crate) bytes: usize,
    /// A caller's IV that is not zero is an error, instead of being overruled.
    pub(crate) only_zero: bool,
}

/// How the caller learns the IV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// In `pIv` (AWS CloudHSM, Thales ProtectServer).
    WrittenBack,
    /// Behind ciphertext and tag (Thales Luna in FIPS mode).
    Appended,
    /// Not at all.
    Silent,
}

const OUTPUTS: &[&str] = &["C_Encrypt", "C_Decrypt", "C_Sign", "C_GenerateRandom"];
const KEY_USES: &[&str] = &["C_EncryptInit", "C_DecryptInit", "C_SignInit"];

/// Reads a whole control file.
pub(crate) fn parse(text: &str) -> Result<Vec<Rule>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| rule(line).map_err(|error| format!("{line:?}: {error}"))).collect()
}

fn rule(line: &str) -> Result<Rule, String> {
    let mut words = line.split_whitespace();
    let (Some(name), Some(kind)) = (words.next(), words.next()) else {
        return Err("a fault has a name and a kind".to_owned());
    };
    let mut keys = Keys(BTreeMap::new());
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(|| format!("{word} is not <key>=<value>"))?;
        if keys.0.insert(key, value).is_some() {
            return Err(format!("{key} is there twice"));
        }
    }
    let after = keys.number("after")?.unwrap_or(0);
    let times = keys.number("times")?;
    let (on, effect) = effect(kind, &mut keys)?;
    match keys.0.keys().next() {
        None => Ok(Rule { name: name.to_owned(), on, after, times, effect }),
        Some(key) => Err(format!("{kind} has no {key}")),
    }
}

fn effect(kind: &str, keys: &mut Keys<'_>) -> Result<(Vec<&'static str>, Effect), String> {
    let millis = |number: Option<u64>| Duration::from_millis(number.unwrap_or(200));
    Ok(match kind {
        "delay" => (keys.on(NAMES)?, Effect::Entry(Entry::Delay(millis(keys.number("ms")?)))),
        "hang" => (keys.on(NAMES)?, Effect::Entry(Entry::Hang)),
        "abort" => (keys.on(NAMES)?, Effect::Entry(Entry::Abort)),
        "exit" => (keys.on(NAMES)?, Effect::Entry(Entry::Exit(keys.number("code")?.unwrap_or(0)))),
        "return" => {
            let code = names::return_value(keys.0.remove("rv").ok_or("return needs rv=")?)?;
            (keys.on(NAMES)?, Effect::Entry(Entry::Return(code)))
        }
        "pulled" => {
            let code = keys.0.remove("rv").map_or(Ok(CKR_DEVICE_REMOVED), names::return_value)?;
            (NAMES.to_vec(), Effect::Entry(Entry::Pulled(code)))
        }
        "mute" => (keys.on(&["C_Login"])?, Effect::Mute),
        "corrupt" => (keys.on(OUTPUTS)?, Effect::Output(Output::Corrupt(keys.number("at")?.unwrap_or(0)))),
        "swap" => (keys.on(OUTPUTS)?, Effect::Output(Output::Swap(millis(keys.number("ms")?)))),
        "former" => (keys.on(OUTPUTS)?, Effect::Output(Output::Former)),
        "short" => (keys.on(OUTPUTS)?, Effect::Output(Output::Short(keys.number("by")?.unwrap_or(1)))),
        "long" => (keys.on(OUTPUTS)?, Effect::Output(Output::Long(keys.number("by")?.unwrap_or(1)))),
        "overlong" => (keys.on(OUTPUTS)?, Effect::Output(Output::Overlong(keys.number("by")?.unwrap_or(1)))),
        "empty" => (keys.on(OUTPUTS)?, Effect::Output(Output::Empty)),
        "constant" => {
            (keys.on(OUTPUTS)?, Effect::Output(Output::Constant(keys.number("byte")?.unwrap_or(0))))
        }
        "other-key" => (keys.on(KEY_USES)?, Effect::OtherKey),
        "twice" => (vec!["C_FindObjects"], Effect::Twice),
        "attribute" => {
            let kind = names::attribute(keys.0.remove("type").ok_or("attribute needs type=")?)?;
            let value = keys.0.remove("value").ok_or("attribute needs value=")?;
            let value = HEXLOWER_PERMISSIVE.decode(value.as_bytes()).map_err(|error| error.to_string())?;
            (vec!["C_GetAttributeValue"], Effect::Attribute { kind, value })
        }
        "iv" => (vec!["C_EncryptInit", "C_DecryptInit"], Effect::Iv(keys.iv()?)),
        "hide" => {
            let hidden = keys.0.remove("mechanisms").ok_or("hide needs mechanisms=")?;
            let hidden = hidden.split(',').map(names::mechanism).collect::<Result<_, _>>()?;
            (Vec::new(), Effect::Hide(hidden))
        }
        "vendor" => {
            let number = keys.0.remove("number").ok_or("vendor needs number=")?;
            (Vec::new(), Effect::Vendor(names::mechanism(number)?))
        }
        _ => return Err(format!("there is no fault of the kind {kind}")),
    })
}

/// What a line has not been asked for yet.
struct Keys<'a>(BTreeMap<&'a str, &'a str>);

impl Keys<'_> {
    fn number<T: FromStr>(&mut self, key: &str) -> Result<Option<T>, String> {
        let Some(text) = self.0.remove(key) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("{key}={text} is no number that fits"))
    }

    fn on(&mut self, possible: &[&'static str]) -> Result<Vec<&'static str>, String> {
        let wanted = self.0.remove("on").ok_or("on= is missing: which functions?")?;
        let known = |wanted: &str| possible.iter().copied().find(|name| *name == wanted);
        wanted
            .split(',')
            .map(|wanted| known(wanted).ok_or_else(|| format!("this fault cannot be on {wanted}")))
            .collect()
    }

    fn iv(&mut self) -> Result<Iv, String> {
        let how = match self.0.remove("how") {
            Some("written-back") => How::WrittenBack,
            Some("appended") => How::Appended,
            Some("silent") => How::Silent,
            _ => return Err("iv needs how=written-back, appended or silent".to_owned()),
        };
        let only_zero = match self.0.remove("caller") {
            None | Some("ignored") => false,
            Some("refused") => true,
            Some(other) => return Err(format!("caller={other}: ignored or refused")),
        };
        let bytes = self.number("bytes")?.unwrap_or(12);
        if (1..=64).contains(&bytes) {
            Ok(Iv { how, bytes, only_zero })
        } else {
            Err("1 to 64 bytes".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_where_when_and_how_often() {
        let text =
            "# the token goes away\n\nf1 return on=C_Encrypt,C_Sign after=3 times=2 rv=CKR_DEVICE_REMOVED\n";
        let expected = Rule {
            name: "f1".to_owned(),
            on: vec!["C_Encrypt", "C_Sign"],
            after: 3,
            times: Some(2),
            effect: Effect::Entry(Entry::Return(CKR_DEVICE_REMOVED)),
        };
        assert_eq!(parse(text), Ok(vec![expected]));
    }

    #[test]
    fn every_kind_can_be_written() {
        let text = "a delay on=C_Sign ms=5\nb hang on=C_Sign\nc abort on=C_Sign\nd exit on=C_Sign code=3\n\
            e pulled\nf corrupt on=C_Decrypt at=2\ng swap on=C_Encrypt ms=9\nh former on=C_GenerateRandom\n\
            i short on=C_Sign by=2\nj long on=C_Sign by=2\nk overlong on=C_Sign by=2\nl empty on=C_Sign\n\
            m constant on=C_GenerateRandom byte=7\nn other-key on=C_EncryptInit\no twice\n\
            p attribute type=CKA_EXTRACTABLE value=01\nq iv how=appended bytes=16 caller=refused\n\
            r hide mechanisms=CKM_AES_GCM,0x1057\ns vendor number=0x80000042\nt pulled rv=CKR_DEVICE_ERROR\n\
            u mute on=C_Login";
        assert_eq!(parse(text).unwrap().len(), 21);
    }

    #[test]
    fn a_misspelling_is_an_error() {
        for line in [
            "f1",
            "f1 retrun on=C_Sign rv=CKR_OK",
            "f1 return on=C_Sing rv=CKR_OK",
            "f1 return on=C_Sign rv=CKR_NO",
            "f1 return rv=CKR_OK",
            "f1 corrupt on=C_EncryptInit",
            "f1 hang on=C_Sign sometimes=1",
            "f1 hang on=C_Sign times=often",
            "f1 hang on=C_Sign on=C_Sign",
            "f1 iv how=somehow",
            "f1 iv how=appended bytes=0",
            "f1 attribute type=CKA_EXTRACTABLE value=0",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
