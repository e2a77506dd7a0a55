//! `--secrets-encryption` and `naru secrets-encrypt`: the EncryptionConfiguration that naru keeps itself.
//!
//! The running server follows the file and rewrites what is stored by itself; the commands only change the file.

use crate::cli::{EncryptCommand, EncryptionProvider};
use crate::files::{private_dir, read_optional, write_atomic};
use crate::layout::Layout;
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::RngCore;
use serde_json::{Value, json};
use std::path::PathBuf;

/// The key's length: what AES-256 and XSalsa20 take.
const KEY_BYTES: usize = 32;

/// The configuration that the server is to use, if there is one: with encryption on it is made on the first
/// start; with it off again what was encrypted is still read, and written plain.
pub(crate) fn prepare(layout: &Layout, on: bool, provider: EncryptionProvider) -> Result<Option<PathBuf>> {
    let path = layout.encryption_config();
    let kept = read_optional(&path)?;
    match (on, kept) {
        (false, None) => Ok(None),
        (true, Some(_)) => Ok(Some(path)),
        (true, None) => {
            private_dir(&layout.credentials())?;
            let config = configuration(&[new_provider(provider, provider.key_name().to_owned()), identity()]);
            write(layout, &config)?;
            tracing::info!("secrets are encrypted in the database, with a new key in {}", path.display());
            Ok(Some(path))
        }
        (false, Some(text)) => {
            let mut config = parse(&text).with_context(|| format!("cannot read {}", path.display()))?;
            set_enabled(&mut config, false)?;
            let off = layout.credentials().join("encryption-off.json");
            write_atomic(&off, config.to_string().as_bytes(), 0o600)?;
            tracing::info!(
                "secrets were encrypted before; without --secrets-encryption they are written plain again, with the key \
                 kept in {}",
                path.display()
            );
            Ok(Some(off))
        }
    }
}

/// `naru secrets-encrypt ...`
pub(crate) fn command(command: EncryptCommand) -> Result<()> {
    type Change = Box<dyn FnOnce(&mut Value) -> Result<()>>;
    let (data, change): (_, Change) = match &command {
        EncryptCommand::Status { data } => {
            let (_, config) = load(&Layout::new(&data.data_dir)?)?;
            return print_status(&config);
        }
        EncryptCommand::Enable { data } => (data, Box::new(|config| set_enabled(config, true))),
        EncryptCommand::Disable { data } => (data, Box::new(|config| set_enabled(config, false))),
        EncryptCommand::Prepare { data } => (data, Box::new(prepare_key)),
        EncryptCommand::Rotate { data } => (data, Box::new(use_prepared_key)),
        // The server does it whenever the file has been written.
        EncryptCommand::Reencrypt { data } => (data, Box::new(|_| Ok(()))),
        EncryptCommand::RotateKeys { data, provider } => {
            let provider = *provider;
            (data, Box::new(move |config| rotate(config, provider)))
        }
    };
    let layout = Layout::new(&data.data_dir)?;
    let (_, mut config) = load(&layout)?;
    change(&mut config)?;
    write(&layout, &config)?;
    tracing::info!("written; the running server rewrites what is stored, and says in its log when it is done");
    Ok(())
}

fn load(layout: &Layout) -> Result<(PathBuf, Value)> {
    let path = layout.encryption_config();
    let Some(text) = read_optional(&path)? else {
        bail!("there is no {}: start the server with --secrets-encryption first", path.display());
    };
    let config = parse(&text).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((path, config))
}

fn parse(text: &str) -> Result<Value> {
    let config: Value = serde_json::from_str(text)?;
    if providers(&config).is_none_or(|providers| providers.is_empty()) {
        bail!("it names no providers");
    }
    Ok(config)
}

fn write(layout: &Layout, config: &Value) -> Result<()> {
    write_atomic(&layout.encryption_config(), config.to_string().as_bytes(), 0o600)
}

