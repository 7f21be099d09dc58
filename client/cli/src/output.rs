//! Prints answers: tables for people, JSON for machines. Invariant: no control character, and none that reorders text,
//! leaves here unescaped, except a secret value sent to a file or a program, and its lines and tabs on a terminal.
//!
//! Colours only on a terminal, and not with NO_COLOR.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use keystead_client::{Precondition, SecretBytes};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::args::Format;
use crate::error::CliError;

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";
/// How many bytes one byte may become: `\u{7f}` for one of them.
const MAX_ESCAPED: usize = 6;

/// Where answers go, and how they look.
pub(crate) struct Output {
    format: Format,
    colored: bool,
    colored_errors: bool,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            format,
            colored: wanted && io::stdout().is_terminal(),
            colored_errors: wanted && io::stderr().is_terminal(),
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Rows under a head.
    pub(crate) fn table(
        &self,
        head: &[&str],
        rows: &[Vec<String>],
        json: &impl Serialize,
    ) -> Result<(), CliError> {
        if self.is_json() {
            return self.json(json);
        }
        self.text(&table(head, rows, self.colored))
    }

    /// Rows under a head, printed as they come.
    pub(crate) fn growing<'a>(&'a self, head: &'a [&'a str]) -> Growing<'a> {
        Growing { output: self, head, widths: None }
    }

    /// Names and what they are, one a line; lines without anything to say are left out.
    pub(crate) fn facts(&self, facts: &[(&str, String)], json: &impl Serialize) -> Result<(), CliError> {
        if self.is_json() {
            return self.json(json);
        }
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let mut text = Zeroizing::new(String::new());
        for (name, fact) in facts.iter().filter(|(_, fact)| !fact.is_empty()) {
            let (on, off) = if self.colored { (BOLD, PLAIN) } else { ("", "") };
            let _infallible = writeln!(text, "{on}{name:width$}{off}  {}", escaped(fact));
        }
        self.text(&text)
    }

    /// One sentence.
    pub(crate) fn sentence(&self, sentence: &str, json: &impl Serialize) -> Result<(), CliError> {
        if self.is_json() { self.json(json) } else { self.text(&format!("{}\n", escaped(sentence))) }
    }

    /// One JSON value on one line.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), CliError> {
        let text = Zeroizing::new(serde_json::to_string(value).map_err(CliError::Json)?);
        let line = json_line(&text);
        self.text(&line)
    }

    /// A secret text after some words, on a line of its own.
    pub(crate) fn secret_line(&self, words: &str, secret: &SecretBytes) -> Result<(), CliError> {
        let text = secret.expose_str().unwrap_or_default();
        let mut line = Zeroizing::new(String::with_capacity(words.len() + MAX_ESCAPED * text.len() + 1));
        line.push_str(words);
        escape_into(&mut line, text);
        line.push('\n');
        self.text(&line)
    }

    /// A secret text by itself: its lines and tabs stay.
    pub(crate) fn secret_text(&self, text: &str) -> Result<(), CliError> {
        self.text(&lines_and_tabs(text))
    }

    /// Text that is escaped already.
    pub(crate) fn text(&self, text: &str) -> Result<(), CliError> {
        self.bytes(text.as_bytes())
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(CliError::Stdout)
    }

    /// A remark beside the answer, on standard error.
    pub(crate) fn remark(&self, remark: &str) {
        // A remark that cannot be printed is no reason to fail.
        let _printed = writeln!(io::stderr().lock(), "{}", escaped(remark));
    }

    /// What went wrong, on standard error.
    pub(crate) fn failure(&self, error: &CliError, hint: Option<&str>) {
        let text = if self.is_json() {
            failure_json(error, hint)
        } else {
            failure_text(error, hint, self.colored_errors)
        };
        // When even this cannot be printed, the exit code has to do.
        let _printed = io::stderr().lock().write_all(text.as_bytes());
    }
}

