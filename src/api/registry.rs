//! Every built-in resource, one line each. Routes, discovery, OpenAPI, storage keys and printer
//! columns are derived from this table.

use crate::meta::validate::NameRule;
use crate::meta::{Verb, names};
use crate::status::FieldErrors;
use serde_json::Value;

pub use crate::apps::{
    controller_revision::CONTROLLER_REVISIONS, daemon_set::DAEMON_SETS, deployment::DEPLOYMENTS,
    replica_set::REPLICA_SETS, stateful_set::STATEFUL_SETS,
};
pub use crate::authentication::{self_subject_review::SELF_SUBJECT_REVIEWS, token_review::TOKEN_REVIEWS};
pub use crate::authorization::{
    local_subject_access_review::LOCAL_SUBJECT_ACCESS_REVIEWS, self_subject_access_review::SELF_SUBJECT_ACCESS_REVIEWS,
    self_subject_rules_review::SELF_SUBJECT_RULES_REVIEWS, subject_access_review::SUBJECT_ACCESS_REVIEWS,
};
pub use crate::autoscaling::{
    horizontal_pod_autoscaler::HORIZONTAL_POD_AUTOSCALERS, horizontal_pod_autoscaler_v1::HORIZONTAL_POD_AUTOSCALERS_V1,
};
pub use crate::batch::{cron_job::CRON_JOBS, job::JOBS};
pub use crate::certificates::request::CERTIFICATE_SIGNING_REQUESTS;
pub use crate::coordination::lease::LEASES;
pub use crate::core::{
    binding::BINDINGS, component_status::COMPONENT_STATUSES, config_map::CONFIG_MAPS, endpoints::ENDPOINTS,
    event::EVENTS, limit_range::LIMIT_RANGES, namespace::NAMESPACES, node::NODES,
    persistent_volume::PERSISTENT_VOLUMES, persistent_volume_claim::PERSISTENT_VOLUME_CLAIMS, pod::PODS,
    pod_template::POD_TEMPLATES, replication_controller::REPLICATION_CONTROLLERS, resource_quota::RESOURCE_QUOTAS,
    secret::SECRETS, service::SERVICES, service_account::SERVICE_ACCOUNTS,
};
pub use crate::discovery::endpoint_slice::ENDPOINT_SLICES;
pub use crate::events::event::EVENTS_V1;
pub use crate::flowcontrol::{flow_schema::FLOW_SCHEMAS, priority_level::PRIORITY_LEVEL_CONFIGURATIONS};
pub use crate::networking::{
    ingress::INGRESSES, ingress_class::INGRESS_CLASSES, ip_address::IP_ADDRESSES, network_policy::NETWORK_POLICIES,
    service_cidr::SERVICE_CIDRS,
};
pub use crate::node::runtime_class::RUNTIME_CLASSES;
pub use crate::policy::pod_disruption_budget::POD_DISRUPTION_BUDGETS;
pub use crate::rbac::{
    cluster_role::CLUSTER_ROLES, cluster_role_binding::CLUSTER_ROLE_BINDINGS, role::ROLES, role_binding::ROLE_BINDINGS,
};
pub use crate::resource::{
    device_class::DEVICE_CLASSES, resource_claim::RESOURCE_CLAIMS, resource_claim_template::RESOURCE_CLAIM_TEMPLATES,
    resource_slice::RESOURCE_SLICES,
};
pub use crate::scheduling::priority_class::PRIORITY_CLASSES;
pub use crate::storage::{
    csi_driver::CSI_DRIVERS, csi_node::CSI_NODES, csi_storage_capacity::CSI_STORAGE_CAPACITIES,
    storage_class::STORAGE_CLASSES, volume_attachment::VOLUME_ATTACHMENTS,
    volume_attributes_class::VOLUME_ATTRIBUTES_CLASSES,
};

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
    /// Reads and writes the conditions by which a certificate is approved or denied.
    Approval,
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
    /// Passes any request on to what listens at the object's address.
    Proxy,
    /// Issues a service account token.
    Token,
    /// Evicts a pod.
    Eviction,
    /// One part of the object, with rules of its own.
    Piece(&'static Piece),
}

/// A part of an object that has a subresource of its own, such as a pod's `resize`.
#[derive(Debug)]
pub struct Piece {
    /// Makes of what was sent the whole new object: all else is the old one's. (new, old).
    pub prepare: fn(&mut Value, &Value),
    /// Validates the change, in addition to the kind's `validate`: (new, old).
    pub validate: fn(&Value, &Value, &mut FieldErrors),
}

impl PartialEq for Piece {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Piece {}

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

impl Subresource {
    /// The `status` part of an object of this group, version and kind.
    pub const fn status(group: &'static str, version: &'static str, kind: &'static str) -> Subresource {
        Subresource {
            name: "status",
            gvk: (group, version, kind),
            verbs: verbs::GET_PATCH_UPDATE,
            action: Action::Status,
        }
    }

