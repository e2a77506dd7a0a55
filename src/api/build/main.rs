//! Turns `facts/api-facts.txt` into static tables, so that nothing is parsed at start-up.

#![allow(clippy::print_stdout, reason = "a build script speaks to cargo by it")]

mod descriptions;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

/// One field line.
struct FieldLine<'a> {
    name: &'a str,
    tag: &'a str,
    kind: &'a str,
    flags: Vec<&'a str>,
}

/// One type with its fields.
struct TypeLine<'a> {
    name: &'a str,
    attributes: Vec<&'a str>,
    fields: Vec<FieldLine<'a>>,
}

impl<'a> TypeLine<'a> {
    fn attribute(&self, prefix: &str) -> Option<&'a str> {
        self.attributes.iter().find_map(|a| a.strip_prefix(prefix))
    }
}

fn main() {
    let source = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("set by cargo")).join("facts/api-facts.txt");
    println!("cargo:rerun-if-changed={}", source.display());
    println!("cargo:rerun-if-changed=build");
    let text = fs::read_to_string(&source).expect("the facts are part of the sources");
    let types = parse(&text);
    let index: HashMap<&str, usize> = types.iter().enumerate().map(|(i, t)| (t.name, i)).collect();
    let inlined_kinds = inlined_kinds(&types);

    let mut out = String::new();
    for (i, ty) in types.iter().enumerate() {
        emit_type(&mut out, i, ty, &index, &inlined_kinds);
    }
    emit_indexes(&mut out, &types);
    let folder = PathBuf::from(env::var("OUT_DIR").expect("set by cargo"));
    fs::write(folder.join("tables.rs"), out).expect("cargo's output directory is writable");
    descriptions::write(&folder.join("descriptions"), &names(&types));
}

/// Types and their fields, in the order of the tables.
fn names<'a>(types: &[TypeLine<'a>]) -> BTreeMap<&'a str, Vec<&'a str>> {
    let fields = |ty: &TypeLine<'a>| {
        let mut names: Vec<&str> = ty.fields.iter().map(|f| f.name).collect();
        names.sort_unstable();
        names
    };
    types.iter().map(|ty| (ty.name, fields(ty))).collect()
}

fn parse(text: &str) -> Vec<TypeLine<'_>> {
    let mut types: Vec<TypeLine<'_>> = Vec::new();
    for line in text.lines().filter(|l| !l.is_empty()) {
        let mut words = split_flags(line).into_iter();
        let first = words.next().expect("a line has a word");
        if first == "T" {
            let name = words.next().expect("a type has a name");
            types.push(TypeLine { name, attributes: words.collect(), fields: Vec::new() });
        } else {
            let tag = words.next().expect("a field has a tag");
            let kind = words.next().expect("a field has a kind");
            let field = FieldLine { name: first, tag, kind, flags: words.collect() };
            types.last_mut().expect("fields follow a type").fields.push(field);
        }
    }
    types
}

/// Splits at blanks; a default may contain none.
fn split_flags(line: &str) -> Vec<&str> {
    line.split(' ').filter(|w| !w.is_empty()).collect()
}

/// The kinds of fields of types that exist on the wire alone, known from the types that flatten them.
fn inlined_kinds<'a>(types: &[TypeLine<'a>]) -> HashMap<(&'a str, &'a str), &'a str> {
    let mut kinds = HashMap::new();
    for ty in types {
        let Some((_, inner)) = ty.attribute("inl=").and_then(|v| v.split_once(':')) else { continue };
        for field in ty.fields.iter().filter(|f| f.tag == "-") {
            kinds.insert((inner, field.name), field.kind);
        }
    }
    kinds
}

