//! What is written for a schema is valid by an independent validator; what is refused is refused by name.

use std::sync::Arc;

use danlu_kernels::random::Random;
use serde_json::{Value, json};

use super::super::{Constraint, ConstraintState, Grammar, Vocabulary};

/// Every byte, and pieces such as real vocabularies have.
fn vocabulary() -> Arc<Vocabulary> {
    let pieces = [
        "{\"",
        "\": ",
        "\":",
        ", \"",
        "\",\"",
        "\"}",
        "}",
        "]",
        "\"]",
        "[\"",
        "true",
        "false",
        "null",
        "中文",
        "数控",
        "的",
        "\\n",
        "\\u4e",
        "0.",
        "12",
        "2026-",
        "铣刀：\"",
        "abc",
        "e+1",
        "\n  ",
        " ",
    ];
    let bytes = (0..=255).map(|byte| vec![byte]);
    Arc::new(Vocabulary::new(bytes.chain(pieces.map(|piece| piece.as_bytes().to_vec()))))
}

fn begin(schema: &Value) -> ConstraintState {
    Constraint::new(&Grammar::from_json_schema(schema).unwrap(), vocabulary()).begin()
}

/// Whether the text can be written, byte by byte.
fn writes(schema: &Value, text: &str) -> bool {
    let mut state = begin(schema);
    text.bytes().all(|byte| state.accept(byte.into())) && state.may_end()
}

fn refusal(schema: &Value) -> String {
    Grammar::from_json_schema(schema).unwrap_err()
}

/// A text that tokens drawn from the masks spell; none where it grows too long.
fn walk(schema: &Value, random: &mut Random) -> Option<String> {
    let vocabulary = vocabulary();
    let mut state = begin(schema);
    let mut bytes = Vec::new();
    for step in 0..4000 {
        let mask = state.allowed();
        if state.may_end() && (mask.is_empty() || random.below(3) == 0) {
            return Some(String::from_utf8(bytes).unwrap());
        }
        let allowed: Vec<u32> = (0..vocabulary.len() as u32).filter(|id| mask.contains(*id)).collect();
        assert_eq!(allowed.len(), mask.len());
        assert!(!allowed.is_empty(), "nothing follows `{}` in {schema}", String::from_utf8_lossy(&bytes));
        // What closes comes often, so that texts end.
        let closing: Vec<u32> =
            b"\"]}".iter().map(|byte| u32::from(*byte)).filter(|id| mask.contains(*id)).collect();
        let id = match closing[..] {
            [id, ..] if step > 300 || random.below(4) == 0 => id,
            _ => allowed[random.below(allowed.len() as u64) as usize],
        };
        assert!(state.accept(id));
        bytes.extend_from_slice(vocabulary.bytes(id));
    }
    None
}

/// Writes `count` texts, each valid, readable byte by byte and refused when it is cut short or goes on.
fn check(schema: &Value, count: usize, random: &mut Random) {
    let validator = jsonschema::options().should_validate_formats(true).build(schema).unwrap();
    for _ in 0..count {
        let Some(text) = walk(schema, random) else { continue };
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: `{text}`"));
        assert!(validator.is_valid(&value), "`{text}` is not valid under {schema}");
        assert!(writes(schema, &text), "`{text}` cannot be read again");
        assert!(!writes(schema, &format!("{text}\"")), "`{text}` goes on");
    }
}

fn random_schema(random: &mut Random, depth: usize) -> Value {
    let small = |random: &mut Random| random.below(5) as i64;
    match random.below(if depth == 0 { 9 } else { 14 }) {
        0 => json!({ "type": "boolean" }),
        1 => json!({ "enum": ["甲", "b\"\\", null, 3, -2.5, { "k": [1] }] }),
        2 => {
            let least = random.below(2_000) as i64 - 1_000;
            json!({ "type": "integer", "minimum": least, "maximum": least + random.below(300) as i64 })
        }
        3 => json!({ "type": "integer", "exclusiveMinimum": random.below(200) as i64 - 100 }),
        4 => {
            let least = small(random) - 3;
            let (low, high) = if random.below(2) == 0 {
                ("minimum", "maximum")
            } else {
                ("exclusiveMinimum", "exclusiveMaximum")
            };
            json!({ "type": "number", low: least, high: least + 1 + small(random) })
        }
        5 => json!({ "type": ["number", "null"] }),
        6 => {
            let least = small(random);
            json!({ "type": "string", "minLength": least, "maxLength": least + small(random) })
        }
        7 => {
            let formats = ["date", "time", "date-time", "uuid", "ipv4", "email", "uri"];
            json!({ "type": "string", "format": formats[random.below(7) as usize] })
        }
        8 => {
            let patterns = [
                "^[a-z\\u4e00-\\u9fff]{2,4}$",
                "^\\d+(\\.\\d{1,2})?$",
                "b[^\"x]c|^\\s*\\w+$",
                "\\W\\.",
                "^(ab|\"\\\\)*?$",
            ];
            json!({ "type": "string", "pattern": patterns[random.below(5) as usize] })
        }
        9 => {
            let least = small(random) % 3;
            json!({ "type": "array", "items": random_schema(random, depth - 1), "minItems": least, "maxItems": least + small(random) })
        }
        10 => json!({
            "type": "array",
            "prefixItems": [random_schema(random, depth - 1), random_schema(random, depth - 1)],
            "items": random_schema(random, depth - 1),
        }),
        11 => {
            let (a, b, c) = (
                random_schema(random, depth - 1),
                random_schema(random, depth - 1),
                random_schema(random, depth - 1),
            );
            let required = [json!([]), json!(["b"]), json!(["a", "c"]), json!(["a", "ab", "c"])];
            let additional = [json!(false), json!(true), random_schema(random, depth - 1)];
            json!({
                "type": "object",
                "properties": { "a": a, "ab": b, "c": c },
                "required": required[random.below(4) as usize],
                "additionalProperties": additional[random.below(3) as usize],
            })
        }
        12 => json!({ "anyOf": [random_schema(random, depth - 1), random_schema(random, depth - 1)] }),
        _ => json!({
            "type": "object",
            "properties": { "k": random_schema(random, depth - 1) },
            "allOf": [
                { "properties": { "m": random_schema(random, depth - 1) }, "required": ["m"] },
                { "properties": { "k": {} }, "title": "t" },
            ],
        }),
    }
}

