"""What the suite asks of Deployments."""
from steps import condition, played, scale_subresource, status_endpoints, workload

REVISION = "deployment.kubernetes.io/revision"


def complete(space, name):
    """Waits until a Deployment's rollout is over."""

    def over():
        found = space.get("deployments", name)
        wanted, status = found["spec"]["replicas"], found["status"]
        counts = [status.get(field, 0) for field in ("replicas", "updatedReplicas", "availableReplicas")]
        seen = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
        return counts == [wanted] * 3 and seen and found

    return space.until(f"Deployment {name} is complete", over)


def sets_of(space, name):
    uid = space.get("deployments", name)["metadata"]["uid"]
    owned = lambda found: any(owner["uid"] == uid for owner in found["metadata"].get("ownerReferences", []))
    return [found for found in space.items("replicasets") if owned(found)]


def of_image(space, name, image):
    """The set of a Deployment with that image, once it is there."""
    find = lambda: next(
        (s for s in sets_of(space, name) if s["spec"]["template"]["spec"]["containers"][0]["image"] == image), None
    )
    return space.until(f"a set of {image}", find)


def older_set(space, name, app, revision=None):
    """A ReplicaSet with a pod, which a Deployment is to adopt."""
    body = workload(name, {"name": app, "pod": "httpd"})
    if revision:
        body["metadata"]["annotations"] = {REVISION: revision}
    space.create("replicasets", body)
    space.running(f"name={app}", 1)


@played("[sig-apps] Deployment RollingUpdateDeployment should delete old pods and create new ones [Conformance]")
def rolling(space):
    older_set(space, "test-rolling-update-controller", "sample-pod", "3546343826724305832")
    space.create("deployments", workload("test", {"name": "sample-pod"}, image="example.com/agnhost:1"))
    at = lambda: space.get("deployments", "test")["metadata"].get("annotations", {}).get(REVISION)
    space.until("the next revision is there", lambda: at() == "3546343826724305833")
    complete(space, "test")
    old = [s for s in sets_of(space, "test") if s["metadata"]["name"] == "test-rolling-update-controller"]
    assert len(sets_of(space, "test")) == 2 and old[0]["spec"]["replicas"] == 0


@played("[sig-apps] Deployment RecreateDeployment should delete old pods and create new ones [Conformance]")
def recreate(space):
    body = workload("test", {"name": "recreate"}, more={"strategy": {"type": "Recreate"}})
    space.create("deployments", body)
    complete(space, "test")
    version = space.list("pods")["metadata"]["resourceVersion"]
    old = {pod["metadata"]["name"] for pod in space.items("pods")}

    def change(found):
        container = found["spec"]["template"]["spec"]["containers"][0]
        container["name"], container["image"] = "httpd", "example.com/httpd:1"

    space.update("deployments", "test", change)
    for kind, pod in space.watch("pods", version, "name=recreate"):
        name = pod["metadata"]["name"]
        if kind == "DELETED":
            old.discard(name)
        elif name not in old and pod["status"].get("phase") == "Running":
            assert not old, "new pods run beside old ones"
            break
    complete(space, "test")


@played("[sig-apps] Deployment deployment should delete old replica sets [Conformance]")
def cleanup(space):
    older_set(space, "test-cleanup-controller", "cleanup-pod")
    version = space.list("pods")["metadata"]["resourceVersion"]
    body = workload("test", {"name": "cleanup-pod"}, more={"revisionHistoryLimit": 0}, container="agnhost")
    space.create("deployments", body)
    complete(space, "test")
    space.until("the history is gone", lambda: len(sets_of(space, "test")) == 1)
    space.no_pods("pod=httpd")
    added = []
    for kind, pod in space.watch("pods", version):
        if kind == "ADDED":
            added.append(pod["spec"]["containers"][0]["name"])
        if kind == "DELETED":
            break
    assert added == ["agnhost"], f"only the new set makes a pod, not {added}"


@played("[sig-apps] Deployment deployment should support rollover [Conformance]")
def rollover(space):
    older_set(space, "test-rollover-controller", "rollover-pod")
    rolling = {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}}
    body = workload(
        "test",
        {"name": "rollover-pod"},
        more={**rolling, "minReadySeconds": 3},
        annotations={"naru.io/simulated-ready-after": "never"},
        image="example.com/absent:1",
    )
    space.create("deployments", body)
    space.until("it scales", lambda: space.get("deployments", "test")["status"].get("updatedReplicas", 0) >= 1)
    available = lambda: space.get("deployments", "test")["status"].get("availableReplicas")
    space.until("the older pod counts", lambda: available() == 1)
    stuck = of_image(space, "test", "example.com/absent:1")
    assert stuck["metadata"]["annotations"][REVISION] == "1"
    old = space.get("replicasets", "test-rollover-controller")
    assert (old["spec"]["replicas"], stuck["spec"]["replicas"]) == (1, 1)

    def change(found):
        found["spec"]["template"]["metadata"].pop("annotations")
        found["spec"]["template"]["spec"]["containers"][0]["image"] = "example.com/agnhost:1"

    version = space.list("deployments")["metadata"]["resourceVersion"]
    wanted = {found["metadata"]["name"]: found["spec"]["replicas"] for found in sets_of(space, "test")}
    space.update("deployments", "test", change)
    at = lambda: space.get("deployments", "test")["metadata"]["annotations"][REVISION]
    space.until("it is at revision 2", lambda: at() == "2")
    complete(space, "test")
    for _, found in space.watch("deployments", version):
        status = found["status"]
        assert status.get("availableReplicas", 0) >= 1, "no pod was available for a moment"
        if status.get("availableReplicas") == status.get("updatedReplicas") == status.get("replicas") == 1:
            break
    # What the sets have lags behind what they are to have: the Deployment's own count may go beyond the surge.
    for _, found in space.watch("replicasets", version):
        wanted[found["metadata"]["name"]] = found["spec"]["replicas"]
        assert sum(wanted.values()) <= 2, "more pods than the surge allows"
        if wanted["test-rollover-controller"] == 0:
            break
    for name in ("test-rollover-controller", stuck["metadata"]["name"]):
        assert space.get("replicasets", name)["spec"]["replicas"] == 0