fn shape(ty: &TypeLine<'_>) -> &'static str {
    match ty.attribute("s=") {
        None | Some("any") => "Object",
        Some("Quantity") => "Quantity",
        Some("IntOrString") => "IntOrString",
        Some("Time") => "Time",
        Some("MicroTime") => "MicroTime",
        Some("FieldsV1") => "FieldsV1",
        Some("RawExtension") => "RawExtension",
        Some("JSON") => "Json",
        Some("JSONSchemaPropsOrArray") => "SchemaOrArray",
        Some("JSONSchemaPropsOrBool") => "SchemaOrBool",
        Some("JSONSchemaPropsOrStringArray") => "SchemaOrStrings",
        Some(other) => panic!("unknown scalar {other}"),
    }
}

fn kind(text: &str, index: &HashMap<&str, usize>) -> String {
    match text {
        "str" => "Kind::Str".into(),
        "i32" => "Kind::I32".into(),
        "i64" => "Kind::I64".into(),
        "f64" => "Kind::F64".into(),
        "bool" => "Kind::Bool".into(),
        "bytes" => "Kind::Bytes".into(),
        _ => match text.split_once(':') {
            Some(("r", name)) => {
                format!("Kind::Object(&T{})", index.get(name).unwrap_or_else(|| panic!("no type {name}")))
            }
            Some(("l", inner)) => format!("Kind::List(&{})", kind(inner, index)),
            Some(("m", inner)) => format!("Kind::Map(&{})", kind(inner, index)),
            _ => panic!("unknown kind {text}"),
        },
    }
}

fn strings(list: Option<&str>) -> String {
    let items: Vec<String> =
        list.unwrap_or("").split(',').filter(|s| !s.is_empty()).map(|s| format!("{s:?}")).collect();
    format!("&[{}]", items.join(", "))
}

fn field(f: &FieldLine<'_>, kind_text: &str, index: &HashMap<&str, usize>) -> String {
    let has = |flag: &str| f.flags.contains(&flag);
    let value = |prefix: &str| f.flags.iter().find_map(|x| x.strip_prefix(prefix));
    let presence = if has("ptr") {
        "Pointer"
    } else if has("keep") {
        "Always"
    } else {
        "Plain"
    };
    let list_type = match value("lt=") {
        None => "None".to_owned(),
        Some("atomic") => "Some(ListType::Atomic)".to_owned(),
        Some("set") => "Some(ListType::Set)".to_owned(),
        Some("map") => "Some(ListType::Map)".to_owned(),
        Some(other) => panic!("unknown list type {other}"),
    };
    let strategies: Vec<&str> = value("ps=").unwrap_or("").split(',').collect();
    let plain = f.flags.iter().all(|x| matches!(*x, "!" | "ptr" | "keep"));
    let extra = if plain {
        "&PLAIN".to_owned()
    } else {
        format!(
            "&Schema {{ list_type: {list_type}, list_keys: {}, merge_key: {}, merge: {}, retain_keys: {}, replace: {}, map_atomic: {}, map_granular: {}, default: {}, gates: {} }}",
            strings(value("lk=")),
            value("pk=").map_or("None".to_owned(), |k| format!("Some({k:?})")),
            strategies.contains(&"merge"),
            strategies.contains(&"retainKeys"),
            strategies.contains(&"replace"),
            has("mt=atomic"),
            has("mt=granular"),
            default(value("d=")),
            strings(value("fg=")),
        )
    };
    format!(
        "Field {{ name: {:?}, kind: {}, tag: {}, required: {}, presence: Presence::{presence}, schema: {extra} }}",
        f.name,
        kind(kind_text, index),
        if f.tag == "-" { "0" } else { f.tag },
        has("!"),
    )
}

fn default(text: Option<&str>) -> String {
    let Some(text) = text else { return "None".into() };
    if let Some(quoted) = text.strip_prefix('"') {
        return format!("Some(Constant::Str({:?}))", quoted.trim_end_matches('"'));
    }
    match text {
        "true" | "false" => format!("Some(Constant::Bool({text}))"),
        _ => format!("Some(Constant::Int({}))", text.parse::<i64>().expect("a default is a string, bool or number")),
    }
}

fn emit_type(
    out: &mut String,
    i: usize,
    ty: &TypeLine<'_>,
    index: &HashMap<&str, usize>,
    inlined: &HashMap<(&str, &str), &str>,
) {
    let wire_only = ty.attributes.contains(&"inline-only");
    let mut fields: Vec<(&str, String)> = ty
        .fields
        .iter()
        .map(|f| {
            let kind_text = if wire_only {
                inlined.get(&(ty.name, f.name)).unwrap_or_else(|| panic!("{}.{} is flattened nowhere", ty.name, f.name))
            } else {
                f.kind
            };
            (f.name, field(f, kind_text, index))
        })
        .collect();
    fields.sort_by_key(|(name, _)| *name);
    let inline = ty.attribute("inl=").and_then(|v| v.split_once(':')).map_or("None".to_owned(), |(tag, name)| {
        format!("Some(({tag}, &T{}))", index.get(name).expect("inlined types exist"))
    });
    let rows: Vec<String> = fields.into_iter().map(|(_, text)| text).collect();
    writeln!(
        out,
        "static T{i}: Type = Type {{ name: {:?}, shape: Shape::{}, map_atomic: {}, inline: {inline}, fields: &[{}] }};",
        ty.name,
        shape(ty),
        ty.attributes.contains(&"mt=atomic"),
        rows.join(",\n  "),
    )
    .expect("writing to a string");
}

fn emit_indexes(out: &mut String, types: &[TypeLine<'_>]) {
    let by_name: BTreeMap<&str, usize> = types.iter().enumerate().map(|(i, t)| (t.name, i)).collect();
    let rows: Vec<String> = by_name.values().map(|i| format!("&T{i}")).collect();
    writeln!(out, "pub(super) static TYPES: &[&Type] = &[{}];", rows.join(", ")).expect("writing to a string");

    let mut by_gvk = BTreeMap::new();
    for (i, ty) in types.iter().enumerate() {
        for gvk in ty.attributes.iter().filter_map(|a| a.strip_prefix("gvk=")) {
            let mut parts = gvk.splitn(3, '/');
            let mut next = || parts.next().expect("a gvk has three parts");
            by_gvk.insert((next(), next(), next()), i);
        }
    }
    let rows: Vec<String> = by_gvk.iter().map(|((g, v, k), i)| format!("({g:?}, {v:?}, {k:?}, &T{i})")).collect();
    writeln!(out, "pub(super) static KINDS: &[(&str, &str, &str, &Type)] = &[{}];", rows.join(",\n"))
        .expect("writing to a string");
}
