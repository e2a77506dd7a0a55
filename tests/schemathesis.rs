//! Requests that schemathesis makes up from our own OpenAPI documents: none may end in a server error.

use crate::cluster::Cluster;

/// Seconds for each group version; core has most of the operations.
const SECONDS: [(&str, &str); 2] = [("api/v1", "24"), ("", "5")];
/// Paths that end at a node or a pod, which this server does not have.
const ELSEWHERE: &str = "/(watch|proxy|exec|attach|portforward|log)(/|$)";

#[test]
fn requests_made_from_the_documents_never_end_in_a_server_error() {
    let mut c = Cluster::prepare("schemathesis", &["--disable-agent"]);
    c.up();
    let dir = &c.host.dir;
    let python = std::path::PathBuf::from(
        std::env::var("NARU_TEST_PYTHON").expect("scripts/test sets NARU_TEST_PYTHON to a Python with schemathesis"),
    );
    let schemathesis = python.with_file_name("schemathesis");
    // Lists that watch, and logs that follow, would only wait.
    let settings = "[parameters]\nwatch = \"false\"\nfollow = \"false\"\nnamespace = \"default\"\n";
    std::fs::write(dir.join("schemathesis.toml"), settings).unwrap();
    for (file, field) in [
        ("ca", "clusters[0].cluster.certificate-authority-data"),
        ("crt", "users[0].user.client-certificate-data"),
        ("key", "users[0].user.client-key-data"),
    ] {
        let path = format!("-o=jsonpath={{.{field}}}");
        let text = c.kubectl(&["config", "view", "--raw", &path]);
        let pem = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text.trim()).unwrap();
        std::fs::write(dir.join(file), pem).unwrap();
    }
    let index: serde_json::Value = serde_json::from_str(&c.kubectl(&["get", "--raw=/openapi/v3"])).unwrap();
    let versions: Vec<String> = index["paths"].as_object().unwrap().keys().cloned().collect();
    // Those of groups and of single paths have one operation, without parameters.
    let versions: Vec<String> =
        versions.into_iter().filter(|path| path.ends_with("/v1") || path.ends_with("/v2")).collect();
    assert!(versions.iter().any(|version| version == "apis/apps/v1"));
    for version in versions {
        let document = c.kubectl(&["get", &format!("--raw=/openapi/v3/{version}")]);
        std::fs::write(dir.join("document.json"), document).unwrap();
        let (_, seconds) = SECONDS.iter().find(|(name, _)| *name == version).unwrap_or(&SECONDS[1]);
        let mut command = c.host.command(&schemathesis);
        command.arg("--config-file").arg(dir.join("schemathesis.toml")).arg("run").arg(dir.join("document.json"));
        command.arg("--tls-verify").arg(dir.join("ca")).arg("--request-cert").arg(dir.join("crt"));
        command.arg("--request-cert-key").arg(dir.join("key"));
        command.args(["--url", "https://127.0.0.1:6443", "--request-timeout", "30"]);
        command.args(["--checks", "not_a_server_error", "--phases", "coverage,fuzzing", "--max-examples", "3"]);
        command.args(["--max-time", seconds, "--exclude-path-regex", ELSEWHERE, "--continue-on-failure"]);
        command.args(["--warnings", "off", "--no-color"]);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let tail: Vec<&str> = text.lines().rev().take(80).collect();
        assert!(
            output.status.success(),
            "{version}:\n{}\n{}",
            tail.into_iter().rev().collect::<Vec<_>>().join("\n"),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert!(!c.log().contains("panicked"), "{}", c.log());
}