fn failure_text(error: &CliError, hint: Option<&str>, colored: bool) -> String {
    let (on, off) = if colored { (RED, PLAIN) } else { ("", "") };
    let mut text = format!("{on}keystead:{off} {}", escaped(&error.to_string()));
    if let CliError::Client(client) = error
        && let Some(refusal) = client.refusal()
    {
        if !refusal.reason.is_empty() {
            let _infallible = write!(text, " [{}]", escaped(&refusal.reason));
        }
        for violation in refusal.fields.iter().filter(|found| !refusal.message.contains(&found.description)) {
            let (field, rule) = (escaped(&violation.field), escaped(&violation.description));
            let _infallible = write!(text, "\n  {field}: {rule}");
        }
        // What the reason or the message says already is not said again.
        let said = |found: &&Precondition| {
            let of_the_whole = found.kind == refusal.reason && found.subject == "vault";
            of_the_whole || refusal.message.contains(&found.description)
        };
        for found in refusal.preconditions.iter().filter(|found| !said(found)) {
            let (subject, description) = (escaped(&found.subject), escaped(&found.description));
            let _infallible = write!(text, "\n  {subject}: {description}");
        }
        if let Some(after) = refusal.retry_after {
            let _infallible = write!(text, "\n  try again in {after:?}");
        }
    }
    for cause in causes(error) {
        let _infallible = write!(text, "\n  because: {}", escaped(&cause));
    }
    if let Some(hint) = hint {
        let _infallible = write!(text, "\n  hint: {}", escaped(hint));
    }
    text.push('\n');
    text
}

/// What stands behind an error, the nearest first; what says nothing new is left out.
fn causes(error: &CliError) -> Vec<String> {
    let mut below: Vec<String> = Vec::new();
    if let CliError::Client(error) = error {
        below.extend(error.causes().iter().map(ToString::to_string));
    } else {
        let mut cause = error.source();
        while let Some(error) = cause {
            below.push(error.to_string());
            cause = error.source();
        }
    }
    let mut shown = error.to_string();
    below.retain(|said| {
        let new = !shown.contains(said);
        if new {
            shown.clone_from(said);
        }
        new
    });
    below
}

fn failure_json(error: &CliError, hint: Option<&str>) -> String {
    let refusal = match error {
        CliError::Client(client) => client.refusal(),
        _ => None,
    };
    let fields: Vec<_> = refusal
        .iter()
        .flat_map(|refusal| &refusal.fields)
        .map(|violation| serde_json::json!({ "field": violation.field, "rule": violation.description }))
        .collect();
    let preconditions: Vec<_> = refusal
        .iter()
        .flat_map(|refusal| &refusal.preconditions)
        .map(|found| serde_json::json!({ "type": found.kind, "subject": found.subject, "description": found.description }))
        .collect();
    let error = serde_json::json!({ "error": {
        "reason": refusal.map(|refusal| refusal.reason.as_str()),
        "message": error.to_string(),
        "by_server": refusal.is_some(),
        "fields": fields,
        "preconditions": preconditions,
        "causes": causes(error),
        "hint": hint,
    }});
    json_line(&error.to_string()).to_string()
}

/// JSON with harmful characters written as JSON escapes them. They stand only inside strings, and none of them lies
/// beyond the first plane.
fn json_line(json: &str) -> Zeroizing<String> {
    let mut line = Zeroizing::new(String::with_capacity(MAX_ESCAPED * json.len() + 1));
    for c in json.chars() {
        if is_harmful(c) {
            let _infallible = write!(line, "\\u{:04x}", u32::from(c));
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    line
}

fn table(head: &[&str], rows: &[Vec<String>], colored: bool) -> String {
    let rows = escaped_rows(rows);
    let widths = widths(head, &rows);
    let mut text = head_line(head, &widths, colored);
    push_rows(&mut text, &rows, &widths);
    text
}

fn escaped_rows(rows: &[Vec<String>]) -> Vec<Vec<String>> {
    rows.iter().map(|row| row.iter().map(|cell| escaped(cell)).collect()).collect()
}

fn widths(head: &[&str], rows: &[Vec<String>]) -> Vec<usize> {
    head.iter()
        .enumerate()
        .map(|(column, name)| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([name.chars().count()]).max().unwrap_or_default()
        })
        .collect()
}

fn line<'a>(cells: impl Iterator<Item = &'a str>, widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.zip(widths) {
        let _infallible = write!(line, "{cell:width$}  ");
    }
    line.truncate(line.trim_end().len());
    line
}

