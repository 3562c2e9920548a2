//! References that are as plain as can be: LRU, and what cannot be beaten.

use std::collections::{BTreeMap, BinaryHeap, HashMap};

/// Hits of LRU with room for `entries`.
#[must_use]
pub fn lru(requests: &[u32], entries: usize) -> usize {
    let mut used = HashMap::new();
    let mut by_use = BTreeMap::new();
    let mut hits = 0;
    for (now, &key) in requests.iter().enumerate() {
        if let Some(last) = used.insert(key, now) {
            by_use.remove(&last);
            hits += 1;
        } else if by_use.len() == entries
            && let Some((_, oldest)) = by_use.pop_first()
        {
            used.remove(&oldest);
        }
        by_use.insert(now, key);
    }
    hits
}

/// The most hits that any cache with room for `entries` can have, one that knows the future
/// included: who is used again latest goes (Belady, "A study of replacement algorithms for a
/// virtual-storage computer", IBM Systems Journal 1966), and that may be who has just come.
#[must_use]
pub fn optimum(requests: &[u32], entries: usize) -> usize {
    let mut next_use = vec![usize::MAX; requests.len()];
    let mut seen = HashMap::new();
    for (now, &key) in requests.iter().enumerate().rev() {
        if let Some(later) = seen.insert(key, now) {
            next_use[now] = later;
        }
    }
    // By their next use; those whose next use is over are of the past, and below all others.
    let mut by_next_use = BinaryHeap::new();
    let (mut kept, mut hits) = (vec![false; requests.len()], 0);
    let mut len = 0;
    for now in 0..requests.len() {
        if kept[now] {
            hits += 1;
            len -= 1;
        }
        let next = next_use[now];
        if next == usize::MAX {
            continue;
        }
        kept[next] = true;
        by_next_use.push(next);
        len += 1;
        if len > entries
            && let Some(latest) = by_next_use.pop()
        {
            kept[latest] = false;
            len -= 1;
        }
    }
    hits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lru_has_the_hits_that_can_be_counted_by_hand() {
        assert_eq!(lru(&[1, 2, 1, 3, 2, 1], 2), 1);
        assert_eq!(lru(&[1, 2, 3, 1, 2, 3], 2), 0);
        assert_eq!(lru(&[1, 2, 3, 1, 2, 3], 3), 3);
    }

    #[test]
    fn the_optimum_keeps_what_is_used_soonest() {
        // One of the loop's three can stay for good, the other two take turns.
        assert_eq!(optimum(&[1, 2, 3, 1, 2, 3], 2), 2);
        assert_eq!(optimum(&[1, 2, 3, 1, 2, 3], 3), 3);
        assert_eq!(optimum(&[1, 2, 3, 4, 1], 1), 1);
        assert_eq!(optimum(&[7; 10], 1), 9);
    }
}
