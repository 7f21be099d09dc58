//! The words of a role file, each a value of the wire. Invariant: a word reads as it is written; capitals do not count.

use std::fmt;

use keystead_client::v1::{
    ExcessHandling, PostgresOwnedObjects, PostgresSequencePrivilege, PostgresTablePrivilege,
};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident = $wire:ident { $($variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) struct $name(pub(super) $wire);

        impl $name {
            const WORDS: &'static [(&'static str, $wire)] = &[$(($word, $wire::$variant)),*];

            /// Off the wire; nothing for what this program does not know.
            pub(super) fn from_wire(number: i32) -> Option<Self> {
                $wire::try_from(number).ok().map(Self).filter(|word| !word.as_str().is_empty())
            }

            pub(super) fn as_str(self) -> &'static str {
                Self::WORDS.iter().find(|(_, wire)| *wire == self.0).map_or("", |(word, _)| word)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Word;

                impl Visitor<'_> for Word {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        let words: Vec<_> = $name::WORDS.iter().map(|(word, _)| *word).collect();
                        write!(f, "one of {}", words.join(", "))
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        let known = $name::WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
                        let unknown = || E::invalid_value(serde::de::Unexpected::Str(text), &self);
                        known.map(|(_, wire)| $name(*wire)).ok_or_else(unknown)
                    }
                }

                deserializer.deserialize_str(Word)
            }
        }
    };
}

words! {
    /// What happens on excess.
    Excess = ExcessHandling { Refuse = "refuse", Warn = "warn", }
}

words! {
    /// What becomes of objects that a login made.
    Owned = PostgresOwnedObjects { Drop = "drop", ReassignToGroup = "reassign-to-group", }
}

words! {
    /// What may be done with a table.
    TablePrivilege = PostgresTablePrivilege {
        Select = "SELECT",
        Insert = "INSERT",
        Update = "UPDATE",
        Delete = "DELETE",
        Truncate = "TRUNCATE",
        References = "REFERENCES",
        Trigger = "TRIGGER",
    }
}

words! {
    /// What may be done with a sequence.
    SequencePrivilege = PostgresSequencePrivilege { Usage = "USAGE", Select = "SELECT", Update = "UPDATE", }
}

impl Default for Excess {
    fn default() -> Self {
        Self(ExcessHandling::Refuse)
    }
}

impl Default for Owned {
    fn default() -> Self {
        Self(PostgresOwnedObjects::Drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_the_wire_has_one_of_ours() {
        for number in 1..8 {
            assert!(TablePrivilege::from_wire(number).is_some(), "{number}");
        }
        assert!(PostgresTablePrivilege::try_from(8).is_err(), "a new privilege needs its word");
        assert!(PostgresSequencePrivilege::try_from(4).is_err());
        assert!(ExcessHandling::try_from(3).is_err() && PostgresOwnedObjects::try_from(3).is_err());
        assert_eq!(Excess::from_wire(0), None, "what is not set has no word");
        assert_eq!(Owned::from_wire(2).unwrap().as_str(), "reassign-to-group");
    }
}
