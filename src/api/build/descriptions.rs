//! Descriptions of types and fields, read from the sources of the `k8s-openapi` dependency and compressed.
//!
//! Without those sources (a build of this member alone on a fresh machine) the documents go without.

use flate2::Compression;
use flate2::write::DeflateEncoder;
use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Texts by type and then by field; the type's own is under the empty name.
type Texts = HashMap<String, HashMap<String, String>>;

/// Between the texts of a type, and between types.
const FIELD: &str = "\u{1f}";
const TYPE: &str = "\u{1e}";

/// Writes the descriptions of these types and fields, in their order.
pub(crate) fn write(target: &Path, types: &BTreeMap<&str, Vec<&str>>) {
    let mut texts = Texts::new();
    match sources() {
        Some(folder) => {
            // Unpacked sources never change; one file stands for all of them.
            println!("cargo:rerun-if-changed={}", folder.join("mod.rs").display());
            read_folder(&folder, &mut texts);
        }
        None => println!("cargo:warning=no sources of k8s-openapi found: kubectl explain will have no descriptions"),
    }
    let none = HashMap::new();
    let blocks: Vec<String> = types
        .iter()
        .map(|(name, fields)| {
            let texts = texts.get(*name).unwrap_or(&none);
            let of = |field: &str| texts.get(field).map_or("", String::as_str);
            let list: Vec<&str> = std::iter::once("").chain(fields.iter().copied()).map(of).collect();
            list.join(FIELD)
        })
        .collect();
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(blocks.join(TYPE).as_bytes()).expect("writing to memory");
    fs::write(target, encoder.finish().expect("writing to memory")).expect("cargo's output directory is writable");
}

/// Where cargo unpacked the newest `k8s-openapi` that has our level.
fn sources() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))?;
    let mut found: Vec<PathBuf> = Vec::new();
    for registry in fs::read_dir(home.join("registry/src")).ok()?.flatten() {
        for package in fs::read_dir(registry.path()).ok()?.flatten() {
            if package.file_name().to_string_lossy().starts_with("k8s-openapi-0") {
                found.push(package.path().join("src/v1_36"));
            }
        }
    }
    found.retain(|folder| folder.is_dir());
    found.sort();
    found.pop()
}

fn read_folder(folder: &Path, texts: &mut Texts) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_folder(&path, texts);
        } else if let Ok(source) = fs::read_to_string(&path) {
            read_source(&source, texts);
        }
    }
}

/// Reads the schemas in a source file, which is generated and so has a fixed layout: the type's full name,
/// then descriptions, each of the property named last before it.
fn read_source(source: &str, texts: &mut Texts) {
    let mut ty: Option<String> = None;
    let mut field = String::new();
    for line in source.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if indent == 8 && text.starts_with("\"io.k8s.") && text.ends_with("\".into()") {
            ty = Some(text[1..text.len() - "\".into()".len()].to_owned());
            field.clear();
            continue;
        }
        let Some(ty) = &ty else { continue };
        let property = text.strip_suffix("\": {").or_else(|| text.strip_suffix("\": ({"));
        if indent == 16
            && let Some(name) = property.and_then(|p| p.strip_prefix('"'))
        {
            field = name.to_owned();
            continue;
        }
        let plain = text.strip_prefix("\"description\": \"").and_then(|t| t.strip_suffix("\","));
        let inserted = text
            .strip_prefix("schema_obj.ensure_object().insert(\"description\".into(), \"")
            .and_then(|t| t.strip_suffix("\".into());"));
        if let Some(description) = plain.or(inserted) {
            let fields = texts.entry(ty.clone()).or_default();
            fields.entry(field.clone()).or_insert_with(|| unescape(description));
        }
    }
}

/// The value of a Rust string literal's inside.
fn unescape(literal: &str) -> String {
    let mut out = String::with_capacity(literal.len());
    let mut chars = literal.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('u') => {
                let code: String = chars.by_ref().skip(1).take_while(|c| *c != '}').collect();
                out.extend(u32::from_str_radix(&code, 16).ok().and_then(char::from_u32));
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}
