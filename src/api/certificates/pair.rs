//! Whether a certificate and a key belong together, in the words of Go's TLS.

use super::pem::{self, Block};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

/// Blocks looked at in one text.
const MAX_BLOCKS: usize = 100;
const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// How a key on one of the usual curves begins to tell its public half: a bit string with an uncompressed point.
const POINTS: [&[u8]; 3] = [&[0x03, 0x42, 0x00, 0x04], &[0x03, 0x62, 0x00, 0x04], &[0x03, 0x81, 0x86, 0x00, 0x04]];

/// What is wrong with a pair, if anything is. Of keys that do not tell their public half nothing is said.
pub(crate) fn complaint(certificate: &str, key: &str) -> Option<String> {
    let is_certificate = |label: &str| label == "CERTIFICATE";
    let is_key = |label: &str| label == "PRIVATE KEY" || label.ends_with(" PRIVATE KEY");
    let leaf = match first_of(certificate, is_certificate) {
        Ok(leaf) => leaf,
        Err(skipped) => return Some(no_certificate(&skipped)),
    };
    let key = match first_of(key, is_key) {
        Ok(key) => key,
        Err(skipped) => return Some(no_key(&skipped)),
    };
    let Ok((_, leaf)) = X509Certificate::from_der(&leaf.der) else {
        return Some("x509: malformed certificate".to_owned());
    };
    let holds = |part: &[u8]| key.der.windows(part.len().max(1)).any(|window| window == part);
    let (rsa, ec) = (key.label == "RSA PRIVATE KEY" || holds(RSA), key.label == "EC PRIVATE KEY" || holds(EC));
    let fits = match leaf.public_key().parsed() {
        Ok(PublicKey::RSA(public)) if rsa => holds(public.modulus),
        Ok(PublicKey::EC(public)) if ec => holds(public.data()) || !POINTS.iter().any(|point| holds(point)),
        Ok(PublicKey::RSA(_)) if ec => return Some(TYPES_DIFFER.to_owned()),
        Ok(PublicKey::EC(_)) if rsa => return Some(TYPES_DIFFER.to_owned()),
        _ => true,
    };
    (!fits).then(|| "tls: private key does not match public key".to_owned())
}

const TYPES_DIFFER: &str = "tls: private key type does not match public key type";

/// The first block with a label that will do, or the labels of all others.
fn first_of(mut text: &str, wanted: impl Fn(&str) -> bool) -> Result<Block, Vec<String>> {
    let mut skipped = Vec::new();
    while let Some((block, rest)) = pem::first(text).filter(|_| skipped.len() < MAX_BLOCKS) {
        if wanted(&block.label) {
            return Ok(block);
        }
        skipped.push(block.label);
        text = rest;
    }
    Err(skipped)
}

fn no_certificate(skipped: &[String]) -> String {
    match skipped {
        [] => "tls: failed to find any PEM data in certificate input".to_owned(),
        [one] if one.ends_with("PRIVATE KEY") => "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched".to_owned(),
        all => format!(
            "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [{}]",
            all.join(" ")
        ),
    }
}

fn no_key(skipped: &[String]) -> String {
    match skipped {
        [] => "tls: failed to find any PEM data in key input".to_owned(),
        [one] if one == "CERTIFICATE" => {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        }
        all => format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [{}]",
            all.join(" ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    /// A certificate for a key on P-256.
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBbzCCARWgAwIBAgIUXaxxavYz1X/Ds0zIwq4+yIu7iuQwCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBYTAgFw0yNjExMjExOTI5MzZaGA8yMTI2MTAyODE5MjkzNlow
DDEKMAgGA1UEAwwBYTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABDRnhzIA3nJe
1Xo9OIm4BwTflJnbOD06vS2shu/PnHG7K1I121dUqHHRRusMgCnUbCcccKLyyXdd
3WCoN1091HajUzBRMB0GA1UdDgQWBBSVtt7xpQmC+vu41DkjEkhahrUWiDAfBgNV
HSMEGDAWgBSVtt7xpQmC+vu41DkjEkhahrUWiDAPBgNVHRMBAf8EBTADAQH/MAoG
CCqGSM49BAMCA0gAMEUCIEbn/3STqj2A2/2hYMj2IPxy2y2w3XyAcvxYqvyrTo7J
AiEA6GJuULY/fOchOIqOSzXy82EuW/hZhOAwl6EOQn2dwcQ=
-----END CERTIFICATE-----
";

    fn block(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    }

    #[test]
    fn pairs() {
        let parsed = pem::first(CERTIFICATE).expect("a certificate").0;
        let own = parsed.der.windows(68).find(|w| w.starts_with(POINTS[0])).expect("a point").to_vec();
        let mut other = own.clone();
        other[10] ^= 1;
        let check = |certificate: &str, key: &str, expect: Option<&str>| {
            assert_eq!(complaint(certificate, key).as_deref(), expect);
        };
        check(CERTIFICATE, &block("EC PRIVATE KEY", &own), None);
        check(CERTIFICATE, &block("EC PRIVATE KEY", &other), Some("tls: private key does not match public key"));
        check(CERTIFICATE, &block("EC PRIVATE KEY", &[1, 2]), None);
        check(CERTIFICATE, &block("RSA PRIVATE KEY", &own), Some(TYPES_DIFFER));
        check("x", "x", Some("tls: failed to find any PEM data in certificate input"));
        check(CERTIFICATE, "x", Some("tls: failed to find any PEM data in key input"));
        check(
            CERTIFICATE,
            CERTIFICATE,
            Some("tls: found a certificate rather than a key in the PEM for the private key"),
        );
        let switched = complaint(&block("EC PRIVATE KEY", &own), CERTIFICATE);
        assert!(switched.is_some_and(|why| why.ends_with("PEM inputs may have been switched")));
        check(&block("CERTIFICATE", &[1]), &block("PRIVATE KEY", &[1]), Some("x509: malformed certificate"));
    }
}