    /// autoscaling/v1 Scale over `spec.replicas`.
    pub const SCALE: Subresource = Subresource {
        name: "scale",
        gvk: ("autoscaling", "v1", "Scale"),
        verbs: verbs::GET_PATCH_UPDATE,
        action: Action::Scale,
    };
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

impl Column {
    /// The object's name, first in nearly every table.
    pub const NAME: Column =
        Column { name: "Name", kind: "string", format: "name", priority: 0, description: "Name of the object" };
    /// The object's name where it is shown only on request.
    pub const WIDE_NAME: Column = Column { priority: 1, ..Column::NAME };

    /// A column of the narrow view.
    pub const fn new(name: &'static str, kind: &'static str) -> Column {
        Column { name, kind, format: "", priority: 0, description: name }
    }

    /// A column of the wide view.
    pub const fn wide(name: &'static str, kind: &'static str) -> Column {
        Column { name, kind, format: "", priority: 1, description: name }
    }
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

/// How a resource is another version of a stored one. There is one store, one cache and one set of rules,
/// all over the stored version's trees; the version is what clients send and read.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// The resource that is stored.
    pub of: &'static Resource,
    /// Completes a decoded object by this version's defaults and makes the stored version of it.
    pub to_stored: fn(&mut Value),
    /// The way back. Whatever `to_stored` cannot say in the stored version, it keeps in annotations.
    pub from_stored: fn(&mut Value),
    /// The stored version's name of a selectable field; itself where there is no other, `None` where this
    /// version does not select by it.
    pub field: fn(&str) -> Option<&str>,
}

/// The rules of one kind, as plain functions over trees. Defaults change the tree, validation reads it.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// How its objects may be named: what is wrong with a name.
    pub name: NameRule,
    /// Fills in defaults that depend on other fields (constant defaults come from the facts). Idempotent.
    pub default: fn(&mut Value),
    /// Before a create: clears status, sets `generation`, ... Runs after defaults.
    pub prepare_create: fn(&mut Value),
    /// Before an update through the main resource: keeps the old status, bumps `generation` when the
    /// spec changed, ... (new, old).
    pub prepare_update: fn(&mut Value, &Value),
    /// Before an update through `/status`: what the client may leave out stays. (new, old).
    pub prepare_status: fn(&mut Value, &Value),
    /// Validates a new object (metadata is validated by the caller).
    pub validate: fn(&Value, &mut FieldErrors),
    /// What only a new object has to satisfy, in addition to `validate`.
    pub validate_create: fn(&Value, &mut FieldErrors),
    /// Validates an update: (new, old). Called in addition to `validate`.
    pub validate_update: fn(&Value, &Value, &mut FieldErrors),
    /// Validates an update through `/status`: (new, old).
    pub validate_status: fn(&Value, &Value, &mut FieldErrors),
    /// Brings a valid object into the one form in which it is stored.
    pub canonicalize: fn(&mut Value),
    /// Warnings for the `Warning` header on create and update.
    pub warnings: fn(&Value) -> Vec<String>,
    /// Values of selectable fields beside `metadata.name` and `metadata.namespace`, in a fixed order.
    pub fields: fn(&Value) -> Vec<(&'static str, String)>,
    /// The cells of the object's table row, in the columns' order.
    /// `now` is seconds since the epoch, for ages.
    pub row: fn(&Value, now: i64) -> Vec<Value>,
    /// Set where the objects are stored in another version. All other rules are over stored trees.
    pub view: Option<View>,
}

impl Rules {
    /// No rules: every well-named object is as it should be, and a row has its name alone.
    pub const NONE: Rules = Rules {
        name: names::dns_subdomain,
        default: |_| {},
        prepare_create: |_| {},
        prepare_update: |_, _| {},
        validate: |_, _| {},
        prepare_status: |_, _| {},
        validate_create: |_, _| {},
        validate_update: |_, _, _| {},
        validate_status: |_, _, _| {},
        canonicalize: |_| {},
        warnings: |_| Vec::new(),
        fields: |_| Vec::new(),
        row: |object, _| vec![object["metadata"]["name"].clone()],
        view: None,
    };
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

impl Resource {
    /// Whether its objects live in namespaces.
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether its objects are kept, and can be followed: reviews are answered and forgotten.
    pub fn is_stored(&self) -> bool {
        self.verbs.contains(&Verb::Watch)
    }

    /// Whether it is the version in which its objects are stored: what counts, follows or deletes all
    /// objects goes by these alone.
    pub fn is_storage(&self) -> bool {
        self.is_stored() && self.rules.view.is_none()
    }

    /// Whether deleting an object answers with it, and not with a Status.
    pub fn returns_deleted(&self) -> bool {
        match self.group {
            "" => matches!(
                self.plural,
                "persistentvolumeclaims"
                    | "persistentvolumes"
                    | "pods"
                    | "podtemplates"
                    | "resourcequotas"
                    | "serviceaccounts"
                    | "services"
            ),
            "resource.k8s.io" => true,
            "storage.k8s.io" => self.plural != "csistoragecapacities",
            _ => false,
        }
    }

