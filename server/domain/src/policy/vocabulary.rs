//! The built-in schema and the bridge between Keystead's names and Cedar's entities.
//!
//! Invariant: an entity's id is exactly the canonical text of a checked name, so equal names are equal
//! entities. Everything that does not change from request to request is parsed once.

use std::collections::HashSet;
use std::sync::LazyLock;

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression, Schema,
    Validator,
};

use crate::name::GroupName;
use crate::principal::{PrincipalKind, PrincipalName};
use crate::time::UnixMillis;

use super::action::Action;
use super::request::{AccessContext, AccessRequest};
use super::resource::{Resource, ResourceKind};

/// The schema every policy is validated against, in Cedar's schema language.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

pub(super) struct Vocabulary {
    pub(super) validator: Validator,
    service: EntityTypeName,
    operator: EntityTypeName,
    group: EntityTypeName,
    folder: EntityTypeName,
    method: EntityTypeName,
    resources: Vec<(ResourceKind, EntityTypeName)>,
    actions: Vec<Entity>,
}

pub(super) static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(Vocabulary::parse);

/// What an entity named in a policy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    Principal(PrincipalName),
    Group(GroupName),
    Resource(Resource),
    /// An action, a group of actions or a method: the validator knows them all.
    Checked,
}

/// Which circumstances a policy may read, because making Cedar's values of them costs more than a decision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reads {
    any: bool,
    now: bool,
    peer: bool,
}

impl Reads {
    /// Looks for the words: an identifier has only one spelling, and a string that might hide one has a
    /// backslash. A word found elsewhere costs a little time, no more.
    pub(super) fn of_source(source: &str) -> Self {
        let any = source.contains("context");
        let mentions = |word: &str| any && (source.contains(word) || source.contains('\\'));
        Self { any, now: mentions("now"), peer: mentions("peer") }
    }

    pub(super) const fn any(self) -> bool {
        self.any
    }

    pub(super) const fn or(self, other: Self) -> Self {
        Self { any: self.any || other.any, now: self.now || other.now, peer: self.peer || other.peer }
    }
}

/// Why a request can't be put to Cedar.
#[derive(Debug, thiserror::Error)]
#[error("the request can't be evaluated: {0}")]
pub(super) struct Unputtable(String);

