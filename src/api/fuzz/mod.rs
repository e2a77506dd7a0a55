//! Hostile input for the decoders and the rules: made from the facts, and by mutating a kept corpus.
//! Nothing may panic; what is accepted must survive being written and read again.
//!
//! `NARU_FUZZ_SECONDS` runs longer, `NARU_FUZZ_SEED` repeats a run. An input that fails is printed: put it
//! into `corpus`, where it is tried on every run.

#![allow(clippy::unwrap_used, reason = "tests")]

mod generate;

use crate::codec;
use crate::facts::{self, Type};
use crate::registry::{RESOURCES, Resource};
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::FieldErrors;
use crate::{patch, quantity::Quantity};
use generate::Random;
use serde_json::{Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn type_of(resource: &Resource) -> &'static Type {
    facts::type_by_name(resource.type_name).unwrap()
}

/// Everything that a write does to an object without the server.
fn live(resource: &Resource, mut value: Value, old: Option<&Value>) {
    let ty = type_of(resource);
    let rules = &resource.rules;
    codec::apply_constant_defaults(&mut value, ty);
    (rules.default)(&mut value);
    let once = value.clone();
    codec::apply_constant_defaults(&mut value, ty);
    (rules.default)(&mut value);
    assert_eq!(value, once, "defaults of {} are not idempotent", resource.kind);
    match old {
        None => (rules.prepare_create)(&mut value),
        Some(old) => (rules.prepare_update)(&mut value, old),
    }
    let mut errors = FieldErrors::default();
    crate::meta::validate::metadata(resource, &value, &mut errors);
    (rules.validate)(&value, &mut errors);
    if let Some(old) = old {
        crate::meta::validate::metadata_update(&value, old, &mut errors);
        (rules.validate_update)(&value, old, &mut errors);
        (rules.validate_status)(&value, old, &mut errors);
    }
    let _ = errors.messages();
    (rules.warnings)(&value);
    (rules.fields)(&value);
    (rules.row)(&value, 1_000_000);
}

/// Reads a body as each format that it could be in.
fn decode(body: &[u8], ty: &'static Type) -> Option<Value> {
    if codec::is_protobuf(body) {
        let envelope = codec::open_envelope(body).ok()?;
        return codec::decode_message(envelope.raw, ty).ok();
    }
    let decoded = codec::decode_json(body, ty).or_else(|_| codec::decode_yaml(body, ty)).ok()?;
    let written = codec::canonical(&decoded.value);
    let again = codec::decode_json(&written, ty).unwrap_or_else(|e| panic!("written, but not readable: {e}"));
    assert_eq!(codec::canonical(&again.value), written, "not stable when written and read again");
    Some(decoded.value)
}

fn one(resource: &Resource, body: &[u8], other: &[u8]) {
    let ty = type_of(resource);
    let (new, old) = (decode(body, ty), decode(other, ty));
    if let Some(new) = &new {
        live(resource, new.clone(), None);
        let mut patched = new.clone();
        if let Some(old) = &old {
            live(resource, new.clone(), Some(old));
            patch::merge(&mut patched, old);
            let _ = patch::strategic(&mut patched, old, ty);
            let _ = codec::decode_value(&patched, ty);
        }
    }
    let _ = patch::json(&mut json!({"a": [1, {"b": 2}]}), body);
    if let Ok(text) = std::str::from_utf8(body) {
        let text = text.get(..text.len().min(200)).unwrap_or_default();
        let _ = LabelSelector::parse(text);
        let _ = FieldSelector::parse(text);
        let _ = Quantity::parse(text);
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut bodies = Vec::new();
    for path in paths {
        let bytes = std::fs::read(&path).unwrap();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            bodies.extend(String::from_utf8(bytes).unwrap().split("\n---\n").map(|text| text.as_bytes().to_vec()));
        } else {
            bodies.push(bytes);
        }
    }
    bodies
}

/// Runs `one`, and names the input if it panics.
fn guarded(resource: &Resource, body: &[u8], other: &[u8], seed: u64) {
    let outcome = catch_unwind(AssertUnwindSafe(|| one(resource, body, other)));
    assert!(
        outcome.is_ok(),
        "seed {seed}, {}: {:?} and {:?}",
        resource.plural,
        String::from_utf8_lossy(body),
        String::from_utf8_lossy(other)
    );
}

#[test]
fn nothing_that_arrives_can_break_the_decoders_or_the_rules() {
    let seconds = std::env::var("NARU_FUZZ_SECONDS").ok().and_then(|v| v.parse().ok()).unwrap_or(10);
    let seed = std::env::var("NARU_FUZZ_SEED").ok().and_then(|v| v.parse().ok());
    let seed = seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    let mut random = Random::new(seed);
    let corpus = corpus();
    for body in &corpus {
        for resource in RESOURCES {
            guarded(resource, body, body, seed);
        }
    }
    let clock = SystemTime::now();
    while clock.elapsed().unwrap_or_default() < Duration::from_secs(seconds) {
        for resource in RESOURCES {
            let body = match random.below(3) {
                0 => generate::mutated(&mut random, &corpus),
                _ => generate::object(&mut random, resource),
            };
            let other = match random.below(4) {
                0 => generate::mutated(&mut random, std::slice::from_ref(&body)),
                _ => generate::object(&mut random, resource),
            };
            guarded(resource, &body, &other, seed);
        }
    }
}

#[test]
fn deep_nesting_is_an_error_in_every_format() {
    let ty = facts::type_by_gvk("", "v1", "Pod").unwrap();
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(200_000), close.repeat(200_000));
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("{\"spec\":", "}")] {
        let body = deep(open, close);
        assert!(codec::decode_json(body.as_bytes(), ty).is_err());
        assert!(codec::parse_json(body.as_bytes()).is_err());
        assert!(codec::decode_yaml(body.as_bytes(), ty).is_err());
    }
    let mut message = Vec::new();
    for _ in 0..3 {
        message.extend([0x0a; 100_000]);
    }
    let mut body = b"k8s\0".to_vec();
    body.extend(&message);
    assert!(codec::decode_protobuf(&body).is_err());
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
        d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
        g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: &h [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n";
    assert!(codec::decode_yaml(bomb.as_bytes(), ty).is_err());
}
