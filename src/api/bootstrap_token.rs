//! The form of bootstrap tokens (`abcdef.0123456789abcdef`) and of the Secrets that hold them.

/// Where the Secrets are.
pub const NAMESPACE: &str = "kube-system";
/// Their type.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// Before the token's id in a Secret's name.
pub const NAME_PREFIX: &str = "bootstrap-token-";
/// Characters of an id.
pub const ID_LENGTH: usize = 6;
/// Characters of a secret.
pub const SECRET_LENGTH: usize = 16;

/// Whether a text has the form of a token's id, which is no secret.
#[must_use]
pub fn is_id(text: &str) -> bool {
    is_word(text, ID_LENGTH)
}

/// Whether a text has the form of a token's secret part.
#[must_use]
pub fn is_secret(text: &str) -> bool {
    is_word(text, SECRET_LENGTH)
}

/// Id and secret of a token; `None` if it has not the form of one.
#[must_use]
pub fn split(token: &str) -> Option<(&str, &str)> {
    token.split_once('.').filter(|(id, secret)| is_id(id) && is_secret(secret))
}

fn is_word(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn only_six_and_sixteen_small_letters_and_digits_are_a_token() {
        assert_eq!(split("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for wrong in ["abcdef.0123456789abcdeF", "abcde.0123456789abcdef", "abcdef0123456789abcdef", "abcdef.", "."] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }
}
