//! The API at its edges, by clients that nobody here wrote: too much of something, too many requests, and state that
//! has been forgotten.

use crate::cluster::Cluster;
use crate::serving::identity;
use serde_json::Value;

/// `curl` as the administrator, by either version of HTTP.
struct Curl<'a> {
    cluster: &'a Cluster,
    identity: [String; 2],
    version: &'static str,
}

const VERSIONS: [&str; 2] = ["--http1.1", "--http2"];
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

impl Curl<'_> {
    /// The code, the headers in lower case, and the body.
    fn call(&self, path: &str, arguments: &[&str]) -> (u16, String, String) {
        let [cert, key] = &self.identity;
        let url = format!("https://127.0.0.1:6443{path}");
        let mut command = self.cluster.host.command("curl");
        command.args(["-sk", "-i", "--max-time", "60", self.version, "--cert", cert, "--key", key]);
        let output = command.args(arguments).arg(url).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).replace("HTTP/1.1 100 Continue\r\n\r\n", "");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        (code, head.to_lowercase(), body.to_owned())
    }

    fn json(&self, path: &str) -> Value {
        let (_, head, body) = self.call(path, &[]);
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {head}\n{body}"))
    }
}

#[test]
fn what_is_too_much_is_refused_by_either_version_of_http() {
    let mut c = Cluster::prepare("bounds", &["--disable-agent"]);
    c.up();
    let body = c.host.dir.join("body");
    std::fs::write(&body, format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(3 << 20))).unwrap();
    let body = format!("@{}", body.display());
    let identity = identity(&c);
    for version in VERSIONS {
        let curl = Curl { cluster: &c, identity: identity.clone(), version };
        let post = ["-H", "Content-Type: application/json", "--data-binary", body.as_str()];
        let (code, _, body) = curl.call(MAPS, &post);
        assert!(code == 413 && body.contains("Request entity too large: limit is 3145728"), "{version}: {body}");
        let chunked = [&["-H", "Transfer-Encoding: chunked"][..], &post].concat();
        assert_eq!(curl.call(MAPS, &chunked).0, 413, "{version}");
        let (code, _, body) = curl.call(&format!("{MAPS}?x={}", "a".repeat(62_000)), &[]);
        assert_eq!(code, 414, "{version}: {body}");
        // HTTP/2 may end the connection instead.
        let (code, _, body) = curl.call(MAPS, &["-H", &format!("X-Large: {}", "b".repeat(66_000))]);
        assert!(code == 431 || (code == 0 && version == "--http2"), "{version}: {code} {body}");
        let (code, _, body) = curl.call(&format!("{MAPS}?timeout=1ns"), &[]);
        assert!(
            code == 504 && body.contains("Timeout: request did not complete within the allotted timeout"),
            "{version}: {body}"
        );
    }
}

const JAIL: &str = r#"
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
metadata: {name: jail}
spec:
  type: Limited
  limited: {nominalConcurrencyShares: 0, borrowingLimitPercent: 0, limitResponse: {type: Reject}}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {name: prisoner}
spec:
  priorityLevelConfiguration: {name: jail}
  matchingPrecedence: 100
  rules:
  - subjects: [{kind: User, user: {name: prisoner}}]
    nonResourceRules: [{verbs: ["*"], nonResourceURLs: ["/version"]}]
    resourceRules: [{verbs: ["*"], apiGroups: ["*"], resources: ["*"], namespaces: ["*"], clusterScope: true}]
"#;

