//! The hash table of a store: 4-byte words, each a token with as many bits of its hash as are left.
//!
//! A bucket is one cache line: fifteen words, and a last one that says which of them are taken and
//! how many more found the bucket full. All of its words are compared at once, in vectors of
//! whatever size the processor has, and with so many bits that hardly ever more than the right one
//! agrees. Who finds its bucket full goes to a second one, far from the first, so that full buckets
//! do not gather, and, if need be, on to the next one with room; each bucket passed on the way counts
//! it. So removing leaves no marks behind, moves nothing, and needs to know of no
//! other entry's hash. A table can have any number of buckets.

use std::collections::TryReserveError;

/// Words in a bucket.
const LANES: usize = 15;

/// How many of two buckets' are filled on average, at most: more than fifteen choose one bucket in
/// six then, and go elsewhere.
const FILLED: usize = 25;

/// The most bits that a token has.
pub(crate) const MOST_BITS: u32 = 31;

/// The bit that says that the first lane is taken; those of the others follow.
const FIRST: u32 = 1 << 16;

/// The bits of all lanes.
const ALL: u32 = 0x7FFF_0000;

/// The bits that count those who passed on their way from one full bucket to the next.
const PASSED: u32 = 0xF000;

/// The bits that count those who chose the bucket and went on: four counts, of which a hash has one,
/// so that not everybody has to follow. As with those above, a number that has come as far as it
/// can stays there.
#[inline]
const fn left(hash: u32) -> u32 {
    7 << (3 * (hash & 3))
}

/// A bucket's lanes, and, last, its bits and the number of those who passed.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Bucket([u32; LANES + 1]);

/// The first of some lanes.
#[inline]
const fn lane_of(lanes: u32) -> usize {
    (lanes.trailing_zeros() & 15) as usize
}

impl Bucket {
    const EMPTY: Self = Self([0; LANES + 1]);

    #[inline]
    const fn state(&self) -> u32 {
        self.0[LANES]
    }

    /// The bits of the lanes whose words are `word` as far as `mask` goes.
    #[inline]
    fn lanes_with(&self, word: u32, mask: u32) -> u32 {
        // Without branches and with all of a line's words, this is a few vector instructions.
        let (words, mut lanes) = (self.0, 0);
        for (lane, other) in words.into_iter().enumerate() {
            lanes |= u32::from(other & mask == word) << (16 + lane);
        }
        lanes & self.state()
    }

    /// The bits of the lanes that are not taken.
    #[inline]
    const fn free(&self) -> u32 {
        !self.state() & ALL
    }

    /// How many words there are.
    const fn len(&self) -> usize {
        (self.state() & ALL).count_ones() as usize
    }

    /// Counts one in `field`.
    const fn count(&mut self, field: u32) {
        if self.state() & field < field {
            self.0[LANES] += field & field.wrapping_neg();
        }
    }

    /// Counts one less.
    const fn discount(&mut self, field: u32) {
        if self.state() & field < field {
            self.0[LANES] -= field & field.wrapping_neg();
        }
    }

    /// Puts `word` in the first of some free lanes.
    #[inline]
    const fn put(&mut self, free: u32, word: u32) {
        let lane = lane_of(free);
        self.0[lane] = word;
        self.0[LANES] |= FIRST << lane;
    }

    /// What `found` makes of the first token of which it makes something, among the words with this
    /// hash.
    #[inline(always)]
    fn find<R>(&self, word: u32, mask: u32, found: &mut impl FnMut(u32) -> Option<R>) -> Option<R> {
        let mut lanes = self.lanes_with(word, mask);
        while lanes != 0 {
            if let Some(found) = found(self.0[lane_of(lanes)] & !mask) {
                return Some(found);
            }
            lanes &= lanes - 1;
        }
        None
    }
}

