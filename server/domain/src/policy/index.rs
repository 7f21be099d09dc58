//! Finds the few statements that can hold for a request, because Cedar's authorizer looks at all it is given.
//!
//! Invariant: a statement is left out only if its scope can't hold for the request. What is selected may
//! still not hold: deciding that is Cedar's, not this index's.

use std::collections::HashMap;

use crate::name::GroupName;
use crate::principal::{PrincipalKind, PrincipalName};

use super::request::AccessRequest;
use super::statement::{PrincipalScope, Statement};

#[derive(Default)]
pub(super) struct Index {
    statements: Vec<Statement>,
    of_everybody: Vec<usize>,
    of_kind: HashMap<PrincipalKind, Vec<usize>>,
    of_group: HashMap<GroupName, Vec<usize>>,
    of_one: HashMap<PrincipalName, Vec<usize>>,
}

impl Index {
    pub(super) fn add(&mut self, statement: Statement) {
        let positions = match &statement.principal {
            PrincipalScope::Any => &mut self.of_everybody,
            PrincipalScope::Kind(kind) => self.of_kind.entry(*kind).or_default(),
            PrincipalScope::Group(group) => self.of_group.entry(group.clone()).or_default(),
            PrincipalScope::One(name) => self.of_one.entry(name.clone()).or_default(),
        };
        positions.push(self.statements.len());
        self.statements.push(statement);
    }

    pub(super) fn len(&self) -> usize {
        self.statements.len()
    }

    pub(super) fn statement(&self, position: usize) -> Option<&Statement> {
        self.statements.get(position)
    }

    /// The statements whose scope names the principal, one of its groups, its kind or everybody; ascending.
    pub(super) fn about(&self, principal: &PrincipalName, groups: &[GroupName]) -> Vec<usize> {
        let mut found: Vec<usize> = self.candidates(principal, groups).copied().collect();
        in_order(&mut found);
        found
    }

    /// Those of them that can hold for the action and the resource too; ascending.
    pub(super) fn select(&self, request: &AccessRequest<'_>) -> Vec<usize> {
        let can_hold = |position: &&usize| {
            self.statement(**position).is_some_and(|statement| {
                statement.actions.contains(request.action) && statement.resource.may_hold(request.resource)
            })
        };
        let candidates = self.candidates(request.principal, request.groups);
        let mut found: Vec<usize> = candidates.filter(can_hold).copied().collect();
        in_order(&mut found);
        found
    }

    fn candidates(&self, principal: &PrincipalName, groups: &[GroupName]) -> impl Iterator<Item = &usize> {
        let of_groups = groups.iter().filter_map(|group| self.of_group.get(group));
        self.of_everybody
            .iter()
            .chain(self.of_kind.get(&principal.kind()).into_iter().flatten())
            .chain(self.of_one.get(principal).into_iter().flatten())
            .chain(of_groups.flatten())
    }
}

fn in_order(positions: &mut Vec<usize>) {
    positions.sort_unstable();
    // A group listed twice must not make a statement count twice.
    positions.dedup();
}
