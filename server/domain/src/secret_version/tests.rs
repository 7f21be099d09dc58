//! Tests of the versions of a secret: each legal move, each refused one, and random walks over all of them.
//! A forged stored record is one of the cases.

use proptest::prelude::*;

use super::*;

const NOW: UnixMillis = UnixMillis(1_000);

fn meta(version: u64) -> VersionMeta {
    VersionMeta {
        version,
        state: VersionState::Active,
        created: NOW,
        created_by: PrincipalName::operator("ada").unwrap(),
        size: 3,
        data_key: RecordId([version.to_le_bytes()[0]; 16]),
        master_version: 1,
    }
}

fn with_versions(count: u64) -> SecretMeta {
    let mut secret = SecretMeta::new();
    for version in 1..=count {
        secret.push(meta(version)).unwrap();
    }
    secret
}

fn numbers(changed: &[VersionMeta]) -> Vec<u64> {
    changed.iter().map(|meta| meta.version).collect()
}

#[test]
fn a_write_that_expected_another_version_is_refused() {
    let secret = with_versions(2);
    assert_eq!(secret.next(None), Ok(3));
    assert_eq!(secret.next(Some(2)), Ok(3));
    assert_eq!(secret.next(Some(0)), Err(VersionError::Conflict { expected: 0, current: 2 }));
    assert_eq!(secret.next(Some(3)), Err(VersionError::Conflict { expected: 3, current: 2 }));
    assert_eq!(SecretMeta::new().next(Some(0)), Ok(1));
    let mut secret = secret;
    assert_eq!(secret.push(meta(2)), Err(VersionError::OutOfOrder { current: 2, found: 2 }));
}

#[test]
fn reading_the_current_version_never_falls_back_to_a_replaced_one() {
    let mut secret = with_versions(3);
    secret.delete(&[3], NOW).unwrap();
    assert_eq!(secret.select(None), Err(VersionError::Deleted { version: 3 }));
    assert_eq!(secret.select(Some(2)).unwrap().version, 2);
    assert_eq!(secret.latest_active().unwrap().version, 2);
    assert_eq!(secret.select(Some(9)), Err(VersionError::NoSuchVersion { version: 9 }));
    assert_eq!(SecretMeta::new().select(None), Err(VersionError::NoSuchVersion { version: 0 }));
}

#[test]
fn changes_are_all_or_nothing_and_name_what_changed() {
    let mut secret = with_versions(3);
    assert_eq!(secret.delete(&[], NOW), Err(VersionError::NoneNamed));
    assert_eq!(secret.delete(&[1, 7], NOW), Err(VersionError::NoSuchVersion { version: 7 }));
    assert_eq!(secret, with_versions(3));
    assert_eq!(numbers(&secret.delete(&[2, 1, 2], NOW).unwrap()), [1, 2]);
    assert_eq!(numbers(&secret.delete(&[1, 3], NOW).unwrap()), [3]);
    assert_eq!(numbers(&secret.undelete(&[1]).unwrap()), [1]);
    assert_eq!(numbers(&secret.destroy(&[1, 2], NOW).unwrap()), [1, 2]);
    assert_eq!(secret.destroy(&[1], NOW).unwrap(), []);
    let before = secret.clone();
    assert_eq!(secret.undelete(&[3, 2]), Err(VersionError::Destroyed { version: 2 }));
    assert_eq!(secret, before);
    assert_eq!(secret.select(Some(1)), Err(VersionError::Destroyed { version: 1 }));
}

#[test]
fn a_full_record_takes_a_version_only_for_a_destroyed_one() {
    let mut secret = with_versions(1_000);
    assert_eq!(secret.next(None), Err(VersionError::TooManyVersions { oldest: 1 }));
    assert_eq!(secret.push(meta(1_001)), Err(VersionError::TooManyVersions { oldest: 1 }));
    secret.destroy(&[1], NOW).unwrap();
    secret.push(meta(1_001)).unwrap();
    assert_eq!((secret.versions().len(), secret.current()), (1_000, 1_001));
    assert_eq!(secret.select(Some(1)), Err(VersionError::NoSuchVersion { version: 1 }));
    assert!(matches!(secret.next(None), Err(VersionError::TooManyVersions { oldest: 2 })));
}

#[test]
fn a_forged_record_is_refused() {
    let stored = |current, versions: Vec<VersionMeta>| {
        let bytes = postcard::to_stdvec(&StoredMeta { current, versions }).unwrap();
        postcard::from_bytes::<SecretMeta>(&bytes)
    };
    assert!(stored(0, vec![]).is_ok());
    assert!(stored(2, vec![meta(1), meta(2)]).is_ok());
    assert!(stored(2, vec![meta(2)]).is_ok());
    assert!(stored(1, vec![]).is_err());
    assert!(stored(2, vec![meta(1)]).is_err());
    assert!(stored(3, vec![meta(1), meta(3)]).is_err());
    assert!(stored(1, vec![meta(1), meta(2)]).is_err());
    assert!(stored(0, vec![meta(0)]).is_err());
}

#[test]
fn the_last_number_is_not_used_twice() {
    let last =
        SecretMeta::try_from(StoredMeta { current: u64::MAX, versions: vec![meta(u64::MAX)] }).unwrap();
    assert_eq!(last.next(None), Err(VersionError::Exhausted));
}

#[derive(Debug, Clone)]
enum Move {
    Push,
    Delete(Vec<u64>),
    Undelete(Vec<u64>),
    Destroy(Vec<u64>),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let some = || prop::collection::vec(1u64..8, 0..3);
    let one = prop_oneof![
        3 => Just(Move::Push),
        1 => some().prop_map(Move::Delete),
        1 => some().prop_map(Move::Undelete),
        1 => some().prop_map(Move::Destroy),
    ];
    prop::collection::vec(one, 0..40)
}

proptest! {
    #[test]
    fn destroyed_stays_destroyed_and_records_round_trip(moves in moves()) {
        let mut secret = SecretMeta::new();
        for step in moves {
            let before = secret.clone();
            let outcome = match step {
                Move::Push => { let next = secret.next(None).unwrap(); secret.push(meta(next)).map(|()| vec![]) }
                Move::Delete(versions) => secret.delete(&versions, NOW),
                Move::Undelete(versions) => secret.undelete(&versions),
                Move::Destroy(versions) => secret.destroy(&versions, NOW),
            };
            match outcome {
                Err(_) => prop_assert_eq!(&secret, &before),
                Ok(changed) => for now in &changed {
                    prop_assert_eq!(secret.version(now.version), Some(now));
                    prop_assert!(before.version(now.version).unwrap().state != now.state);
                },
            }
            for gone in before.versions().iter().filter(|v| matches!(v.state, VersionState::Destroyed { .. })) {
                prop_assert_eq!(secret.version(gone.version), Some(gone));
            }
            let stored = postcard::to_stdvec(&secret).unwrap();
            prop_assert_eq!(&postcard::from_bytes::<SecretMeta>(&stored).unwrap(), &secret);
        }
    }
}
