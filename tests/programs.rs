//! Upstream's `kubectl` and Helm, each in an older and a newer release, on a server without a node.

use crate::cluster::Cluster;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// The releases that `scripts/test` installs.
const RELEASES: [&str; 2] = ["v32", "v35"];

fn tools() -> PathBuf {
    PathBuf::from(std::env::var("NARU_TEST_CLIENTS").expect("scripts/test sets NARU_TEST_CLIENTS"))
}

fn shop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shop")
}

/// One release of a program, in a namespace of its own.
pub(crate) struct Program<'a> {
    cluster: &'a Cluster,
    program: PathBuf,
    pub(crate) namespace: String,
    pub(crate) home: PathBuf,
}

impl<'a> Program<'a> {
    /// `kubectl` or `helm`, of a release.
    pub(crate) fn new(cluster: &'a Cluster, name: &str, release: &str) -> Self {
        // The older and the newer one would trip over each other's cached documents.
        let home = cluster.host.dir.join(format!("home-{release}"));
        std::fs::create_dir_all(&home).unwrap();
        let program = tools().join(release).join(name);
        Self { cluster, program, namespace: format!("{name}-{release}"), home }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = self.cluster.host.command(&self.program);
        command.env("KUBECONFIG", self.cluster.kubeconfig()).env("HOME", &self.home);
        command.args(["--namespace", &self.namespace]).args(line.split(' ').filter(|word| !word.is_empty()));
        command
    }

    fn output(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// What it prints; it must succeed.
    pub(crate) fn run(&self, line: &str) -> String {
        self.run_with(line, &[])
    }

    /// As `run`, with arguments that contain blanks.
    fn run_with(&self, line: &str, rest: &[&str]) -> String {
        let output = self.command(line).args(rest).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{} {line} {rest:?}:\n{text}{}\n{}",
            self.program.display(),
            String::from_utf8_lossy(&output.stderr),
            self.cluster.log()
        );
        text
    }

