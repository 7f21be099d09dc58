//! What the server hands out once (shares, an administrator's token, a seal record), into new files or printed.
//!
//! Invariant: the files exist before the server is asked, and what cannot be written is printed rather than lost. Only a
//! seal record is not printed: it is bytes, and can be exported again.

use std::path::Path;

use keystead_client::{InitialShare, SecretBytes};
use prost_types::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::timestamp;
use crate::error::CliError;
use crate::files::{NewFile, OutDir};
use crate::output::Output;

const TOKEN_FILE: &str = "bootstrap-token.txt";
const SEAL_RECORD_FILE: &str = "seal-record.ksseal";

/// What is going to be handed out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expected {
    /// How many shares.
    pub(super) shares: u32,
    /// Whether each is sealed for a recipient.
    pub(super) sealed: bool,
    /// Whether a token comes.
    pub(super) token: bool,
    /// Whether a seal record comes.
    pub(super) seal_record: bool,
}

/// What was handed out.
#[derive(Clone, Copy)]
pub(super) struct Made<'a> {
    pub(super) shares: &'a [InitialShare],
    pub(super) token: Option<&'a SecretBytes>,
    pub(super) token_expires: Option<&'a Timestamp>,
    pub(super) seal_record: Option<&'a [u8]>,
}

/// Empty files that wait for what the server makes.
#[derive(Default)]
pub(super) struct Places {
    dir: Option<(OutDir, Vec<String>)>,
    expected: Expected,
    shares: Vec<NewFile>,
    token: Option<NewFile>,
    seal_record: Option<NewFile>,
}

impl Places {
    /// Files in `out_dir` for all that is expected, and one at `seal_record`; without either, there are none.
    pub(super) fn make(
        out_dir: Option<&Path>,
        seal_record: Option<&Path>,
        expected: Expected,
    ) -> Result<Self, CliError> {
        let own = seal_record.filter(|_| expected.seal_record).map(NewFile::make).transpose()?;
        let made = Self::make_in(
            out_dir,
            Expected { seal_record: expected.seal_record && own.is_none(), ..expected },
        );
        match (made, own) {
            (Ok(mut places), own) => {
                places.seal_record = own.or(places.seal_record);
                Ok(places)
            }
            (Err(error), own) => {
                own.iter().for_each(NewFile::remove);
                Err(error)
            }
        }
    }

    fn make_in(out_dir: Option<&Path>, expected: Expected) -> Result<Self, CliError> {
        let ending = if expected.sealed { "age" } else { "txt" };
        let mut names: Vec<_> =
            (1..=expected.shares).map(|number| format!("share-{number}.{ending}")).collect();
        names.extend(expected.token.then(|| TOKEN_FILE.to_owned()));
        names.extend(expected.seal_record.then(|| SEAL_RECORD_FILE.to_owned()));
        let Some(path) = out_dir.filter(|_| !names.is_empty()) else {
            return Ok(Self { expected, ..Self::default() });
        };
        let dir = OutDir::open_or_make(path)?;
        let mut shares = dir.make(&names).inspect_err(|_| dir.remove(&[]))?;
        let seal_record = if expected.seal_record { shares.pop() } else { None };
        let token = if expected.token { shares.pop() } else { None };
        Ok(Self { dir: Some((dir, names)), expected, shares, token, seal_record })
    }

    /// Takes them away again: nothing was made.
    pub(super) fn remove(self) {
        self.seal_record.iter().for_each(NewFile::remove);
        if let Some((dir, names)) = &self.dir {
            dir.remove(names);
        }
    }

    /// Writes what has a place and prints the rest, after `sentence`; for programs, all of it beside what `json` has.
    pub(super) fn fill(
        self,
        made: Made<'_>,
        sentence: &str,
        json: &Value,
        output: &Output,
    ) -> Result<(), CliError> {
        let (asked, found) = (self.expected.shares, made.shares.len());
        if usize::try_from(asked).is_ok_and(|asked| asked == found) {
            let (left, written) = self.write(made, output);
            left.print(sentence, json, output)?;
            return written;
        }
        self.remove();
        let left =
            Left { files: Vec::new(), seal_record_file: None, made, shares: made.shares.iter().collect() };
        left.print(sentence, json, output)?;
        Err(CliError::SharesMade { asked, found })
    }

    /// What there was no place for, and what could not be written.
    fn write<'a>(self, made: Made<'a>, output: &Output) -> (Left<'a>, Result<(), CliError>) {
        let mut left = Left { files: Vec::new(), seal_record_file: None, made, shares: Vec::new() };
        let mut result = Ok(());
        let mut fill = |file: NewFile, parts: &[&[u8]]| match file.fill(parts) {
            Ok(path) => Some(path.display().to_string()),
            Err(error) => {
                result = Err(error);
                None
            }
        };
        let mut files = self.shares.into_iter();
        for share in made.shares {
            let bare = share.text.expose().trim_ascii_end();
            match files.next().and_then(|file| fill(file, &[bare, b"\n"])) {
                Some(path) => left.files.push(path),
                None => left.shares.push(share),
            }
        }
        if let (Some(file), Some(token)) = (self.token, made.token)
            && let Some(path) = fill(file, &[token.expose(), b"\n"])
        {
            left.files.push(path);
            left.made.token = None;
        }
        if let (Some(file), Some(record)) = (self.seal_record, made.seal_record) {
            left.seal_record_file = fill(file, &[record]);
            left.files.extend(left.seal_record_file.clone());
        }
        if result.is_err() {
            output.remark("Not everything could be written; what has no other copy is printed.");
        }
        let synced = self.dir.map_or(Ok(()), |(dir, _)| dir.sync());
        (left, result.and(synced))
    }
}