fn head_line(head: &[&str], widths: &[usize], colored: bool) -> String {
    let (on, off) = if colored { (BOLD, PLAIN) } else { ("", "") };
    format!("{on}{}{off}\n", line(head.iter().copied(), widths))
}

fn push_rows(text: &mut String, rows: &[Vec<String>], widths: &[usize]) {
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str), widths));
        text.push('\n');
    }
}

/// A table that is printed as it comes, in JSON as one array. The first rows say how wide the columns are.
pub(crate) struct Growing<'a> {
    output: &'a Output,
    head: &'a [&'a str],
    /// From the first rows on.
    widths: Option<Vec<usize>>,
}

impl Growing<'_> {
    /// More rows, each with what it is in JSON.
    pub(crate) fn rows(&mut self, rows: Vec<(Vec<String>, serde_json::Value)>) -> Result<(), CliError> {
        let text = self.text(rows);
        self.output.text(&text)
    }

    /// There are no more. Without any, the head is there all the same.
    pub(crate) fn end(self) -> Result<(), CliError> {
        if self.output.is_json() { self.output.text("]\n") } else { Ok(()) }
    }

    fn text(&mut self, rows: Vec<(Vec<String>, serde_json::Value)>) -> String {
        let (rows, json): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let (rows, colored) = (escaped_rows(&rows), self.output.colored);
        let is_first = self.widths.is_none();
        let widths = self.widths.get_or_insert_with(|| widths(self.head, &rows));
        if !self.output.is_json() {
            let mut text = if is_first { head_line(self.head, widths, colored) } else { String::new() };
            push_rows(&mut text, &rows, widths);
            return text;
        }
        let mut text = if is_first { "[".to_owned() } else { String::new() };
        for (place, value) in json.iter().enumerate() {
            if !is_first || place > 0 {
                text.push(',');
            }
            text.push_str(json_line(&value.to_string()).trim_end());
        }
        text
    }
}

/// The text with every character that a terminal would obey, or that would reorder or hide text, written out.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    escape_into(&mut safe, text);
    safe
}