impl Vocabulary {
    #[expect(clippy::expect_used, reason = "the schema is a constant of this crate, parsed by its own tests")]
    fn parse() -> Self {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).expect("the built-in schema is valid");
        let name = |short: &str| -> EntityTypeName {
            format!("Keystead::{short}").parse().expect("the built-in names are valid")
        };
        let known = schema.action_entities().expect("the built-in actions have no cycles");
        let action_type = name("Action");
        let actions = Action::ALL.iter().map(|action| {
            let uid = EntityUid::from_type_name_and_id(action_type.clone(), EntityId::new(action.as_str()));
            known.get(&uid).cloned().unwrap_or_else(|| Entity::with_uid(uid))
        });
        Self {
            service: name("Service"),
            operator: name("Operator"),
            group: name("Group"),
            folder: name("Folder"),
            method: name("Method"),
            resources: ResourceKind::ALL.map(|kind| (kind, name(kind.entity_type()))).into(),
            actions: actions.collect(),
            validator: Validator::new(schema),
        }
    }

    /// Puts a request into Cedar's terms, without the circumstances that no policy reads.
    pub(super) fn put(
        &self,
        request: &AccessRequest<'_>,
        reads: Reads,
    ) -> Result<(Request, Entities), Unputtable> {
        let principal = self.principal(request.principal, request.groups)?;
        let resource = self.resource(request.resource)?;
        let action = self.actions.get(request.action.index()).cloned();
        let action = action.ok_or_else(|| Unputtable(format!("{} has no entity", request.action)))?;
        let context = if reads.any { self.context(request.context, reads)? } else { Context::empty() };
        let put = Request::new(principal.uid(), action.uid(), resource.uid(), context, None)
            .map_err(|error| Unputtable(error.to_string()))?;
        let entities = Entities::from_entities([principal, action, resource], None)
            .map_err(|error| Unputtable(error.to_string()))?;
        Ok((put, entities))
    }

    /// The resource kind of an entity type, if it is one.
    pub(super) fn kind_of(&self, entity_type: &EntityTypeName) -> Option<ResourceKind> {
        self.resources.iter().find(|(_, known)| known == entity_type).map(|(kind, _)| *kind)
    }

    /// The principal kind of an entity type, if it is one.
    pub(super) fn principal_kind_of(&self, entity_type: &EntityTypeName) -> Option<PrincipalKind> {
        if *entity_type == self.service {
            Some(PrincipalKind::Service)
        } else if *entity_type == self.operator {
            Some(PrincipalKind::Operator)
        } else {
            None
        }
    }

    /// What an entity in a policy names. The error says why its id is not canonical.
    pub(super) fn named(&self, entity: &EntityUid) -> Result<Named, String> {
        let id = entity.id().unescaped();
        let entity_type = entity.type_name();
        if *entity_type == self.service {
            return PrincipalName::service(id).map(Named::Principal).map_err(|error| error.to_string());
        }
        if *entity_type == self.operator {
            return PrincipalName::operator(id).map(Named::Principal).map_err(|error| error.to_string());
        }
        if *entity_type == self.group {
            return GroupName::parse(id).map(Named::Group).map_err(|error| error.to_string());
        }
        match self.kind_of(entity_type) {
            Some(kind) => {
                Resource::from_entity(kind, id).map(Named::Resource).map_err(|error| error.to_string())
            }
            None => Ok(Named::Checked),
        }
    }

    fn principal(&self, name: &PrincipalName, groups: &[GroupName]) -> Result<Entity, Unputtable> {
        let entity_type = match name.kind() {
            PrincipalKind::Service => &self.service,
            PrincipalKind::Operator => &self.operator,
            PrincipalKind::System => {
                return Err(Unputtable("the vault's own jobs have no policies".to_owned()));
            }
        };
        let parents = groups.iter().map(|group| uid(&self.group, group.as_str()));
        Ok(Entity::new_no_attrs(uid(entity_type, name.name().as_str()), parents.collect()))
    }

    fn resource(&self, resource: &Resource) -> Result<Entity, Unputtable> {
        let found = self.resources.iter().find(|(kind, _)| *kind == resource.kind());
        let (_, entity_type) =
            found.ok_or_else(|| Unputtable(format!("{:?} has no entity type", resource.kind())))?;
        let folder = |path: &str| uid(&self.folder, path);
        // All folders above are named directly, so that none of them has to be an entity of its own.
        let parents: HashSet<EntityUid> = match resource {
            Resource::Secret(path) => path.ancestors().map(folder).collect(),
            Resource::Folder(path) => path.ancestors().map(folder).collect(),
            _ => HashSet::new(),
        };
        Ok(Entity::new_no_attrs(uid(entity_type, &resource.entity_id()), parents))
    }

    fn context(&self, context: &AccessContext, reads: Reads) -> Result<Context, Unputtable> {
        let method = uid(&self.method, context.method.as_str());
        let mut pairs = vec![("method".to_owned(), RestrictedExpression::new_entity_uid(method))];
        if reads.now {
            pairs.push(("now".to_owned(), RestrictedExpression::new_datetime(iso_8601(context.now))));
        }
        if let Some(peer) = context.peer.filter(|_| reads.peer) {
            let peer = peer.to_canonical().to_string();
            pairs.push(("peer".to_owned(), RestrictedExpression::new_ip(peer)));
        }
        if let Some(user) = &context.on_behalf_of {
            pairs.push(("on_behalf_of".to_owned(), RestrictedExpression::new_string(user.clone())));
        }
        if let Some(age) = context.mfa_age_secs {
            let age = i64::try_from(age).unwrap_or(i64::MAX);
            pairs.push(("mfa_age_secs".to_owned(), RestrictedExpression::new_long(age)));
        }
        Context::from_pairs(pairs).map_err(|error| Unputtable(error.to_string()))
    }
}

fn uid(entity_type: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(entity_type.clone(), EntityId::new(id))
}