fn configuration(providers: &[Value]) -> Value {
    json!({
        "kind": "EncryptionConfiguration",
        "apiVersion": "apiserver.config.k8s.io/v1",
        "resources": [{ "resources": ["secrets"], "providers": providers }],
    })
}

fn identity() -> Value {
    json!({ "identity": {} })
}

fn new_provider(provider: EncryptionProvider, name: String) -> Value {
    json!({ (provider.field()): { "keys": [new_key(name)] } })
}

fn new_key(name: String) -> Value {
    let mut key = [0; KEY_BYTES];
    rand::rng().fill_bytes(&mut key);
    json!({ "name": name, "secret": STANDARD.encode(key) })
}

fn providers(config: &Value) -> Option<&Vec<Value>> {
    config["resources"][0]["providers"].as_array()
}

fn providers_mut(config: &mut Value) -> Result<&mut Vec<Value>> {
    config["resources"][0]["providers"].as_array_mut().context("the configuration has no providers")
}

/// Puts the provider that leaves values plain last or first.
fn set_enabled(config: &mut Value, enabled: bool) -> Result<()> {
    let providers = providers_mut(config)?;
    providers.retain(|provider| provider.get("identity").is_none());
    let at = if enabled { providers.len() } else { 0 };
    providers.insert(at, identity());
    Ok(())
}

/// A new key before all others: of the first provider that has keys, or of another one, which then comes first.
fn rotate(config: &mut Value, wanted: Option<EncryptionProvider>) -> Result<()> {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let providers = providers_mut(config)?;
    let first = providers.iter().position(|provider| provider.get("identity").is_none());
    let first = first.context("the configuration has no keys")?;
    if let Some(wanted) = wanted.filter(|wanted| providers[first].get(wanted.field()).is_none()) {
        providers.insert(first, new_provider(wanted, format!("{}-{now}", wanted.key_name())));
        return Ok(());
    }
    for (field, provider) in providers[first].as_object_mut().into_iter().flatten() {
        if let Some(keys) = provider["keys"].as_array_mut() {
            keys.insert(0, new_key(format!("{field}key-{now}")));
            return Ok(());
        }
    }
    bail!("the configuration has no keys")
}

/// The keys of the first provider that has some.
fn first_keys(config: &mut Value) -> Result<(String, &mut Vec<Value>)> {
    let objects = providers_mut(config)?.iter_mut().filter_map(Value::as_object_mut).flatten();
    let mut keys = objects.filter_map(|(field, provider)| Some((field.clone(), provider["keys"].as_array_mut()?)));
    keys.next().context("the configuration has no keys")
}

/// A new key behind the one in use: what it will encrypt can be read before anything is encrypted with it.
fn prepare_key(config: &mut Value) -> Result<()> {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (field, keys) = first_keys(config)?;
    if is_prepared(keys) {
        bail!("a key is prepared already; the next step is: naru secrets-encrypt rotate");
    }
    keys.insert(keys.len().min(1), new_key(format!("{field}key-{now}")));
    Ok(())
}

fn use_prepared_key(config: &mut Value) -> Result<()> {
    let (_, keys) = first_keys(config)?;
    if !is_prepared(keys) {
        bail!("no key is prepared; the step before is: naru secrets-encrypt prepare");
    }
    keys.swap(0, 1);
    Ok(())
}

/// Names tell when keys were made: one behind a newer one has had its time.
fn is_prepared(keys: &[Value]) -> bool {
    matches!(keys, [first, second, ..] if second["name"].as_str() > first["name"].as_str())
}

#[allow(clippy::print_stdout, reason = "the command's answer")]
fn print_status(config: &Value) -> Result<()> {
    print!("{}", status(config)?);
    Ok(())
}

