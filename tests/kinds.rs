//! Every sub-command of `kubectl create`, and every kind as kubectl lists and describes it.

use crate::programs::{Program, each_release, server};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A request for a certificate, made once.
const REQUEST: &str = "-----BEGIN CERTIFICATE REQUEST-----
MIHiMIGKAgEAMCgxFzAVBgNVBAoMDnN5c3RlbTptYXN0ZXJzMQ0wCwYDVQQDDARq
YW5lMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEuWhS1n/UwCuCBStXTOzi+A1D
IMJ7NxfpPDEzBblis+tG7T49UhNWpnIRGgB3bL6OOSVAzG5DTa1RS2ItDjg9caAA
MAoGCCqGSM49BAMCA0cAMEQCIEhIRg4lOhZIKNJJQHbDGlaNSgEFYJugZu5ayB0T
cTMEAiBf59iJXJr5CvJFk52J7uZsyaoymBJbe8s0I04VEWTBvA==
-----END CERTIFICATE REQUEST-----
";

/// Sub-commands of `create` with what they make; NS is the namespace, and the name of what has none.
const CREATED: &[(&str, &str)] = &[
    ("configmap c --from-literal=a=b", "configmap/c"),
    ("secret generic s --from-literal=a=b", "secret/s"),
    ("secret docker-registry d --docker-server=r --docker-username=u --docker-password=p", "secret/d"),
    ("serviceaccount sa", "serviceaccount/sa"),
    ("role r --verb=get,list --resource=pods,deployments.apps", "role.rbac.authorization.k8s.io/r"),
    ("rolebinding rb --role=r --serviceaccount=NS:sa --group=g", "rolebinding.rbac.authorization.k8s.io/rb"),
    ("clusterrole NS --verb=get --non-resource-url=/x", "clusterrole.rbac.authorization.k8s.io/NS"),
    ("clusterrolebinding NS --clusterrole=NS --user=bob", "clusterrolebinding.rbac.authorization.k8s.io/NS"),
    ("quota q --hard=pods=10,configmaps=20 --scopes=", "resourcequota/q"),
    ("priorityclass NS --value=5 --description=five", "priorityclass.scheduling.k8s.io/NS"),
    ("poddisruptionbudget b --selector=app=web --min-available=1", "poddisruptionbudget.policy/b"),
    ("deployment web --image=example.com/web:1 --replicas=0 --port=80", "deployment.apps/web"),
    ("job j --image=example.com/j:1 -- true", "job.batch/j"),
    ("cronjob cj --image=example.com/j:1 --schedule=@daily -- true", "cronjob.batch/cj"),
    ("job again --from=cronjob/cj", "job.batch/again"),
    ("ingress i --class=NS --rule=example.com/*=one:80,tls=s", "ingress.networking.k8s.io/i"),
    ("service clusterip one --tcp=80:8080", "service/one"),
    ("service nodeport two --tcp=80", "service/two"),
    ("service loadbalancer three --tcp=80", "service/three"),
    ("service externalname four --external-name=example.com", "service/four"),
];

/// Groups whose kinds exist only for those who bring their own, and what nodes alone have.
const EMPTY: [&str; 4] =
    ["admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io", "metrics.k8s.io"];
/// The older describer asks for versions of these that a server of our level does not have.
const NEWER: [&str; 3] =
    ["ipaddresses.networking.k8s.io", "servicecidrs.networking.k8s.io", "volumeattributesclasses.storage.k8s.io"];

#[test]
fn kubectl_creates_lists_and_describes_every_kind() {
    let c = server("kinds");
    each_release(&c, "kubectl", |k| {
        k.run(&format!("create namespace {}", k.namespace));
        created(k);
        let text = include_str!("kinds.yaml").replace("NAME", &k.namespace);
        let file = k.home.join("kinds.yaml");
        std::fs::write(&file, text.replace("REQUEST", &STANDARD.encode(REQUEST))).unwrap();
        k.run(&format!("apply -f {}", file.display()));
        certificates(k);
        shown(k);
        assert!(k.run("auth whoami").contains("system:masters"));
    });
}

fn created(k: &Program<'_>) {
    for (line, made) in CREATED {
        let of_client = |text: &str| text.replace("NS", &k.namespace);
        // What the client would send is what the server would take.
        let try_out = of_client(line).replace(" -- ", " --dry-run=server -- ");
        let try_out = if try_out.contains(" -- ") { try_out } else { format!("{try_out} --dry-run=server") };
        let printed = k.run(&format!("create {try_out}"));
        assert!(printed.contains("(server dry run)"), "{line}: {printed}");
        let printed = k.run(&format!("create {}", of_client(line)));
        assert_eq!(printed.trim(), format!("{} created", of_client(made)));
        assert_eq!(k.run(&format!("get {} -o name", of_client(made))).trim(), of_client(made));
    }
    assert_eq!(k.run("create token sa").trim().split('.').count(), 3);
    let pem = |field: &str, file: &str| {
        let text = k.run(&format!("config view --raw -o jsonpath={{.users[0].user.{field}}}"));
        let path = k.home.join(file);
        std::fs::write(&path, STANDARD.decode(text).unwrap()).unwrap();
        path.display().to_string()
    };
    let (cert, key) = (pem("client-certificate-data", "tls.crt"), pem("client-key-data", "tls.key"));
    k.run(&format!("create secret tls t --cert={cert} --key={key}"));
    assert_eq!(k.value("secret t", "{.type}"), "kubernetes.io/tls");
}

fn certificates(k: &Program<'_>) {
    let name = &k.namespace;
    assert!(k.run(&format!("certificate approve {name}-yes")).contains("approved"));
    assert!(k.run(&format!("certificate deny {name}-no")).contains("denied"));
    for (which, condition) in [("yes", "Approved"), ("no", "Denied")] {
        let row = k.run(&format!("get csr {name}-{which} --no-headers"));
        assert_eq!(row.split_whitespace().last(), Some(condition), "{row}");
    }
    assert!(k.refused(&format!("certificate deny {name}-yes")).contains("already Approved"));
}

/// Each kind has an object, a table narrow and wide, and a description.
fn shown(k: &Program<'_>) {
    for resource in k.run("api-resources --verbs=list -o name").lines() {
        let (narrow, wide) = (k.run(&format!("get {resource} -A")), k.run(&format!("get {resource} -A -o wide")));
        if EMPTY.iter().any(|group| resource.ends_with(group)) {
            continue;
        }
        assert!(!narrow.is_empty(), "no {resource}");
        let titles = |table: &str| -> Vec<String> {
            let heading = table.lines().next().unwrap_or_default();
            heading.split("  ").map(|title| title.trim().to_owned()).collect()
        };
        assert!(titles(&narrow).iter().all(|title| titles(&wide).contains(title)), "{resource}: {narrow}{wide}");
        assert!(!wide.contains("<invalid>"), "{resource}: {wide}");
        if !(k.namespace.ends_with("v32") && NEWER.contains(&resource)) {
            let text = k.run(&format!("describe {resource} -A"));
            assert!(text.contains("Name:"), "{resource}: {text}");
        }
    }
}
