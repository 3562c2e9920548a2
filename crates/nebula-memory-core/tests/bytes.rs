//! Sizes as people write them. (The numbers are those of 64-bit machines.)
#![cfg(target_pointer_width = "64")]

use nebula_memory_core::ByteSize;
use proptest::prelude::*;

fn parse(text: &str) -> Option<usize> {
    text.parse::<ByteSize>().ok().map(ByteSize::get)
}

#[test]
fn numbers_and_units_are_read() {
    for (text, bytes) in [
        ("0", 0),
        ("1048576", 1 << 20),
        ("0B", 0),
        ("512KiB", 512 << 10),
        ("512 KiB", 512 << 10),
        ("  64MiB\n", 64 << 20),
        ("64mib", 64 << 20),
        ("2GiB", 2 << 30),
        ("1kB", 1000),
        ("3MB", 3_000_000),
        ("1.5 GB", 1_500_000_000),
        ("1.5GiB", 3 << 29),
        ("0.5KiB", 512),
        ("9007199254740993B", 9_007_199_254_740_993),
        ("9223372036854775809", 9_223_372_036_854_775_809),
    ] {
        assert_eq!(parse(text), Some(bytes), "{text:?}");
    }
}

#[test]
fn a_fraction_of_a_byte_is_dropped() {
    assert_eq!(parse("0.1KiB"), Some(102));
    assert_eq!(parse("1.9B"), Some(1));
}

#[test]
fn junk_is_refused() {
    for text in [
        "",
        " ",
        "MiB",
        "-1",
        "-1MiB",
        "- 5",
        "1.2.3MB",
        "1e3",
        "1e3B",
        "0x10",
        "1,000",
        "1_000",
        "NaN",
        "inf",
        "infinity",
        "ten",
        "10 apples",
        "64MiBs",
        "64 MiB 2",
        "6 4MiB",
        "٣MiB",
        "∞",
        "1MiB\0",
        ".",
        ".B",
        "..5B",
        "unlimited",
    ] {
        let error = text.parse::<ByteSize>().expect_err(text);
        assert_eq!(error.code(), "invalid_config");
        assert!(error.to_string().contains("64MiB"), "no example: {error}");
    }
}

#[test]
fn what_a_usize_cannot_hold_is_refused() {
    for text in [
        "18446744073709551616",
        "18446744073709551616B",
        "16EiB",
        "17179869184GiB",
        "99999999999999999999999 EB",
        "20EB",
        "18.5EB",
    ] {
        assert_eq!(parse(text), None, "{text:?}");
    }
}

#[test]
fn constructors_saturate() {
    assert_eq!(ByteSize::kib(1), ByteSize::new(1024));
    assert_eq!(ByteSize::mib(1), ByteSize::kib(1024));
    assert_eq!(ByteSize::gib(1), ByteSize::mib(1024));
    for size in [ByteSize::kib(usize::MAX), ByteSize::mib(usize::MAX), ByteSize::gib(usize::MAX)] {
        assert_eq!(size.get(), usize::MAX);
    }
    assert_eq!(usize::from(ByteSize::from(5)), 5);
    assert_eq!(ByteSize::ZERO, ByteSize::default());
}

#[test]
fn display_is_rounded_and_padded_as_a_whole() {
    assert_eq!(ByteSize::new(1000).to_string(), "1000 B");
    assert_eq!(ByteSize::kib(1).to_string(), "1.0 KiB");
    assert_eq!(ByteSize::new(1536).to_string(), "1.5 KiB");
    assert_eq!(format!("{:>12}|", ByteSize::mib(64)), "    64.0 MiB|");
    assert_eq!(format!("{:<10}|", ByteSize::ZERO), "0 B       |");
}

#[test]
fn the_exact_text_uses_the_largest_unit_that_is_exact() {
    for (bytes, text) in [
        (0, "0B"),
        (1, "1B"),
        (1000, "1000B"),
        (1024, "1KiB"),
        (1536, "1536B"),
        (3 << 20, "3MiB"),
        (5 << 30, "5GiB"),
        (1 << 40, "1024GiB"),
        ((1 << 20) + 1024, "1025KiB"),
    ] {
        assert_eq!(ByteSize::new(bytes).to_exact_string(), text);
    }
}

#[test]
fn the_extremes_survive_a_round_trip() {
    for bytes in [0, 1, usize::MAX, usize::MAX - 1, isize::MAX as usize, usize::MAX - 1023] {
        let size = ByteSize::new(bytes);
        assert_eq!(parse(&size.to_exact_string()), Some(bytes));
        assert_eq!(parse(&bytes.to_string()), Some(bytes));
    }
}

proptest! {
    #[test]
    fn every_size_survives_a_round_trip(value in any::<usize>(), shift in 0..usize::BITS) {
        // Sizes of every magnitude, and those with many zero bits.
        for bytes in [value, value >> shift, value << shift] {
            let text = ByteSize::new(bytes).to_exact_string();
            prop_assert_eq!(parse(&text), Some(bytes), "{}", text);
        }
    }

    #[test]
    fn no_text_panics(text in ".{0,20}") {
        let _ = parse(&text);
    }

    #[test]
    fn texts_that_look_like_sizes_do_not_panic(text in "-?[0-9.]{0,30} ?[kKmMgGtTpPeE]?i?[bB]?") {
        let _ = parse(&text);
    }
}
