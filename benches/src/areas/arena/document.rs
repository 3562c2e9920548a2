//! A JSON document that is always the same, and what a parser of it needs to read.

use super::values::random;

/// Bytes of the document; few where nothing is optimised.
pub(super) const SIZE: usize = if cfg!(debug_assertions) { 64 << 10 } else { 4 << 20 };

/// An array of records, as long as `SIZE`.
pub(super) fn document() -> String {
    use std::fmt::Write as _;

    let mut random = random();
    let mut words = move |text: &mut String, count: usize| {
        for i in 0..count {
            if i > 0 {
                text.push(' ');
            }
            for _ in 0..2 + random(9) {
                text.push(char::from(b"etaoinshrdlucmfwypvbgkjqxz"[random(26)]));
            }
            if random(256) == 0 {
                text.push_str("\\n");
            }
        }
    };
    let mut text = String::from("[");
    for id in 0.. {
        if text.len() >= SIZE {
            break;
        }
        if id > 0 {
            text.push(',');
        }
        write!(text, r#"{{"id":{id},"active":{},"name":""#, id % 3 == 0).expect("a string");
        words(&mut text, 2);
        write!(text, r#"","score":{}.{},"tags":["#, id % 997, id % 10).expect("a string");
        for tag in 0..id % 5 {
            text.push_str(if tag == 0 { "\"" } else { ",\"" });
            words(&mut text, 1);
            text.push('"');
        }
        text.push_str(r#"],"place":{"city":""#);
        words(&mut text, 1);
        write!(text, r#"","at":[{}.25,-{}.5]}},"note":"#, id % 90, id % 180).expect("a string");
        if id % 7 == 0 {
            text.push_str("null}");
        } else {
            text.push('"');
            words(&mut text, 35 + id % 11);
            text.push_str("\"}");
        }
    }
    text.push(']');
    text
}

/// What is left of a document. It is trusted to be one: no more is checked than has to be read.
pub(super) struct Reader<'t> {
    text: &'t [u8],
}

/// How a value begins.
pub(super) enum Start {
    Null,
    Bool(bool),
    Number(f64),
    Text,
    Array,
    Object,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text: text.as_bytes() }
    }

    #[inline]
    fn byte(&self) -> u8 {
        self.text[0]
    }

    #[inline]
    fn skip(&mut self, bytes: usize) {
        self.text = &self.text[bytes..];
    }

    /// Reads a value, or the byte that a text, array or object begins with.
    #[inline]
    pub(super) fn start(&mut self) -> Start {
        let (start, len) = match self.byte() {
            b'n' => (Start::Null, 4),
            b't' => (Start::Bool(true), 4),
            b'f' => (Start::Bool(false), 5),
            b'"' => (Start::Text, 1),
            b'[' => (Start::Array, 1),
            b'{' => (Start::Object, 1),
            _ => return Start::Number(self.number()),
        };
        self.skip(len);
        start
    }

    /// Whether `end` comes next; it is read then.
    #[inline]
    pub(super) fn ends(&mut self, end: u8) -> bool {
        let ends = self.byte() == end;
        if ends {
            self.skip(1);
        }
        ends
    }

    /// Reads the comma behind an element, or `end`, which is the answer `false`.
    #[inline]
    pub(super) fn goes_on(&mut self, end: u8) -> bool {
        let goes_on = !self.ends(end);
        if goes_on {
            self.skip(1);
        }
        goes_on
    }

    /// Reads the quotation mark before a key.
    #[inline]
    pub(super) fn key(&mut self) {
        self.skip(1);
    }

    /// Reads the colon behind a key.
    #[inline]
    pub(super) fn colon(&mut self) {
        self.skip(1);
    }

    /// Reads a piece of a text, and what ends it: a quotation mark, which is the answer `None`, or
    /// an escaped character.
    #[inline]
    pub(super) fn piece(&mut self) -> (&'t [u8], Option<u8>) {
        let (piece, rest) = self.text.split_at(end_of_piece(self.text));
        self.text = rest;
        if self.byte() == b'"' {
            self.skip(1);
            return (piece, None);
        }
        let escaped = if self.text[1] == b'n' { b'\n' } else { self.text[1] };
        self.skip(2);
        (piece, Some(escaped))
    }

    #[inline]
    fn number(&mut self) -> f64 {
        let negative = self.ends(b'-');
        let (mut digits, mut scale) = (0_u32, 1_u32);
        let mut fraction = false;
        loop {
            match self.byte() {
                b'.' => fraction = true,
                digit @ b'0'..=b'9' => {
                    digits = digits * 10 + u32::from(digit - b'0');
                    if fraction {
                        scale *= 10;
                    }
                }
                _ => break,
            }
            self.skip(1);
        }
        let number = f64::from(digits) / f64::from(scale);
        if negative { -number } else { number }
    }
}

/// Where the first quotation mark or backslash is; looks at eight bytes at a time.
#[inline]
fn end_of_piece(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // The highest bit of each byte that is zero, and maybe of some behind the first.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
    let (words, _) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let ends = zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')));
        if ends != 0 {
            return index * 8 + ends.trailing_zeros() as usize / 8;
        }
    }
    let rest = words.len() * 8;
    rest + text[rest..].iter().position(|byte| matches!(byte, b'"' | b'\\')).expect("an end")
}
