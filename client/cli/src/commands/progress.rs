//! A ceremony in words: what it is for, what whoever enters a share approves, how far it is.
//!
//! Invariant: every parameter is shown, those that this program does not know by their names.

use keystead_client::v1::{CeremonyParameter, CeremonyProgress, CeremonyPurpose};
use serde_json::{Value, json};

use super::timestamp;
use crate::output::escaped;

/// What a ceremony is for, as something that a quorum does.
pub(super) fn purpose(purpose: CeremonyPurpose) -> &'static str {
    match purpose {
        CeremonyPurpose::Unspecified => "something that this program does not know",
        CeremonyPurpose::Unseal => "open the vault",
        CeremonyPurpose::Rekey => "make new shares",
        CeremonyPurpose::ConfirmRekey => "confirm the new shares, which ends the old ones",
        CeremonyPurpose::ChangePin => "change the PIN of the HSM token",
        CeremonyPurpose::EnableAutoUnseal => "let the vault open by itself, without shares",
        CeremonyPurpose::DisableAutoUnseal => "let the vault open with shares only",
        CeremonyPurpose::RecoverRoot => "make a new administrator",
        CeremonyPurpose::AddToken => "have a further HSM token open the vault's data",
        CeremonyPurpose::AddRecovery => "have a key that is kept offline open the vault's data",
    }
}

/// The same for programs.
pub(super) fn purpose_word(purpose: CeremonyPurpose) -> &'static str {
    match purpose {
        CeremonyPurpose::Unspecified => "unknown",
        CeremonyPurpose::Unseal => "unseal",
        CeremonyPurpose::Rekey => "rekey",
        CeremonyPurpose::ConfirmRekey => "confirm_rekey",
        CeremonyPurpose::ChangePin => "change_pin",
        CeremonyPurpose::EnableAutoUnseal => "enable_auto_unseal",
        CeremonyPurpose::DisableAutoUnseal => "disable_auto_unseal",
        CeremonyPurpose::RecoverRoot => "recover_root",
        CeremonyPurpose::AddToken => "add_token",
        CeremonyPurpose::AddRecovery => "add_recovery",
    }
}

/// How far a ceremony is, in a line.
pub(super) fn line(progress: &CeremonyProgress) -> String {
    let (number, which) = entered(progress);
    let needed = progress.threshold;
    let (until, id) = (until(progress), &progress.ceremony_id);
    format!("{number} of {needed} shares entered{which}, until {until}; ceremony {id}")
}

/// All that there is to say about it, one thing a line.
pub(super) fn facts(progress: &CeremonyProgress) -> Vec<(String, String)> {
    let mut facts = vec![
        ("Ceremony".to_owned(), progress.ceremony_id.clone()),
        ("For".to_owned(), purpose(progress.purpose()).to_owned()),
    ];
    facts.extend(parameters(progress));
    let (number, which) = entered(progress);
    facts.push(("Shares entered".to_owned(), format!("{number} of {}{which}", progress.threshold)));
    facts.push(("Until".to_owned(), until(progress)));
    facts
}

/// What whoever enters a share approves.
pub(super) fn parameters(progress: &CeremonyProgress) -> Vec<(String, String)> {
    let mut recipients = 0_u32;
    let mut shown = Vec::new();
    for CeremonyParameter { name, value } in &progress.parameters {
        let name = match (name.as_str(), value.as_str()) {
            ("new_q", "false") => continue,
            ("new_q", "true") => {
                shown.push(("Q".to_owned(), "is replaced, and every data key sealed anew".to_owned()));
                continue;
            }
            ("shares", _) => "New shares".to_owned(),
            ("threshold", _) => "Needed of them".to_owned(),
            ("recipient", _) if progress.purpose() == CeremonyPurpose::AddRecovery => {
                "Recovery key".to_owned()
            }
            ("recipient", _) => {
                recipients = recipients.saturating_add(1);
                format!("Share {recipients} for")
            }
            ("token", _) => "Token".to_owned(),
            ("epoch", _) => "New share epoch".to_owned(),
            _ => escaped(name),
        };
        shown.push((name, value.clone()));
    }
    shown
}

/// The value of a parameter.
pub(super) fn parameter<'a>(progress: &'a CeremonyProgress, name: &str) -> Option<&'a str> {
    let named = progress.parameters.iter().find(|parameter| parameter.name == name);
    named.map(|parameter| parameter.value.as_str())
}

/// How many shares were entered, and which.
fn entered(progress: &CeremonyProgress) -> (usize, String) {
    let numbers: Vec<_> = progress.entered.iter().map(u32::to_string).collect();
    let which = if numbers.is_empty() { String::new() } else { format!(" (number {})", numbers.join(", ")) };
    (numbers.len(), which)
}

fn until(progress: &CeremonyProgress) -> String {
    timestamp(progress.expire_time.as_ref())
}

pub(super) fn as_json(progress: &CeremonyProgress) -> Value {
    let parameter = |one: &CeremonyParameter| json!({ "name": one.name, "value": one.value });
    json!({
        "ceremony_id": progress.ceremony_id,
        "purpose": purpose_word(progress.purpose()),
        "parameters": progress.parameters.iter().map(parameter).collect::<Vec<_>>(),
        "threshold": progress.threshold,
        "entered": progress.entered,
        "expire_time": until(progress),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rekey(parameters: &[(&str, &str)]) -> CeremonyProgress {
        ceremony(CeremonyPurpose::Rekey, parameters)
    }

    fn ceremony(purpose: CeremonyPurpose, parameters: &[(&str, &str)]) -> CeremonyProgress {
        let parameter = |(name, value): &(&str, &str)| CeremonyParameter {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        };
        CeremonyProgress {
            ceremony_id: "c0".to_owned(),
            threshold: 2,
            purpose: purpose.into(),
            parameters: parameters.iter().map(parameter).collect(),
            ..CeremonyProgress::default()
        }
    }

    #[test]
    fn every_parameter_is_shown() {
        let given = [
            ("shares", "2"),
            ("threshold", "2"),
            ("new_q", "false"),
            ("recipient", "age1a"),
            ("recipient", "age1b"),
            ("later\u{1b}", "x"),
        ];
        let shown = parameters(&rekey(&given));
        let expected = [
            ("New shares", "2"),
            ("Needed of them", "2"),
            ("Share 1 for", "age1a"),
            ("Share 2 for", "age1b"),
            ("later\\u{1b}", "x"),
        ];
        assert_eq!(shown, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(parameters(&rekey(&[("new_q", "true")])).len(), 1);
        assert_eq!(parameters(&rekey(&[("new_q", "perhaps")])).len(), 1);
    }

    #[test]
    fn the_recipient_of_a_recovery_key_is_not_shown_as_that_of_a_share() {
        let shown = parameters(&ceremony(CeremonyPurpose::AddRecovery, &[("recipient", "age1a")]));
        assert_eq!(shown, [("Recovery key".to_owned(), "age1a".to_owned())]);
    }

    #[test]
    fn progress_names_the_shares_that_came() {
        let mut progress = rekey(&[]);
        assert_eq!(line(&progress), "0 of 2 shares entered, until ; ceremony c0");
        progress.entered = vec![1, 3];
        assert!(line(&progress).starts_with("2 of 2 shares entered (number 1, 3), until"));
    }
}
