//! Node affinity: which nodes a pod demands, and which it prefers.

use super::{NodeView, SelectorTerm, Strings, nullable};
use serde::Deserialize;
use serde_json::Value;

/// `spec.affinity.nodeAffinity`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAffinity {
    /// One of its terms must match.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Option<NodeSelector>,
    /// Terms that make a node better.
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution", deserialize_with = "nullable")]
    pub preferred: Vec<Preference>,
}

/// Terms of which one must match.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelector {
    /// The terms.
    #[serde(deserialize_with = "nullable")]
    pub node_selector_terms: Vec<NodeTerm>,
}

/// Demands that must all be met.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeTerm {
    /// On the node's labels.
    #[serde(deserialize_with = "nullable")]
    pub match_expressions: Vec<SelectorTerm>,
    /// On `metadata.name`.
    #[serde(deserialize_with = "nullable")]
    pub match_fields: Vec<SelectorTerm>,
}

/// A term with its weight.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Preference {
    /// Weight.
    pub weight: i64,
    /// Term.
    pub preference: NodeTerm,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Affinity {
    node_affinity: Option<NodeAffinity>,
}

impl NodeAffinity {
    /// The part of `spec.affinity` that is about nodes; what cannot be read demands nothing.
    pub fn of(affinity: Option<&Value>) -> Self {
        let affinity = affinity.and_then(|affinity| Affinity::deserialize(affinity).ok());
        affinity.and_then(|affinity| affinity.node_affinity).unwrap_or_default()
    }

    /// Whether a node has the labels of the pod's node selector and meets one of the required terms.
    pub fn admits(&self, node_selector: &Strings, node: &NodeView) -> bool {
        let labels = &node.metadata.labels;
        node_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self
                .required
                .as_ref()
                .is_none_or(|required| required.node_selector_terms.iter().any(|term| term.matches(node)))
    }
}

impl NodeTerm {
    /// Whether a node meets all demands. An empty term matches nothing.
    pub fn matches(&self, node: &NodeView) -> bool {
        let labels = &node.metadata.labels;
        let by_name = |key: &str| (key == "metadata.name").then_some(&node.metadata.name);
        !(self.match_expressions.is_empty() && self.match_fields.is_empty())
            && self.match_expressions.iter().all(|demand| demand.matches(labels.get(&demand.key)))
            && self.match_fields.iter().all(|demand| demand.matches(by_name(&demand.key)))
    }
}
