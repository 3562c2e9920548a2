//! The hash table of a store: for each token, seven bits of its hash and the token itself, four
//! bytes.
//!
//! A bucket is one cache line: fifteen one-byte tags, fifteen three-byte tokens, and counts of those
//! who found the bucket full. All of its tags are compared at once, as in the tables of Kulukundis
//! ("Designing a fast, efficient, cache-friendly hash table, step by step", 2017), but the
//! tokens lie beside them. Who finds its bucket full goes to a second one, far from the first, so
//! that full buckets do not gather, and, if need be, on to the next one with room; each bucket passed
//! on the way counts it. So removing leaves no marks behind, moves nothing, and needs to know of no
//! other entry's hash. A table can have any number of buckets.
//!
//! Tokens of four bytes have their highest one in a list beside the buckets, which only tables have
//! that need it.

use std::collections::TryReserveError;

use crate::lanes::{equal, highest};

/// Tokens in a bucket.
const LANES: usize = 15;

/// How many of four buckets' are filled on average, at most: more than fifteen choose one bucket in
/// six then, and go elsewhere.
const FILLED: usize = 49;

/// The most bits that a token has.
pub(crate) const MOST_BITS: u32 = 31;

/// The bits of a token that are in its bucket.
const NEAR_BITS: u32 = 24;

/// The bits of all lanes.
const ALL: u32 = (1 << LANES) - 1;

/// Where the tokens begin in a bucket. The byte before counts those who passed on their way from one
/// full bucket to the next.
const TOKENS: usize = 16;

/// The most that passed, or more.
const MOST_PASSED: u8 = 0x7F;

/// The bits that count those who chose the bucket and went on: eight counts, of which a hash has one,
/// so that not everybody has to follow. As with those who passed, a number that has come as far as it
/// can stays there.
#[inline]
const fn left(hash: u32) -> u32 {
    7 << (3 * (hash >> 7 & 7))
}

/// What of a hash is beside its token: never zero, as that of a free lane is.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the low bits are the tag")]
const fn tag(hash: u32) -> u8 {
    hash as u8 | 0x80
}

/// Tags, the count of those who passed, tokens, and the counts of those who left.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Bucket([u8; 64]);

/// The highest bytes of the tokens of a bucket.
type Far = [u8; LANES + 1];

/// The bucket that a hash chooses of so many.
#[inline]
const fn home(hash: u32, buckets: usize) -> usize {
    ((hash as u64 * buckets as u64) >> 32) as usize
}

/// The bucket beside another one.
#[inline]
const fn next(at: usize, buckets: usize) -> usize {
    if at + 1 == buckets { 0 } else { at + 1 }
}

/// Where to go from the bucket that a hash chooses, if that is full: far from it.
#[inline]
const fn second(home_of_it: usize, hash: u32, buckets: usize) -> usize {
    let second = home(hash.wrapping_mul(0x85EB_CA6B).rotate_left(16), buckets);
    if second == home_of_it { next(second, buckets) } else { second }
}

/// Whether what is not in the bucket that its hash chooses may be in another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    Nowhere,
    Perhaps,
}

/// The first of some lanes.
#[inline]
const fn lane_of(lanes: u32) -> usize {
    (lanes.trailing_zeros() & 15) as usize
}

impl Bucket {
    const EMPTY: Self = Self([0; 64]);

    /// The tags, and last the count of those who passed, which is none.
    #[inline]
    fn tags(&self) -> [u8; 16] {
        let mut tags = [0; 16];
        tags.copy_from_slice(&self.0[..16]);
        tags
    }

    /// The bits of the lanes with this tag.
    #[inline]
    fn lanes_with(&self, tag: u8) -> u32 {
        equal(self.tags(), tag)
    }

    /// The bits of the lanes that are not taken.
    #[inline]
    fn free(&self) -> u32 {
        !highest(self.tags()) & ALL
    }

    /// How many tokens there are.
    fn len(&self) -> usize {
        highest(self.tags()).count_ones() as usize
    }

