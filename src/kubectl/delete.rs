//! `delete`.

use crate::cli::{Cascade, DeleteArgs};
use crate::manifests;
use crate::resources::{Kind, by_word, of_object, parse_targets};
use crate::session::{Session, explain, http_method};
use anyhow::bail;
use bytes::Bytes;
use naru_base::Backoff;
use naru_client::is_not_found;
use serde_json::json;
use std::io::Write;
use std::time::Duration;

struct Victim {
    kind: Kind,
    namespace: Option<String>,
    name: String,
}

pub(crate) async fn run(session: &Session, args: &DeleteArgs) -> anyhow::Result<()> {
    let victims = find(session, args).await?;
    let options = options(args)?;
    let mut failure: Option<anyhow::Error> = None;
    let mut going = Vec::new();
    for victim in victims {
        let path = victim.kind.path(victim.namespace.as_deref(), Some(&victim.name));
        match session.send(http_method("DELETE"), path.clone(), "application/json", options.clone()).await {
            Ok(answer) => {
                let place = victim.namespace.as_ref().filter(|_| victim.kind.namespaced);
                let place = place.map(|namespace| format!(" from {namespace} namespace")).unwrap_or_default();
                let verb = if args.force { "force deleted" } else { "deleted" };
                writeln!(std::io::stdout(), "{} {:?} {verb}{place}", victim.kind.label(), victim.name)?;
                // The object itself comes back while it terminates, or a Status with its uid.
                let uid = answer["metadata"]["uid"].as_str().or(answer["details"]["uid"].as_str());
                going.push((path, uid.map(str::to_owned)));
            }
            Err(error) if args.ignore_not_found && is_not_found(&error) => {}
            Err(error) => {
                if let Some(earlier) = failure.replace(error.into()) {
                    writeln!(std::io::stderr(), "{}", explain(&earlier))?;
                }
            }
        }
    }
    if args.wait {
        for (path, uid) in going {
            wait_until_gone(session, &path, uid.as_deref()).await?;
        }
    }
    failure.map_or(Ok(()), Err)
}

async fn find(session: &Session, args: &DeleteArgs) -> anyhow::Result<Vec<Victim>> {
    let mut victims = Vec::new();
    if !args.files.filename.is_empty() {
        for object in manifests::read(&args.files)? {
            let kind = of_object(session, &object).await?;
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&session.namespace).to_owned();
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            victims.push(Victim { kind, namespace: Some(namespace), name });
        }
        return Ok(victims);
    }
    let targets = parse_targets(&args.targets)?;
    if targets.is_empty() {
        bail!("you must provide one or more resources by argument or filename");
    }
    for target in targets {
        for kind in by_word(session, &target.word).await? {
            let namespace = Some(session.namespace.clone());
            if let Some(name) = &target.name {
                victims.push(Victim { kind, namespace, name: name.clone() });
                continue;
            }
            if args.selector.is_empty() && !args.all {
                bail!("resource(s) were provided, but no name was specified");
            }
            let list = session.get(kind.list_uri(namespace.as_deref(), &args.selector, "")).await?;
            for item in list["items"].as_array().into_iter().flatten() {
                let name = item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                victims.push(Victim { kind: kind.clone(), namespace: namespace.clone(), name });
            }
        }
    }
    if victims.is_empty() {
        writeln!(std::io::stdout(), "No resources found")?;
    }
    Ok(victims)
}

fn options(args: &DeleteArgs) -> anyhow::Result<Bytes> {
    let grace = match (args.now, args.force, args.grace_period) {
        (true, _, None) => Some(1),
        (true, _, Some(_)) => bail!("--now and --grace-period cannot be specified together"),
        (false, true, None) => Some(0),
        (false, true, Some(seconds)) if seconds > 0 => {
            bail!("--force and --grace-period greater than 0 cannot be specified together")
        }
        // Zero without force is the fastest way that still waits for the node.
        (false, false, Some(0)) => Some(1),
        (false, _, seconds) => seconds.filter(|seconds| *seconds >= 0),
    };
    let propagation = match args.cascade {
        Cascade::Background => "Background",
        Cascade::Foreground => "Foreground",
        Cascade::Orphan => "Orphan",
    };
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation});
    if let Some(seconds) = grace {
        options["gracePeriodSeconds"] = seconds.into();
    }
    Ok(Bytes::from(options.to_string()))
}

async fn wait_until_gone(session: &Session, path: &str, uid: Option<&str>) -> anyhow::Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    loop {
        match session.get(path.to_owned()).await {
            Err(error) if is_not_found(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
            // Another object of the same name.
            Ok(object) if uid.is_some_and(|uid| object["metadata"]["uid"] != *uid) => return Ok(()),
            Ok(_) => tokio::time::sleep(backoff.next_delay()).await,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use serde_json::Value;

    fn check(flags: &[&str], expect: Option<Value>) {
        let cli = Cli::parse_from(["kubectl", "delete", "pod", "a"].iter().chain(flags));
        let Command::Delete(args) = cli.command else { panic!("delete") };
        let options = options(&args)
            .ok()
            .map(|body| serde_json::from_slice::<Value>(&body).unwrap()["gracePeriodSeconds"].clone());
        assert_eq!(options, expect, "{flags:?}");
    }

    #[test]
    fn grace_periods_follow_upstream() {
        check(&[], Some(Value::Null));
        check(&["--grace-period=30"], Some(json!(30)));
        check(&["--grace-period=0"], Some(json!(1)));
        check(&["--grace-period=0", "--force"], Some(json!(0)));
        check(&["--force"], Some(json!(0)));
        check(&["--now", "--wait=false"], Some(json!(1)));
        check(&["--grace-period=-1"], Some(Value::Null));
        check(&["--now", "--grace-period=2"], None);
    }
}
