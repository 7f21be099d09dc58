//! From a policy document to checked statements, each with what the index has to know of it.
//!
//! Invariant: a statement exists only if it passed every check: plain characters, bounded size, Cedar's
//! grammar, strict validation against the schema, only known annotations, a scoped principal in a permit, and
//! canonical ids in every entity it names, so that no rule fails to bite because of a spelling.

use std::fmt::Display;

use cedar_policy::{
    ActionConstraint, Effect, EntityUid, Policy, PolicyId, PolicySet, PrincipalConstraint,
    ResourceConstraint, ValidationError, ValidationMode,
};
use miette::Diagnostic;

use crate::name::{GroupName, PolicyName};
use crate::path::{FolderPath, is_below};
use crate::principal::{PrincipalKind, PrincipalName};

use super::action::{Action, ActionSet};
use super::complexity::{self, MAX_DEPTH, MAX_OPERATORS};
use super::error::{PolicyError, PolicyProblem, Position, is_hidden, printable};
use super::resource::{Resource, ResourceKind};
use super::vocabulary::{Named, Reads, VOCABULARY};

/// The most bytes a policy document may have.
pub const MAX_POLICY_BYTES: usize = 64 * 1024;
/// The most statements a policy document may have.
pub const MAX_STATEMENTS: usize = 256;

/// What Cedar's parser and validator may use of the stack: several times what the most complex statement
/// needs.
const STACK: usize = 16 * 1024 * 1024;

const TWO_PERSON: &str = "two-person";

#[derive(Debug, Clone)]
pub(super) struct Statement {
    pub(super) id: String,
    pub(super) policy: Policy,
    pub(super) forbids: bool,
    pub(super) needs_approval: bool,
    pub(super) reads: Reads,
    pub(super) principal: PrincipalScope,
    pub(super) actions: ActionSet,
    pub(super) resource: ResourceScope,
    /// Whether it holds for all that its scopes hold for: it has no condition, and `resource` is as narrow as its own scope.
    pub(super) unconditional: bool,
}

/// Whom a statement can hold for. May be wider than the statement, never narrower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PrincipalScope {
    Any,
    Kind(PrincipalKind),
    One(PrincipalName),
    Group(GroupName),
}

/// What a statement can hold for. May be wider than the statement, never narrower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ResourceScope {
    Any,
    Kind(ResourceKind),
    One(Resource),
    Under(FolderPath),
}

impl ResourceScope {
    pub(super) fn may_hold(&self, resource: &Resource) -> bool {
        match self {
            Self::Any => true,
            Self::Kind(kind) => *kind == resource.kind(),
            Self::One(one) => one == resource,
            Self::Under(folder) => match resource {
                Resource::Secret(path) => is_below(folder.as_str(), path.as_str()),
                Resource::Folder(path) => path == folder || is_below(folder.as_str(), path.as_str()),
                _ => false,
            },
        }
    }
}

/// Whether warnings of the validator refuse a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strictness {
    /// A new document: a statement that can never hold is a mistake somebody can still correct.
    Written,
    /// A stored document: a newer validator must not lock a vault by warning of something new.
    Loaded,
}

/// Checks a document and takes it apart.
pub(super) fn compile(
    name: &PolicyName,
    text: &str,
    strictness: Strictness,
) -> Result<Vec<Statement>, PolicyError> {
    let document = Document { name, text };
    document.check_text()?;
    // Never on what the caller has left: Cedar's validator passes over what it finds no stack to check.
    stacker::grow(STACK, || {
        let set = document.parse()?;
        document.validate(&set, strictness)?;
        document.statements(&set)
    })
}

struct Document<'a> {
    name: &'a PolicyName,
    text: &'a str,
}

