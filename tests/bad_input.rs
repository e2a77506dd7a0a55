//! Wrong input gets an answer that names what is wrong and what would be right.

use crate::cluster::{Cluster, NARU};
use std::process::{Command, Output};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_unknown_flag_is_named() {
    let output = Command::new(NARU).args(["server", "--no-such-flag"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--no-such-flag"));
}

#[test]
fn a_busy_port_is_named() {
    let c = Cluster::prepare("port", &[]);
    let script = "import socket,time\ns=socket.socket(); s.bind(('0.0.0.0',6443)); s.listen(); print('ready',flush=True); time.sleep(600)";
    let mut holder =
        c.host.command("python3").args(["-c", script]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.take().unwrap()), &mut line).unwrap();
    let output = c.server_command().output().unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(!output.status.success());
    let text = stderr(&output);
    assert!(text.contains("6443") && text.contains("--https-listen-port"), "{text}");
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let c = Cluster::prepare("dir", &[]);
    // Not even root can make a directory below a file.
    std::fs::write(c.data_dir(), "a file").unwrap();
    let output = c.server_command().output().unwrap();
    assert!(!output.status.success());
    let text = stderr(&output);
    assert!(text.contains(c.data_dir().to_str().unwrap()), "{text}");
}

#[test]
fn a_corrupt_database_is_found_named_and_kept() {
    let mut c = Cluster::prepare("corrupt", &["--disable-agent"]);
    c.up();
    c.kubectl(&["create", "configmap", "a"]);
    c.down("-TERM");
    let db = c.data_dir().join("server/db");
    let file = std::fs::read_dir(&db)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|ext| ext == "db"))
        .unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    for byte in &mut bytes[4096.min(middle)..] {
        *byte = 0xA5;
    }
    std::fs::write(&file, &bytes).unwrap();
    let output = c.server_command().output().unwrap();
    assert!(!output.status.success());
    let text = stderr(&output);
    assert!(text.contains(file.to_str().unwrap()) && text.contains("backup"), "{text}");
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "a corrupt database is never touched");

    // An empty one beside the rest of a used directory is no new cluster.
    std::fs::write(&file, "").unwrap();
    let output = c.server_command().output().unwrap();
    assert!(!output.status.success());
    assert!(stderr(&output).contains("backup"), "{}", stderr(&output));
}

#[test]
fn requests_that_are_wrong_are_refused_with_reasons() {
    let mut c = Cluster::prepare("refuse", &["--disable-agent"]);
    c.up();

    // 400 naming each path, under strict field validation.
    let deployment = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  nonsense: 1
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: a, image: b, imagePullPolice: Never}]
";
    let text = stderr(&c.feed(&["create", "--validate=strict", "-f", "-"], deployment));
    assert!(text.contains("unknown field \"spec.nonsense\""), "{text}");
    assert!(text.contains("unknown field \"spec.template.spec.containers[0].imagePullPolice\""), "{text}");

    // 422 with all causes.
    let pod = "
apiVersion: v1
kind: Pod
metadata: {name: Bad_Name}
spec:
  containers: [{name: a}, {name: a, image: b, ports: [{containerPort: 70000}]}]
";
    let text = stderr(&c.feed(&["create", "-f", "-"], pod));
    for cause in [
        "metadata.name: Invalid value",
        "spec.containers[0].image: Required value",
        "spec.containers[1].name: Duplicate value",
        "spec.containers[1].ports[0].containerPort: Invalid value: 70000",
    ] {
        assert!(text.contains(cause), "{cause}: {text}");
    }

    // 409 for a stale update.
    c.kubectl(&["create", "configmap", "stale", "--from-literal=a=1"]);
    let old = c.kubectl(&["get", "configmap", "stale", "-o", "json"]);
    c.kubectl(&["label", "configmap", "stale", "x=y"]);
    let text = stderr(&c.feed(&["replace", "-f", "-"], &old));
    assert!(
        text.contains("the object has been modified; please apply your changes to the latest version and try again"),
        "{text}"
    );

    // 413 for a body over 3 MiB.
    let big = format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"big\"}},\"data\":{{\"a\":\"{}\"}}}}",
        "x".repeat(3 << 20)
    );
    let text = stderr(&c.feed(&["create", "--validate=false", "-f", "-"], &big));
    assert!(text.contains("too large"), "{text}");

    // 404 and 403 as upstream words them.
    let text = c.refused(&["get", "pod", "nothing"]);
    assert_eq!(text, "Error from server (NotFound): pods \"nothing\" not found\n");
    let token = c.kubectl(&["create", "token", "default"]);
    let url = "https://127.0.0.1:6443/api/v1/namespaces/default/secrets";
    let header = format!("Authorization: Bearer {}", token.trim());
    let output = c.host.command("curl").args(["-sSk", "-H", &header, url]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("secrets is forbidden: User \\\"system:serviceaccount:default:default\\\" cannot list resource \\\"secrets\\\" in API group \\\"\\\" in the namespace \\\"default\\\""),
        "{text}"
    );

    // Malformed YAML with line and column, by our own client.
    let file = c.host.dir.join("bad.yaml");
    std::fs::write(&file, "a: b\n  c: [d\n").unwrap();
    let output = c
        .host
        .command(NARU)
        .args(["kubectl", "--kubeconfig"])
        .arg(c.kubeconfig())
        .args(["apply", "-f"])
        .arg(&file)
        .output()
        .unwrap();
    let text = stderr(&output);
    assert!(!output.status.success() && text.contains("line 2") && text.contains("column"), "{text}");
}

#[test]
fn a_missing_image_is_reported_with_the_registrys_reason() {
    let mut c = Cluster::start("image");
    let registry = c.registry();
    c.kubectl(&["run", "gone", &format!("--image={registry}/no-such:1"), "--restart=Never"]);
    c.eventually("the pull fails", |c| {
        ["ErrImagePull", "ImagePullBackOff"]
            .contains(&c.get("pod gone", "{.status.containerStatuses[0].state.waiting.reason}").as_str())
    });
    c.eventually("it backs off", |c| {
        c.get("pod gone", "{.status.containerStatuses[0].state.waiting.reason}") == "ImagePullBackOff"
    });
    c.eventually("the events say why", |c| {
        c.kubectl(&["describe", "pod", "gone"]).to_lowercase().contains("not found")
    });

    let archive = c.host.dir.join("broken.tar");
    std::fs::write(&archive, "this is no archive").unwrap();
    let output =
        c.host.command(NARU).args(["image", "import", "--data-dir"]).arg(c.data_dir()).arg(&archive).output().unwrap();
    assert!(!output.status.success());
    assert!(stderr(&output).contains(archive.to_str().unwrap()), "{}", stderr(&output));
}
