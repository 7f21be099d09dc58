//! Why a policy document is refused: which document, where in it, and what is wrong.
//!
//! Invariant: every message is safe to show on a terminal; what came from the document is escaped.

use std::fmt;

use crate::name::PolicyName;

/// A place in a document, both counted from 1; the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// A refused policy document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct PolicyError {
    /// Which document.
    pub policy: PolicyName,
    /// Where, if the problem has a place.
    pub position: Option<Position>,
    /// What is wrong.
    pub problem: PolicyProblem,
}

/// What is wrong with a policy document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyProblem {
    /// Longer than a document may be.
    #[error("has {length} bytes, at most {limit} are allowed")]
    TooLong {
        /// How long it is.
        length: usize,
        /// How long it may be.
        limit: usize,
    },
    /// More statements than a document may have.
    #[error("has {count} statements, at most {limit} are allowed")]
    TooManyStatements {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A statement whose checking would take too deep a recursion.
    #[error("a statement nests deeper than {depth} or has more than {operators} operators; split it up")]
    TooComplex {
        /// How deep it may nest.
        depth: usize,
        /// How many operators it may have.
        operators: usize,
    },
    /// No statement at all.
    #[error("has no statement")]
    Empty,
    /// The same name twice in one set.
    #[error("is listed twice")]
    Duplicate,
    /// A character that doesn't show, or that changes how the text around it shows.
    #[error("the character '{}' is not allowed in a policy", .found.escape_default())]
    Character {
        /// The character.
        found: char,
    },
    /// Not Cedar.
    #[error("syntax: {message}")]
    Syntax {
        /// What the parser says.
        message: String,
    },
    /// A template, with `?principal` or `?resource`.
    #[error("templates are not supported: name the principal and the resource")]
    Template,
    /// Cedar, but not what the schema allows.
    #[error("{message}")]
    Invalid {
        /// What the validator says.
        message: String,
    },
    /// A permit for everybody and everything.
    #[error("a permit must say for whom: principal == ..., principal in ..., or principal is ...")]
    UnscopedPermit,
    /// An entity whose id is not a canonical name, so that it would never match.
    #[error("{entity} can never match: {reason}")]
    Reference {
        /// The entity, as Cedar writes it.
        entity: String,
        /// What is wrong with its id.
        reason: String,
    },
    /// An annotation that means nothing here, or a value it can't have.
    #[error("annotation @{annotation}: expected @id, @description, or @approval(\"two-person\") on a permit")]
    Annotation {
        /// Its name.
        annotation: String,
    },
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy {}", self.policy)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ", line {line}, column {column}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl Position {
    /// The place of a byte in a text.
    pub(super) fn of_byte(text: &str, offset: usize) -> Self {
        let before = text.get(..offset.min(text.len())).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before.get(line_start..).unwrap_or("").chars().count() + 1;
        Self { line: before.matches('\n').count() + 1, column }
    }
}

/// The text with everything that a terminal might obey made visible.
pub(super) fn printable(text: &str) -> String {
    let shown = |c: char| if is_hidden(c) { c.escape_default().collect() } else { String::from(c) };
    text.chars().map(|c| if c == '\n' { String::from(' ') } else { shown(c) }).collect()
}

/// Control characters and those that change the direction or the joining of the text around them.
pub(super) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_counted_in_lines_and_characters() {
        let text = "ab\nçd\n";
        assert_eq!(Position::of_byte(text, 0), Position { line: 1, column: 1 });
        assert_eq!(Position::of_byte(text, 5), Position { line: 2, column: 2 });
        assert_eq!(Position::of_byte(text, 99), Position { line: 3, column: 1 });
        assert_eq!(printable("a\u{1b}[2J\n\u{202e}b"), "a\\u{1b}[2J \\u{202e}b");
    }
}
