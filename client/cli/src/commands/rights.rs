//! Rights as people and programs see them.

use keystead_client::v1::Right;
use serde_json::{Value, json};

/// Such as `SELECT on table "shop"."orders" (through PUBLIC)`.
pub(super) fn shown(right: &Right) -> String {
    let Right { object, privilege, through } = right;
    if through.is_empty() {
        format!("{privilege} on {object}")
    } else {
        format!("{privilege} on {object} (through {through})")
    }
}

/// All of them as JSON.
pub(super) fn as_json(rights: &[Right]) -> Vec<Value> {
    let one = |right: &Right| json!({ "object": right.object, "privilege": right.privilege, "through": right.through });
    rights.iter().map(one).collect()
}

/// A table of them, with what each is.
pub(super) fn rows(rights: &[Right], what: &str) -> Vec<Vec<String>> {
    let row = |right: &Right| {
        vec![what.to_owned(), right.privilege.clone(), right.object.clone(), right.through.clone()]
    };
    rights.iter().map(row).collect()
}
