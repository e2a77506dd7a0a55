//! `naru token ...`: the tokens with which nodes join. Bootstrap tokens are Secrets in `kube-system`, which the
//! server reads at once; the cluster's own token is a file.

use super::{full, hash, load_or_create, parts};
use crate::cli::{Access, OutputFormat, TokenCommand};
use crate::files::read_optional;
use crate::layout::Layout;
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use naru_api::bootstrap_token::{ID_LENGTH, NAME_PREFIX, NAMESPACE, SECRET_LENGTH, SECRET_TYPE, is_id, split};
use naru_api::registry::SECRETS;
use naru_client::https::HttpTransport;
use naru_client::kubeconfig::from_kubeconfig;
use naru_client::{Client, DeleteOptions, ListParams, is_already_exists, is_not_found};
use serde_json::{Value, json};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

const USAGE: &str = "usage-bootstrap-";
/// What a token may be used for.
const USAGES: [&str; 2] = ["authentication", "signing"];

/// Runs the command and prints what it has to say.
pub(crate) async fn run(command: TokenCommand) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match command {
        TokenCommand::Generate { .. } => writeln!(out, "{}", generate())?,
        TokenCommand::Create { access, token, description, groups, ttl, usages } => {
            let token = token.unwrap_or_else(generate);
            let wanted = secret(&token, &description, &groups, &usages, expiry(Timestamp::now(), ttl)?)?;
            let (client, ca_pem) = connect(&access)?;
            match client.create::<Value>(&SECRETS, Some(NAMESPACE), &wanted).await {
                Err(error) if is_already_exists(&error) => {
                    bail!("a token with id {:?} already exists: delete it first, or give none", id_of(&token)?)
                }
                created => drop(created?),
            }
            writeln!(out, "K10{}::{token}", hash(&ca_pem)?)?;
        }
        TokenCommand::List { access, output } => {
            let (client, _) = connect(&access)?;
            let params = ListParams::namespace(NAMESPACE).fields(format!("type={SECRET_TYPE}"));
            let tokens: Vec<Shown> =
                client.list::<Value>(&SECRETS, &params).await?.items.iter().map(Shown::of).collect();
            match output {
                OutputFormat::Json => writeln!(out, "{}", json!(tokens))?,
                OutputFormat::Yaml => write!(out, "{}", serde_saphyr::to_string(&json!(tokens))?)?,
                OutputFormat::Text => out.write_all(table(&tokens, Timestamp::now()).as_bytes())?,
            }
        }
        TokenCommand::Delete { access, tokens } => {
            let (client, _) = connect(&access)?;
            for token in tokens {
                let id = id_of(&token)?;
                let name = format!("{NAME_PREFIX}{id}");
                let deleted = client.delete(&SECRETS, Some(NAMESPACE), &name, &DeleteOptions::default()).await;
                match deleted {
                    Err(error) if is_not_found(&error) => {
                        bail!("there is no bootstrap token {id:?}: see naru token list")
                    }
                    deleted => deleted?,
                }
                writeln!(out, "bootstrap token {id:?} deleted")?;
            }
        }
        TokenCommand::Rotate { data, token, new_token } => {
            let layout = Layout::new(&data.data_dir)?;
            let rotated = rotate(&layout, token.as_deref(), new_token.as_deref())?;
            writeln!(out, "{rotated}")?;
            tracing::info!(
                "written to {}; a server that runs takes it at once (a --token in its flags or its configuration must \
                 be changed too, before its next start). Nodes that have joined stay",
                layout.token().display()
            );
        }
    }
    Ok(())
}

fn connect(access: &Access) -> Result<(Client, String)> {
    let path = access.kubeconfig.display();
    let config = from_kubeconfig(&access.kubeconfig, None)
        .with_context(|| format!("cannot use the kubeconfig {path}: run this on the server, or give --kubeconfig"))?;
    let ca_pem = String::from_utf8(config.http.ca_pem.clone()).context("the kubeconfig's authority is no PEM")?;
    Ok((Client::new(Arc::new(HttpTransport::new(&config.http)?)), ca_pem))
}

