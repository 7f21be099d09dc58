//! Quoting: the one way in which a name or a value gets into a statement.
//!
//! Invariant: what comes out is one token, whatever bytes go in. Values go as parameters wherever a statement takes them.

/// An SQL identifier in double quotes, each inner one doubled.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An SQL string constant. Backslashes make it an escape string, which reads the same whatever
/// `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    let escape = if text.contains('\\') { " E" } else { "" };
    format!("{escape}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_text_ends_its_token_early(text in "\\PC{0,40}") {
            let quoted = identifier(&text);
            prop_assert_eq!(quoted[1..quoted.len() - 1].replace("\"\"", "").matches('"').count(), 0);
            let constant = literal(&text);
            let inner = constant.trim_start_matches(" E");
            prop_assert_eq!(inner[1..inner.len() - 1].replace("''", "").matches('\'').count(), 0);
        }
    }
}