    /// What it complains of; it must fail.
    pub(crate) fn refused(&self, line: &str) -> String {
        let output = self.output(line);
        assert!(!output.status.success(), "{} {line} should have failed", self.program.display());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// The value of a JSONPath.
    pub(crate) fn value(&self, object: &str, path: &str) -> String {
        self.run(&format!("get {object} -o jsonpath={path}"))
    }
}

/// A server without a node.
pub(crate) fn server(test: &str) -> Cluster {
    let mut cluster = Cluster::prepare(test, &["--disable-agent"]);
    cluster.up();
    cluster
}

/// Runs `work` for each release at the same time: they spend it waiting for themselves.
pub(crate) fn each_release(cluster: &Cluster, name: &str, work: impl Fn(&Program<'_>) + Sync) {
    std::thread::scope(|scope| {
        for release in RELEASES {
            let work = &work;
            scope.spawn(move || work(&Program::new(cluster, name, release)));
        }
    });
}

#[test]
fn kubectl_explains_and_describes_every_resource() {
    let c = server("explain");
    each_release(&c, "kubectl", |k| {
        let resources = k.run("api-resources --no-headers");
        assert!(resources.lines().count() > 40, "{resources}");
        for line in resources.lines() {
            // Name, perhaps short names, version, whether namespaced, kind.
            let words: Vec<&str> = line.split_whitespace().collect();
            let (resource, version) = (words[0], words[words.len() - 3]);
            let text = k.run(&format!("explain --recursive {resource} --api-version={version}"));
            assert!(text.contains("KIND:") && text.contains("VERSION:"), "{resource}: {text}");
            assert!(text.contains("FIELDS:") && text.contains("metadata\t<ObjectMeta>"), "{resource}: {text}");
            assert!(!text.contains("DESCRIPTION:\n    <empty>"), "{resource}: {text}");
        }
        let text = k.run("explain pod.spec.containers.livenessProbe.httpGet.port");
        assert!(text.contains("FIELD: port <IntOrString>") && text.contains("Name or number of the port"), "{text}");
        let text = k.run("explain deployment.spec.strategy --api-version=apps/v1");
        assert!(text.contains("Recreate") && text.contains("rollingUpdate"), "{text}");
        for resource in k.run("api-resources --verbs=list -o name").lines() {
            // The older describer asks for v1beta1 of these two, which a server of our level does not have.
            let newer = ["ipaddresses.networking.k8s.io", "servicecidrs.networking.k8s.io"].contains(&resource);
            if !(newer && k.namespace.ends_with("v32")) {
                k.run(&format!("describe {resource} -A"));
            }
        }
        assert!(k.run("api-versions").lines().any(|line| line == "apps/v1"));
        k.run("cluster-info dump -A");
        k.run("auth can-i --list");
    });
}

#[test]
fn kubectl_applies_changes_and_deletes_a_directory() {
    let c = server("directory");
    each_release(&c, "kubectl", |k| {
        let dir = shop().join("manifests");
        let dir = dir.display();
        k.run(&format!("create namespace {}", k.namespace));
        applied(k, &dir.to_string());
        changed(k);
        written_by_hand(k);
        waited_for(k);
        pruned(k, &dir.to_string());
        k.run(&format!("delete -R -f {dir} --wait=true --timeout=60s"));
        assert_eq!(k.run("get deploy,svc,ingress,secret -o name"), "");
    });
}

/// Client-side apply, diff, then server-side apply and its conflicts.
fn applied(k: &Program<'_>, dir: &str) {
    let diff = k.output(&format!("diff -R -f {dir}"));
    assert_eq!(diff.status.code(), Some(1), "{}", String::from_utf8_lossy(&diff.stderr));
    assert!(k.run(&format!("apply -R -f {dir}")).contains("deployment.apps/web created"));
    let again = k.run(&format!("apply -R -f {dir}"));
    assert!(again.lines().all(|line| line.ends_with("unchanged")), "{again}");
    k.run(&format!("diff -R -f {dir}"));
    let last = k.run("apply view-last-applied cm settings -o json");
    assert!(last.contains("\"colour\": \"blue\"") && !last.contains("uid"), "{last}");

    // Migration: what the client owned becomes the server's manager's, and nobody else's.
    k.run(&format!("apply --server-side -R -f {dir}"));
    let managers = "{range.metadata.managedFields[*]}{.manager}/{.operation},{end}";
    let after = k.value("cm settings", managers);
    assert!(after.contains("kubectl/Apply") && !after.contains("client-side-apply"), "{after}");
    let version = k.value("cm settings", "{.metadata.resourceVersion}");
    k.run(&format!("apply --server-side -R -f {dir}"));
    assert_eq!(k.value("cm settings", "{.metadata.resourceVersion}"), version, "an apply of the same wrote something");
    k.run(&format!("diff --server-side -R -f {dir}"));

    let other = k.home.join("other.yaml");
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: red}\n";
    std::fs::write(&other, text).unwrap();
    let line = format!("apply --server-side --field-manager=other -f {}", other.display());
    let complaint = k.refused(&line);
    assert!(complaint.contains("conflict with \"kubectl\": .data.colour"), "{complaint}");
    k.run(&format!("{line} --force-conflicts"));
    assert_eq!(k.value("cm settings", "{.data.colour},{.data.size}"), "red,3");
    assert!(k.refused(&format!("apply --server-side -f {dir}")).contains("conflict with \"other\": .data.colour"));
    k.run(&format!("apply --server-side --force-conflicts -f {dir}"));
    // Nothing is left to the other manager, so it is forgotten.
    assert!(!k.value("cm settings", managers).contains("other"));
}

/// Everything that changes a part of an object.
fn changed(k: &Program<'_>) {
    let patch = |kind: &str, patch: &str| k.run_with(&format!("patch cm settings --type={kind} -p"), &[patch]);
    patch("merge", r#"{"data":{"x":"1"}}"#);
    patch("json", r#"[{"op":"test","path":"/data/x","value":"1"},{"op":"remove","path":"/data/x"}]"#);
    let env = r#"{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"B","value":"2"}]}]}}}}"#;
    k.run_with("patch deploy web -p", &[env]);
    let names = "{.spec.template.spec.containers[0].env[*].name}";
    assert_eq!(k.value("deploy web", names), "B A", "a strategic patch merges by name");
    k.run("label cm settings tier=front");
    assert!(k.refused("label cm settings tier=back").contains("--overwrite is false"));
    k.run("label cm settings tier=back --overwrite");
    assert!(k.run("get cm -l tier=back -o name").contains("configmap/settings"));
    k.run("label cm settings tier-");
    k.run("annotate cm settings note=here");
    assert_eq!(k.value("cm settings", "{.metadata.annotations.note}"), "here");
    k.run("set image deploy/web web=example.com/web:2");
    k.run("set env deploy/web C=3");
    k.run("set resources deploy/web --limits=cpu=200m");
    k.run("set serviceaccount deploy web default");
    k.run("set selector svc web app=other");
    k.run("set subject rolebinding reader --user=bob");
    assert_eq!(k.value("rolebinding reader", "{.subjects[*].name}"), "web bob");
    k.run("expose deploy web --name=again --port=80");
    k.run("delete svc again");
    k.run("autoscale deploy web --min=1 --max=3");
    assert_eq!(k.value("hpa web", "{.spec.maxReplicas}"), "3");
    k.run("delete hpa web");
    k.run("scale deploy web --replicas=0 --current-replicas=0");
    k.run_with("patch deploy web --subresource=scale --type=merge -p", &[r#"{"spec":{"replicas":1}}"#]);
    assert_eq!(k.value("deploy web", "{.spec.replicas}"), "1");
    k.run("scale deploy web --replicas=0");
    k.run("rollout pause deploy web");
    k.run("rollout resume deploy web");
    k.run("rollout restart deploy web");
    assert!(k.run("rollout history deploy web").contains("REVISION"));
    k.run("rollout status deploy web --timeout=60s");
    k.run("rollout undo deploy web");
}

/// replace, edit, and the forms that `get` prints.
fn written_by_hand(k: &Program<'_>) {
    let file = k.home.join("settings.yaml");
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: blue}\n";
    std::fs::write(&file, text).unwrap();
    k.run(&format!("replace -f {}", file.display()));
    let uid = k.value("cm settings", "{.metadata.uid}");
    k.run(&format!("replace --force -f {}", file.display()));
    assert_ne!(k.value("cm settings", "{.metadata.uid}"), uid, "replaced by force, it is another one");

    let editor = k.home.join("editor.sh");
    std::fs::write(&editor, "#!/bin/sh\nsed -i 's/colour: blue/colour: green/' \"$1\"\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&editor, mode).unwrap();
    let edited = k.command("edit cm settings").env("EDITOR", &editor).output().unwrap();
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    assert_eq!(k.value("cm settings", "{.data.colour}"), "green");

    for (form, start) in [
        ("wide", "NAME"),
        ("yaml", "apiVersion: v1"),
        ("json", "{\n    \"apiVersion\": \"v1\""),
        ("name", "configmap/settings"),
        ("go-template={{.data.colour}}", "green"),
        ("custom-columns=C:.data.colour", "C\ngreen"),
    ] {
        let text = k.run(&format!("get cm settings -o {form}"));
        assert!(text.starts_with(start), "-o {form}: {text}");
    }
    let pages = k.run("get cm --chunk-size=1 -o name");
    assert_eq!(pages, "configmap/kube-root-ca.crt\nconfigmap/settings\n");
    assert!(k.run("get deploy web --subresource=scale").starts_with("NAME   DESIRED   AVAILABLE   AGE"));
    k.run("get all");
    k.run("events");
}

/// What was applied once and is not in the directory any more goes.
fn pruned(k: &Program<'_>, dir: &str) {
    let file = k.home.join("extra.yaml");
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: extra, labels: {app: shop}}\n";
    std::fs::write(&file, text).unwrap();
    k.run(&format!("apply -f {}", file.display()));
    let text = k.run(&format!("apply -R -f {dir} --prune -l app=shop"));
    assert!(text.contains("configmap/extra pruned"), "{text}");
    assert_eq!(text.matches("pruned").count(), 1, "{text}");
}

/// wait in all its forms, and a watch.
fn waited_for(k: &Program<'_>) {
    k.run("wait cm settings --for=jsonpath={.data.colour}=green --timeout=30s");
    k.run("wait deploy web --for=condition=Available --timeout=60s");
    assert!(k.refused("wait cm settings --for=delete --timeout=1s").contains("timed out"));
    let mut watch = k.command("get cm -w --output-watch-events");
    let mut watch = watch.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().unwrap()));
    std::thread::scope(|scope| {
        let wait = scope.spawn(|| k.run("wait cm late --for=create --timeout=60s"));
        std::thread::sleep(Duration::from_millis(200));
        k.run("create cm late");
        wait.join().unwrap();
        let gone = scope.spawn(|| k.run("wait cm late --for=delete --timeout=60s"));
        k.run("delete cm late");
        gone.join().unwrap();
    });
    let seen: Vec<String> = lines.map(Result::unwrap).skip_while(|line| !line.contains("late")).take(2).collect();
    let _ = watch.kill();
    let _ = watch.wait();
    assert_eq!(
        seen.iter().map(|line| line.split_whitespace().next().unwrap()).collect::<Vec<_>>(),
        ["ADDED", "DELETED"]
    );
}

#[test]
fn helm_installs_upgrades_rolls_back_and_uninstalls() {
    let c = server("helm");
    each_release(&c, "helm", |h| {
        let chart = shop().join("chart");
        let chart = chart.display();
        let wait = "--wait --timeout 60s";
        h.run(&format!("install shop {chart} --create-namespace {wait}"));
        let colour = || c.get(&format!("configmap shop-settings -n {}", h.namespace), "{.data.colour}");
        assert_eq!(colour(), "blue");
        h.run(&format!("upgrade shop {chart} --set colour=red {wait}"));
        assert_eq!(colour(), "red");
        h.run(&format!("rollback shop 1 {wait}"));
        assert_eq!(colour(), "blue");
        // Its pod can never run: the release is taken back to what it was.
        let complaint = h.refused(&format!("upgrade shop {chart} --set colour=green,replicas=1 --atomic --timeout 8s"));
        assert!(complaint.contains("rolled back"), "{complaint}");
        assert_eq!(colour(), "blue");
        let history = h.run("history shop");
        assert!(history.contains("Rollback to 1") && history.contains("failed"), "{history}");
        h.run(&format!("uninstall shop {wait}"));
        assert_eq!(colour(), "");
    });
}
