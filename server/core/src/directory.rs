//! Paths to record ids. Names are hidden: an entry's key is parent ‖ HMAC(name key, parent ‖ segment), its value the
//! sealed {padded name, child id}. Invariant: an entry never changes once made, so an id found once stays right.

use bytes::Bytes;
use keystead_crypto::names::DirectoryEntry;
use keystead_domain::id::RecordId;
use keystead_domain::path::{FolderPath, SecretPath};
use keystead_storage::{Batch, Keyspace, Precondition, Range, Snapshot, keyspace};

use crate::error::VaultError;
use crate::keys::{Keys, corrupt, fresh_id};
use crate::unsealed::UnsealedVault;

/// One child of a folder.
pub(crate) struct Child {
    /// Its segment.
    pub(crate) name: String,
    /// Its id.
    pub(crate) id: RecordId,
}

/// The id behind a path, if every segment exists.
pub(crate) async fn find(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    path: &SecretPath,
) -> Result<Option<RecordId>, VaultError> {
    if let Some(id) = vault.path_ids.get(path) {
        return Ok(Some(id));
    }
    let found = walk(&vault.keys, snapshot, path.segments()).await?;
    if let Some(id) = found {
        vault.path_ids.insert(path.clone(), id);
    }
    Ok(found)
}

/// The id of a folder; the root always exists.
pub(crate) async fn find_folder(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    folder: &FolderPath,
) -> Result<Option<RecordId>, VaultError> {
    walk(&vault.keys, snapshot, folder.segments()).await
}

/// The id behind a path; entries that are missing are added to the batch, each demanded to be still absent.
pub(crate) async fn find_or_create(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    path: &SecretPath,
    batch: &mut Batch,
) -> Result<RecordId, VaultError> {
    if let Some(id) = vault.path_ids.get(path) {
        return Ok(id);
    }
    let keys = &vault.keys;
    let folder = path.parent();
    let above = folder.segments().count();
    let known = vault.folder_ids.get(&folder);
    let (mut parent, found) = known.map_or((RecordId::ROOT, 0), |id| (id, above));
    // Only what the store has already is kept: the batch may yet be refused.
    let mut stored = true;
    for (depth, segment) in path.segments().enumerate().skip(found) {
        if depth == above && stored && known.is_none() {
            vault.folder_ids.insert(folder.clone(), parent);
        }
        let key = keyspace::directory(&keys.names.entry_key(*parent.as_bytes(), segment));
        parent = match snapshot.get(Keyspace::Directory, &key).await? {
            Some(entry) => open_entry(keys, &key, &entry.value)?.id,
            None => {
                stored = false;
                let child = fresh_id();
                let entry = DirectoryEntry { name: segment.to_owned(), child: *child.as_bytes() };
                let plain = entry.encode().map_err(|_| corrupt(Keyspace::Directory, &key))?;
                let sealed = keys.seal_record(Keyspace::Directory, &key, plain.expose())?;
                batch.require(Keyspace::Directory, key.clone(), Precondition::Absent);
                batch.put(Keyspace::Directory, key, sealed);
                child
            }
        };
    }
    if stored {
        vault.path_ids.insert(path.clone(), parent);
    }
    Ok(parent)
}

/// Up to `limit` children of a folder after the entry key `after`, and the entry key to go on from.
pub(crate) async fn children(
    keys: &Keys,
    snapshot: &dyn Snapshot,
    folder: RecordId,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<(Vec<Child>, Option<Bytes>), VaultError> {
    let range = Range::prefix(keyspace::directory_prefix(folder.as_bytes()), after);
    let entries = snapshot.range(Keyspace::Directory, range, limit.saturating_add(1)).await?;
    let more = entries.len() > limit;
    let mut children = Vec::with_capacity(entries.len().min(limit));
    let mut last = None;
    for (key, entry) in entries.into_iter().take(limit) {
        children.push(open_entry(keys, &key, &entry.value)?);
        last = Some(key);
    }
    Ok((children, if more { last } else { None }))
}

async fn walk<'a>(
    keys: &Keys,
    snapshot: &dyn Snapshot,
    segments: impl Iterator<Item = &'a str>,
) -> Result<Option<RecordId>, VaultError> {
    let mut parent = RecordId::ROOT;
    for segment in segments {
        let key = keyspace::directory(&keys.names.entry_key(*parent.as_bytes(), segment));
        match snapshot.get(Keyspace::Directory, &key).await? {
            Some(entry) => parent = open_entry(keys, &key, &entry.value)?.id,
            None => return Ok(None),
        }
    }
    Ok(Some(parent))
}

fn open_entry(keys: &Keys, key: &[u8], stored: &[u8]) -> Result<Child, VaultError> {
    let plain = keys.open_record(Keyspace::Directory, key, stored)?;
    let entry = DirectoryEntry::decode(plain.expose()).map_err(|_| corrupt(Keyspace::Directory, key))?;
    Ok(Child { name: entry.name, id: RecordId(entry.child) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotation::RotationOptions;
    use crate::testing::Bench;

    async fn create(bench: &Bench, path: &str) -> (RecordId, Batch) {
        let vault = bench.opened();
        let snapshot = vault.storage.snapshot().await.unwrap();
        let mut batch = Batch::new();
        let path = SecretPath::parse(path).unwrap();
        let id = find_or_create(&vault, snapshot.as_ref(), &path, &mut batch).await.unwrap();
        (id, batch)
    }

    #[tokio::test]
    async fn an_entry_of_a_batch_that_went_nowhere_is_not_kept_as_made() {
        let bench = Bench::open(&["one"], RotationOptions::default()).await;
        let (first, refused) = create(&bench, "a/b/c").await;
        assert_eq!(refused.requirements().len(), 3);
        let (second, batch) = create(&bench, "a/b/c").await;
        assert_eq!(batch.requirements().len(), 3, "nothing of it is there");
        assert_ne!(first, second);

        bench.put("a/b/c").await.unwrap();
        let (id, batch) = create(&bench, "a/b/c").await;
        assert!(batch.operations().is_empty());
        let (again, batch) = create(&bench, "a/b/c").await;
        assert_eq!((again, batch.operations().len()), (id, 0), "now from what is kept");
        let (sibling, batch) = create(&bench, "a/b/d").await;
        assert_eq!(batch.operations().len(), 1, "the folder is there");
        assert_ne!(sibling, id);
        assert!(bench.reads("a/b/c").await.unwrap());
    }
}
