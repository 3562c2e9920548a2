//! When entries are due: a hierarchical timing wheel (Varghese and Lauck, "Hashed and hierarchical
//! timing wheels", SOSP 1987) whose lists run through the entries themselves.
//!
//! Time is cut into ticks of about a millisecond. A level has 64 buckets; a bucket of the lowest
//! level is a tick, one of each other level is as long as the whole level below. An entry lies in
//! the bucket of the highest digit, in base 64, in which its tick differs from the wheel's present
//! one. When the wheel comes to a bucket, its entries go to lower levels, or, from the lowest one,
//! are due. So an entry is linked and unlinked in O(1), and moved once a level at most while it
//! waits; a word of bits for each level tells which buckets are worth looking at. An entry may lie in
//! an earlier bucket than its own, because it was used since, or came into the place of another: when
//! the wheel comes by it is moved on.
//!
//! Eight levels reach beyond the range of the clock, so that no bucket ever stands for two times.

use std::fmt::Debug;

use crate::{slab::NONE, times::NEVER};

/// A tick has so many bits of nanoseconds: 1.05 milliseconds.
const TICK: u32 = 20;

/// A level has 64 buckets, whose indices have so many bits.
const BITS: u32 = 6;

const BUCKETS: usize = 1 << BITS;

/// Buckets of all levels.
const ALL: usize = LEVELS * BUCKETS;

/// As many levels as a tick has digits of [`BITS`] bits: eight.
const LEVELS: usize = (u64::BITS - TICK).div_ceil(BITS) as usize;

/// Marks what is not the slot of an entry but the number of a bucket: slots have fewer bits.
const BUCKET: u32 = 1 << 31;

/// An entry's place in a list of the wheel. In none: [`NONE`] twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Links {
    /// The entry before it, or its bucket.
    before: u32,
    after: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self { before: NONE, after: NONE }
    }
}

/// The entries as the wheel sees them.
pub trait Timers {
    /// When the entry expires if nobody uses it any more; [`NEVER`] is possible.
    fn deadline(&self, token: u32) -> u64;
    fn links(&self, token: u32) -> Links;
    fn links_mut(&mut self, token: u32) -> &mut Links;
}

/// What a store keeps of the deadlines of its entries: a [`Wheel`], or nothing, which does nothing.
pub trait Schedule: Default + Debug + Send + Sync {
    /// Takes in an entry that it doesn't have, which is due at `deadline`, unless that is never.
    #[inline]
    fn link<T: Timers>(&mut self, _timers: &mut T, _token: u32, _deadline: u64) {}

    /// Lets go of an entry, if it has it.
    #[inline]
    fn unlink<T: Timers>(&mut self, _timers: &mut T, _token: u32) {}

    /// Lets go of an entry whose slot another one is to have, due at `deadline`. If that is to lie in
    /// the list where the old one was, these are its links; otherwise it is to be
    /// [linked](Self::link).
    #[inline]
    fn succeed<T: Timers>(
        &mut self,
        _timers: &mut T,
        _token: u32,
        _deadline: u64,
    ) -> Option<Links> {
        None
    }

    /// Notes that an entry, links and all, is in slot `to` now.
    fn relocate<T: Timers>(&mut self, _timers: &mut T, _to: u32) {}

    /// Lets go of an entry that is due at `now`, after looking at `left` entries at most, and counts
    /// those. `None` if there is none, or `left` is zero.
    fn pop<T: Timers>(&mut self, _timers: &mut T, _now: u64, _left: &mut usize) -> Option<u32> {
        None
    }

    /// Checks that all that expire, of `tokens`, are in its lists.
    fn validate<T: Timers>(
        &self,
        _timers: &T,
        _tokens: impl Iterator<Item = u32>,
    ) -> Result<(), String> {
        Ok(())
    }
}

impl Schedule for () {}

/// The deadlines of a store's entries.
#[derive(Debug)]
pub struct Wheel {
    heads: [u32; ALL],
    /// A bit for each bucket that is not empty.
    taken: [u64; LEVELS],
    /// The tick that it has come to: what was due before is out of it.
    present: u64,
}

impl Default for Wheel {
    fn default() -> Self {
        Self { heads: [NONE; ALL], taken: [0; LEVELS], present: 0 }
    }
}

/// The tick at whose beginning `deadline` is over.
const fn tick_of(deadline: u64) -> u64 {
    let tick = deadline >> TICK;
    if deadline & ((1 << TICK) - 1) == 0 { tick } else { tick + 1 }
}

/// The bucket of a tick as long as the wheel has come to `present`.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "six bits")]
const fn bucket_of(present: u64, tick: u64) -> u32 {
    let tick = if tick < present { present } else { tick };
    // (The lowest bits make a difference of none one of the lowest level.)
    let highest = ((present ^ tick) | 1).ilog2();
    let level = highest / BITS;
    (level << BITS) | ((tick >> (level * BITS)) as u32 % BUCKETS as u32)
}

