//! Parameters: which ones each operation takes, and what they mean.

use serde_json::{Value, json};

/// Name, type and meaning of a parameter in the query.
type Query = (&'static str, &'static str, &'static str);

const PRETTY: Query = (
    "pretty",
    "string",
    "Indents JSON answers when 'true'; without it they are indented for command-line tools and browsers.",
);
const CONTINUE: Query = (
    "continue",
    "string",
    "The token of the previous page, which its metadata has as 'continue'. An expired token is answered with 410 and, where possible, a new token that goes on from there in the present state.",
);
const FIELDS: Query = ("fieldSelector", "string", "Selects objects by their fields; all by default.");
const LABELS: Query = ("labelSelector", "string", "Selects objects by their labels; all by default.");
const LIMIT: Query = (
    "limit",
    "integer",
    "The most objects that one answer is to have; where there are more, its metadata has a 'continue' token for the next page. All pages show the state of the first one's resourceVersion.",
);
const VERSION: Query = (
    "resourceVersion",
    "string",
    "Which resource versions an answer may be served from; see https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions",
);
const VERSION_MATCH: Query = (
    "resourceVersionMatch",
    "string",
    "How resourceVersion is meant in a list: 'Exact' or 'NotOlderThan'; see https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions",
);
const INITIAL_EVENTS: Query = (
    "sendInitialEvents",
    "boolean",
    "Begins a watch with an event for each object that there is, ended by a bookmark annotated with 'k8s.io/initial-events-end'. Needs resourceVersionMatch=NotOlderThan.",
);
const TIMEOUT: Query = ("timeoutSeconds", "integer", "After how many seconds a list or watch ends, whatever happens.");
const BOOKMARKS: Query = (
    "allowWatchBookmarks",
    "boolean",
    "Asks a watch for events of type BOOKMARK, which carry a resourceVersion alone.",
);
const WATCH: Query = ("watch", "boolean", "Answers with a stream of changes instead of a list.");
const DRY_RUN: Query = ("dryRun", "string", "With 'All', everything is done but the writing.");
const MANAGER: Query = (
    "fieldManager",
    "string",
    "Who makes the change, at most 128 printable characters; by default what the user agent's name begins with. Applying needs it.",
);
const VALIDATION: Query = (
    "fieldValidation",
    "string",
    "What becomes of unknown and duplicate fields: 'Ignore' drops them, 'Warn' (the default) drops them with a warning, 'Strict' refuses the request.",
);
const FORCE: Query = ("force", "boolean", "Takes fields over from other managers; for apply patches alone.");
const GRACE: Query = (
    "gracePeriodSeconds",
    "integer",
    "Seconds until the object is deleted; zero deletes at once. By default the object's own, or its kind's.",
);
const IGNORE_READ_ERROR: Query = (
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "boolean",
    "Deletes an object that cannot be read any more, without finalizers or preconditions being looked at.",
);
const ORPHAN: Query = (
    "orphanDependents",
    "boolean",
    "Deprecated: use propagationPolicy. Whether dependents stay behind without their owner.",
);
const PROPAGATION: Query = (
    "propagationPolicy",
    "string",
    "What becomes of dependents: 'Orphan' leaves them, 'Background' deletes them afterwards, 'Foreground' before.",
);

const LIST: &[Query] =
    &[BOOKMARKS, CONTINUE, FIELDS, LABELS, LIMIT, VERSION, VERSION_MATCH, INITIAL_EVENTS, TIMEOUT, WATCH];
const WRITE: &[Query] = &[DRY_RUN, MANAGER, VALIDATION];
const PATCH: &[Query] = &[DRY_RUN, MANAGER, VALIDATION, FORCE];
const DELETE: &[Query] = &[DRY_RUN, GRACE, IGNORE_READ_ERROR, ORPHAN, PROPAGATION];
const DELETE_COLLECTION: &[Query] = &[
    CONTINUE,
    DRY_RUN,
    FIELDS,
    GRACE,
    IGNORE_READ_ERROR,
    LABELS,
    LIMIT,
    ORPHAN,
    PROPAGATION,
    VERSION,
    VERSION_MATCH,
    INITIAL_EVENTS,
    TIMEOUT,
];

const CONTAINER: Query = ("container", "string", "Which container; the only one by default.");
const STDERR: Query = ("stderr", "boolean", "Whether the error output is sent.");
const STDIN: Query = ("stdin", "boolean", "Whether input is taken.");
const STDOUT: Query = ("stdout", "boolean", "Whether the output is sent.");
const TTY: Query = ("tty", "boolean", "Whether the command gets a terminal.");
const COMMAND: Query = ("command", "string", "The command and its arguments, in order; no shell reads them.");
const ATTACH: &[Query] = &[CONTAINER, STDERR, STDIN, STDOUT, TTY];
const EXEC: &[Query] = &[COMMAND, CONTAINER, STDERR, STDIN, STDOUT, TTY];
const PORT_FORWARD: &[Query] = &[("ports", "integer", "Ports to forward, for WebSockets.")];
const PROXY: &[Query] = &[("path", "string", "The path to ask the backend for.")];
const LOG: &[Query] = &[
    CONTAINER,
    ("follow", "boolean", "Whether to go on as the log grows."),
    ("insecureSkipTLSVerifyBackend", "boolean", "Whether the node's serving certificate is left unchecked."),
    ("limitBytes", "integer", "After how many bytes to stop."),
    ("previous", "boolean", "Whether to read the log of the container's last run."),
    ("sinceSeconds", "integer", "From how many seconds ago on."),
    ("stream", "string", "Which output: 'All' (the default), 'Stdout' or 'Stderr'."),
    ("tailLines", "integer", "From how many lines before the end on."),
    ("timestamps", "boolean", "Whether each line starts with its time."),
];

/// The parameters in the query of an operation. `kind` is what a connection's options are called.
pub(super) fn of(verb: &str, kind: &str) -> Vec<Value> {
    let own = match (verb, kind) {
        ("list" | "watch" | "watchlist", _) => LIST,
        ("create" | "replace", _) => WRITE,
        ("patch", _) => PATCH,
        ("delete", _) => DELETE,
        ("deletecollection", _) => DELETE_COLLECTION,
        ("log", _) => LOG,
        ("connect", "PodAttachOptions") => ATTACH,
        ("connect", "PodExecOptions") => EXEC,
        ("connect", "PodPortForwardOptions") => PORT_FORWARD,
        ("connect", _) => PROXY,
        _ => &[],
    };
    let pretty = (verb != "connect").then_some(&PRETTY);
    own.iter().chain(pretty).map(|(name, kind, text)| query(name, kind, text)).collect()
}

fn query(name: &str, kind: &str, text: &str) -> Value {
    json!({"name": name, "in": "query", "description": text, "schema": {"type": kind, "uniqueItems": true}})
}

/// A parameter in the path.
pub(super) fn path(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "description": description,
        "schema": {"type": "string", "uniqueItems": true}})
}

/// Moves what all operations of a path take to the path itself.
pub(super) fn share(item: &mut serde_json::Map<String, Value>) {
    let lists = || item.values().map(|operation| operation["parameters"].as_array());
    let Some(Some(first)) = lists().next() else { return };
    let everywhere = |parameter: &&Value| lists().all(|list| list.is_some_and(|list| list.contains(*parameter)));
    let mut shared: Vec<Value> = first.iter().filter(everywhere).cloned().collect();
    for operation in item.values_mut() {
        let Some(list) = operation["parameters"].as_array_mut() else { continue };
        list.retain(|parameter| !shared.contains(parameter));
        let empty = list.is_empty();
        if let Some(operation) = operation.as_object_mut()
            && empty
        {
            operation.remove("parameters");
        }
    }
    shared.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    if !shared.is_empty() {
        item.insert("parameters".to_owned(), Value::from(shared));
    }
}
