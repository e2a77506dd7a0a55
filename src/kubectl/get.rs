//! `get` and `version`.

use crate::cli::{GetArgs, Global, Output, VersionArgs};
use crate::print::{self, TableStyle};
use crate::resources::{Kind, by_word, parse_targets};
use crate::session::Session;
use naru_client::is_not_found;
use serde_json::{Value, json};
use std::io::{BufWriter, Write};

/// What is asked of the server: a collection, or one object.
struct Query {
    kind: Kind,
    name: Option<String>,
}

pub(crate) async fn run(session: &Session, args: &GetArgs) -> anyhow::Result<()> {
    let targets = parse_targets(&args.targets)?;
    let mut queries = Vec::new();
    for target in targets {
        for kind in by_word(session, &target.word).await? {
            queries.push(Query { kind, name: target.name.clone() });
        }
    }
    if args.all_namespaces && queries.iter().any(|query| query.name.is_some()) {
        anyhow::bail!("a resource cannot be retrieved by name across all namespaces");
    }
    match args.output {
        None | Some(Output::Wide) => tables(session, args, &queries).await,
        Some(Output::Name) => names(session, args, &queries).await,
        Some(output) => objects(session, args, &queries, output).await,
    }
}

fn uri(session: &Session, args: &GetArgs, query: &Query) -> String {
    let namespace = (!args.all_namespaces).then_some(session.namespace.as_str());
    match &query.name {
        Some(name) => query.kind.path(namespace, Some(name)),
        None => query.kind.list_uri(namespace, &args.selector, &args.field_selector),
    }
}

async fn tables(session: &Session, args: &GetArgs, queries: &[Query]) -> anyhow::Result<()> {
    let mut kinds: Vec<&Kind> = queries.iter().map(|query| &query.kind).collect();
    kinds.dedup();
    let several = kinds.len() > 1;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let (mut failure, mut printed, mut last) = (None, false, None);
    for query in queries {
        let table = match session.table(uri(session, args, query)).await {
            Ok(table) => table,
            Err(error) if args.ignore_not_found && is_not_found(&error) => continue,
            Err(error) => {
                // The others may be there.
                if let Some(earlier) = failure.replace(anyhow::Error::from(error)) {
                    writeln!(std::io::stderr(), "{}", crate::session::explain(&earlier))?;
                }
                continue;
            }
        };
        if table["rows"].as_array().is_none_or(Vec::is_empty) {
            continue;
        }
        let prefix = if several { format!("{}/", query.kind.label()) } else { String::new() };
        let new_table = last != Some(&query.kind);
        if printed && new_table {
            writeln!(out)?;
        }
        let style = TableStyle {
            wide: args.output == Some(Output::Wide),
            namespaces: args.all_namespaces && query.kind.namespaced,
            headers: !args.no_headers && new_table,
            labels: args.show_labels,
            prefix: &prefix,
        };
        print::table(&mut out, &table, style)?;
        (printed, last) = (true, Some(&query.kind));
    }
    out.flush()?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    if !printed && !args.ignore_not_found {
        let place = if args.all_namespaces || queries.iter().all(|query| !query.kind.namespaced) {
            String::new()
        } else {
            format!(" in {} namespace.", session.namespace)
        };
        writeln!(std::io::stderr(), "No resources found{place}")?;
    }
    Ok(())
}

/// All objects that are asked for, with kind and apiVersion, which lists leave out of their items.
async fn fetch(session: &Session, args: &GetArgs, queries: &[Query]) -> anyhow::Result<Vec<(Kind, Value)>> {
    let mut found = Vec::new();
    for query in queries {
        let answer = match session.get(uri(session, args, query)).await {
            Err(error) if args.ignore_not_found && is_not_found(&error) => continue,
            answer => answer?,
        };
        if query.name.is_some() {
            found.push((query.kind.clone(), answer));
            continue;
        }
        let api_version = if query.kind.group.is_empty() {
            query.kind.version.clone()
        } else {
            format!("{}/{}", query.kind.group, query.kind.version)
        };
        for item in answer["items"].as_array().into_iter().flatten() {
            let mut item = item.clone();
            item["kind"] = query.kind.kind.clone().into();
            item["apiVersion"] = api_version.clone().into();
            found.push((query.kind.clone(), item));
        }
    }
    Ok(found)
}

async fn names(session: &Session, args: &GetArgs, queries: &[Query]) -> anyhow::Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    for (kind, object) in fetch(session, args, queries).await? {
        writeln!(out, "{}/{}", kind.label(), object["metadata"]["name"].as_str().unwrap_or_default())?;
    }
    Ok(out.flush()?)
}

async fn objects(session: &Session, args: &GetArgs, queries: &[Query], output: Output) -> anyhow::Result<()> {
    let mut found: Vec<Value> =
        fetch(session, args, queries).await?.into_iter().map(|(_, object)| without_managed_fields(object)).collect();
    let single = queries.len() == 1 && queries[0].name.is_some();
    let value = match found.len() {
        0 if single => return Ok(()),
        1 if single => found.remove(0),
        _ => json!({"apiVersion": "v1", "items": found, "kind": "List", "metadata": {"resourceVersion": ""}}),
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    if output == Output::Json {
        print::json(&mut out, &value)?;
    } else {
        write!(out, "{}", naru_api::codec::to_yaml(&value))?;
    }
    Ok(out.flush()?)
}

fn without_managed_fields(mut object: Value) -> Value {
    if let Some(meta) = object["metadata"].as_object_mut() {
        meta.remove("managedFields");
    }
    object
}

pub(crate) async fn version(global: &Global, args: &VersionArgs) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "Client Version: v{}", env!("CARGO_PKG_VERSION"))?;
    if !args.client {
        let version = Session::open(global)?.get("/version".to_owned()).await?;
        writeln!(std::io::stdout(), "Server Version: {}", version["gitVersion"].as_str().unwrap_or_default())?;
    }
    Ok(())
}
