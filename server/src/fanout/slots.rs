//! A slab whose keys carry a generation, so that a key outlived by its entry finds nothing.

/// Entries by key.
#[derive(Debug)]
pub(super) struct Slots<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Slots<T> {
    /// Stores `value` and returns its key.
    pub(super) fn insert(&mut self, value: T) -> u64 {
        self.len += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push((0, None));
            u32::try_from(self.entries.len() - 1).expect("slots are bounded far below 2^32")
        });
        let entry = &mut self.entries[slot as usize];
        entry.1 = Some(value);
        key_of(slot, entry.0)
    }

    /// Takes the entry out.
    pub(super) fn remove(&mut self, key: u64) -> Option<T> {
        let (slot, generation) = parts_of(key);
        let entry = self.entries.get_mut(slot as usize)?;
        if entry.0 != generation {
            return None;
        }
        let value = entry.1.take()?;
        entry.0 = entry.0.wrapping_add(1);
        self.free.push(slot);
        self.len -= 1;
        Some(value)
    }

    pub(super) fn get(&self, key: u64) -> Option<&T> {
        let (slot, generation) = parts_of(key);
        let entry = self.entries.get(slot as usize)?;
        entry.1.as_ref().filter(|_| entry.0 == generation)
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        let (slot, generation) = parts_of(key);
        let entry = self.entries.get_mut(slot as usize)?;
        entry.1.as_mut().filter(|_| entry.0 == generation)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Keys of all entries, in slot order.
    pub(super) fn keys(&self) -> impl Iterator<Item = u64> {
        self.entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.1.is_some())
            .map(|(slot, entry)| key_of(slot as u32, entry.0))
    }
}

fn key_of(slot: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(slot)
}

fn parts_of(key: u64) -> (u32, u32) {
    (key as u32, (key >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_find_the_next_tenant_of_its_slot() {
        let mut slots = Slots::default();
        let first = slots.insert("a");
        assert_eq!(slots.remove(first), Some("a"));
        let second = slots.insert("b");
        assert_ne!(first, second);
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get(second), Some(&"b"));
        assert_eq!(slots.len(), 1);
        assert_eq!(slots.keys().collect::<Vec<_>>(), [second]);
    }
}
