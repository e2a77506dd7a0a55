//! Bearer tokens among the protocols of a WebSocket: browsers can set no other header there.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue};

const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// Takes the token out of the protocols that a WebSocket's first request offers; the others stay.
pub(super) fn take_token(headers: &mut HeaderMap) -> Result<Option<String>, &'static str> {
    let upgrades = headers.get(UPGRADE).and_then(|value| value.to_str().ok());
    if !upgrades.is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
        return Ok(None);
    }
    let offered: Vec<String> = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|protocol| protocol.trim().to_owned())
        .collect();
    let (tokens, others): (Vec<&String>, Vec<&String>) = offered.iter().partition(|one| one.starts_with(PREFIX));
    let token = match tokens.as_slice() {
        [] => return Ok(None),
        [one] => one.trim_start_matches(PREFIX),
        _ => return Err("multiple base64.bearer.authorization tokens specified"),
    };
    let decoded = URL_SAFE_NO_PAD.decode(token).map_err(|_| "invalid base64.bearer.authorization token encoding")?;
    let token = String::from_utf8(decoded).map_err(|_| "invalid base64.bearer.authorization token")?;
    if others.is_empty() {
        return Err("missing additional subprotocol");
    }
    let rest: Vec<&str> = others.into_iter().map(String::as_str).collect();
    let rest = HeaderValue::from_str(&rest.join(",")).map_err(|_| "protocols that cannot be written again")?;
    headers.insert(SEC_WEBSOCKET_PROTOCOL, rest);
    Ok(Some(token).filter(|token| !token.is_empty()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn check(protocols: &[&str], expected: Result<Option<&str>, &'static str>, left: &str) {
        let mut headers = HeaderMap::new();
        headers.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
        for protocol in protocols {
            headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocol).unwrap());
        }
        assert_eq!(take_token(&mut headers).as_ref().map(Option::as_deref), expected.as_ref().map(|o| *o));
        if expected.is_ok() {
            assert_eq!(headers[SEC_WEBSOCKET_PROTOCOL], left);
        }
    }

    #[test]
    fn the_token_goes_and_the_others_stay() {
        let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode("secret"));
        check(&[&token, "v4.channel.k8s.io"], Ok(Some("secret")), "v4.channel.k8s.io");
        check(&[&format!("a, {token}, b")], Ok(Some("secret")), "a,b");
        check(&["a"], Ok(None), "a");
        check(&[&token], Err("missing additional subprotocol"), "");
        check(&[&token, &token], Err("multiple base64.bearer.authorization tokens specified"), "");
    }
}
