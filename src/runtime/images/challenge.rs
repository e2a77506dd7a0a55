//! How registries ask who one is, and the tokens that they accept as an answer.

use super::error::PullErrorKind;
use super::failure::{Failure, refusal, unanswered};
use super::store::RegistryCredentials;
use base64::Engine as _;
use serde::Deserialize;

/// One `WWW-Authenticate` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token from somewhere else.
    Bearer(TokenSource),
}

/// Where tokens are issued.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TokenSource {
    realm: String,
    service: String,
    scope: String,
}

const MAX_TOKEN: usize = 1 << 20;

impl Challenge {
    /// The one to answer: a token before a password.
    pub(super) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let parsed: Vec<Self> = headers.filter_map(Self::parse).collect();
        parsed.iter().find(|challenge| matches!(challenge, Self::Bearer(_))).or(parsed.first()).cloned()
    }

    fn parse(header: &str) -> Option<Self> {
        let (scheme, parameters) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut source = TokenSource::default();
        for (key, value) in parameters_of(parameters) {
            match key.to_ascii_lowercase().as_str() {
                "realm" => source.realm = value,
                "service" => source.service = value,
                "scope" => source.scope = value,
                _ => {}
            }
        }
        (source.realm.starts_with("https://") || source.realm.starts_with("http://")).then_some(Self::Bearer(source))
    }
}

/// `a="x, y",b=z` as pairs.
fn parameters_of(text: &str) -> Vec<(String, String)> {
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some((key, after)) = rest.split_once('=') {
        let (value, left) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').map_or((after, ""), |(value, left)| (value.trim(), left)),
        };
        out.push((key.trim_matches([' ', ',']).to_owned(), value.to_owned()));
        rest = left;
    }
    out
}

/// The header for a name and a password.
pub(super) fn basic(username: &str, password: &str) -> String {
    let pair = format!("{username}:{password}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

/// Gets a token that lets us pull.
pub(super) async fn token(
    http: &reqwest::Client,
    source: &TokenSource,
    scope: &str,
    credentials: Option<&RegistryCredentials>,
) -> Result<String, Failure> {
    let scope = if source.scope.is_empty() { scope } else { &source.scope };
    let wanted = [("service", source.service.as_str()), ("scope", scope)];
    let request = match credentials {
        Some(RegistryCredentials::Identity(token)) => {
            let form = [("grant_type", "refresh_token"), ("client_id", "naru"), ("refresh_token", token.as_str())];
            let body = form.iter().chain(&wanted).map(|(key, value)| format!("{key}={}", encoded(value)));
            let body = body.collect::<Vec<_>>().join("&");
            let kind = (reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            http.post(&source.realm).header(kind.0, kind.1).body(body)
        }
        Some(RegistryCredentials::Basic { username, password }) => {
            http.get(&source.realm).query(&wanted).basic_auth(username, Some(password))
        }
        _ => http.get(&source.realm).query(&wanted),
    };
    let host = source.realm.split('/').nth(2).unwrap_or_default().to_owned();
    let mut response = request.send().await.map_err(|error| unanswered(&host, &error))?;
    let (status, url) = (response.status(), response.url().to_string());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unanswered(&host, &error))? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_TOKEN {
            return Err(Failure::new(
                PullErrorKind::Unknown,
                format!("token from {host} is larger than {MAX_TOKEN} bytes"),
            ));
        }
    }
    if !status.is_success() {
        let who = if credentials.is_some() { "oauth" } else { "anonymous" };
        let text = format!(
            "failed to authorize: failed to fetch {who} token: unexpected status from GET request to {url}: {status}"
        );
        let kind = match refusal(&url, status, &body).kind {
            PullErrorKind::NotFound => PullErrorKind::Unknown,
            kind => kind,
        };
        return Err(Failure::new(kind, text));
    }
    #[derive(Deserialize)]
    struct Issued {
        #[serde(default)]
        token: String,
        #[serde(default)]
        access_token: String,
    }
    let issued: Option<Issued> = serde_json::from_slice(&body).ok();
    let token = issued.map(|issued| if issued.token.is_empty() { issued.access_token } else { issued.token });
    token
        .filter(|token| !token.is_empty())
        .ok_or_else(|| Failure::new(PullErrorKind::Unknown, format!("failed to authorize: no token from {host}")))
}

/// Everything but letters, digits and what needs no care, in per cent.
fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_and_tokens_preferred() {
        let header =
            r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#;
        let expect = Challenge::Bearer(TokenSource {
            realm: "https://auth.example/token".into(),
            service: "r.example".into(),
            scope: "repository:a/b:pull,push".into(),
        });
        assert_eq!(Challenge::choose([r#"Basic realm="x""#, header].into_iter()), Some(expect));
        assert_eq!(Challenge::choose(["basic"].into_iter()), Some(Challenge::Basic));
        for odd in ["Bearer", "Bearer realm=file:///etc/passwd", "Digest realm=\"x\"", "", "Bearer realm=\"https://x"] {
            let read = Challenge::choose([odd].into_iter());
            assert_eq!(read.is_some(), odd.ends_with("https://x"), "{odd}");
        }
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(encoded("repository:a/b:pull x"), "repository%3Aa%2Fb%3Apull%20x");
        assert_eq!(basic("me", "secret"), "Basic bWU6c2VjcmV0");
    }
}