/// The memory of a table.
#[derive(Debug)]
pub(crate) struct Buckets {
    buckets: Vec<Bucket>,
    /// How many low bits of a word are its token.
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
        // Any number of bits will do that leaves some for tokens.
        Self { buckets: Vec::new(), bits: 1 }
    }

    /// How many buckets hold `tokens` tokens.
    pub(crate) const fn wanted(tokens: usize) -> usize {
        // Of one or two buckets, all lanes.
        let even = tokens.div_ceil(LANES);
        if even <= 2 { even } else { tokens.saturating_mul(2).div_ceil(FILLED) }
    }

    /// How many tokens so many buckets hold.
    const fn limit(buckets: usize) -> usize {
        if buckets <= 2 { buckets * LANES } else { buckets * FILLED / 2 }
    }

    pub(crate) const fn bytes_of(buckets: usize) -> usize {
        buckets * size_of::<Bucket>()
    }

    /// Room for tokens up to `1 << bits`, that one excluded, in so many buckets.
    pub(crate) fn allocate(buckets: usize, bits: u32) -> Result<Self, TryReserveError> {
        let mut memory = Vec::new();
        memory.try_reserve_exact(buckets)?;
        memory.resize(buckets, Bucket::EMPTY);
        Ok(Self { buckets: memory, bits })
    }

    pub(crate) fn bytes(&self) -> usize {
        Self::bytes_of(self.buckets.capacity())
    }

    pub(crate) fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Whether the tokens of so many slots have room in its words.
    pub(crate) const fn has_bits_for(&self, slots: usize) -> bool {
        slots < 1 << self.bits
    }
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

    /// Whether the tokens of so many slots have room in its words.
    pub(crate) const fn has_bits_for(&self, slots: usize) -> bool {
        self.memory.has_bits_for(slots)
    }

    /// The bits that tokens of so many slots take, with room to grow.
    pub(crate) const fn bits_for(slots: usize) -> u32 {
        // One value is for no token. Twice the slots, so that growth in small steps does not make
        // a new table each time.
        let bits = (slots * 2 + 2).next_power_of_two().ilog2();
        if bits < 8 {
            8
        } else if bits > MOST_BITS {
            MOST_BITS
        } else {
            bits
        }
    }

    /// The bucket that a hash chooses.
    #[inline]
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.memory.len() as u64) >> 32) as usize
    }

    /// Where those go who find the bucket `home` full.
    #[inline]
    fn second(&self, hash: u32, home: usize) -> usize {
        let second = self.home(hash.wrapping_mul(0x85EB_CA6B).rotate_left(16));
        if second == home { self.next(home) } else { second }
    }

    #[inline]
    fn next(&self, bucket: usize) -> usize {
        if bucket + 1 == self.memory.len() { 0 } else { bucket + 1 }
    }

    /// The hash's part of a word, and the bits of a word that are the hash's.
    #[inline]
    const fn pattern(&self, hash: u32) -> (u32, u32) {
        let bits = self.memory.bits & 31;
        (hash << bits, u32::MAX << bits)
    }

    /// What `found` makes of the first token with this hash of which it makes something.
    #[inline(always)]
    pub(crate) fn find<R>(&self, hash: u32, mut found: impl FnMut(u32) -> Option<R>) -> Option<R> {
        let (word, mask) = self.pattern(hash);
        let home = self.home(hash);
        let bucket = self.memory.buckets.get(home)?;
        let result = bucket.find(word, mask, &mut found);
        if result.is_some() || bucket.state() & left(hash) == 0 {
            return result;
        }
        self.find_on(home, hash, &mut found)
    }

    /// Goes on after the bucket `home`, which some have left.
    #[inline(never)]
    fn find_on<R>(
        &self,
        home: usize,
        hash: u32,
        found: &mut impl FnMut(u32) -> Option<R>,
    ) -> Option<R> {
        let (word, mask) = self.pattern(hash);
        let mut at = self.second(hash, home);
        for _ in 0..self.memory.len() {
            let bucket = self.memory.buckets.get(at)?;
            let result = bucket.find(word, mask, found);
            if result.is_some() || bucket.state() & PASSED == 0 {
                return result;
            }
            at = self.next(at);
        }
        None
    }

    /// Enters a token; the table must not be full.
    #[inline]
    pub(crate) fn insert(&mut self, hash: u32, token: u32) {
        let word = self.pattern(hash).0 | token;
        let home = self.home(hash);
        self.len += 1;
        let bucket = &mut self.memory.buckets[home];
        match bucket.free() {
            0 => {
                bucket.count(left(hash));
                self.insert_on(self.second(hash, home), word);
            }
            free => bucket.put(free, word),
        }
    }

    /// Goes on from the bucket `at` to one with room.
    #[inline(never)]
    fn insert_on(&mut self, mut at: usize, word: u32) {
        loop {
            let bucket = &mut self.memory.buckets[at];
            match bucket.free() {
                0 => bucket.count(PASSED),
                free => return bucket.put(free, word),
            }
            at = self.next(at);
        }
    }

    /// Where a token is: its bucket, and the bit of its lane.
    fn locate(&self, hash: u32, token: u32) -> (usize, u32) {
        let word = self.pattern(hash).0 | token;
        let home = self.home(hash);
        let lane = self.memory.buckets[home].lanes_with(word, u32::MAX);
        if lane != 0 {
            return (home, lane);
        }
        let mut at = self.second(hash, home);
        for _ in 0..self.memory.len() {
            match self.memory.buckets[at].lanes_with(word, u32::MAX) {
                0 => at = self.next(at),
                lane => return (at, lane),
            }
        }
        unreachable!("an entry in the slab has its token in the table")
    }

    /// Takes out a token, which must be there.
    #[inline]
    pub(crate) fn remove(&mut self, hash: u32, token: u32) {
        let word = self.pattern(hash).0 | token;
        let home = self.home(hash);
        let bucket = &mut self.memory.buckets[home];
        let lane = bucket.lanes_with(word, u32::MAX);
        bucket.0[LANES] ^= lane;
        self.len -= 1;
        if lane == 0 {
            self.remove_on(home, hash, token);
        }
    }

    /// Takes out a token that is not in the bucket it chose.
    #[inline(never)]
    fn remove_on(&mut self, home: usize, hash: u32, token: u32) {
        let word = self.pattern(hash).0 | token;
        self.memory.buckets[home].discount(left(hash));
        let mut at = self.second(hash, home);
        for _ in 0..self.memory.len() {
            let bucket = &mut self.memory.buckets[at];
            match bucket.lanes_with(word, u32::MAX) {
                0 => bucket.discount(PASSED),
                lane => {
                    bucket.0[LANES] ^= lane;
                    return;
                }
            }
            at = self.next(at);
        }
        unreachable!("an entry in the slab has its token in the table")
    }

    /// Puts token `to` in the place of `from`, which must be there.
    pub(crate) fn rename(&mut self, hash: u32, from: u32, to: u32) {
        let (bucket, lane) = self.locate(hash, from);
        self.memory.buckets[bucket].0[lane_of(lane)] = self.pattern(hash).0 | to;
    }

    /// Begins anew, empty, in other memory; returns the old.
    pub(crate) fn replace(&mut self, memory: Buckets) -> Buckets {
        self.len = 0;
        self.limit = Buckets::limit(memory.len());
        std::mem::replace(&mut self.memory, memory)
    }

    /// How many tokens are in it, by looking.
    fn count(&self) -> usize {
        self.memory.buckets.iter().map(Bucket::len).sum()
    }

    /// Checks its count, and that it finds every one of `tokens` (hashes and tokens), of which
    /// there must be as many as it has; and that each bucket counts those who passed.
    pub(crate) fn validate(&self, tokens: impl Iterator<Item = (u32, u32)>) -> Result<(), String> {
        let mut on_their_way = vec![[0; 5]; self.memory.len()];
        let mut len = 0;
        for (hash, token) in tokens {
            if self.find(hash, |other| (other == token).then_some(other)).is_none() {
                return Err(format!("entry {token} is not found in the table"));
            }
            let (bucket, _) = self.locate(hash, token);
            let home = self.home(hash);
            if bucket != home {
                on_their_way[home][hash as usize & 3] += 1;
                let mut at = self.second(hash, home);
                while at != bucket {
                    on_their_way[at][4] += 1;
                    at = self.next(at);
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
        let wrong = |(bucket, counted): (&Bucket, &[u32; 5])| {
            let fields = [left(0), left(1), left(2), left(3), PASSED];
            fields.into_iter().zip(counted).any(|(field, &counted)| {
                let (shown, most) = (bucket.state() & field, field >> field.trailing_zeros());
                shown != field && shown >> field.trailing_zeros() != counted.min(most)
            })
        };
        match self.memory.buckets.iter().zip(&on_their_way).position(wrong) {
            Some(bucket) => Err(format!("bucket {bucket} has miscounted those who went on")),
            None => Ok(()),
        }
    }
}

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
            assert!(table.memory.buckets.iter().all(|bucket| bucket.state() == 0));
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
            bucket.0[LANES] |= left(7) | PASSED;
        }
        for token in 0..60 {
            assert_eq!(table.find(7, |other| (other == token).then_some(other)), Some(token));
            table.remove(7, token);
        }
        table.validate(std::iter::empty()).unwrap();
        assert!(table.memory.buckets.iter().all(|bucket| bucket.state() == left(7) | PASSED));
        table.insert(7, 1);
        assert_eq!(table.find(7, Some), Some(1));
    }

    #[test]
    fn tables_know_how_many_tokens_their_words_can_tell_apart() {
        for slots in [1, 100, 255, 256, 70_000, 1 << 20] {
            let table = table(1, Table::bits_for(slots));
            assert!(table.has_bits_for(slots) && table.has_bits_for(slots * 2));
        }
    }
}