    /// What is in a lane of the near bits of tokens; or, in the one after the last, the counts of
    /// those who left. Below it is the byte before.
    #[inline(always)]
    fn word(&self, lane: usize) -> u32 {
        let from = TOKENS - 1 + 3 * lane;
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[from..from + 4]);
        u32::from_le_bytes(bytes)
    }

    #[inline(always)]
    fn set_word(&mut self, lane: usize, word: u32) {
        let from = TOKENS - 1 + 3 * lane;
        self.0[from..from + 4].copy_from_slice(&word.to_le_bytes());
    }

    /// What is in a lane of the near bits of tokens.
    #[inline(always)]
    fn near(&self, lane: usize) -> u32 {
        self.word(lane) >> 8
    }

    #[inline(always)]
    fn set_near(&mut self, lane: usize, near: u32) {
        self.set_word(lane, near << 8 | self.word(lane) & 0xFF);
    }

    /// The counts of those who left.
    #[inline]
    fn state(&self) -> u32 {
        self.near(LANES)
    }

    const fn passed(&self) -> u8 {
        self.0[TOKENS - 1]
    }

    /// What `found` makes of the first lane with this tag of which it makes something.
    #[inline(always)]
    fn find<R>(&self, tag: u8, mut found: impl FnMut(usize) -> Option<R>) -> Option<R> {
        let mut lanes = self.lanes_with(tag);
        if lanes == 0 {
            return None;
        }
        // (The first by itself: there are seldom more.)
        let mut first = found(lane_of(lanes));
        while first.is_none() {
            lanes &= lanes - 1;
            if lanes == 0 {
                return None;
            }
            first = found(lane_of(lanes));
        }
        first
    }

    /// Counts one that passes.
    fn count_passed(&mut self) {
        self.0[TOKENS - 1] = (self.passed() + 1).min(MOST_PASSED);
    }

    /// Counts one less.
    const fn discount_passed(&mut self) {
        if self.passed() < MOST_PASSED {
            self.0[TOKENS - 1] -= 1;
        }
    }

    /// Counts one with this hash that leaves.
    fn count_left(&mut self, hash: u32) {
        let (word, field) = (self.word(LANES), left(hash) << 8);
        if word & field < field {
            self.set_word(LANES, word + (field & field.wrapping_neg()));
        }
    }

    /// Counts one less.
    fn discount_left(&mut self, hash: u32) {
        let (word, field) = (self.word(LANES), left(hash) << 8);
        if word & field < field {
            self.set_word(LANES, word - (field & field.wrapping_neg()));
        }
    }
}

/// The memory of a table.
#[derive(Debug)]
#[allow(clippy::struct_field_names, reason = "it is what they are")]
pub(crate) struct Buckets {
    /// The buckets, if tokens have no more than their near bits.
    buckets: Vec<Bucket>,
    /// The buckets, if tokens have more.
    wide: Vec<Bucket>,
    /// The highest bytes of the tokens of each bucket, if tokens have more than their near bits.
    far: Vec<Far>,
    /// How many bits a token has.
    bits: u32,
}

#[derive(Debug)]
pub(crate) struct Table {
    memory: Buckets,
    len: usize,
    /// How many tokens it takes.
    limit: usize,
}

impl Buckets {
    pub(crate) const fn none() -> Self {
        Self { buckets: Vec::new(), wide: Vec::new(), far: Vec::new(), bits: NEAR_BITS }
    }

    /// How many buckets hold `tokens` tokens.
    pub(crate) const fn wanted(tokens: usize) -> usize {
        // Of one or two buckets, all lanes.
        let even = tokens.div_ceil(LANES);
        if even <= 2 { even } else { tokens.saturating_mul(4).div_ceil(FILLED) }
    }

    /// How many tokens so many buckets hold.
    const fn limit(buckets: usize) -> usize {
        if buckets <= 2 { buckets * LANES } else { buckets * FILLED / 4 }
    }

    /// What so many buckets take for tokens of so many bits.
    pub(crate) const fn bytes_of(buckets: usize, bits: u32) -> usize {
        let far = if bits > NEAR_BITS { size_of::<Far>() } else { 0 };
        buckets * (size_of::<Bucket>() + far)
    }

