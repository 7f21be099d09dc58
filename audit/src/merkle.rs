//! The Merkle tree over the log's entries, as RFC 9162 section 2.1 defines it, with SHA-256.
//!
//! Invariant: a leaf hash covers exactly the stored bytes of an entry, so a root can be recomputed without keys.
//! Only the right edge of the tree is kept (one hash for each set bit of its size); appending costs at most
//! `log2(size)` hashes. Absent: inclusion and consistency proofs, tiles and signed checkpoints.

use sha2::{Digest, Sha256};

/// A SHA-256 hash of a leaf, a node or a whole tree.
pub type Hash = [u8; 32];

/// The leaf hash of an entry's stored bytes: SHA-256 of 0x00 and the bytes.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0x00]);
    hasher.update(entry);
    hasher.finalize().into()
}

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0x01]);
    hasher.update(left);
    hasher.update(right);
    hasher.finalize().into()
}

/// The right edge of a tree: the roots of its full subtrees, largest first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TreeEdge {
    size: u64,
    roots: Vec<Hash>,
}

impl Clone for TreeEdge {
    fn clone(&self) -> Self {
        Self { size: self.size, roots: self.roots.clone() }
    }

    fn clone_from(&mut self, source: &Self) {
        self.size = source.size;
        // Every batch does this; the room is reused.
        self.roots.clone_from(&source.roots);
    }
}

impl TreeEdge {
    /// The edge of an empty tree.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The edge of a tree of `size` leaves, or nothing where the number of roots does not fit the size.
    pub fn from_parts(size: u64, roots: Vec<Hash>) -> Option<Self> {
        (u32::try_from(roots.len()) == Ok(size.count_ones())).then_some(Self { size, roots })
    }

    /// How many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the full subtrees, largest first.
    pub fn roots(&self) -> &[Hash] {
        &self.roots
    }

    /// Appends a leaf by its hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut right = leaf;
        // Each trailing one bit of the size is a full subtree that the new leaf completes.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.roots.pop() {
                right = node_hash(&left, &right);
            }
        }
        self.roots.push(right);
        self.size = self.size.saturating_add(1);
    }

    /// The root of the whole tree; of an empty one, the hash of nothing.
    pub fn root(&self) -> Hash {
        let mut edge = self.roots.iter().rev();
        match edge.next() {
            Some(last) => edge.fold(*last, |right, left| node_hash(left, &right)),
            None => Sha256::digest([]).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The recursive definition of RFC 9162 section 2.1.1.
    fn reference(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [one] => *one,
            many => {
                let split = many.len().next_power_of_two() / 2;
                let (left, right) = many.split_at(split);
                node_hash(&reference(left), &reference(right))
            }
        }
    }

    #[test]
    fn empty_tree_has_the_hash_of_nothing() {
        let root = data_encoding::HEXLOWER.encode(&TreeEdge::empty().root());
        assert_eq!(root, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn roots_match_the_published_certificate_transparency_vectors() {
        let inputs = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = TreeEdge::empty();
        for (input, root) in inputs.iter().zip(roots) {
            tree.push(leaf_hash(&data_encoding::HEXLOWER.decode(input.as_bytes()).unwrap()));
            assert_eq!(data_encoding::HEXLOWER.encode(&tree.root()), root);
        }
    }

    #[test]
    fn an_edge_with_the_wrong_number_of_roots_is_refused() {
        assert!(TreeEdge::from_parts(5, vec![[0; 32]]).is_none());
        assert!(TreeEdge::from_parts(0, vec![[0; 32]]).is_none());
        assert!(TreeEdge::from_parts(5, vec![[0; 32]; 2]).is_some());
    }

    proptest! {
        #[test]
        fn appending_gives_the_root_of_the_definition(count in 0usize..200) {
            let leaves: Vec<Hash> = (0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect();
            let mut tree = TreeEdge::empty();
            for leaf in &leaves {
                tree.push(*leaf);
            }
            prop_assert_eq!(tree.root(), reference(&leaves));
            prop_assert_eq!(TreeEdge::from_parts(tree.size(), tree.roots().to_vec()), Some(tree.clone()));
        }
    }
}