/// What is in use, as k3s prints it.
fn status(config: &Value) -> Result<String> {
    let providers = providers(config).context("the configuration has no providers")?;
    let enabled = providers.first().is_some_and(|first| first.get("identity").is_none());
    let mut out = format!("Encryption Status: {}\n\n", if enabled { "Enabled" } else { "Disabled" });
    out.push_str("Active  Key Type           Name\n------  --------           ----\n");
    let mut active = enabled;
    for (field, provider) in providers.iter().filter_map(Value::as_object).flatten() {
        let kind = match field.as_str() {
            "aescbc" => "AES-CBC",
            "aesgcm" => "AES-GCM",
            "secretbox" => "XSalsa20-POLY1305",
            _ => continue,
        };
        for key in provider["keys"].as_array().into_iter().flatten() {
            let mark = if std::mem::take(&mut active) { '*' } else { ' ' };
            out.push_str(&format!(" {mark}      {kind:<17}  {}\n", key["name"].as_str().unwrap_or_default()));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_and_outlives_switching_off() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let layout = Layout::new(dir.path())?;
        assert_eq!(prepare(&layout, false, EncryptionProvider::Aescbc)?, None);
        let path = prepare(&layout, true, EncryptionProvider::Aescbc)?.context("a configuration")?;
        assert_eq!(path, dir.path().join("server/cred/encryption-config.json"));
        let first = std::fs::read_to_string(&path)?;
        assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
        let off = prepare(&layout, false, EncryptionProvider::Aescbc)?.context("a configuration")?;
        let off: Value = serde_json::from_str(&std::fs::read_to_string(off)?)?;
        assert_eq!(off["resources"][0]["providers"][0], identity());
        assert_eq!(
            off["resources"][0]["providers"][1],
            serde_json::from_str::<Value>(&first)?["resources"][0]["providers"][0]
        );
        assert_eq!(prepare(&layout, true, EncryptionProvider::Secretbox)?, Some(path.clone()));
        assert_eq!(std::fs::read_to_string(&path)?, first);
        Ok(())
    }

    #[test]
    fn a_prepared_key_is_used_from_the_next_step_on() -> Result<()> {
        let mut config = configuration(&[identity(), new_provider(EncryptionProvider::Aescbc, "aescbckey".into())]);
        assert!(use_prepared_key(&mut config).is_err());
        prepare_key(&mut config)?;
        assert!(prepare_key(&mut config).is_err());
        let names = |config: &mut Value| -> Result<Vec<String>> {
            let (_, keys) = first_keys(config)?;
            Ok(keys.iter().filter_map(|key| key["name"].as_str()).map(str::to_owned).collect())
        };
        let before = names(&mut config)?;
        assert_eq!((before.len(), before[0].as_str()), (2, "aescbckey"));
        use_prepared_key(&mut config)?;
        let after = names(&mut config)?;
        assert!(after[0].starts_with("aescbckey-20") && after[1] == "aescbckey", "{after:?}");
        Ok(())
    }

    #[test]
    fn rotation_keeps_the_old_keys_for_reading() -> Result<()> {
        let mut config = configuration(&[new_provider(EncryptionProvider::Secretbox, "one".into()), identity()]);
        rotate(&mut config, None)?;
        let text = status(&config)?;
        assert!(text.starts_with("Encryption Status: Enabled\n"), "{text}");
        assert!(text.contains(" *      XSalsa20-POLY1305  secretboxkey-20"), "{text}");
        assert!(text.ends_with("        XSalsa20-POLY1305  one\n"), "{text}");
        set_enabled(&mut config, false)?;
        assert!(status(&config)?.starts_with("Encryption Status: Disabled\n"));
        set_enabled(&mut config, true)?;
        rotate(&mut config, Some(EncryptionProvider::Aesgcm))?;
        rotate(&mut config, Some(EncryptionProvider::Aesgcm))?;
        let kinds = |config: &Value| -> Vec<String> {
            let all = providers(config).into_iter().flatten().filter_map(Value::as_object);
            all.flat_map(|provider| provider.keys().cloned()).collect()
        };
        assert_eq!(kinds(&config), ["aesgcm", "secretbox", "identity"]);
        assert_eq!(config["resources"][0]["providers"][0]["aesgcm"]["keys"].as_array().map(Vec::len), Some(2));
        Ok(())
    }
}