impl Document<'_> {
    fn refuse(&self, offset: Option<usize>, problem: PolicyProblem) -> PolicyError {
        let position = offset.map(|offset| Position::of_byte(self.text, offset));
        PolicyError { policy: self.name.clone(), position, problem }
    }

    fn check_text(&self) -> Result<(), PolicyError> {
        let length = self.text.len();
        if length > MAX_POLICY_BYTES {
            return Err(self.refuse(None, PolicyProblem::TooLong { length, limit: MAX_POLICY_BYTES }));
        }
        let unwanted = |c: char| is_hidden(c) && !matches!(c, '\n' | '\r' | '\t');
        match self.text.char_indices().find(|(_, c)| unwanted(*c)) {
            Some((offset, found)) => Err(self.refuse(Some(offset), PolicyProblem::Character { found })),
            None => self.check_complexity(),
        }
    }

    fn parse(&self) -> Result<PolicySet, PolicyError> {
        let set: PolicySet = self.text.parse().map_err(|errors: cedar_policy::ParseErrors| {
            let first = errors.iter().next();
            let (offset, message) = first.map_or((None, errors.to_string()), located);
            self.refuse(offset, PolicyProblem::Syntax { message: printable(&message) })
        })?;
        if let Some(template) = set.templates().next() {
            let offset = self.text.find(&template.to_string());
            return Err(self.refuse(offset, PolicyProblem::Template));
        }
        match set.num_of_policies() {
            0 => Err(self.refuse(None, PolicyProblem::Empty)),
            count if count > MAX_STATEMENTS => {
                Err(self.refuse(None, PolicyProblem::TooManyStatements { count, limit: MAX_STATEMENTS }))
            }
            _ => Ok(set),
        }
    }

    fn check_complexity(&self) -> Result<(), PolicyError> {
        let problem = PolicyProblem::TooComplex { depth: MAX_DEPTH, operators: MAX_OPERATORS };
        match complexity::first_excess(self.text) {
            Some(offset) => Err(self.refuse(Some(offset), problem)),
            None => Ok(()),
        }
    }

    fn validate(&self, set: &PolicySet, strictness: Strictness) -> Result<(), PolicyError> {
        let result = VOCABULARY.validator.validate(set, ValidationMode::Strict);
        let error = result.validation_errors().next().map(|error| {
            let told = match error {
                ValidationError::UnrecognizedActionId(unknown) => unknown_action(unknown),
                other => located(other),
            };
            (error.policy_id(), told)
        });
        let warning = || {
            let wanted = strictness == Strictness::Written;
            let mut warnings = result.validation_warnings().filter(move |_| wanted);
            warnings.next().map(|warning| (warning.policy_id(), located(warning)))
        };
        let Some((id, (offset, message))) = error.or_else(warning) else { return Ok(()) };
        let prefix = format!("for policy `{id}`, ");
        let message = printable(message.strip_prefix(&prefix).unwrap_or(&message));
        Err(self.refuse(offset, PolicyProblem::Invalid { message }))
    }

    fn statements(&self, set: &PolicySet) -> Result<Vec<Statement>, PolicyError> {
        let mut statements = Vec::with_capacity(set.num_of_policies());
        let mut from = 0;
        for index in 0..set.num_of_policies() {
            let Some(policy) = set.policy(&PolicyId::new(format!("policy{index}"))) else { continue };
            // Cedar numbers the statements in the document's order and keeps the text of each.
            let source = policy.to_string();
            let start = from + self.text.get(from..).and_then(|rest| rest.find(&source)).unwrap_or(0);
            from = start + source.len();
            statements.push(self.statement(index, start, &source, policy)?);
        }
        Ok(statements)
    }

    fn statement(
        &self,
        index: usize,
        start: usize,
        source: &str,
        policy: &Policy,
    ) -> Result<Statement, PolicyError> {
        for entity in policy.entity_literals() {
            if let Err(reason) = VOCABULARY.named(&entity) {
                let quoted = format!("\"{}\"", entity.id().unescaped());
                let offset = start + source.find(&quoted).unwrap_or(0);
                let entity = printable(&entity.to_string());
                return Err(self.refuse(Some(offset), PolicyProblem::Reference { entity, reason }));
            }
        }
        let forbids = policy.effect() == Effect::Forbid;
        let principal = principal_scope(&policy.principal_constraint());
        if !forbids && principal == PrincipalScope::Any {
            return Err(self.refuse(Some(start), PolicyProblem::UnscopedPermit));
        }
        let mut needs_approval = false;
        for (annotation, value) in policy.annotations() {
            match annotation {
                "id" | "description" => {}
                "approval" if value == TWO_PERSON && !forbids => needs_approval = true,
                _ => {
                    let annotation = printable(annotation);
                    return Err(self.refuse(Some(start), PolicyProblem::Annotation { annotation }));
                }
            }
        }
        let id = format!("{}#{index}", self.name);
        let constraint = policy.resource_constraint();
        let resource = resource_scope(&constraint);
        let as_narrow = resource != ResourceScope::Any || constraint == ResourceConstraint::Any;
        Ok(Statement {
            policy: policy.new_id(PolicyId::new(&id)),
            id,
            forbids,
            needs_approval,
            reads: Reads::of_source(source),
            principal,
            actions: action_scope(&policy.action_constraint()),
            resource,
            unconditional: as_narrow && !policy.has_non_scope_constraint(),
        })
    }
}

