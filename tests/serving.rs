//! The server at its edges: told to end in the middle of work, out of disk, watched over a WebSocket.

use crate::cluster::Cluster;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

/// Posts a ConfigMap in two halves; the second when a line comes in.
const SLOW_POST: &str = r#"
import http.client, json, ssl, sys
cert, key, name = sys.argv[1:4]
context = ssl._create_unverified_context()
context.load_cert_chain(cert, key)
body = json.dumps({"metadata": {"name": name}, "data": {"a": "b"}}).encode()
c = http.client.HTTPSConnection("127.0.0.1", 6443, context=context)
c.putrequest("POST", "/api/v1/namespaces/default/configmaps")
c.putheader("Content-Type", "application/json")
c.putheader("Content-Length", str(len(body)))
c.endheaders()
c.send(body[:20])
print("half", flush=True)
sys.stdin.readline()
c.send(body[20:])
print(c.getresponse().status, flush=True)
"#;

/// The administrator's certificate and key as files.
pub(crate) fn identity(c: &Cluster) -> [String; 2] {
    ["client-certificate-data", "client-key-data"].map(|field| {
        let path = c.host.dir.join(field);
        let jsonpath = format!("{{.users[0].user.{field}}}");
        let line = format!(
            "kubectl --kubeconfig {} config view --raw -o jsonpath='{jsonpath}' | base64 -d > {}",
            c.kubeconfig().display(),
            path.display()
        );
        assert!(c.host.sh(&line).status.success());
        path.to_str().unwrap().to_owned()
    })
}

#[test]
fn a_server_that_is_told_to_end_finishes_what_it_has_begun() {
    let mut c = Cluster::prepare("sigterm", &["--disable-agent", "--kube-apiserver-arg=shutdown-delay-duration=8s"]);
    c.up();
    let [cert, key] = identity(&c);
    let mut post = c
        .host
        .command("python3")
        .args(["-c", SLOW_POST, &cert, &key, "slow"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answers = BufReader::new(post.stdout.take().unwrap()).lines();
    assert_eq!(answers.next().unwrap().unwrap(), "half");
    let mut watch =
        c.kubectl_command(&["get", "configmaps", "-w", "-o", "name"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut seen = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert_eq!(seen.next().unwrap().unwrap(), "configmap/kube-root-ca.crt");

    assert!(c.host.sh(&format!("kill -TERM {}", c.pid())).status.success());
    c.eventually("it is not ready any more", |c| {
        let output = c.try_kubectl(&["get", "--raw=/readyz?verbose"]);
        String::from_utf8_lossy(&output.stderr).contains("[-]shutdown failed") || !output.status.success()
    });
    post.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(answers.next().unwrap().unwrap(), "201");
    let rest: Vec<String> = seen.map(Result::unwrap).collect();
    assert_eq!(rest, ["configmap/slow"], "watches see the last writes, and end");
    post.wait().unwrap();
    watch.wait().unwrap();
    assert!(c.down("-TERM").success());
    c.up();
    assert_eq!(c.get("configmap slow", "{.data.a}"), "b");
}

#[test]
fn a_full_disk_is_told_and_got_over() {
    let mut c = Cluster::prepare("full", &["--disable-agent"]);
    let db = c.data_dir().join("server/db");
    let db = db.to_str().unwrap();
    let mounted = c.host.sh(&format!("mkdir -p {db} && mount -t tmpfs -o size=24m none {db}"));
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
    c.up();
    c.kubectl(&["create", "configmap", "before"]);
    c.host.sh(&format!("cat /dev/zero > {db}/filler"));
    // What fits into the space that was allotted already is still written.
    let large = "x".repeat(900_000);
    let file = c.host.dir.join("large");
    std::fs::write(&file, large).unwrap();
    let from = format!("--from-file=a={}", file.display());
    let mut text = String::new();
    for number in 0..40 {
        let output = c.try_kubectl(&["create", "configmap", &format!("large-{number}"), &from]);
        if !output.status.success() {
            text = String::from_utf8_lossy(&output.stderr).into_owned();
            break;
        }
    }
    assert!(text.contains("the database has no space left: delete what is not needed, or give"), "{text}");
    assert_eq!(c.get("configmap before", "{.metadata.name}"), "before", "reads go on");
    assert!(c.host.sh(&format!("rm {db}/filler")).status.success());
    c.kubectl(&["create", "configmap", "after"]);
    assert_eq!(c.kubectl(&["get", "--raw=/readyz/etcd"]), "ok");
    assert!(c.down("-TERM").success());
    c.up();
    assert_eq!(c.get("configmap after", "{.metadata.name}"), "after");
}

#[test]
fn a_file_system_that_becomes_read_only_is_named() {
    let mut c = Cluster::prepare("erofs", &["--disable-agent"]);
    let (db, image) = (c.data_dir().join("server/db"), c.host.dir.join("image"));
    let (db, image) = (db.to_str().unwrap(), image.to_str().unwrap());
    let mounted = c.host.sh(&format!(
        "mkdir -p {db} && truncate -s 64M {image} && mkfs.ext4 -q -F {image} && mount -o loop {image} {db}"
    ));
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
    c.up();
    c.kubectl(&["create", "configmap", "before"]);
    // What the kernel does on its own when the disk fails.
    c.host.sh(&format!("mount -o remount,abort {db}"));
    let text = c.refused(&["create", "configmap", "after"]);
    assert!(
        text.contains("the database is read-only: make the file system of the server's data directory writable"),
        "{text}"
    );
    assert_eq!(c.get("configmap before", "{.metadata.name}"), "before", "reads go on");
    assert!(c.refused(&["get", "--raw=/readyz?verbose"]).contains("[-]etcd failed"));
    c.down("-KILL");
    // Mounting it again repairs it.
    let mounted = c.host.sh(&format!("umount {db} && mount -o loop {image} {db}"));
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
    c.up();
    assert_eq!(c.get("configmap before", "{.metadata.name}"), "before");
    c.kubectl(&["create", "configmap", "after"]);
}

#[test]
fn watches_speak_websocket() {
    let mut c = Cluster::prepare("socket", &["--disable-agent"]);
    c.up();
    let [cert, key] = identity(&c);
    let curl = |headers: &str| {
        let line = format!(
            "curl -sk --http1.1 -i --max-time 5 --cert {cert} --key {key} -H 'Connection: Upgrade' -H 'Upgrade: websocket' \
             -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' {headers} \
             'https://127.0.0.1:6443/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1'"
        );
        String::from_utf8_lossy(&c.host.sh(&line).stdout).into_owned()
    };
    let answer = curl("-H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Protocol: base64.binary.k8s.io'");
    let lower = answer.to_lowercase();
    for part in [
        "http/1.1 101 switching protocols",
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
        "sec-websocket-protocol: base64.binary.k8s.io",
        "x-kubernetes-pf-flowschema-uid: ",
        "{\"type\":\"added\",\"object\":{\"kind\":\"configmap\"",
    ] {
        assert!(lower.contains(part), "{part}: {answer}");
    }
    let answer = curl("-H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Protocol: a, b'");
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let answer = curl("");
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}
