//! A sorted map for few entries.
//!
//! A node keeps a dozen tables of its dozen peers. A node of a `BTreeMap` has room for eleven entries, is split in halves
//! and is kept when the last entry goes, so that such tables are mostly room; a thousand nodes in one process feel it.
//! This one is a sorted vector that grows by a quarter and keeps nothing when it is empty. To insert moves what lies
//! behind, which for a hundred entries costs less than an allocation. Not for tables that strangers can fill with
//! thousands.

use std::borrow::Borrow;

/// Room is made for at least so many more at once.
const GROWTH_MIN: usize = 2;

/// A map in the order of its keys. See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Few<K, V>(Vec<(K, V)>);

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord, V> Few<K, V> {
    /// An empty map.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Entries.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn place<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.0.binary_search_by(|(k, _)| k.borrow().cmp(key))
    }

    fn put(&mut self, at: usize, key: K, value: V) {
        if self.0.len() == self.0.capacity() {
            self.0.reserve_exact((self.0.len() / 4).max(GROWTH_MIN));
        }
        self.0.insert(at, (key, value));
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let at = self.place(key).ok()?;
        self.0.get(at).map(|(_, v)| v)
    }

    /// The value of a key, to change it.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let at = self.place(key).ok()?;
        self.0.get_mut(at).map(|(_, v)| v)
    }

    /// Whether the key has a value.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.place(key).is_ok()
    }

    /// Gives the key this value; returns the one it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.place(&key) {
            Ok(at) => self.0.get_mut(at).map(|(_, v)| std::mem::replace(v, value)),
            Err(at) => {
                self.put(at, key, value);
                None
            }
        }
    }

    /// The value of a key; if it has none, this one from now on.
    pub fn get_or_insert_with(&mut self, key: K, value: impl FnOnce() -> V) -> &mut V {
        let at = match self.place(&key) {
            Ok(at) => at,
            Err(at) => {
                self.put(at, key, value());
                at
            }
        };
        &mut self.0[at].1
    }

    /// Takes a key out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.place(key).ok()?;
        let (_, value) = self.0.remove(at);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        Some(value)
    }

    /// Keeps the entries that `keep` says.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.0.retain_mut(|(k, v)| keep(k, v));
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }

    /// All entries, by key.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.0.iter().map(|(k, v)| (k, v))
    }

    /// All entries, by key, to change the values.
    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = (&K, &mut V)> {
        self.0.iter_mut().map(|(k, v)| (&*k, v))
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.0.iter().map(|(k, _)| k)
    }

    /// All values, by key.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.0.iter().map(|(_, v)| v)
    }

    /// All values, by key, to change them.
    pub fn values_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, v)| v)
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Few<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut few = Self::new();
        for (key, value) in entries {
            few.insert(key, value);
        }
        few
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_does_what_a_tree_does(ops in prop::collection::vec((0..5u8, 0..40u8, any::<u16>()), 0..200)) {
            let (mut few, mut tree) = (Few::new(), BTreeMap::new());
            for (op, key, value) in ops {
                match op {
                    0 => prop_assert_eq!(few.insert(key, value), tree.insert(key, value)),
                    1 => prop_assert_eq!(few.remove(&key), tree.remove(&key)),
                    2 => prop_assert_eq!(few.get_or_insert_with(key, || value), tree.entry(key).or_insert(value)),
                    3 => prop_assert_eq!(few.get_mut(&key), tree.get_mut(&key)),
                    _ => {
                        few.retain(|k, v| k % 5 > 0 || *v < value);
                        tree.retain(|k, v| k % 5 > 0 || *v < value);
                    }
                }
                prop_assert_eq!((few.len(), few.is_empty()), (tree.len(), tree.is_empty()));
                prop_assert_eq!((few.get(&key), few.contains_key(&key)), (tree.get(&key), tree.contains_key(&key)));
                prop_assert!(few.iter().eq(tree.iter()) && few.keys().eq(tree.keys()) && few.values().eq(tree.values()));
                prop_assert!(few.iter_mut().eq(tree.iter_mut()) && few.values_mut().eq(tree.values_mut()));
            }
            prop_assert_eq!(few, tree.into_iter().collect());
        }
    }

    #[test]
    fn an_empty_one_keeps_no_memory_and_a_full_one_little() {
        let mut few: Few<u32, [u64; 8]> = (0..100).map(|n| (n, [0; 8])).collect();
        assert!(few.0.capacity() <= 125, "{}", few.0.capacity());
        (0..100).for_each(|n| assert!(few.remove(&n).is_some()));
        assert_eq!(few.0.capacity(), 0);
    }
}
