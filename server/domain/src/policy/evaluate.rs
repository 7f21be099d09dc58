//! Puts a request to Cedar and reads its answer by Keystead's rules.
//!
//! Invariant: the order of the rules below is the policy of the vault: a forbid that failed, a forbid that
//! holds, a permit, a permit that needs a second person, nothing.

use cedar_policy::{AuthorizationError, Authorizer, Decision as Answer, PolicyId, PolicySet, Response};

use super::error::printable;
use super::request::{AccessRequest, Decision, Outcome, StatementOutcome, Verdict};
use super::statement::Statement;
use super::vocabulary::{Reads, VOCABULARY};

/// A few statements, ready to be evaluated together.
pub(super) struct Slice {
    set: PolicySet,
    reads: Reads,
    roles: Vec<Role>,
    complete: bool,
    alike: bool,
}

/// What a statement means for the verdict.
struct Role {
    id: String,
    forbids: bool,
    needs_approval: bool,
}

impl Slice {
    pub(super) fn new<'a>(statements: impl Iterator<Item = &'a Statement>) -> Self {
        let mut slice = Self {
            set: PolicySet::new(),
            reads: Reads::default(),
            roles: Vec::new(),
            complete: true,
            alike: true,
        };
        for Statement { id, policy, forbids, needs_approval, reads, unconditional, .. } in statements {
            slice.alike &= unconditional;
            // Ids are unique, so this succeeds. If it ever did not, the missing statement could be a forbid.
            slice.complete &= slice.set.add(policy.clone()).is_ok();
            slice.reads = slice.reads.or(*reads);
            slice.roles.push(Role { id: id.clone(), forbids: *forbids, needs_approval: *needs_approval });
        }
        slice
    }

    /// Whether the answer is the same for every resource for which just these statements are selected.
    pub(super) fn is_alike(&self) -> bool {
        self.alike
    }

    pub(super) fn decide(&self, request: &AccessRequest<'_>) -> Decision {
        if !self.complete {
            return Decision::impossible("the statements can't be evaluated together".to_owned());
        }
        let (put, entities) = match VOCABULARY.put(request, self.reads) {
            Ok(put) => put,
            Err(error) => return Decision { cacheable: false, ..Decision::impossible(error.to_string()) },
        };
        let response = Authorizer::new().is_authorized(&put, &self.set, &entities);
        let (verdict, mut determining) = self.verdict(&response);
        determining.sort_unstable();
        let errors = response.diagnostics().errors().map(shown).collect();
        Decision { verdict, determining, errors, cacheable: !self.reads.any() }
    }

    fn verdict(&self, response: &Response) -> (Verdict, Vec<String>) {
        let reasons = || response.diagnostics().reason().map(ToString::to_string);
        let failed_forbids: Vec<String> = response
            .diagnostics()
            .errors()
            .map(|AuthorizationError::PolicyEvaluationError(error)| error.policy_id().to_string())
            .filter(|id| self.role(id).is_none_or(|role| role.forbids))
            .collect();
        match response.decision() {
            Answer::Deny => (Verdict::Deny, reasons().chain(failed_forbids).collect()),
            Answer::Allow if !failed_forbids.is_empty() => (Verdict::Deny, failed_forbids),
            Answer::Allow => {
                let plain = |id: &String| self.role(id).is_some_and(|role| !role.needs_approval);
                let permits: Vec<String> = reasons().filter(plain).collect();
                if permits.is_empty() {
                    (Verdict::NeedsApproval, reasons().collect())
                } else {
                    (Verdict::Allow, permits)
                }
            }
        }
    }

    fn role(&self, id: &str) -> Option<&Role> {
        self.roles.iter().find(|role| role.id == id)
    }
}

fn shown(AuthorizationError::PolicyEvaluationError(error): &AuthorizationError) -> String {
    let id: &PolicyId = error.policy_id();
    printable(&format!("{id}: {}", error.inner()))
}

/// What one statement says to a request, by itself.
pub(super) fn outcome(statement: &Statement, request: &AccessRequest<'_>) -> StatementOutcome {
    let in_scope =
        statement.actions.contains(request.action) && statement.resource.may_hold(request.resource);
    let outcome = if in_scope { evaluated(statement, request) } else { Outcome::OutOfScope };
    let Statement { id, forbids, needs_approval, .. } = statement;
    StatementOutcome { id: id.clone(), forbids: *forbids, needs_approval: *needs_approval, outcome }
}

fn evaluated(statement: &Statement, request: &AccessRequest<'_>) -> Outcome {
    let slice = Slice::new(std::iter::once(statement));
    let (put, entities) = match VOCABULARY.put(request, slice.reads) {
        Ok(put) => put,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    let response = Authorizer::new().is_authorized(&put, &slice.set, &entities);
    if let Some(error) = response.diagnostics().errors().next() {
        return Outcome::Failed(shown(error));
    }
    // Cedar names a statement as a reason exactly when it holds and decides, and here it is alone.
    if response.diagnostics().reason().next().is_some() { Outcome::Satisfied } else { Outcome::NotSatisfied }
}