fn escape_into(safe: &mut String, text: &str) {
    for c in text.chars() {
        if is_harmful(c) {
            let _infallible = write!(safe, "{}", c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
}

/// The text escaped but for its lines and tabs, with a line ending at its end.
fn lines_and_tabs(text: &str) -> Zeroizing<String> {
    let mut safe = Zeroizing::new(String::with_capacity(MAX_ESCAPED * text.len() + 1));
    for piece in text.split_inclusive(['\n', '\t']) {
        let kept = piece.strip_suffix(['\n', '\t']);
        escape_into(&mut safe, kept.unwrap_or(piece));
        safe.extend(piece.chars().last().filter(|_| kept.is_some()));
    }
    if !safe.ends_with('\n') {
        safe.push('\n');
    }
    safe
}

fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00ad}' | '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_table_is_aligned_and_escaped() {
        let rows = [vec!["db".to_owned(), "secret".to_owned()], vec!["\u{1b}[2Jx".to_owned(), String::new()]];
        let plain = table(&["NAME", "KIND"], &rows, false);
        assert_eq!(plain, "NAME        KIND\ndb          secret\n\\u{1b}[2Jx\n");
        assert!(!plain.contains('\u{1b}'));
        assert!(table(&["NAME"], &[], true).starts_with("\x1b[1mNAME\x1b[0m"));
    }

    #[test]
    fn a_table_that_grows_reads_as_one() {
        let of = |format| Output { format, colored: false, colored_errors: false };
        let rows = |from: u32, to| {
            let row = |n: u32| (vec![format!("n{n}"), "x".to_owned()], serde_json::json!({ "n": n }));
            (from..to).map(row).collect::<Vec<_>>()
        };
        let (text, json) = (of(Format::Table), of(Format::Json));
        let mut table = text.growing(&["NAME", "X"]);
        assert_eq!(table.text(rows(0, 2)), "NAME  X\nn0    x\nn1    x\n");
        assert_eq!(table.text(rows(2, 3)), "n2    x\n");
        assert_eq!(text.growing(&["NAME"]).text(Vec::new()), "NAME\n");
        for pages in [vec![0], vec![1], vec![2, 0], vec![2, 1, 2]] {
            let mut table = json.growing(&["NAME", "X"]);
            let (mut out, mut n) = (String::new(), 0);
            for page in pages {
                out.push_str(&table.text(rows(n, n + page)));
                n += page;
            }
            let whole: Vec<serde_json::Value> = serde_json::from_str(&format!("{out}]")).unwrap();
            assert_eq!(whole, (0..n).map(|n| serde_json::json!({ "n": n })).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_terminals_obey_is_written_out() {
        assert_eq!(escaped("a\u{1b}]0;x\u{7}\u{9b}31m\r\n"), "a\\u{1b}]0;x\\u{7}\\u{9b}31m\\u{d}\\u{a}");
        assert_eq!(escaped("shop\u{202e}nimda"), "shop\\u{202e}nimda");
        assert_eq!(escaped("grün/データ"), "grün/データ");
    }

    #[test]
    fn an_error_is_escaped_and_names_its_causes_once() {
        let error = CliError::Read {
            what: "the PIN",
            path: "/tmp/\u{1b}[31mx".into(),
            source: io::Error::other("no\u{7}such"),
        };
        let text = failure_text(&error, Some("look\u{7}"), false);
        assert_eq!(
            text,
            "keystead: cannot read the PIN from /tmp/\\u{1b}[31mx\n  because: no\\u{7}such\n  hint: look\\u{7}\n"
        );
        let json: serde_json::Value = serde_json::from_str(&failure_json(&error, None)).unwrap();
        assert_eq!(json["error"]["causes"], serde_json::json!(["no\u{7}such"]));
    }

    #[test]
    fn a_rule_is_said_once() {
        let rule = |field: &str, description: &str| keystead_client::FieldViolation {
            field: field.into(),
            description: description.into(),
        };
        let refusal = keystead_client::Refusal {
            code: keystead_client::Code::InvalidArgument,
            reason: "INVALID_ARGUMENT".into(),
            message: "path: ends with a dot".into(),
            metadata: std::collections::BTreeMap::new(),
            fields: vec![rule("path", "ends with a dot"), rule("size", "is too large")],
            preconditions: [
                ("INVALID_ARGUMENT", "vault"),
                ("OTHER", "vault"),
                ("INVALID_ARGUMENT", "e7e7d8350b5a0ca0"),
            ]
            .map(|(kind, subject)| Precondition {
                kind: kind.into(),
                subject: subject.into(),
                description: format!("mend {kind}"),
            })
            .into(),
            retry_after: None,
        };
        let error = CliError::Client(keystead_client::Error::InvalidArgument(Box::new(refusal)));
        assert_eq!(
            failure_text(&error, None, false),
            "keystead: path: ends with a dot [INVALID_ARGUMENT]\n  size: is too large\n  vault: mend OTHER\n  \
             e7e7d8350b5a0ca0: mend INVALID_ARGUMENT\n"
        );
    }

    #[test]
    fn a_secret_keeps_its_lines_and_tabs_only() {
        assert_eq!(*lines_and_tabs("a\tb\n\u{1b}c\r\n"), "a\tb\n\\u{1b}c\\u{d}\n");
        assert_eq!(*lines_and_tabs("\n\nx"), "\n\nx\n");
        assert_eq!(*lines_and_tabs(""), "\n");
    }

    proptest! {
        #[test]
        fn nothing_harmful_is_left(text in any::<String>()) {
            prop_assert!(!escaped(&text).chars().any(is_harmful));
        }

        #[test]
        fn json_stays_json_and_says_the_same(text in any::<String>()) {
            let line = json_line(&serde_json::json!({ "name": text }).to_string()).to_string();
            prop_assert!(!line.trim_end_matches('\n').chars().any(is_harmful));
            let back: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(back["name"].as_str(), Some(text.as_str()));
        }

        #[test]
        fn what_is_harmless_stays(text in "[ -~äöü]*") {
            prop_assert_eq!(escaped(&text), text);
        }
    }
}