/// What is to be shown: where things went, and what went nowhere.
struct Left<'a> {
    files: Vec<String>,
    seal_record_file: Option<String>,
    made: Made<'a>,
    shares: Vec<&'a InitialShare>,
}

#[derive(Serialize)]
struct Printed<'a> {
    #[serde(flatten)]
    about: &'a Value,
    files: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shares: Vec<PrintedShare<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bootstrap_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bootstrap_expire_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seal_record_file: Option<&'a str>,
}

#[derive(Serialize)]
struct PrintedShare<'a> {
    number: u32,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient: Option<&'a str>,
}

impl Left<'_> {
    fn print(&self, sentence: &str, json: &Value, output: &Output) -> Result<(), CliError> {
        if output.is_json() {
            return output.json(&Printed {
                about: json,
                files: &self.files,
                shares: self.shares.iter().copied().map(printed).collect(),
                bootstrap_token: self.made.token.map(text),
                bootstrap_expire_time: self.made.token_expires.map(|time| timestamp(Some(time))),
                seal_record_file: self.seal_record_file.as_deref(),
            });
        }
        let goes_on = if self.files.is_empty() { "" } else { " Written:" };
        output.sentence(&format!("{sentence}{goes_on}"), &())?;
        for path in &self.files {
            output.sentence(&format!("  {path}"), &())?;
        }
        for share in &self.shares {
            match &share.recipient {
                None => output.secret_line(&format!("  {}: ", share.number), &share.text)?,
                Some(recipient) => {
                    output.sentence(&format!("  {}, for {recipient}:", share.number), &())?;
                    output.secret_text(text(&share.text))?;
                }
            }
        }
        if let Some(token) = self.made.token {
            let expires = timestamp(self.made.token_expires);
            output.secret_line(&format!("  token (dies {expires}): "), token)?;
        }
        if !self.shares.is_empty() || self.made.token.is_some() {
            output.remark("This is the only time that these are shown.");
        }
        if self.made.seal_record.is_some() && self.seal_record_file.is_none() {
            output.remark(
                "A backup of the store opens only with the seal record of its epoch. Keep it beside your backups; while the \
                 vault is open, this writes it:",
            );
            output.remark("  keystead seal-record export FILE");
        }
        Ok(())
    }
}

fn printed(share: &InitialShare) -> PrintedShare<'_> {
    PrintedShare { number: share.number, text: text(&share.text), recipient: share.recipient.as_deref() }
}

/// Shares and tokens came as strings, so they are text.
fn text(secret: &SecretBytes) -> &str {
    secret.expose_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Expected = Expected { shares: 2, sealed: false, token: true, seal_record: true };

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn there_is_a_place_for_all_that_is_expected_and_it_goes_when_nothing_comes() {
        let base = tempfile::tempdir().unwrap();
        let out = base.path().join("out");
        let places = Places::make(Some(&out), None, ALL).unwrap();
        assert_eq!(names(&out), [TOKEN_FILE, SEAL_RECORD_FILE, "share-1.txt", "share-2.txt"]);
        places.remove();
        assert!(!out.exists());

        let apart = base.path().join("apart.ksseal");
        let places = Places::make(Some(&out), Some(&apart), Expected { sealed: true, ..ALL }).unwrap();
        assert_eq!(names(&out), [TOKEN_FILE, "share-1.age", "share-2.age"]);
        assert!(apart.exists());
        places.remove();
        assert!(!out.exists() && !apart.exists());

        Places::make(Some(&out), Some(&apart), Expected::default()).unwrap();
        assert!(!out.exists() && !apart.exists(), "where nothing is expected nothing is made");
    }

    #[test]
    fn one_place_that_is_taken_leaves_none() {
        let base = tempfile::tempdir().unwrap();
        let (out, apart) = (base.path().join("out"), base.path().join("apart.ksseal"));
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join("share-2.txt"), "kept").unwrap();
        assert!(matches!(Places::make(Some(&out), Some(&apart), ALL), Err(CliError::FileExists { .. })));
        assert_eq!(names(&out), ["share-2.txt"]);
        assert!(!apart.exists());
        std::fs::write(&apart, "kept").unwrap();
        let fresh = base.path().join("fresh");
        assert!(matches!(Places::make(Some(&fresh), Some(&apart), ALL), Err(CliError::FileExists { .. })));
        assert!(!fresh.exists());
        assert_eq!(std::fs::read(&apart).unwrap(), b"kept");
    }
}