#[test]
fn a_level_without_seats_sends_clients_away_until_it_has_some() {
    let mut c = Cluster::prepare("shed", &["--disable-agent"]);
    c.up();
    assert!(c.feed(&["apply", "-f", "-"], JAIL).status.success());
    let identity = identity(&c);
    let as_prisoner = ["-H", "Impersonate-User: prisoner"];
    let curl = |version| Curl { cluster: &c, identity: identity.clone(), version };
    c.eventually("the level is closed", |_| curl(VERSIONS[0]).call(MAPS, &as_prisoner).0 == 429);
    let uids = [
        ("flowschema", "x-kubernetes-pf-flowschema-uid"),
        ("prioritylevelconfiguration", "x-kubernetes-pf-prioritylevel-uid"),
    ]
    .map(|(kind, header)| {
        let name = if kind == "flowschema" { "prisoner" } else { "jail" };
        format!("{header}: {}", c.get(&format!("{kind} {name}"), "{.metadata.uid}"))
    });
    for version in VERSIONS {
        let (code, head, body) = curl(version).call(MAPS, &as_prisoner);
        assert_eq!((code, body.trim()), (429, "Too many requests, please try again later."), "{version}");
        assert!(head.contains("retry-after: "), "{head}");
        assert!(uids.iter().all(|uid| head.contains(uid)), "{uids:?}: {head}");
        assert_eq!(curl(version).call("/readyz", &as_prisoner).0, 200, "health is exempt");
        assert_eq!(curl(version).call(MAPS, &[]).0, 200, "others go on");
    }
    let open = r#"{"spec":{"limited":{"nominalConcurrencyShares":10}}}"#;
    c.kubectl(&["patch", "prioritylevelconfiguration", "jail", "--type=merge", "-p", open]);
    c.eventually("the level is open", |_| curl(VERSIONS[1]).call(MAPS, &as_prisoner).0 == 403);
}

#[test]
fn what_has_been_compacted_is_told_and_a_list_may_go_on() {
    let mut c = Cluster::prepare("compacted", &["--disable-agent", "--compaction-interval=1s"]);
    c.up();
    for name in ["a", "b", "c"] {
        c.kubectl(&["create", "configmap", name]);
    }
    let identity = identity(&c);
    let curl = Curl { cluster: &c, identity: identity.clone(), version: VERSIONS[1] };
    let first = curl.json(&format!("{MAPS}?limit=1"));
    let token = first["metadata"]["continue"].as_str().unwrap();
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let page = format!("{MAPS}?limit=10&continue={token}");
    let mut changes = 0;
    c.eventually("the page is forgotten", |c| {
        changes += 1;
        c.kubectl(&["annotate", "configmap", "a", "--overwrite", &format!("changes={changes}")]);
        curl.call(&page, &[]).0 == 410
    });
    let expired = curl.json(&page);
    assert_eq!(expired["reason"], "Expired");
    assert!(expired["message"].as_str().unwrap().starts_with("The provided continue parameter is too old"));
    let token = expired["metadata"]["continue"].as_str().unwrap();
    c.kubectl(&["delete", "configmap", "b"]);
    let rest = curl.json(&format!("{MAPS}?limit=10&continue={token}"));
    let names: Vec<&str> =
        rest["items"].as_array().unwrap().iter().filter_map(|o| o["metadata"]["name"].as_str()).collect();
    assert_eq!(names, ["c", "kube-root-ca.crt"], "what is left of the present");
    let exact = format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact");
    assert_eq!(curl.json(&exact)["message"], "The resourceVersion for the provided list is too old.");
    // What the server itself remembers of changes can be watched for longer, but not once it was killed.
    c.down("-KILL");
    c.up();
    let curl = Curl { cluster: &c, identity, version: VERSIONS[1] };
    for accept in ["application/json", "application/json;as=Table;v=v1;g=meta.k8s.io"] {
        let watch = format!("{MAPS}?watch=1&timeoutSeconds=5&resourceVersion={version}");
        let (code, _, body) = curl.call(&watch, &["-H", &format!("Accept: {accept}")]);
        let event: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((code, &event["type"], &event["object"]["code"]), (200, &"ERROR".into(), &410.into()), "{body}");
        assert!(event["object"]["message"].as_str().unwrap().starts_with("too old resource version: "), "{body}");
    }
}
