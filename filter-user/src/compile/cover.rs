// SPDX-License-Identifier: MIT OR Apache-2.0
//! The union over covering prefixes.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use ipnet::IpNet;

/// For each prefix the union of what it and all the prefixes around it have.
///
/// Prefixes are walked in their order: by address, the shorter first, so that whatever covers a
/// prefix comes before it and is still on the stack. Sets are interned, and a union that was made
/// once is looked up: many prefixes, few different sets.
pub(super) fn unions<T: Ord + Copy + Hash>(
    own: impl IntoIterator<Item = (IpNet, Vec<T>)>,
) -> impl Iterator<Item = (IpNet, Arc<[T]>)> {
    let mut sets = Sets { ids: HashMap::new(), sets: Vec::new() };
    let empty = sets.intern(&[]);
    let mut made: HashMap<(usize, usize), usize> = HashMap::new();
    let mut covering: Vec<(IpNet, usize)> = Vec::new();
    own.into_iter().map(move |(prefix, members)| {
        while covering.pop_if(|(shorter, _)| !shorter.contains(&prefix)).is_some() {}
        let around = covering.last().map_or(empty, |(_, set)| *set);
        let added = sets.intern(&members);
        let union = *made.entry((around, added)).or_insert_with(|| {
            let mut union = [sets.get(around).as_ref(), sets.get(added).as_ref()].concat();
            union.sort_unstable();
            union.dedup();
            sets.intern(&union)
        });
        covering.push((prefix, union));
        (prefix, Arc::clone(sets.get(union)))
    })
}

struct Sets<T> {
    ids: HashMap<Arc<[T]>, usize>,
    sets: Vec<Arc<[T]>>,
}

impl<T: Ord + Copy + Hash> Sets<T> {
    fn intern(&mut self, members: &[T]) -> usize {
        if let Some(id) = self.ids.get(members) {
            return *id;
        }
        let set: Arc<[T]> = members.into();
        self.ids.insert(Arc::clone(&set), self.sets.len());
        self.sets.push(set);
        self.sets.len() - 1
    }

    #[expect(clippy::indexing_slicing, reason = "ids are given out by `intern` alone")]
    fn get(&self, id: usize) -> &Arc<[T]> {
        &self.sets[id]
    }
}