    /// Room for tokens up to `1 << bits`, that one excluded, in so many buckets.
    pub(crate) fn allocate(buckets: usize, bits: u32) -> Result<Self, TryReserveError> {
        let mut list = Vec::new();
        list.try_reserve_exact(buckets)?;
        list.resize(buckets, Bucket::EMPTY);
        if bits <= NEAR_BITS {
            return Ok(Self { buckets: list, bits, ..Self::none() });
        }
        let mut far = Vec::new();
        far.try_reserve_exact(buckets)?;
        far.resize(buckets, [0; LANES + 1]);
        Ok(Self { buckets: Vec::new(), wide: list, far, bits })
    }

    /// All buckets, of whichever kind, and the highest bytes of the tokens in them, if tokens have
    /// such.
    #[inline]
    fn all(&self) -> (&[Bucket], &[Far]) {
        (if self.far.is_empty() { &self.buckets } else { &self.wide }, &self.far)
    }

    #[inline]
    fn all_mut(&mut self) -> (&mut [Bucket], &mut [Far]) {
        let buckets = if self.far.is_empty() { &mut self.buckets } else { &mut self.wide };
        (buckets, &mut self.far)
    }

    pub(crate) fn bytes(&self) -> usize {
        (self.buckets.capacity() + self.wide.capacity()) * size_of::<Bucket>()
            + self.far.capacity() * size_of::<Far>()
    }

    pub(crate) fn len(&self) -> usize {
        self.all().0.len()
    }

    /// Whether it has room for the tokens of so many slots.
    pub(crate) const fn has_bits_for(&self, slots: usize) -> bool {
        slots < 1 << self.bits
    }
}

/// The token in a lane that is taken, of the bucket `at`.
#[inline(always)]
fn token_in(bucket: &Bucket, far: Option<&Far>, lane: usize) -> u32 {
    let near = bucket.near(lane);
    match far {
        Some(far) => near | u32::from(far[lane]) << NEAR_BITS,
        None => near,
    }
}

/// Puts `token` in a lane.
#[inline(always)]
fn put(bucket: &mut Bucket, far: Option<&mut Far>, lane: usize, token: u32) {
    bucket.set_near(lane, token);
    if let Some(far) = far {
        far[lane] = token.to_le_bytes()[3];
    }
}

/// Which lane of a bucket a token is in.
#[inline(always)]
fn lane_with(bucket: &Bucket, far: Option<&Far>, tag: u8, token: u32) -> Option<usize> {
    bucket.find(tag, |lane| (token_in(bucket, far, lane) == token).then_some(lane))
}

impl Table {
    pub(crate) const fn new() -> Self {
        Self { memory: Buckets::none(), len: 0, limit: 0 }
    }