/// The cluster's token with a new password. Whoever changes it must know the old one, or may read its file anyway.
fn rotate(layout: &Layout, old: Option<&str>, new: Option<&str>) -> Result<String> {
    let path = layout.token();
    let Some(kept) = read_optional(&path)? else {
        bail!("there is no {}: this is not the server's machine, or it has not been started yet", path.display());
    };
    let (_, password) = parts(&kept)?;
    if let Some(old) = old
        && parts(old)?.1 != password
    {
        bail!("--token is not the token of this cluster");
    }
    let authority = layout.tls().join("server-ca.crt");
    let ca_pem = read_optional(&authority)?.with_context(|| format!("{} is missing", authority.display()))?;
    let fresh = format!("{:032x}", rand::random::<u128>());
    let new = new.unwrap_or(&fresh);
    if parts(new)?.1 == password {
        bail!("--new-token is the token that the cluster has already");
    }
    load_or_create(&path, Some(&full(&ca_pem, parts(new)?.1)?), &ca_pem)
}

fn generate() -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let word = |length| -> String {
        (0..length).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect()
    };
    format!("{}.{}", word(ID_LENGTH), word(SECRET_LENGTH))
}

/// The id of a token that is given by its id, in its short or in its full form.
fn id_of(given: &str) -> Result<&str> {
    let short = given.rsplit("::").next().unwrap_or(given);
    let id = split(short).map_or(short, |(id, _)| id);
    if !is_id(id) {
        bail!("{given:?} is no bootstrap token: give its id, the {ID_LENGTH} characters before the dot");
    }
    Ok(id)
}

/// When a token expires; nothing for a `ttl` of 0, which is never.
fn expiry(now: Timestamp, ttl: Duration) -> Result<Option<String>> {
    if ttl.is_zero() {
        return Ok(None);
    }
    let at = now.checked_add(ttl).context("--ttl is too long")?;
    Ok(Some(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()))
}

fn secret(
    token: &str,
    description: &str,
    groups: &[String],
    usages: &[String],
    expiration: Option<String>,
) -> Result<Value> {
    let Some((id, key)) = split(token) else {
        bail!("the token must be {ID_LENGTH} characters, a dot and {SECRET_LENGTH} characters (a to z and 0 to 9)");
    };
    if let Some(group) = groups.iter().find(|group| !group.starts_with("system:bootstrappers:")) {
        bail!("--groups: {group:?} must begin with system:bootstrappers:");
    }
    if let Some(usage) = usages.iter().find(|usage| !USAGES.contains(&usage.as_str())) {
        bail!("--usages: {usage:?} is none of {}", USAGES.join(", "));
    }
    let mut data = json!({ "token-id": id, "token-secret": key });
    if !description.is_empty() {
        data["description"] = description.into();
    }
    if !groups.is_empty() {
        data["auth-extra-groups"] = groups.join(",").into();
    }
    if let Some(expiration) = expiration {
        data["expiration"] = expiration.into();
    }
    for usage in usages {
        data[format!("{USAGE}{usage}")] = "true".into();
    }
    Ok(json!({ "metadata": { "name": format!("{NAME_PREFIX}{id}") }, "type": SECRET_TYPE, "stringData": data }))
}

/// A token as it is listed. Whoever may list it may read its Secret, so documents have the whole.
#[derive(Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    token: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    usages: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
}

impl Shown {
    fn of(secret: &Value) -> Self {
        let data = |key: &str| -> Option<String> {
            String::from_utf8(STANDARD.decode(secret["data"][key].as_str()?).ok()?).ok()
        };
        let groups = data("auth-extra-groups").unwrap_or_default();
        Self {
            token: [data("token-id"), data("token-secret")].map(Option::unwrap_or_default).join("."),
            expires: data("expiration").filter(|text| !text.is_empty()),
            usages: USAGES
                .into_iter()
                .filter(|usage| data(&format!("{USAGE}{usage}")).as_deref() == Some("true"))
                .collect(),
            description: data("description").unwrap_or_default(),
            groups: groups.split(',').filter(|group| !group.is_empty()).map(str::to_owned).collect(),
        }
    }

    fn columns(&self, now: Timestamp) -> [String; 6] {
        let left = self.expires.as_deref().map_or_else(|| "<forever>".to_owned(), |at| left(at, now));
        let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
        [
            self.token.split('.').next().unwrap_or_default().to_owned(),
            left,
            self.expires.clone().unwrap_or_else(|| "<never>".to_owned()),
            or_none(self.usages.join(",")),
            or_none(self.description.clone()),
            or_none(self.groups.join(",")),
        ]
    }
}

