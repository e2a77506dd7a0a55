//! How upstream's decoder names the types of fields that JSON does not tell apart, such as `v1.RestartPolicy`.

use super::Type;

/// A type a line, then its fields whose Go type has a name of its own: `FIELD=TYPE`.
const NAMED: &str = include_str!("go-types.txt");

/// The Go type of a field, where it is more than its JSON kind says. Read for errors alone.
pub(crate) fn of(ty: &Type, field: &str) -> Option<&'static str> {
    let mut words = NAMED.lines().find(|line| line.split(' ').next() == Some(ty.name))?.split(' ').skip(1);
    words.find_map(|word| word.split_once('=').filter(|(name, _)| *name == field).map(|(_, go)| go))
}

/// The Go type of what a list or a map of this Go type holds; nothing for what is neither by its name.
pub(crate) fn element(go: &str) -> Option<&str> {
    go.strip_prefix("[]").or_else(|| go.strip_prefix("map[")?.split_once(']').map(|(_, value)| value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::type_by_name;

    #[test]
    fn every_line_names_a_type_and_its_fields() {
        for line in NAMED.lines() {
            let mut words = line.split(' ');
            let ty = words.next().and_then(type_by_name);
            for word in words {
                let field = word.split_once('=').map_or(word, |(field, _)| field);
                assert!(ty.is_some_and(|ty| ty.field(field).is_some()), "{line}: {field}");
            }
        }
        assert_eq!(element("map[string]v1.ExtraValue"), Some("v1.ExtraValue"));
        assert_eq!(element("v1.ExtraValue"), None);
    }
}