    /// The resource in whose version the objects are stored.
    pub fn storage(&self) -> &Resource {
        self.rules.view.map_or(self, |view| view.of)
    }

    /// The stored version's name of a field that this version may select by.
    pub fn stored_field<'a>(&self, field: &'a str) -> Option<&'a str> {
        match self.rules.view {
            Some(view) if !field.starts_with("metadata.") => (view.field)(field),
            _ => Some(field),
        }
    }

    /// Makes the stored version of a decoded object.
    pub fn to_stored(&self, object: &mut Value) {
        if let Some(view) = self.rules.view {
            (view.to_stored)(object);
            object["kind"] = view.of.kind.into();
            object["apiVersion"] = view.of.api_version().into();
        }
    }

    /// Makes this version of a stored object.
    pub fn from_stored(&self, object: &mut Value) {
        if let Some(view) = self.rules.view {
            (view.from_stored)(object);
            object["kind"] = self.kind.into();
            object["apiVersion"] = self.api_version().into();
        }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// What whoever uses the resource in any way is told, where upstream wants to be rid of it.
    pub fn deprecation(&self) -> Option<&'static str> {
        match (self.group, self.version, self.plural) {
            ("", "v1", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
            ("", "v1", "endpoints") => {
                Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
            }
            _ => None,
        }
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}

/// The verb lists that resources share.
pub mod verbs {
    use crate::meta::Verb;

    /// Everything.
    pub const ALL: &[Verb] = &[
        Verb::Create,
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
    ];
    /// Everything but the deletion of a collection.
    pub const NO_COLLECTION_DELETE: &[Verb] =
        &[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];
    /// Of `status` and `scale`.
    pub const GET_PATCH_UPDATE: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];
    /// Of reviews.
    pub const CREATE: &[Verb] = &[Verb::Create];
    /// Of streams.
    pub const CREATE_GET: &[Verb] = &[Verb::Create, Verb::Get];
    /// Of requests that are passed on.
    pub const PROXY: &[Verb] = &[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update];
    /// Read only.
    pub const GET: &[Verb] = &[Verb::Get];
    /// Replace only.
    pub const UPDATE: &[Verb] = &[Verb::Update];
}

/// Every built-in resource, in upstream's order of groups, then by name.
pub static RESOURCES: &[&Resource] = &[
    &BINDINGS,
    &COMPONENT_STATUSES,
    &CONFIG_MAPS,
    &ENDPOINTS,
    &EVENTS,
    &LIMIT_RANGES,
    &NAMESPACES,
    &NODES,
    &PERSISTENT_VOLUME_CLAIMS,
    &PERSISTENT_VOLUMES,
    &PODS,
    &POD_TEMPLATES,
    &REPLICATION_CONTROLLERS,
    &RESOURCE_QUOTAS,
    &SECRETS,
    &SERVICE_ACCOUNTS,
    &SERVICES,
    &CONTROLLER_REVISIONS,
    &DAEMON_SETS,
    &DEPLOYMENTS,
    &REPLICA_SETS,
    &STATEFUL_SETS,
    &EVENTS_V1,
    &SELF_SUBJECT_REVIEWS,
    &TOKEN_REVIEWS,
    &LOCAL_SUBJECT_ACCESS_REVIEWS,
    &SELF_SUBJECT_ACCESS_REVIEWS,
    &SELF_SUBJECT_RULES_REVIEWS,
    &SUBJECT_ACCESS_REVIEWS,
    &HORIZONTAL_POD_AUTOSCALERS,
    &HORIZONTAL_POD_AUTOSCALERS_V1,
    &CRON_JOBS,
    &JOBS,
    &CERTIFICATE_SIGNING_REQUESTS,
    &INGRESS_CLASSES,
    &INGRESSES,
    &IP_ADDRESSES,
    &NETWORK_POLICIES,
    &SERVICE_CIDRS,
    &POD_DISRUPTION_BUDGETS,
    &CLUSTER_ROLE_BINDINGS,
    &CLUSTER_ROLES,
    &ROLE_BINDINGS,
    &ROLES,
    &CSI_DRIVERS,
    &CSI_NODES,
    &CSI_STORAGE_CAPACITIES,
    &STORAGE_CLASSES,
    &VOLUME_ATTACHMENTS,
    &VOLUME_ATTRIBUTES_CLASSES,
    &PRIORITY_CLASSES,
    &LEASES,
    &RUNTIME_CLASSES,
    &ENDPOINT_SLICES,
    &DEVICE_CLASSES,
    &RESOURCE_CLAIMS,
    &RESOURCE_CLAIM_TEMPLATES,
    &RESOURCE_SLICES,
    &FLOW_SCHEMAS,
    &PRIORITY_LEVEL_CONFIGURATIONS,
];

/// The resource of this group, version and plural name.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().copied().find(|r| r.plural == plural && r.group == group && r.version == version)
}

/// The resource whose objects have this kind.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    RESOURCES.iter().copied().find(|r| r.kind == kind && r.group == group && r.version == version)
}

#[cfg(test)]
mod tests;
