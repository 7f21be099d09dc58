//! What a login may do: the vocabulary that declarations, engines and reports share.
//!
//! Invariant: an empty list is nothing, never everything. What a target gives is compared with what was declared as sets;
//! what is in the one and not in the other has a name that a person can read.

pub mod postgres;

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that a login may do, in a spelling that is the same for what was declared and what was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Right {
    /// On what: `table "shop"."orders"`, `column "shop"."orders"."note"`, `database "shop"`.
    pub object: String,
    /// What: `SELECT`, `EXECUTE`, `CONNECT`.
    pub privilege: String,
    /// Where it comes from, where that is not the role itself: `PUBLIC`, or the name of a group that it is a member of.
    pub through: Option<String>,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.privilege, self.object)?;
        match &self.through {
            Some(through) => write!(f, " (through {through})"),
            None => Ok(()),
        }
    }
}

/// What a target gives, compared with what was declared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Comparison {
    /// Given and not declared.
    pub excess: Vec<Right>,
    /// Declared and not given.
    pub missing: Vec<Right>,
}

/// Compares. Rights count as the same wherever they come from.
pub fn compare(declared: &BTreeSet<Right>, given: &BTreeSet<Right>) -> Comparison {
    let plain = |right: &Right| (right.object.clone(), right.privilege.clone());
    let declared_keys: BTreeSet<_> = declared.iter().map(plain).collect();
    let given_keys: BTreeSet<_> = given.iter().map(plain).collect();
    let lacks = |keys: &BTreeSet<(String, String)>, right: &&Right| !keys.contains(&plain(right));
    Comparison {
        excess: given.iter().filter(|right| lacks(&declared_keys, right)).cloned().collect(),
        missing: declared.iter().filter(|right| lacks(&given_keys, right)).cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(object: &str, privilege: &str, through: Option<&str>) -> Right {
        let through = through.map(str::to_owned);
        Right { object: object.to_owned(), privilege: privilege.to_owned(), through }
    }

    #[test]
    fn what_is_given_beyond_the_declared_is_excess_and_what_lacks_is_missing() {
        let declared = BTreeSet::from([right("table t", "SELECT", None), right("table t", "INSERT", None)]);
        let given =
            BTreeSet::from([right("table t", "SELECT", Some("PUBLIC")), right("table u", "SELECT", None)]);
        let found = compare(&declared, &given);
        assert_eq!(found.excess, [right("table u", "SELECT", None)]);
        assert_eq!(found.missing, [right("table t", "INSERT", None)]);
        assert_eq!(compare(&BTreeSet::new(), &given).excess.len(), 2, "nothing declared is nothing allowed");
    }
}
