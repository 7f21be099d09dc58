//! The packages as a graph, one node for each version of each crate.
//!
//! Invariant: an edge stands for what is linked into the package on this machine's target. Development dependencies
//! and those of build scripts are left out: they are not in the product. Absent: cfg-dependent edges of other targets.

use std::collections::{BTreeMap, VecDeque};

use crate::metadata::Metadata;

/// A node: its place in the list.
type Index = usize;

pub(super) struct Graph {
    names: Vec<String>,
    edges: Vec<Vec<Index>>,
    ours: Vec<Index>,
}

impl Graph {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let places: BTreeMap<&str, Index> = metadata
            .packages
            .iter()
            .enumerate()
            .map(|(place, package)| (package.id.as_str(), place))
            .collect();
        let place = |id: &String| places.get(id.as_str()).copied();
        let mut linked: BTreeMap<Index, Vec<Index>> = BTreeMap::new();
        for node in &metadata.resolve.nodes {
            let dependencies = node.deps.iter().filter(|dependency| dependency.is_linked());
            if let Some(from) = place(&node.id) {
                linked.insert(from, dependencies.filter_map(|dependency| place(&dependency.pkg)).collect());
            }
        }
        let mut ours: Vec<Index> = metadata.workspace_members.iter().filter_map(place).collect();
        ours.sort_unstable_by_key(|place| metadata.packages.get(*place).map(|package| &package.name));
        Self {
            names: metadata.packages.iter().map(|package| package.name.clone()).collect(),
            edges: (0..metadata.packages.len())
                .map(|from| linked.remove(&from).unwrap_or_default())
                .collect(),
            ours,
        }
    }

    /// Our packages, by name.
    pub(super) fn ours(&self) -> impl Iterator<Item = &str> {
        self.ours.iter().map(|place| self.name(*place))
    }

    /// Which of ours a package of ours names in its manifest.
    pub(super) fn uses_of_ours(&self, package: &str) -> impl Iterator<Item = &str> {
        let uses = self.find(package).map(|place| self.uses(place)).unwrap_or_default();
        uses.iter().filter(|used| self.ours.contains(used)).map(|used| self.name(*used))
    }

    /// A shortest way from a package of ours to any version of a crate, both ends included, around some crates.
    pub(super) fn path(&self, from: &str, to: &str, around: &[&str]) -> Option<Vec<&str>> {
        let start = self.find(from)?;
        let mut came_from: BTreeMap<Index, Option<Index>> = BTreeMap::from([(start, None)]);
        let mut queue = VecDeque::from([start]);
        while let Some(place) = queue.pop_front() {
            if self.name(place) == to {
                let before = |place: &Index| came_from.get(place).copied().flatten();
                let mut path: Vec<&str> =
                    std::iter::successors(Some(place), before).map(|place| self.name(place)).collect();
                path.reverse();
                return Some(path);
            }
            for next in self.uses(place).iter().filter(|next| !around.contains(&self.name(**next))) {
                came_from.entry(*next).or_insert_with(|| {
                    queue.push_back(*next);
                    Some(place)
                });
            }
        }
        None
    }

    fn find(&self, ours: &str) -> Option<Index> {
        self.ours.iter().copied().find(|place| self.name(*place) == ours)
    }

    fn uses(&self, place: Index) -> &[Index] {
        self.edges.get(place).map(Vec::as_slice).unwrap_or_default()
    }

    fn name(&self, place: Index) -> &str {
        self.names.get(place).map(String::as_str).unwrap_or_default()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A graph out of `from → to` lines as cargo would print it; names with a version are different nodes.
    pub(in crate::layers) fn example(ours: &[&str], edges: &[(&str, &str, Option<&str>)]) -> Graph {
        let mut ids: Vec<&str> =
            edges.iter().flat_map(|(from, to, _)| [*from, *to]).chain(ours.to_vec()).collect();
        ids.sort_unstable();
        ids.dedup();
        let packages: Vec<_> = ids
            .iter()
            .map(|id| {
                let name = id.split_once('@').map_or(*id, |(name, _)| name);
                serde_json::json!({"id": id, "name": name, "version": "1.0.0"})
            })
            .collect();
        let nodes: Vec<_> = ids
            .iter()
            .map(|id| {
                let deps: Vec<_> = edges
                    .iter()
                    .filter(|(from, _, _)| from == id)
                    .map(|(_, to, kind)| serde_json::json!({"pkg": to, "dep_kinds": [{"kind": kind}]}))
                    .collect();
                serde_json::json!({"id": id, "features": [], "deps": deps})
            })
            .collect();
        let metadata = serde_json::json!({
            "packages": packages, "workspace_members": ours, "target_directory": "/t", "resolve": {"nodes": nodes},
        });
        Graph::of(&serde_json::from_value(metadata).unwrap())
    }

    #[test]
    fn development_and_build_dependencies_are_no_edges() {
        let edges =
            [("ours", "used", None), ("ours", "tester", Some("dev")), ("used", "generator", Some("build"))];
        let graph = example(&["ours"], &edges);
        assert_eq!(graph.path("ours", "used", &[]), Some(vec!["ours", "used"]));
        assert_eq!(graph.path("ours", "tester", &[]), None);
        assert_eq!(graph.path("ours", "generator", &[]), None);
    }

    #[test]
    fn versions_of_one_crate_do_not_lend_each_other_their_edges() {
        let edges = [("ours", "rng@2", None), ("other", "rng@1", None), ("rng@1", "system", None)];
        let graph = example(&["ours", "other"], &edges);
        assert_eq!(graph.path("ours", "system", &[]), None);
        assert_eq!(graph.path("other", "system", &[]), Some(vec!["other", "rng", "system"]));
    }

    #[test]
    fn a_circle_ends() {
        assert_eq!(example(&["a"], &[("a", "b", None), ("b", "a", None)]).path("a", "c", &[]), None);
    }
}