#[test]
fn whatever_is_written_for_a_random_schema_is_valid() {
    let mut random = Random::new(&[2026]);
    for _ in 0..150 {
        let schema = random_schema(&mut random, 2);
        // "b" may be required without being described where nothing else is allowed.
        if Grammar::from_json_schema(&schema).is_ok() {
            check(&schema, 3, &mut random);
        }
    }
}

#[test]
fn schemas_as_people_write_them_are_followed() {
    let mut random = Random::new(&[7]);
    let entities = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "实体",
        "type": "object",
        "properties": {
            "实体": { "type": "array", "items": { "$ref": "#/$defs/entity" }, "minItems": 1 },
            "说明": { "anyOf": [{ "type": "string", "maxLength": 20 }, { "type": "null" }], "default": null },
        },
        "required": ["实体"],
        "additionalProperties": false,
        "$defs": { "entity": {
            "type": "object",
            "properties": { "名称": { "type": "string" }, "类别": { "enum": ["刀具", "材料"] }, "子": { "$ref": "#/$defs/entity" } },
            "required": ["名称", "类别"],
        } },
    });
    check(&entities, 20, &mut random);
    assert!(writes(
        &entities,
        r#"{"实体": [{"名称": "铣刀", "类别": "刀具", "子": {"名称": "", "类别": "材料"}}]}"#
    ));
    assert!(!writes(&entities, r#"{"实体": []}"#));
    assert!(!writes(&entities, r#"{"实体": [{"名称": "铣刀", "类别": "人"}]}"#));
    let tagged = json!({ "oneOf": [
        { "type": "object", "properties": { "kind": { "const": "a" }, "n": { "type": "integer" } }, "required": ["kind", "n"] },
        { "type": "object", "properties": { "kind": { "const": "b" } }, "required": ["kind"] },
        { "type": "string" },
    ] });
    check(&tagged, 20, &mut random);
    let tree = json!({ "type": "object", "properties": { "next": { "$ref": "#" }, "v": { "type": "integer", "maximum": 5 } } });
    check(&tree, 20, &mut random);
    assert!(writes(&tree, "{\"next\": {\"next\": {}, \"v\": 5}}"));
    let tuple = json!({ "type": "array", "items": [{ "type": "string" }, { "type": "integer" }], "additionalItems": false });
    assert!(writes(&tuple, "[\"a\",1]") && !writes(&tuple, "[\"a\",1,2]"));
    let counted = json!({ "type": "object", "additionalProperties": { "type": "null" }, "maxProperties": 2, "minProperties": 1 });
    assert!(writes(&counted, "{\"a\":null, \"b\":null}"));
    assert!(!writes(&counted, "{}") && !writes(&counted, "{\"a\":null,\"b\":null,\"c\":null}"));
}

#[test]
fn any_object_is_an_object_and_nothing_else() {
    let constraint = Constraint::new(&Grammar::json_object().unwrap(), vocabulary());
    let accepts = |text: &str| {
        let mut state = constraint.begin();
        text.bytes().all(|byte| state.accept(byte.into())) && state.may_end()
    };
    for text in ["{}", r#"{"键": [1, -2.5e3, {"b": [null, true, "\u4e2d\n"]}]}"#, "{\n  \"a\": {}\n}"] {
        assert!(accepts(text), "{text}");
    }
    for text in [
        "[]",
        "1",
        "{\"a\"}",
        "{\"a\": 01}",
        "{\"a\": \"\n\"}",
        "{} ",
        "{,}",
        "{\"a\": \"\\ud800\"}",
        "{\"a\":1,}",
    ] {
        assert!(!accepts(text), "{text}");
    }
}

#[test]
fn bounds_of_integers_are_kept_to_the_digit() {
    for (least, most) in [(0, 0), (-5, 5), (-1234, -99), (7, 1000), (95, 1103), (-1, 0)] {
        let schema = json!({ "type": "integer", "minimum": least, "maximum": most });
        for value in -1300..=1300_i64 {
            assert_eq!(
                writes(&schema, &value.to_string()),
                (least..=most).contains(&value),
                "{value} in {least}..{most}"
            );
        }
    }
    let above = json!({ "type": "integer", "minimum": 0.5 });
    assert!(!writes(&above, "0") && writes(&above, "1") && writes(&above, "123456789"));
}

#[test]
fn names_of_further_properties_differ_from_the_described_ones() {
    let schema = json!({
        "type": "object",
        "properties": { "ab": { "type": "integer" }, "铣": { "type": "integer" } },
        "additionalProperties": { "type": "string" },
    });
    for text in [r#"{"ab": 1, "铣": 2, "a": "x", "abc": "y", "铣刀": "z", "": ""}"#, r#"{"b": "x"}"#] {
        assert!(writes(&schema, text), "{text}");
    }
    for text in [r#"{"ab": "x"}"#, r#"{"铣": "x"}"#, r#"{"\u0061b": "x"}"#, r#"{"a": 1}"#] {
        assert!(!writes(&schema, text), "{text}");
    }
}

#[test]
fn what_cannot_be_followed_is_refused_by_name_and_place() {
    let cases = [
        (json!({ "not": {} }), "`#`: `not` is not supported"),
        (
            json!({ "properties": { "a": { "type": "array", "uniqueItems": true } } }),
            "`#/properties/a`: `uniqueItems` is not supported",
        ),
        (json!({ "type": "integer", "multipleOf": 5 }), "`#`: `multipleOf`: 5 is not supported"),
        (
            json!({ "type": "number", "minimum": 0.5 }),
            "`#`: `minimum`: 0.5 is not supported: bounds of numbers must be whole",
        ),
        (
            json!({ "type": "string", "pattern": "(?=a)" }),
            "`#`: `pattern`: `(?=a)`: looking around and named groups are not supported",
        ),
        (json!({ "type": "string", "pattern": "(a" }), "`#`: `pattern`: `(a`: a `(` has no `)`"),
        (
            json!({ "type": "string", "pattern": "^a$", "maxLength": 3 }),
            "`#`: `pattern` beside `minLength` or `maxLength` is not supported",
        ),
        (
            json!({ "$ref": "other.json" }),
            "`#`: `$ref`: `other.json` lies outside of the schema, which is not supported",
        ),
        (json!({ "$ref": "#/$defs/x" }), "`#`: `$ref`: there is no `#/$defs/x` in the schema"),
        (json!({ "type": "float" }), "`#`: `type`: `float` is none of"),
        (json!({ "typo": 1 }), "`#`: `typo` is not supported"),
        (
            json!({ "oneOf": [{ "type": "integer" }, { "type": "number" }] }),
            "`#`: `oneOf`: one value may fulfil branches 0 and 1",
        ),
        (
            json!({ "type": "string", "format": "ipv6" }),
            "`#`: `format`: `ipv6` is not supported, only `date`",
        ),
        (
            json!({ "type": "object", "minProperties": 2 }),
            "`#`: `minProperties`: 2 is more than what is required",
        ),
        (
            json!({ "enum": ["a"], "minLength": 1 }),
            "`#`: `minLength` beside `enum` or `const` is not supported",
        ),
        (json!([]), "`#`: expected a schema, found []"),
        (json!({ "items": 3 }), "`#/items`: expected a schema, found 3"),
    ];
    for (schema, expected) in cases {
        let found = refusal(&schema);
        assert!(found.starts_with(&format!("the JSON schema at {expected}")), "{found}");
    }
}

#[test]
fn schemas_that_nothing_fulfils_or_that_never_end_are_refused() {
    let endless = json!({ "type": "object", "properties": { "a": { "$ref": "#" } }, "required": ["a"] });
    for schema in [
        json!(false),
        json!({ "type": "integer", "minimum": 3, "maximum": 2 }),
        json!({ "allOf": [{ "type": "string" }, { "type": "null" }] }),
        json!({ "properties": { "a": false }, "required": ["a"] }),
        endless,
    ] {
        assert!(
            refusal(&schema).starts_with("the JSON schema allows nothing, or nothing that ends"),
            "{schema}"
        );
    }
    let itself = json!({ "allOf": [{ "$ref": "#" }, { "type": "string" }] });
    assert!(Grammar::from_json_schema(&itself).is_err());
    assert!(writes(&json!({ "properties": { "a": false } }), "{}"));
}