    pub(crate) fn buckets(&self) -> usize {
        self.memory.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Whether it has to be larger before it takes another token.
    #[inline]
    pub(crate) const fn is_full(&self) -> bool {
        self.len >= self.limit
    }

    /// Whether it has room for the tokens of so many slots.
    pub(crate) const fn has_bits_for(&self, slots: usize) -> bool {
        self.memory.has_bits_for(slots)
    }

    /// The bits that tokens of so many slots take, with room to grow.
    pub(crate) const fn bits_for(slots: usize) -> u32 {
        // One value is for no token. Twice the slots, so that growth in small steps does not make
        // a new table each time.
        if slots * 2 + 2 <= 1 << NEAR_BITS { NEAR_BITS } else { MOST_BITS }
    }

    /// What `found` makes of the first token of which it makes something, among those that may have
    /// this hash.
    #[inline(always)]
    pub(crate) fn find<R>(&self, hash: u32, mut found: impl FnMut(u32) -> Option<R>) -> Option<R> {
        match self.find_at_home(hash, &mut found) {
            Ok(found) => Some(found),
            Err(Elsewhere::Nowhere) => None,
            Err(Elsewhere::Perhaps) => self.find_on(hash, &mut found),
        }
    }

    /// As [`find`](Self::find), but looks only at the bucket that the hash chooses, where nearly all
    /// are.
    #[inline(always)]
    pub(crate) fn find_at_home<R>(
        &self,
        hash: u32,
        mut found: impl FnMut(u32) -> Option<R>,
    ) -> Result<R, Elsewhere> {
        let buckets = &self.memory.buckets[..];
        let home = home(hash, buckets.len());
        // There is none in a table that is empty, and in one with large tokens.
        let Some(bucket) = buckets.get(home) else { return Err(Elsewhere::Perhaps) };
        match bucket.find(tag(hash), |lane| found(bucket.near(lane))) {
            Some(found) => Ok(found),
            None if bucket.state() & left(hash) == 0 => Err(Elsewhere::Nowhere),
            None => Err(Elsewhere::Perhaps),
        }
    }

    /// As [`find`](Self::find), for what is perhaps elsewhere.
    #[inline(never)]
    pub(crate) fn find_on<R>(
        &self,
        hash: u32,
        found: &mut impl FnMut(u32) -> Option<R>,
    ) -> Option<R> {
        let (buckets, far) = self.memory.all();
        let count = buckets.len();
        let mut at = home(hash, count);
        let mut look = |at: usize, bucket: &Bucket| {
            bucket.find(tag(hash), |lane| found(token_in(bucket, far.get(at), lane)))
        };
        if !far.is_empty() {
            // Nobody has looked at home.
            let bucket = buckets.get(at)?;
            let result = look(at, bucket);
            if result.is_some() || bucket.state() & left(hash) == 0 {
                return result;
            }
        }
        at = second(at, hash, count);
        for _ in 0..count {
            let bucket = buckets.get(at)?;
            let result = look(at, bucket);
            if result.is_some() || bucket.passed() == 0 {
                return result;
            }
            at = next(at, count);
        }
        None
    }

    /// Has a token, which must be there, have another hash.
    #[inline]
    pub(crate) fn exchange(&mut self, from: u32, to: u32, token: u32) {
        self.take(from, token);
        self.enter(to, token);
    }

    /// Enters a token; the table must not be full.
    #[inline]
    pub(crate) fn insert(&mut self, hash: u32, token: u32) {
        self.len += 1;
        self.enter(hash, token);
    }

    #[inline(always)]
    fn enter(&mut self, hash: u32, token: u32) {
        let home = home(hash, self.memory.buckets.len());
        if let Some(bucket) = self.memory.buckets.get_mut(home) {
            let free = bucket.free();
            if free != 0 {
                let lane = lane_of(free);
                bucket.0[lane] = tag(hash);
                bucket.set_near(lane, token);
                return;
            }
        }
        self.enter_on(hash, token);
    }

    /// As above, wherever there is room.
    #[inline(never)]
    fn enter_on(&mut self, hash: u32, token: u32) {
        let (buckets, far) = self.memory.all_mut();
        let (count, is_wide) = (buckets.len(), !far.is_empty());
        let mut enter = |at: usize, bucket: &mut Bucket| {
            let free = bucket.free();
            if free != 0 {
                let lane = lane_of(free);
                bucket.0[lane] = tag(hash);
                put(bucket, far.get_mut(at), lane, token);
            }
            free != 0
        };
        let mut at = home(hash, count);
        // (Otherwise somebody has looked at home.)
        if is_wide && enter(at, &mut buckets[at]) {
            return;
        }
        buckets[at].count_left(hash);
        at = second(at, hash, count);
        while !enter(at, &mut buckets[at]) {
            buckets[at].count_passed();
            at = next(at, count);
        }
    }

    /// Where a token is: its bucket and its lane.
    fn locate(&self, hash: u32, token: u32) -> (usize, usize) {
        let (buckets, far) = self.memory.all();
        let count = buckets.len();
        let lane = |at: usize| lane_with(&buckets[at], far.get(at), tag(hash), token);
        let mut at = home(hash, count);
        if let Some(lane) = lane(at) {
            return (at, lane);
        }
        at = second(at, hash, count);
        for _ in 0..count {
            if let Some(lane) = lane(at) {
                return (at, lane);
            }
            at = next(at, count);
        }
        unreachable!("an entry in the slab has its token in the table")
    }

    /// Takes out a token, which must be there.
    #[inline]
    pub(crate) fn remove(&mut self, hash: u32, token: u32) {
        self.len -= 1;
        self.take(hash, token);
    }

    #[inline(always)]
    fn take(&mut self, hash: u32, token: u32) {
        let home = home(hash, self.memory.buckets.len());
        if let Some(bucket) = self.memory.buckets.get_mut(home) {
            let is_it = |lane| (bucket.near(lane) == token).then_some(lane);
            if let Some(lane) = bucket.find(tag(hash), is_it) {
                bucket.0[lane] = 0;
                return;
            }
        }
        self.take_on(hash, token);
    }

    /// As above, wherever it is.
    #[inline(never)]
    fn take_on(&mut self, hash: u32, token: u32) {
        let (buckets, far) = self.memory.all_mut();
        let count = buckets.len();
        let leave = |at: usize, bucket: &mut Bucket| {
            let lane = lane_with(bucket, far.get(at), tag(hash), token);
            if let Some(lane) = lane {
                bucket.0[lane] = 0;
            }
            lane.is_some()
        };
        let mut at = home(hash, count);
        if !far.is_empty() && leave(at, &mut buckets[at]) {
            return;
        }
        buckets[at].discount_left(hash);
        at = second(at, hash, count);
        for _ in 0..count {
            if leave(at, &mut buckets[at]) {
                return;
            }
            buckets[at].discount_passed();
            at = next(at, count);
        }
        unreachable!("an entry in the slab has its token in the table")
    }

    /// Puts token `to` in the place of `from`, which must be there.
    pub(crate) fn rename(&mut self, hash: u32, from: u32, to: u32) {
        let (at, lane) = self.locate(hash, from);
        let (buckets, far) = self.memory.all_mut();
        put(&mut buckets[at], far.get_mut(at), lane, to);
    }

    /// Begins anew, empty, in other memory; returns the old.
    pub(crate) fn replace(&mut self, memory: Buckets) -> Buckets {
        self.len = 0;
        self.limit = Buckets::limit(memory.len());
        std::mem::replace(&mut self.memory, memory)
    }

    /// How many tokens are in it, by looking.
    fn count(&self) -> usize {
        self.memory.all().0.iter().map(Bucket::len).sum()
    }

    /// Checks its count, and that it finds every one of `tokens` (hashes and tokens), of which
    /// there must be as many as it has; and that each bucket counts those who went on.
    pub(crate) fn validate(&self, tokens: impl Iterator<Item = (u32, u32)>) -> Result<(), String> {
        // By field of `left`, and last those who passed.
        let mut on_their_way = vec![[0_u32; 9]; self.memory.len()];
        let mut len = 0;
        for (hash, token) in tokens {
            if self.find(hash, |other| (other == token).then_some(other)).is_none() {
                return Err(format!("entry {token} is not found in the table"));
            }
            let (bucket, _) = self.locate(hash, token);
            let count = self.memory.len();
            let home = home(hash, count);
            if bucket != home {
                on_their_way[home][hash as usize >> 7 & 7] += 1;
                let mut at = second(home, hash, count);
                while at != bucket {
                    on_their_way[at][8] += 1;
                    at = next(at, count);
                }
            }
            len += 1;
        }
        if (self.len, self.count()) != (len, len) {
            return Err(format!(
                "the table counts {} tokens and has {} for {len} entries",
                self.len,
                self.count()
            ));
        }
        if self.limit != Buckets::limit(self.memory.len()) {
            return Err(format!("the table takes {} tokens for its limit", self.limit));
        }
        let is_wrong = |shown: u32, most: u32, real: u32| shown != most && shown != real.min(most);
        let wrong = |(bucket, real): (&Bucket, &[u32; 9])| {
            let miscounts =
                |field: usize| is_wrong(bucket.state() >> (3 * field) & 7, 7, real[field]);
            (0..8).any(miscounts)
                || is_wrong(u32::from(bucket.passed()), u32::from(MOST_PASSED), real[8])
        };
        match self.memory.all().0.iter().zip(&on_their_way).position(wrong) {
            Some(bucket) => Err(format!("bucket {bucket} has miscounted those who went on")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    fn table(buckets: usize, bits: u32) -> Table {
        let mut table = Table::new();
        table.replace(Buckets::allocate(buckets, bits).unwrap());
        table
    }

    const fn hash(token: u32) -> u32 {
        token.wrapping_mul(0x9E37_79B9)
    }

    #[test]
    fn an_empty_table_finds_nothing_and_is_full() {
        let table = Table::new();
        assert!(table.is_full());
        assert_eq!(table.find(7, Some), None);
        assert_eq!(table.bytes(), 0);
    }

    #[test]
    fn tokens_are_found_until_they_are_removed() {
        for buckets in [1, 2, 3, 10, 100] {
            let mut table = table(buckets, 16);
            let mut len = 0;
            while !table.is_full() {
                table.insert(hash(len), len);
                len += 1;
            }
            assert_eq!(Buckets::wanted(len as usize), buckets);
            let all = |tokens: std::ops::Range<u32>| tokens.map(|token| (hash(token), token));
            table.validate(all(0..len)).unwrap();
            for token in 0..len / 2 {
                table.remove(hash(token), token);
                assert_eq!(
                    table.find(hash(token), |other| (other == token).then_some(other)),
                    None
                );
            }
            table.validate(all(len / 2..len)).unwrap();
            for token in len / 2..len {
                table.remove(hash(token), token);
            }
            assert!(
                table
                    .memory
                    .buckets
                    .iter()
                    .all(|bucket| (bucket.state(), bucket.passed()) == (0, 0))
            );
        }
    }

    #[test]
    fn equal_hashes_fill_bucket_after_bucket() {
        let mut table = table(4, 16);
        for token in 0..50 {
            table.insert(0, token);
        }
        table.validate((0..50).map(|token| (0, token))).unwrap();
        for token in 0..50 {
            assert_eq!(table.find(0, |other| (other == token).then_some(other)), Some(token));
        }
        table.rename(0, 49, 60);
        assert_eq!(table.find(0, |other| (other == 60).then_some(other)), Some(60));
        for token in (0..49).chain([60]) {
            table.remove(0, token);
        }
        table.validate(std::iter::empty()).unwrap();
    }

    #[test]
    fn empty_lanes_are_not_taken_for_words() {
        for hash in [0, 1, u32::MAX, 0x0000_1000] {
            let mut table = table(1, 8);
            assert_eq!(table.find(hash, Some), None);
            table.insert(hash, 3);
            assert_eq!(table.find(hash, Some), Some(3));
            table.remove(hash, 3);
            assert_eq!(table.find(hash, Some), None);
        }
    }

    #[test]
    fn counts_that_ran_over_stay_and_do_no_harm() {
        let mut table = table(100, 16);
        for token in 0..60 {
            table.insert(7, token);
        }
        // As if there had been many more.
        for bucket in &mut table.memory.buckets {
            bucket.set_near(LANES, bucket.state() | left(7));
            bucket.0[TOKENS - 1] = MOST_PASSED;
        }
        for token in 0..60 {
            assert_eq!(table.find(7, |other| (other == token).then_some(other)), Some(token));
            table.remove(7, token);
        }
        table.validate(std::iter::empty()).unwrap();
        let counts = |bucket: &Bucket| (bucket.state(), bucket.passed()) == (left(7), MOST_PASSED);
        assert!(table.memory.buckets.iter().all(counts));
        table.insert(7, 1);
        assert_eq!(table.find(7, Some), Some(1));
    }

    #[test]
    fn large_tokens_have_room_where_there_are_many() {
        for slots in [1, 100, 255, 256, 70_000, 1 << 20, 1 << 23, 1 << 24, 1 << 29] {
            let table = table(1, Table::bits_for(slots));
            assert!(table.has_bits_for(slots) && table.has_bits_for(slots * 2));
        }
        let mut table = table(4, MOST_BITS);
        assert_eq!(table.bytes(), 4 * 80);
        let tokens = |turn: u32| (0..50).map(move |i| (hash(i), i << 24 | (i + turn)));
        for (hash, token) in tokens(0) {
            table.insert(hash, token);
        }
        table.validate(tokens(0)).unwrap();
        for ((hash, from), (_, to)) in tokens(0).zip(tokens(1)) {
            table.rename(hash, from, to);
        }
        table.validate(tokens(1)).unwrap();
        for (hash, token) in tokens(1) {
            table.remove(hash, token);
        }
        table.validate(std::iter::empty()).unwrap();
    }
}
