//! Descriptions of types and fields for people, kept compressed: only documents need them.

use super::Type;
use std::io::Read as _;

static COMPRESSED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions"));

/// Every description, unpacked for the length of a rendering.
#[derive(Debug)]
pub struct Descriptions {
    text: String,
}

/// The descriptions of one type.
#[derive(Debug, Clone, Copy)]
pub struct TypeDescriptions<'a> {
    block: &'a str,
}

impl Descriptions {
    /// Unpacks them; half a millisecond and less than a megabyte.
    pub fn unpack() -> Self {
        let mut text = String::new();
        let mut decoder = flate2::read::DeflateDecoder::new(COMPRESSED);
        // What the build script wrote cannot be damaged; without it there are no descriptions, and no harm.
        if decoder.read_to_string(&mut text).is_err() {
            text.clear();
        }
        Self { text }
    }

    /// Each type's descriptions, in the order of [`super::types`].
    pub fn by_type(&self) -> impl Iterator<Item = (&'static Type, TypeDescriptions<'_>)> {
        super::types().iter().copied().zip(self.text.split('\u{1e}').map(|block| TypeDescriptions { block }))
    }
}

impl<'a> TypeDescriptions<'a> {
    /// What the type is.
    pub fn of_type(&self) -> Option<&'a str> {
        self.texts().next().filter(|text| !text.is_empty())
    }

    /// What each field is, in the order of the type's fields; empty where nothing is known.
    pub fn of_fields(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.texts().skip(1)
    }

    fn texts(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.block.split('\u{1f}')
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn fields_have_their_own_descriptions() {
        let all = Descriptions::unpack();
        let (ty, texts) = all.by_type().find(|(ty, _)| ty.name == "io.k8s.api.core.v1.ContainerPort").unwrap();
        assert_eq!(texts.of_type(), Some("ContainerPort represents a network port in a single container."));
        let protocol = ty.fields.iter().zip(texts.of_fields()).find(|(field, _)| field.name == "protocol").unwrap().1;
        assert_eq!(protocol, "Protocol for port. Must be UDP, TCP, or SCTP. Defaults to \"TCP\".");
        for (ty, texts) in all.by_type() {
            assert_eq!(texts.of_fields().count(), ty.fields.len(), "{}", ty.name);
        }
    }
}