impl Wheel {
    /// Has what comes before, an entry or a bucket, be followed by `after`.
    #[inline]
    fn point(&mut self, timers: &mut impl Timers, before: u32, after: u32) {
        if before & BUCKET == 0 {
            timers.links_mut(before).after = after;
            return;
        }
        let bucket = (before & !BUCKET) as usize;
        self.heads[bucket % ALL] = after;
        if after == NONE {
            self.taken[bucket / BUCKETS % LEVELS] &= !(1 << (bucket % BUCKETS));
        }
    }

    /// The next bucket that is not empty: level, index and the tick at which it begins.
    fn next_bucket(&self) -> Option<(usize, usize, u64)> {
        // Of all that lie in the future, those of a lower level begin earlier; but what has been left
        // in a bucket of a higher level that has begun comes first of all.
        let mut next: Option<(usize, usize, u64)> = None;
        for level in 0..LEVELS {
            if self.taken[level] == 0 {
                continue;
            }
            let index = self.taken[level].trailing_zeros() as usize;
            let shift = BITS * u32::try_from(level).unwrap_or(0);
            let round = (self.present >> shift >> BITS) << BITS;
            let begin = (round | index as u64) << shift;
            if next.is_none_or(|(_, _, earliest)| begin < earliest) {
                next = Some((level, index, begin));
            }
        }
        next
    }
}

impl Schedule for Wheel {
    #[inline]
    fn link<T: Timers>(&mut self, timers: &mut T, token: u32, deadline: u64) {
        if deadline == NEVER {
            return;
        }
        let bucket = bucket_of(self.present, tick_of(deadline));
        let after = std::mem::replace(&mut self.heads[bucket as usize % ALL], token);
        self.taken[bucket as usize / BUCKETS % LEVELS] |= 1 << (bucket as usize % BUCKETS);
        *timers.links_mut(token) = Links { before: BUCKET | bucket, after };
        if after != NONE {
            timers.links_mut(after).before = token;
        }
    }

    #[inline]
    fn unlink<T: Timers>(&mut self, timers: &mut T, token: u32) {
        let Links { before, after } = std::mem::take(timers.links_mut(token));
        if before == NONE {
            return;
        }
        self.point(timers, before, after);
        if after != NONE {
            timers.links_mut(after).before = before;
        }
    }

    /// Who is due later than the one before it in its slot takes over its place as well, and is moved
    /// to its own when the wheel comes by: where entries are evicted long before they expire, that
    /// is once for many.
    #[inline]
    fn succeed<T: Timers>(&mut self, timers: &mut T, token: u32, deadline: u64) -> Option<Links> {
        let links = timers.links(token);
        if links.before != NONE && deadline != NEVER && timers.deadline(token) <= deadline {
            return Some(links);
        }
        self.unlink(timers, token);
        None
    }

    fn relocate<T: Timers>(&mut self, timers: &mut T, to: u32) {
        let Links { before, after } = timers.links(to);
        if before == NONE {
            return;
        }
        self.point(timers, before, to);
        if after != NONE {
            timers.links_mut(after).before = to;
        }
    }

    fn pop<T: Timers>(&mut self, timers: &mut T, now: u64, left: &mut usize) -> Option<u32> {
        let tick = now >> TICK;
        while let Some((level, index, begin)) = self.next_bucket().filter(|next| next.2 <= tick) {
            self.present = self.present.max(begin);
            let token = self.heads[(level * BUCKETS + index) % ALL];
            *left = left.checked_sub(1)?;
            self.unlink(timers, token);
            let deadline = timers.deadline(token);
            if deadline <= now {
                return Some(token);
            }
            // Not yet: to a lower level, or, if it was used meanwhile, to a later time.
            self.link(timers, token, deadline);
        }
        self.present = self.present.max(tick);
        None
    }

