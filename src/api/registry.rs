//! Every built-in resource, one line each. Routes, discovery, OpenAPI, storage keys and printer
//! columns are derived from this table.

use crate::meta::Verb;
use crate::status::FieldErrors;
use serde_json::Value;

/// Cluster-wide, or inside a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Named cluster-wide.
    Cluster,
    /// Named within a namespace.
    Namespaced,
}

/// What a subresource does. The API server matches on this, so it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Reads and writes the object's `status` part alone.
    Status,
    /// autoscaling/v1 Scale over `spec.replicas`.
    Scale,
    /// Namespace finalizers.
    Finalize,
    /// Binds a pod to a node.
    Binding,
    /// A container's log.
    Log,
    /// Runs a command in a container.
    Exec,
    /// Attaches to a running container.
    Attach,
    /// Forwards ports.
    PortForward,
    /// Issues a service account token.
    Token,
    /// Evicts a pod.
    Eviction,
}

/// A subresource of a resource.
#[derive(Debug, Clone, Copy)]
pub struct Subresource {
    /// Its path element, such as `status`.
    pub name: &'static str,
    /// Group, version and kind of its body (`autoscaling`, `v1`, `Scale`).
    pub gvk: (&'static str, &'static str, &'static str),
    /// Verbs in discovery's order.
    pub verbs: &'static [Verb],
    /// What it does.
    pub action: Action,
}

/// A printer column of `kubectl get`.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `boolean` or `date`.
    pub kind: &'static str,
    /// OpenAPI format, `name` for the first column, else empty.
    pub format: &'static str,
    /// 0 for the narrow view, 1 for `-o wide`.
    pub priority: i32,
    /// What the column means.
    pub description: &'static str,
}

/// How often a resource's objects are written for no user's sake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Churn {
    /// Every write is durable before it is acknowledged.
    Durable,
    /// Every write may be lazy (Events).
    Lazy,
    /// Renewals by the holder are lazy, all else durable (Leases).
    LazyRenewals,
}

/// The rules of one kind, as plain functions over trees. Defaults change the tree, validation reads it.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Fills in defaults that depend on other fields (constant defaults come from the facts). Idempotent.
    pub default: fn(&mut Value),
    /// Before a create: clears status, sets `generation`, ... Runs after defaults.
    pub prepare_create: fn(&mut Value),
    /// Before an update through the main resource: keeps the old status, bumps `generation` when the
    /// spec changed, ... (new, old).
    pub prepare_update: fn(&mut Value, &Value),
    /// Validates a new object (metadata is validated by the caller).
    pub validate: fn(&Value, &mut FieldErrors),
    /// Validates an update: (new, old). Called in addition to `validate`.
    pub validate_update: fn(&Value, &Value, &mut FieldErrors),
    /// Validates an update through `/status`: (new, old).
    pub validate_status: fn(&Value, &Value, &mut FieldErrors),
    /// Warnings for the `Warning` header on create and update.
    pub warnings: fn(&Value) -> Vec<String>,
    /// Values of selectable fields beside `metadata.name` and `metadata.namespace`, in a fixed order.
    pub fields: fn(&Value) -> Vec<(&'static str, String)>,
    /// The cells of the object's table row, in the columns' order.
    /// `now` is seconds since the epoch, for ages.
    pub row: fn(&Value, now: i64) -> Vec<Value>,
}

/// One built-in resource.
#[derive(Debug)]
pub struct Resource {
    /// API group, empty for core.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Plural name, as in paths.
    pub plural: &'static str,
    /// Singular name.
    pub singular: &'static str,
    /// Scope.
    pub scope: Scope,
    /// Verbs in discovery's order. A resource that is only created (reviews) is not stored.
    pub verbs: &'static [Verb],
    /// Short names.
    pub short_names: &'static [&'static str],
    /// Categories, such as `all`.
    pub categories: &'static [&'static str],
    /// Type name in the facts, such as `io.k8s.api.core.v1.Pod`.
    pub type_name: &'static str,
    /// Durability class.
    pub churn: Churn,
    /// Subresources.
    pub subresources: &'static [Subresource],
    /// Printer columns.
    pub columns: &'static [Column],
    /// The kind's rules.
    pub rules: Rules,
}