/// The time until `at`, in its largest unit.
fn left(at: &str, now: Timestamp) -> String {
    let Ok(at) = at.parse::<Timestamp>() else { return "<invalid>".to_owned() };
    let seconds = at.as_second() - now.as_second();
    match seconds {
        ..=0 => "<expired>".to_owned(),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        86_400..31_536_000 => format!("{}d", seconds / 86_400),
        _ => format!("{}y", seconds / 31_536_000),
    }
}

fn table(tokens: &[Shown], now: Timestamp) -> String {
    let header = ["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(header).chain(tokens.iter().map(|token| token.columns(now))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    // As k3s and kubeadm have it: three spaces between columns, none of which is narrower than ten.
    let widths: [usize; 6] = std::array::from_fn(|column| width(column).max(7));
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}   "));
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Authority;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_secret_says_all_of_a_token() -> Result<()> {
        let now: Timestamp = NOW.parse()?;
        let groups = words(&["system:bootstrappers:workers"]);
        let token = "abcdef.0123456789abcdef";
        let at = expiry(now, Duration::from_secs(3600))?;
        let made = secret(token, "for the attic", &groups, &words(&["signing"]), at)?;
        assert_eq!(
            made,
            json!({
                "metadata": { "name": "bootstrap-token-abcdef" }, "type": "bootstrap.kubernetes.io/token",
                "stringData": {
                    "token-id": "abcdef", "token-secret": "0123456789abcdef", "description": "for the attic",
                    "auth-extra-groups": "system:bootstrappers:workers", "expiration": "2026-01-01T01:00:00Z",
                    "usage-bootstrap-signing": "true",
                },
            })
        );
        assert_eq!(expiry(now, Duration::ZERO)?, None);
        assert!(split(&generate()).is_some());
        for (token, groups, usages) in [
            ("abcdef", &[][..], &[][..]),
            ("ABCDEF.0123456789abcdef", &[], &[]),
            (token, &["system:masters"], &[]),
            (token, &[], &["everything"]),
        ] {
            assert!(secret(token, "", &words(groups), &words(usages), None).is_err(), "{token} {groups:?} {usages:?}");
        }
        Ok(())
    }

    #[test]
    fn tokens_are_named_by_id_or_whole() {
        for given in ["abcdef", "abcdef.0123456789abcdef", "K10aa::abcdef.0123456789abcdef"] {
            assert_eq!(id_of(given).ok(), Some("abcdef"), "{given}");
        }
        for given in ["", "abc", "K10aa::server:password", "abcde/"] {
            assert!(id_of(given).is_err(), "{given}");
        }
    }

    #[test]
    fn tokens_are_listed_as_others_list_them() -> Result<()> {
        let data = |text: &str| STANDARD.encode(text);
        let shown = Shown::of(&json!({ "data": {
            "token-id": data("abcdef"), "token-secret": data("0123456789abcdef"),
            "usage-bootstrap-authentication": data("true"), "expiration": data("2026-01-03T00:00:01Z"),
        }}));
        assert_eq!(
            json!([shown]),
            json!([{
                "token": "abcdef.0123456789abcdef", "expires": "2026-01-03T00:00:01Z", "usages": ["authentication"],
            }])
        );
        let text = table(&[shown], NOW.parse()?);
        assert_eq!(
            text,
            "TOKEN     TTL       EXPIRES                USAGES           DESCRIPTION   EXTRA GROUPS\n\
             abcdef    2d        2026-01-03T00:00:01Z   authentication   <none>        <none>\n"
        );
        Ok(())
    }

    #[test]
    fn the_cluster_s_token_gets_another_password() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let layout = Layout::new(dir.path())?;
        assert!(rotate(&layout, None, None).is_err(), "no server was here");
        std::fs::create_dir_all(layout.tls())?;
        let ca = Authority::load_or_create(&layout.tls(), "server-ca", "ca")?;
        let first = load_or_create(&layout.token(), None, &ca.cert_pem)?;
        assert!(rotate(&layout, Some("wrong"), None).is_err());
        let second = rotate(&layout, Some(&first), None)?;
        assert_ne!(second, first);
        assert_eq!(load_or_create(&layout.token(), None, &ca.cert_pem)?, second, "the next start takes it");
        let third = rotate(&layout, None, Some("chosen"))?;
        assert!(third.ends_with("::server:chosen"));
        assert!(rotate(&layout, None, Some("chosen")).is_err());
        Ok(())
    }
}
