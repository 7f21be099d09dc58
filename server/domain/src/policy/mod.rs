//! Who may do what: Cedar policies, compiled once, asked at every request.
//!
//! Invariant: the default is no; a `forbid` wins over every permit; a `forbid` that fails while it is
//! evaluated denies (Cedar alone would skip it); a permit that fails grants nothing and is reported. A permit
//! with `@approval("two-person")` only ever yields [`Verdict::NeedsApproval`]. Storing policies, and choosing
//! when a new set takes the place of the old, are absent: a [`Policies`] never changes, so its answers can be
//! kept for as long as it lives.

mod action;
mod cache;
mod complexity;
mod error;
mod evaluate;
mod index;
mod request;
mod resource;
mod statement;
mod vocabulary;

pub use action::{Action, ActionGroup, UnknownAction};
pub use complexity::{MAX_DEPTH, MAX_OPERATORS};
pub use error::{PolicyError, PolicyProblem, Position};
pub use request::{
    AccessContext, AccessRequest, Decision, Explanation, Method, Outcome, StatementOutcome, Verdict,
};
pub use resource::{Resource, ResourceError, ResourceKind};
pub use statement::{MAX_POLICY_BYTES, MAX_STATEMENTS};
pub use vocabulary::SCHEMA;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::name::{GroupName, PolicyName};
use crate::principal::{PrincipalKind, PrincipalName};

use cache::Cache;
use evaluate::Slice;
use index::Index;
use statement::Strictness;

/// A compiled set of policies.
pub struct Policies {
    index: Index,
    hasher: RandomState,
    slices: Cache<Vec<usize>, Arc<Slice>>,
    decisions: Cache<Question<Resource>, Decision>,
    /// Those that are the same for all resources for which the same statements are selected.
    decisions_alike: Cache<Question<Vec<usize>>, Decision>,
}

/// What a decision that reads no circumstances depends on.
struct Question<About> {
    principal: PrincipalName,
    groups: Box<[GroupName]>,
    action: Action,
    about: About,
}

impl<About: PartialEq> Question<About> {
    fn of(request: &AccessRequest<'_>, about: About) -> Self {
        let AccessRequest { principal, groups, action, .. } = request;
        Self { principal: (*principal).clone(), groups: (*groups).into(), action: *action, about }
    }

    fn is(&self, request: &AccessRequest<'_>, about: &About) -> bool {
        self.action == request.action
            && self.about == *about
            && self.principal == *request.principal
            && *self.groups == *request.groups
    }
}

impl Policies {
    /// Compiles all policies of a tenant. One bad document refuses the whole set: leaving it out could leave
    /// out a `forbid`.
    pub fn compile(documents: Vec<(PolicyName, String)>) -> Result<Self, PolicyError> {
        let mut index = Index::default();
        let mut seen = std::collections::HashSet::new();
        for (name, text) in &documents {
            if !seen.insert(name) {
                let problem = PolicyProblem::Duplicate;
                return Err(PolicyError { policy: name.clone(), position: None, problem });
            }
            for statement in statement::compile(name, text, Strictness::Loaded)? {
                index.add(statement);
            }
        }
        Ok(Self {
            index,
            hasher: RandomState::new(),
            slices: Cache::default(),
            decisions: Cache::default(),
            decisions_alike: Cache::default(),
        })
    }

    /// Checks a document before it is stored. Stricter than [`Policies::compile`]: what can never hold, or
    /// looks like something else, is refused too.
    pub fn validate_one(name: &PolicyName, text: &str) -> Result<(), PolicyError> {
        statement::compile(name, text, Strictness::Written).map(drop)
    }

    /// How many statements there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none, so that everything is denied.
    pub fn is_empty(&self) -> bool {
        self.index.len() == 0
    }

    /// Answers a request.
    pub fn decide(&self, request: &AccessRequest<'_>) -> Decision {
        if let Some(refusal) = unanswerable(request) {
            return refusal;
        }
        let hash =
            self.hasher.hash_one((request.principal, request.groups, request.action, request.resource));
        if let Some(known) = self.decisions.find(hash, |question| question.is(request, request.resource)) {
            return known;
        }
        let decision = self.decide_by_statements(request);
        if decision.cacheable {
            self.decisions.insert(hash, Question::of(request, request.resource.clone()), decision.clone());
        }
        decision
    }

    fn decide_by_statements(&self, request: &AccessRequest<'_>) -> Decision {
        let positions = self.index.select(request);
        if positions.is_empty() {
            return Decision::nothing_permits();
        }
        let slice = self.slice(&positions);
        if !slice.is_alike() {
            return slice.decide(request);
        }
        let hash = self.hasher.hash_one((request.principal, request.groups, request.action, &positions));
        if let Some(known) = self.decisions_alike.find(hash, |question| question.is(request, &positions)) {
            return known;
        }
        let decision = slice.decide(request);
        if decision.cacheable {
            self.decisions_alike.insert(hash, Question::of(request, positions), decision.clone());
        }
        decision
    }

    /// The statements that can hold for a request and have conditions on how, when or from where it comes: made otherwise, the
    /// same request may get another answer.
    pub fn circumstantial(&self, request: &AccessRequest<'_>) -> Vec<String> {
        let selected = self.index.select(request);
        let statements = selected.into_iter().filter_map(|position| self.index.statement(position));
        statements.filter(|statement| statement.reads.any()).map(|statement| statement.id.clone()).collect()
    }

    /// Answers a request and says what each statement contributed.
    pub fn explain(&self, request: &AccessRequest<'_>) -> Explanation {
        let decision = self.decide(request);
        let about = self.index.about(request.principal, request.groups);
        let statements = about.into_iter().filter_map(|position| self.index.statement(position));
        let statements = statements.map(|statement| evaluate::outcome(statement, request)).collect();
        Explanation { decision, statements }
    }

    /// These statements, ready to be evaluated.
    fn slice(&self, positions: &Vec<usize>) -> Arc<Slice> {
        let hash = self.hasher.hash_one(positions);
        if let Some(slice) = self.slices.find(hash, |known| known == positions) {
            return slice;
        }
        let statements = positions.iter().filter_map(|position| self.index.statement(*position));
        let slice = Arc::new(Slice::new(statements));
        self.slices.insert(hash, positions.clone(), Arc::clone(&slice));
        slice
    }
}

/// The answer to what no policy speaks about.
fn unanswerable(request: &AccessRequest<'_>) -> Option<Decision> {
    let AccessRequest { principal, action, resource, .. } = request;
    if principal.kind() == PrincipalKind::System {
        return Some(Decision::impossible(format!("{principal} acts under no policy")));
    }
    if !action.is_for_policies() {
        return Some(Decision::impossible(format!("no policy can grant {action}")));
    }
    if action.resource_kind() != resource.kind() {
        return Some(Decision::impossible(format!("{action} can't be done to {resource}")));
    }
    None
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policies").field("statements", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