    fn validate<T: Timers>(
        &self,
        timers: &T,
        tokens: impl Iterator<Item = u32>,
    ) -> Result<(), String> {
        let mut linked = 0_usize;
        for (level, heads) in self.heads.chunks_exact(BUCKETS).enumerate() {
            for (index, &head) in heads.iter().enumerate() {
                if (head != NONE) != (self.taken[level] >> index & 1 == 1) {
                    return Err(format!("bucket {index} of level {level} is marked wrongly"));
                }
                let mut before = BUCKET | u32::try_from(level * BUCKETS + index).unwrap_or(0);
                let mut token = head;
                while token != NONE {
                    let links = timers.links(token);
                    if links.before != before {
                        return Err(format!("slot {token} of the wheel is linked wrongly"));
                    }
                    linked += 1;
                    (before, token) = (token, links.after);
                }
            }
        }
        let expiring = tokens.filter(|&token| timers.deadline(token) != NEVER).count();
        if linked == expiring {
            Ok(())
        } else {
            Err(format!("{linked} entries are in the wheel, {expiring} expire"))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Entries by slot; `None` where there is none.
    #[derive(Debug, Default)]
    struct Entries(Vec<Option<(u64, Links)>>);

    impl Timers for Entries {
        fn deadline(&self, token: u32) -> u64 {
            self.0[token as usize].unwrap().0
        }

        fn links(&self, token: u32) -> Links {
            self.0[token as usize].unwrap().1
        }

        fn links_mut(&mut self, token: u32) -> &mut Links {
            &mut self.0[token as usize].as_mut().unwrap().1
        }
    }

    impl Entries {
        fn tokens(&self) -> impl Iterator<Item = u32> + '_ {
            let there = self.0.iter().enumerate().filter(|(_, entry)| entry.is_some());
            there.map(|(token, _)| u32::try_from(token).unwrap())
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(usize, u64),
        Remove(usize),
        /// It is used: due later, without a word to the wheel.
        Prolong(usize, u64),
        Move(usize, usize),
        Advance(u64, usize),
    }

    /// From nanoseconds to beyond everything.
    fn span() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..4_000_000_u64,
            0..2_000_000_000_u64,
            0..400_000_000_000_000_u64,
            any::<u64>(),
            Just(NEVER),
        ]
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (0..40_usize, span()).prop_map(|(slot, span)| Op::Insert(slot, span)),
            2 => (0..40_usize).prop_map(Op::Remove),
            1 => (0..40_usize, span()).prop_map(|(slot, span)| Op::Prolong(slot, span)),
            1 => (0..40_usize, 0..40_usize).prop_map(|(from, to)| Op::Move(from, to)),
            4 => (span(), 1..30_usize).prop_map(|(span, left)| Op::Advance(span / 2, left)),
        ]
    }

    proptest! {
        /// Against a look at all of them.
        #[test]
        fn everything_is_popped_when_it_is_due_and_not_before(
            ops in prop::collection::vec(op(), 0..200),
            start in span(),
        ) {
            let mut now = start / 4;
            let (mut wheel, mut entries) = (Wheel::default(), Entries(vec![None; 40]));
            for op in ops {
                match op {
                    Op::Insert(slot, span) => {
                        let token = u32::try_from(slot).unwrap();
                        let deadline = now.saturating_add(span);
                        let links = if entries.0[slot].is_some() {
                            wheel.succeed(&mut entries, token, deadline)
                        } else {
                            None
                        };
                        entries.0[slot] = Some((deadline, links.unwrap_or_default()));
                        if links.is_none() {
                            wheel.link(&mut entries, token, deadline);
                        }
                    }
                    Op::Remove(slot) if entries.0[slot].is_some() => {
                        wheel.unlink(&mut entries, u32::try_from(slot).unwrap());
                        entries.0[slot] = None;
                    }
                    Op::Prolong(slot, span) => {
                        if let Some(entry) = entries.0[slot].as_mut().filter(|e| e.0 != NEVER) {
                            entry.0 = entry.0.max(now.saturating_add(span)).min(NEVER - 1);
                        }
                    }
                    Op::Move(from, to) if entries.0[to].is_none() => {
                        if let Some(entry) = entries.0[from].take() {
                            entries.0[to] = Some(entry);
                            wheel.relocate(&mut entries, u32::try_from(to).unwrap());
                        }
                    }
                    Op::Advance(span, slice) => {
                        now = now.saturating_add(span).min(NEVER - 1);
                        let mut left = 0;
                        while left == 0 {
                            left = slice;
                            while let Some(token) = wheel.pop(&mut entries, now, &mut left) {
                                prop_assert!(entries.deadline(token) <= now);
                                entries.0[token as usize] = None;
                            }
                            prop_assert!(wheel.validate(&entries, entries.tokens()).is_ok());
                        }
                        // All that are left have a tick to go, at least a part of one.
                        for token in entries.tokens() {
                            prop_assert!(entries.deadline(token) > now >> TICK << TICK);
                        }
                    }
                    Op::Remove(_) | Op::Move(..) => {}
                }
                prop_assert_eq!(wheel.validate(&entries, entries.tokens()), Ok(()));
            }
        }
    }

    #[test]
    fn an_entry_is_moved_once_a_level_at_most() {
        let day = 86_400_000_000_000_u64;
        let mut entries = Entries(vec![Some((day, Links::default()))]);
        let mut wheel = Wheel::default();
        wheel.link(&mut entries, 0, day);
        let mut moves = 0;
        // Ten seconds at a time, and the last minute by the millisecond.
        let coarse = (0..day - 60_000_000_000).step_by(10_000_000_000);
        let fine = (day - 60_000_000_000..day + 2_000_000).step_by(1_000_000);
        for now in coarse.chain(fine) {
            let mut left = 100;
            let popped = wheel.pop(&mut entries, now, &mut left);
            moves += 100 - left;
            if popped.is_some() {
                assert!(now >= day, "{now}");
                assert!(moves <= LEVELS, "{moves}");
                return;
            }
        }
        panic!("it was never due");
    }
}
