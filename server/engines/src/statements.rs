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

/// A text as a dollar-quoted constant, for what people read: under a tag that ends nowhere within.
pub(crate) fn dollar_quoted(text: &str) -> String {
    let mut number = 0u32;
    loop {
        let tag = if number == 0 { "$keystead$".to_owned() } else { format!("$keystead{number}$") };
        // The end counts too: a text's last characters may begin a tag.
        if format!("{text}{tag}").find(&tag) == Some(text.len()) {
            return format!("{tag}{text}{tag}");
        }
        number = number.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_dollar_quoted_text_has_no_end_within() {
        for text in ["", "a", "$keystead$", "x$keystead$ $keystead1$", "$keystead", "$", "$$"] {
            let quoted = dollar_quoted(text);
            let tag = &quoted[..quoted[1..].find('$').unwrap() + 2];
            let inner = quoted.strip_prefix(tag).unwrap();
            assert_eq!(inner.find(tag), Some(text.len()), "{quoted}");
            assert_eq!(inner, format!("{text}{tag}"));
        }
    }

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