fn principal_scope(constraint: &PrincipalConstraint) -> PrincipalScope {
    let named = |entity: &EntityUid| match VOCABULARY.named(entity) {
        Ok(Named::Principal(name)) => PrincipalScope::One(name),
        Ok(Named::Group(name)) => PrincipalScope::Group(name),
        _ => PrincipalScope::Any,
    };
    match constraint {
        PrincipalConstraint::Any => PrincipalScope::Any,
        PrincipalConstraint::Eq(entity)
        | PrincipalConstraint::In(entity)
        | PrincipalConstraint::IsIn(_, entity) => named(entity),
        PrincipalConstraint::Is(entity_type) => {
            VOCABULARY.principal_kind_of(entity_type).map_or(PrincipalScope::Any, PrincipalScope::Kind)
        }
    }
}

fn action_scope(constraint: &ActionConstraint) -> ActionSet {
    match constraint {
        ActionConstraint::Any => ActionSet::ALL,
        ActionConstraint::Eq(entity) => ActionSet::EMPTY.named(entity.id().unescaped()),
        ActionConstraint::In(entities) => {
            entities.iter().fold(ActionSet::EMPTY, |set, entity| set.named(entity.id().unescaped()))
        }
    }
}

fn resource_scope(constraint: &ResourceConstraint) -> ResourceScope {
    let named = |entity: &EntityUid| VOCABULARY.named(entity).ok();
    match constraint {
        ResourceConstraint::Any => ResourceScope::Any,
        ResourceConstraint::Is(entity_type) => {
            VOCABULARY.kind_of(entity_type).map_or(ResourceScope::Any, ResourceScope::Kind)
        }
        ResourceConstraint::Eq(entity) => match named(entity) {
            Some(Named::Resource(resource)) => ResourceScope::One(resource),
            _ => ResourceScope::Any,
        },
        ResourceConstraint::In(entity) | ResourceConstraint::IsIn(_, entity) => match named(entity) {
            Some(Named::Resource(Resource::Folder(folder))) => ResourceScope::Under(folder),
            Some(Named::Resource(resource)) => ResourceScope::One(resource),
            _ => ResourceScope::Any,
        },
    }
}

/// As [`located`], with our hint: Cedar's may lead from a misspelled action to a whole group of them.
fn unknown_action(error: &(impl Diagnostic + Display)) -> (Option<usize>, String) {
    let (offset, _) = located(error);
    let message = error.to_string();
    let id = message.split_once("`Keystead::Action::\"").and_then(|(_, rest)| rest.split_once('"'));
    let hint = match id.map(|(id, _)| Action::parse(id)) {
        None => "an action is written Keystead::Action::\"secrets:read\"".to_owned(),
        Some(Ok(_)) => "no policy can grant it".to_owned(),
        Some(Err(unknown)) => unknown.hint(),
    };
    (offset, format!("{message} ({hint})"))
}

/// Where a diagnostic points, and what it says with its hint.
fn located<D: Diagnostic>(diagnostic: &D) -> (Option<usize>, String) {
    let offset = diagnostic.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
    let message = match diagnostic.help() {
        Some(help) => format!("{diagnostic} ({help})"),
        None => diagnostic.to_string(),
    };
    (offset, message)
}