/// `YYYY-MM-DDThh:mm:ss.sssZ`, as Cedar's `datetime` wants it; the year 9999 at most.
fn iso_8601(moment: UnixMillis) -> String {
    const LAST: u64 = 253_402_300_799_999;
    let millis = moment.0.min(LAST);
    let (days, in_day) = (millis / 86_400_000, millis % 86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, milli) = (in_day / 1_000 % 60, in_day % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Year, month and day of a count of days since 1970-01-01, by the 400-year cycle beginning on 0000-03-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn the_table_of_actions_and_the_schema_say_the_same() {
        let (schema, warnings) = Schema::from_cedarschema_str(SCHEMA).unwrap();
        assert_eq!(warnings.map(|w| w.to_string()).collect::<Vec<_>>(), Vec::<String>::new());
        let groups: HashSet<_> = schema.action_groups().map(|uid| uid.id().unescaped().to_owned()).collect();
        let known: HashSet<_> = schema
            .actions()
            .map(|uid| uid.id().unescaped().to_owned())
            .filter(|word| !groups.contains(word))
            .collect();
        let ours: HashSet<_> =
            Action::ALL.iter().filter(|a| a.is_for_policies()).map(|a| a.as_str().to_owned()).collect();
        assert_eq!(known, ours);
        for entity in &VOCABULARY.actions {
            let action = Action::parse(entity.uid().id().unescaped()).unwrap();
            if !action.is_for_policies() {
                continue;
            }
            let kinds: Vec<_> = schema.resources_for_action(&entity.uid()).unwrap().collect();
            assert!(kinds.len() == 1 || kinds.iter().all(|kind| *kind == kinds[0]), "{action}");
            assert_eq!(VOCABULARY.kind_of(kinds[0]), Some(action.resource_kind()), "{action}");
            let parents: Vec<_> = known_parents(&schema, &entity.uid());
            let group: Vec<_> = action.group().map(|group| group.as_str().to_owned()).into_iter().collect();
            assert_eq!(parents, group, "{action}");
            let principals: HashSet<_> =
                schema.principals_for_action(&entity.uid()).unwrap().map(ToString::to_string).collect();
            assert_eq!(principals, HashSet::from(["Keystead::Service".into(), "Keystead::Operator".into()]));
        }
    }

    fn known_parents(schema: &Schema, action: &EntityUid) -> Vec<String> {
        let entities = schema.action_entities().unwrap();
        entities.ancestors(action).unwrap().map(|uid| uid.id().unescaped().to_owned()).collect()
    }

    #[test]
    fn a_circumstance_that_might_be_read_is_there() {
        let all = Reads { any: true, now: true, peer: true };
        assert_eq!(Reads::of_source("permit (principal, action, resource);"), Reads::default());
        assert_eq!(Reads::of_source("when { context has peer }"), Reads { now: false, ..all });
        assert_eq!(Reads::of_source("when { context.now < x }"), Reads { peer: false, ..all });
        assert_eq!(Reads::of_source(r#"when { context["n\u{6f}w"] < x }"#), all);
        assert_eq!(Reads::of_source("now peer"), Reads::default());
    }

    #[test]
    fn every_kind_of_resource_is_in_the_schema() {
        for kind in ResourceKind::ALL {
            let name = EntityTypeName::from_str(&format!("Keystead::{}", kind.entity_type())).unwrap();
            assert!(VOCABULARY.validator.schema().entity_types().any(|known| *known == name), "{name}");
        }
    }

    #[test]
    fn moments_print_as_cedar_wants_them() {
        assert_eq!(iso_8601(UnixMillis(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso_8601(UnixMillis(951_782_400_000)), "2000-02-29T00:00:00.000Z");
        assert_eq!(iso_8601(UnixMillis(1_735_689_599_999)), "2024-12-31T23:59:59.999Z");
        assert_eq!(iso_8601(UnixMillis(1_709_208_061_007)), "2024-02-29T12:01:01.007Z");
        assert_eq!(iso_8601(UnixMillis(u64::MAX)), "9999-12-31T23:59:59.999Z");
    }
}
