//! Networks of others, with plugins that are scripts.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use std::os::unix::fs::PermissionsExt;

struct Setup {
    dir: tempfile::TempDir,
    shutdown: Shutdown,
}

impl Setup {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), shutdown: Shutdown::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self) -> External {
        let config = ExternalConfig {
            conf_dirs: vec![self.path("net.d")],
            bin_dirs: vec![self.path("missing"), self.path("bin")],
            state_dir: self.path("state"),
        };
        External::open(config, &self.shutdown).unwrap()
    }

    /// A plugin that tells what it was called with, and then does as the script says.
    fn plugin(&self, name: &str, script: &str) {
        std::fs::create_dir_all(self.path("bin")).unwrap();
        let file = self.path("bin").join(name);
        let log = self.path("log");
        let text = format!(
            "#!/bin/sh\ninput=$(cat)\necho \"{name} $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS $input\" >>{}\n{script}\n",
            log.display()
        );
        // Written beside and renamed: a file that is open for writing by a forked child cannot be executed.
        let beside = self.path("bin").join(format!(".{name}"));
        std::fs::write(&beside, text).unwrap();
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(beside, file).unwrap();
    }

    fn calls(&self) -> Vec<String> {
        std::fs::read_to_string(self.path("log")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn configure(&self, text: &str) {
        std::fs::write(self.path("net.d/10-test.conflist"), text).unwrap();
    }
}

const RESULT: &str =
    r#"echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.5/24"}, {"address": "fd00::5/64"}]}'"#;
const LIST: &str =
    r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "first", "a": 1}, {"type": "second"}]}"#;

fn pod() -> Attachment {
    // The test's own namespace will do: only its loopback is touched, which is up.
    Attachment { container_id: "c1".into(), netns: "/proc/self/ns/net".into(), ifname: "eth0".into() }
}

#[tokio::test]
async fn plugins_are_run_in_a_row_and_back() {
    let setup = Setup::new();
    setup.plugin("first", RESULT);
    setup.plugin("second", RESULT);
    let external = setup.open();
    let mut configured = external.configured();
    assert_eq!(
        external.add(&pod(), "").await.unwrap_err().to_string(),
        "invalid network config: cni plugin not initialized"
    );
    setup.configure(LIST);
    configured.wait_for(Option::is_some).await.unwrap();
    let given = external.add(&pod(), "K8S_POD_NAME=web").await.unwrap();
    assert_eq!(given.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.9.0.5", "fd00::5"]);
    let calls = setup.calls();
    assert_eq!(calls.len(), 2);
    assert!(calls[0].starts_with("first ADD c1 eth0 K8S_POD_NAME=web {"), "{calls:?}");
    assert!(calls[0].contains("\"name\":\"net\"") && calls[0].contains("\"cniVersion\":\"1.0.0\""));
    assert!(!calls[0].contains("prevResult") && calls[1].contains("prevResult"), "{calls:?}");

    // Another start of the agent asks nobody again, and detaches by what was, whatever the configuration says now.
    let external = setup.open();
    assert_eq!(external.add(&pod(), "").await.unwrap(), given);
    assert_eq!(setup.calls().len(), 2);
    std::fs::remove_file(setup.path("net.d/10-test.conflist")).unwrap();
    external.retain(&HashSet::from(["c1".to_owned()])).await.unwrap();
    assert_eq!(setup.calls().len(), 2);
    external.retain(&HashSet::new()).await.unwrap();
    let calls = setup.calls();
    assert!(calls[2].starts_with("second DEL c1 eth0 K8S_POD_NAME=web {") && calls[2].contains("prevResult"));
    assert!(calls[3].starts_with("first DEL c1"));
    external.del(&pod()).await.unwrap();
    assert_eq!(setup.calls().len(), 4, "it is forgotten");
    setup.shutdown.trigger();
}

#[tokio::test]
async fn what_a_plugin_refuses_is_undone_and_told() {
    let setup = Setup::new();
    setup.plugin("first", RESULT);
    let fails = r#"[ "$CNI_COMMAND" = DEL ] && exit 0; echo '{"code": 7, "msg": "no subnet", "details": "10.9.0.0/24"}'; exit 1"#;
    setup.plugin("second", fails);
    let external = setup.open();
    let mut configured = external.configured();
    setup.configure(LIST);
    configured.wait_for(Option::is_some).await.unwrap();
    let error = external.add(&pod(), "").await.unwrap_err().to_string();
    assert_eq!(error, "plugin type=\"second\" failed (add): no subnet; 10.9.0.0/24");
    let commands: Vec<String> =
        setup.calls().iter().map(|call| call.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(commands, ["first ADD", "second ADD", "second DEL", "first DEL"]);
    std::fs::remove_file(setup.path("bin/first")).unwrap();
    let error = external.add(&pod(), "").await.unwrap_err().to_string();
    assert!(
        error.starts_with("plugin type=\"first\" failed (add): failed to find plugin \"first\" in path ["),
        "{error}"
    );
    setup.shutdown.trigger();
}
