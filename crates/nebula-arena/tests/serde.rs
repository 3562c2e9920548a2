//! Deserialising into arenas.
#![cfg(feature = "serde")]

use nebula_arena::{Arena, ArenaConfig, ArenaSeed, ArenaValue, DeserializeIn, Entries};
use nebula_memory_core::{ByteSize, MemoryError, last_refusal};
use nebula_testing::{CountingAllocator, FailingAllocator, Rng};
use serde::de::DeserializeSeed as _;

const DOCUMENT: &str = r#"{
    "nothing": null, "yes": true, "no": false, "count": 18446744073709551615, "below": -7,
    "about": 1.5e3, "text": "line\nbreak \u00e4", "empty": "", "list": [1, [2, [3, []]], {"k": []}],
    "map": {"a": {"b": {"c": "deep"}}}, "twice": 1, "twice": 2
}"#;

fn parse<'a, T: DeserializeIn<'a>>(arena: &'a Arena, json: &str) -> Result<T, serde_json::Error> {
    ArenaSeed::<T>::new(arena).deserialize(&mut serde_json::Deserializer::from_str(json))
}

#[test]
fn a_value_is_what_serde_json_makes_of_the_same_text() {
    let arena = Arena::new();
    let value: ArenaValue<'_> = parse(&arena, DOCUMENT).unwrap();
    let expected: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
    let again: serde_json::Value =
        serde_json::from_str(&serde_json::to_string(&value).unwrap()).unwrap();
    assert_eq!(again, expected);
    assert_eq!(value.get("twice"), Some(&ArenaValue::Unsigned(2)));
    assert_eq!(value.get("below"), Some(&ArenaValue::Signed(-7)));
    assert_eq!(value.get("missing"), None);
    assert_eq!(
        ArenaValue::Null.get("x").or(value.get("count")),
        Some(&ArenaValue::Unsigned(u64::MAX))
    );
    assert_eq!(value.get("text").and_then(ArenaValue::as_str), Some("line\nbreak ä"));
    assert_eq!((value.as_str(), value.as_slice()), (None, &[][..]));
}

#[test]
fn random_documents_survive() {
    fn random(rng: &mut Rng, depth: usize) -> serde_json::Value {
        match rng.below(if depth == 0 { 5 } else { 7 }) {
            0 => serde_json::Value::Null,
            1 => rng.below(1000).into(),
            2 => (rng.below(1000) as f64 + 0.5).into(),
            3 => "text".repeat(rng.below(50)).into(),
            4 => (rng.below(2) == 0).into(),
            5 => (0..rng.below(8)).map(|_| random(rng, depth - 1)).collect(),
            _ => {
                let entries = (0..rng.below(8)).map(|i| (i.to_string(), random(rng, depth - 1)));
                serde_json::Value::Object(entries.collect())
            }
        }
    }
    let mut arena = Arena::new();
    for seed in 0..200 {
        let document = random(&mut Rng::new(seed), 5);
        let value: ArenaValue<'_> = parse(&arena, &document.to_string()).unwrap();
        assert_eq!(serde_json::to_value(value).unwrap(), document);
        arena.reset();
    }
}

#[test]
fn typed_values_nest() {
    let arena = Arena::new();
    let lists: &[&[u8]] = parse(&arena, "[[1, 2], [], [3]]").unwrap();
    assert_eq!(lists, [&[1, 2][..], &[], &[3]]);
    let maybe: &[Option<&str>] = parse(&arena, r#"["a", null]"#).unwrap();
    assert_eq!(maybe, [Some("a"), None]);
    let entries: Entries<'_, &str, Option<f64>> =
        parse(&arena, r#"{"x": 1.5, "y": null}"#).unwrap();
    assert_eq!(entries.0, [("x", Some(1.5)), ("y", None)]);
    let units: &[()] = parse(&arena, "[null, null]").unwrap();
    assert_eq!(units.len(), 2);
    for (json, fault) in [("[1]", "a string"), ("{}", "a string"), ("[\"a\", 1]", "a string")] {
        let error = parse::<&[&str]>(&arena, json).map(<[_]>::len);
        match error {
            Ok(_) => panic!("{json}"),
            Err(error) => assert!(json == "{}" || error.to_string().contains(fault), "{error}"),
        }
    }
    assert!(parse::<&str>(&arena, "1").unwrap_err().to_string().contains("expected a string"));
    assert!(parse::<Entries<'_, &str, u8>>(&arena, "1").unwrap_err().to_string().contains("a map"));
    assert!(parse::<Option<u8>>(&arena, "\"x\"").is_err());
}

#[test]
fn scopes_take_values_too() {
    let mut arena = Arena::new();
    arena.scope(|scope| {
        let mut json = serde_json::Deserializer::from_str(DOCUMENT);
        let value = ArenaSeed::<ArenaValue<'_>, _>::new(&*scope).deserialize(&mut json).unwrap();
        assert!(value.get("map").is_some());
    });
}

#[test]
fn a_refusal_at_any_chunk_is_an_error_with_its_reason_behind() {
    let document = format!("[{}]", [DOCUMENT; 10].join(","));
    let mut finished = false;
    for n in 1..100 {
        let base = CountingAllocator::new();
        let failing = FailingAllocator::new(&base);
        let config = ArenaConfig::builder()
            .chunk_size(ByteSize::new(512))
            .max_chunk_size(ByteSize::new(512))
            .build()
            .unwrap();
        let arena = Arena::with_config_in(config, &failing).unwrap();
        failing.fail_from(n);
        let mut json = serde_json::Deserializer::from_str(&document);
        let result = ArenaSeed::<ArenaValue<'_>, _>::new(&arena).deserialize(&mut json);
        match result {
            Ok(value) => {
                assert_eq!(value.as_slice().len(), 10);
                finished = true;
            }
            Err(error) => {
                assert!(error.to_string().contains("memory"), "{error}");
                assert!(matches!(last_refusal(), Some(MemoryError::OutOfMemory { .. })));
            }
        }
        drop(arena);
        base.assert_clean();
        if finished {
            break;
        }
    }
    assert!(finished);
}
