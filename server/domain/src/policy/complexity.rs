//! Bounds what makes Cedar recurse, from the bare text of a policy document.
//!
//! Invariant: no statement that passes nests deeper than [`MAX_DEPTH`] or chains more than [`MAX_OPERATORS`],
//! and finding that out needs neither recursion nor memory. Cedar's parser recurses without a bound (64
//! brackets end a thread with 2 MiB of stack), and its validator *accepts* what it has no stack left to
//! check. Understanding the text is absent: that is the parser's work, which comes after.

/// The deepest nesting of brackets and conditionals in one statement.
pub const MAX_DEPTH: usize = 16;
/// The most operators, member accesses and brackets one statement may have.
pub const MAX_OPERATORS: usize = 256;

/// The byte at which some statement becomes too complex.
pub(super) fn first_excess(text: &str) -> Option<usize> {
    let mut place = Place::Code;
    let mut statement = Statement::default();
    let mut previous = ' ';
    for (offset, c) in text.char_indices() {
        match place {
            Place::Comment if matches!(c, '\n' | '\r') => place = Place::Code,
            Place::String if previous != '\\' && c == '"' => place = Place::Code,
            Place::Comment => {}
            Place::String => {
                // An escaped backslash escapes nothing itself.
                if previous == '\\' && c == '\\' {
                    previous = ' ';
                    continue;
                }
            }
            Place::Code => match (previous, c) {
                (_, '"') => place = Place::String,
                ('/', '/') => place = Place::Comment,
                _ => statement.take(previous, c),
            },
        }
        if statement.is_excessive() {
            return Some(offset);
        }
        previous = c;
    }
    None
}

enum Place {
    Code,
    String,
    Comment,
}

#[derive(Default)]
struct Statement {
    open: usize,
    conditionals: usize,
    operators: usize,
}

impl Statement {
    fn take(&mut self, previous: char, c: char) {
        match (previous, c) {
            (_, ';') => *self = Self::default(),
            (_, '(' | '[' | '{') => {
                self.open += 1;
                self.operators += 1;
            }
            (_, ')' | ']' | '}') => self.open = self.open.saturating_sub(1),
            // Any word with these letters counts: a few conditionals too many cost nothing.
            ('i', 'f') => self.conditionals += 1,
            (_, '.' | '!' | '-' | '+' | '*' | '<' | '>' | '=') | ('&', '&') | ('|', '|') => {
                self.operators += 1
            }
            _ => {}
        }
    }

    const fn is_excessive(&self) -> bool {
        self.open + self.conditionals > MAX_DEPTH || self.operators > MAX_OPERATORS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_or_long_statement_is_found_where_it_becomes_so() {
        assert_eq!(first_excess(&"(".repeat(16)), None);
        assert_eq!(first_excess(&"(".repeat(17)), Some(16));
        assert_eq!(first_excess(&"([{}])".repeat(50)), None);
        assert_eq!(first_excess(&"(;".repeat(50)), None);
        assert_eq!(first_excess(&"if ".repeat(17)), Some(49));
        assert_eq!(first_excess(&"a && ".repeat(256)), None);
        assert_eq!(first_excess(&"a && ".repeat(257)), Some(256 * 5 + 3));
        assert_eq!(first_excess(&"a, ".repeat(2_000)), None);
    }

    #[test]
    fn strings_and_comments_do_not_count() {
        let deep = "(".repeat(17);
        assert_eq!(first_excess(&format!("\"{deep}\" // {deep}\n {deep}")), Some(58));
        assert_eq!(first_excess(&format!("// {deep}\r{deep}")), Some(37));
        assert_eq!(first_excess(&format!(r#""\"{deep}""#)), None);
        assert_eq!(first_excess(&format!(r#""\\" {deep}"#)), Some(21));
    }
}
