//! Pods that files describe: seen by kubectl as mirrors, run and ended by the files alone.

use crate::cluster::Cluster;

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: kept, labels: {app: kept}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: REGISTRY/busybox:1
    command: [sh, -c, 'echo FIRST; sleep 36000']
";

#[test]
fn a_file_is_a_pod() {
    let mut c = Cluster::prepare("static", &[]);
    let dir = c.data_dir().join("agent/pod-manifests");
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("kept.yaml");
    c.up();
    let registry = c.registry();
    let text = POD.replace("REGISTRY", registry);
    std::fs::write(&file, &text).unwrap();
    let phase = |c: &Cluster| c.get("pod kept-node-a", "{.status.phase}");
    let uid = |c: &Cluster| c.get("pod kept-node-a", "{.metadata.uid}");
    c.eventually("the mirror runs", |c| phase(c) == "Running");
    assert_eq!(c.get("pod kept-node-a", "{.metadata.annotations.kubernetes\\.io/config\\.source}"), "file");
    assert_eq!(c.get("pod kept-node-a", "{.metadata.ownerReferences[0].kind}"), "Node");
    c.eventually("it has said something", |c| c.kubectl(&["logs", "kept-node-a"]) == "FIRST\n");
    assert_eq!(c.kubectl(&["exec", "kept-node-a", "--", "echo", "inside"]), "inside\n");
    assert!(c.kubectl(&["describe", "pod", "kept-node-a"]).contains("Container started"));

    // Deleting the mirror deletes nothing.
    let (before, container) = (uid(&c), c.get("pod kept-node-a", "{.status.containerStatuses[0].containerID}"));
    c.kubectl(&["delete", "pod", "kept-node-a", "--wait=false"]);
    c.eventually("there is another mirror", |c| phase(c) == "Running" && uid(c) != before);
    assert_eq!(c.get("pod kept-node-a", "{.status.containerStatuses[0].containerID}"), container);

    // The server's restart changes nothing either.
    c.down("-KILL");
    c.up();
    c.eventually("it still runs", |c| {
        phase(c) == "Running" && c.get("pod kept-node-a", "{.status.containerStatuses[0].ready}") == "true"
    });
    assert_eq!(c.get("pod kept-node-a", "{.status.containerStatuses[0].containerID}"), container);

    std::fs::write(&file, text.replace("FIRST", "SECOND")).unwrap();
    c.eventually("the pod follows its file", |c| {
        let logs = c.try_kubectl(&["logs", "kept-node-a"]);
        String::from_utf8_lossy(&logs.stdout) == "SECOND\n"
    });
    std::fs::remove_file(&file).unwrap();
    c.eventually("the pod goes with its file", |c| c.kubectl(&["get", "pods", "-o", "name"]).is_empty());
    c.remove();
}