@played("[sig-apps] Deployment Deployment should have a working scale subresource [Conformance]")
def scale(space):
    space.create("deployments", workload("test", {"name": "scale"}))
    complete(space, "test")
    scale_subresource(space, "deployments", "test")
    complete(space, "test")


@played("[sig-apps] Deployment deployment should support proportional scaling [Conformance]")
def proportional(space):
    rolling = {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}}
    space.create("deployments", workload("test", {"name": "proportional"}, 10, more=rolling))
    complete(space, "test")
    first = sets_of(space, "test")[0]["metadata"]["name"]

    def stick(image):
        def change(found):
            never = {"naru.io/simulated-ready-after": "never"}
            found["spec"]["template"]["metadata"].setdefault("annotations", {}).update(never)
            found["spec"]["template"]["spec"]["containers"][0]["image"] = image

        return change

    def replicas(name, wanted):
        found = lambda: space.get("replicasets", name)
        space.until(f"{name} has {wanted}", lambda: found()["spec"]["replicas"] == wanted == found()["status"]["replicas"])

    space.update("deployments", "test", stick("example.com/absent:1"))
    second = of_image(space, "test", "example.com/absent:1")["metadata"]["name"]
    replicas(first, 8)
    replicas(second, 5)
    assert space.get("replicasets", first)["status"]["availableReplicas"] == 8
    space.update("deployments", "test", lambda found: found["spec"].update(replicas=30))
    replicas(first, 20)
    replicas(second, 13)


@played("[sig-apps] Deployment should run the lifecycle of a Deployment [Conformance]")
def lifecycle(space):
    labels = {"test-deployment-static": "true"}
    flat = "test-deployment-static=true"
    start = space.list("deployments", flat, everywhere=True)["metadata"]["resourceVersion"]
    seen = lambda what, wish: space.seen(what, "deployments", start, wish, labels=flat)
    space.create("deployments", workload("test", labels, 2, container="test"))
    seen("its creation", lambda kind, _: kind == "ADDED")
    seen("its pods", lambda _, found: found["status"].get("readyReplicas") == 2)
    pod = {"terminationGracePeriodSeconds": 2, "containers": [{"name": "test", "image": "example.com/pause:1"}]}
    patch = {"metadata": {"labels": {"test-deployment": "patched"}}, "spec": {"replicas": 1, "template": {"spec": pod}}}
    space.patch("deployments", "test", patch)
    seen("the patch", lambda kind, _: kind == "MODIFIED")

    def at(replicas, image):
        def wish(_, found):
            status, spec = found["status"], found["spec"]["template"]["spec"]
            counts = (status.get("readyReplicas"), status.get("updatedReplicas"), status.get("unavailableReplicas", 0))
            return counts == (replicas, replicas, 0) and spec["containers"][0]["image"] == image

        return wish

    seen("the patched pods", at(1, "example.com/pause:1"))
    assert [d["metadata"]["name"] for d in space.items("deployments", flat, everywhere=True)] == ["test"]
    body = workload("test", labels, 2, container="test", image="example.com/httpd:1")
    body["metadata"]["labels"] = {**labels, "test-deployment": "updated"}
    space.put("deployments", "test", body)
    found = space.get("deployments", "test/status")
    assert found["metadata"]["labels"]["test-deployment"] == "updated"
    seen("the updated pods", at(2, "example.com/httpd:1"))
    complete(space, "test")
    status = {"metadata": {"labels": {"test-deployment": "patched-status"}}, "status": {"readyReplicas": 0, "availableReplicas": 0}}
    space.patch("deployments", "test/status", status)
    found = space.get("deployments", "test/status")
    assert found["metadata"]["labels"]["test-deployment"] == "updated", "a status takes no labels along"
    complete(space, "test")
    space.delete_all("deployments", flat, gracePeriodSeconds=1)
    seen("its end", lambda kind, _: kind == "DELETED")


@played("[sig-apps] Deployment should validate Deployment Status endpoints [Conformance]")
def status(space):
    space.create("deployments", workload("test", {"name": "httpd", "e2e": "testing"}))
    found = complete(space, "test")
    assert found["metadata"]["annotations"][REVISION] == "1"
    assert condition(found, "Available", "True")
    status_endpoints(space, "deployments", "test", "e2e=testing")
