"""What the suite asks of DaemonSets and of the revisions that they keep."""
from steps import is_ready, played, status_endpoints, workload

HASH = "controller-revision-hash"


def everywhere(space, name, nodes=None):
    """Waits until a pod of the set runs on each of the nodes, and on no other."""
    wanted = sorted(nodes if nodes is not None else (n["metadata"]["name"] for n in space.items("nodes")))

    def found():
        pods = [p for p in space.items("pods", f"daemonset-name={name}") if not p["metadata"].get("deletionTimestamp")]
        return sorted(p["spec"].get("nodeName", "") for p in pods) == wanted and all(map(is_ready, pods))

    space.until(f"pods of {name} run on {wanted}", found)
    status = lambda: space.get("daemonsets", name)["status"]
    fields = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady")
    space.until("the status says so", lambda: [status()[field] for field in fields] == [len(wanted)] * 3)


def daemon(space, name="ds", more=None, **pod):
    return space.create("daemonsets", workload(name, {"daemonset-name": name}, None, more, **pod))


def pods_of(space, name="ds"):
    return space.items("pods", f"daemonset-name={name}")


def to_image(space, image, **annotations):
    def change(found):
        found["spec"]["template"]["spec"]["containers"][0]["image"] = image
        found["spec"]["template"]["metadata"]["annotations"] = annotations

    return space.update("daemonsets", "ds", change)


def revisions(space, count):
    """Waits until there are so many, and returns them, oldest first."""
    found = lambda: space.items("controllerrevisions", "daemonset-name=ds")
    space.until(f"there are {count} revisions", lambda: len(found()) == count)
    return sorted(found(), key=lambda revision: revision["revision"])


@played("[sig-apps] Daemon set [Serial] should run and stop simple daemon [Conformance]")
def simple(space):
    daemon(space)
    everywhere(space, "ds")
    pod = pods_of(space)[0]["metadata"]
    space.delete("pods", pod["name"])
    space.until("it is gone", lambda: space.gone("pods", pod["name"]))
    everywhere(space, "ds")
    space.delete("daemonsets", "ds")
    space.no_pods()


@played("[sig-apps] Daemon set [Serial] should run and stop complex daemon [Conformance]", alone=True)
def choosy(space):
    node = space.items("nodes")[0]["metadata"]["name"]
    colour = lambda value: space.patch("nodes", node, {"metadata": {"labels": {"daemonset-color": value}}})
    daemon(space, nodeSelector={"daemonset-color": "blue"})
    everywhere(space, "ds", [])
    colour("blue")
    everywhere(space, "ds", [node])
    colour("green")
    everywhere(space, "ds", [])
    strategy = {"spec": {"template": {"spec": {"nodeSelector": {"daemonset-color": "green"}}}}}
    space.patch("daemonsets", "ds", strategy)
    everywhere(space, "ds", [node])
    colour(None)
    everywhere(space, "ds", [])


@played("[sig-apps] Daemon set [Serial] should retry creating failed daemon pods [Conformance]")
def revived(space):
    daemon(space)
    everywhere(space, "ds")
    pod = pods_of(space)[0]
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    pod["metadata"].pop("resourceVersion")
    pod["status"]["phase"] = "Failed"
    space.put("pods", f"{name}/status", pod)
    space.until("the failed one is gone", lambda: uid not in [p["metadata"]["uid"] for p in pods_of(space)])
    everywhere(space, "ds")


@played("[sig-apps] Daemon set [Serial] should update pod when spec was updated and update strategy is RollingUpdate [Conformance]")
def rolls(space):
    daemon(space)
    everywhere(space, "ds")
    first = revisions(space, 1)[0]
    assert first["revision"] == 1
    assert {p["metadata"]["labels"][HASH] for p in pods_of(space)} == {first["metadata"]["labels"][HASH]}
    space.patch("daemonsets", "ds", {"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "example.com/web:2"}]}}}})
    renewed = lambda: {p["spec"]["containers"][0]["image"] for p in pods_of(space)} == {"example.com/web:2"}
    space.until("all pods are renewed", renewed)
    everywhere(space, "ds")
    second = revisions(space, 2)[1]
    assert second["revision"] == 2
    assert {p["metadata"]["labels"][HASH] for p in pods_of(space)} == {second["metadata"]["labels"][HASH]}


@played("[sig-apps] Daemon set [Serial] should rollback without unnecessary restarts [Conformance]")
def rolls_back(space):
    daemon(space)
    everywhere(space, "ds")
    to_image(space, "foo:non-existent", **{"naru.io/simulated-ready-after": "never"})
    image = lambda pod: pod["spec"]["containers"][0]["image"]
    space.until("a new pod is there", lambda: [p for p in pods_of(space) if image(p) == "foo:non-existent"])
    kept = {p["metadata"]["name"] for p in pods_of(space) if image(p) == "example.com/web:1" and not p["metadata"].get("deletionTimestamp")}
    assert kept, "one at a time is renewed"
    to_image(space, "example.com/web:1")
    space.until("all have the old image", lambda: {image(p) for p in pods_of(space)} == {"example.com/web:1"})
    everywhere(space, "ds")
    missing = kept - {p["metadata"]["name"] for p in pods_of(space)}
    assert not missing, f"{missing} were restarted without need"


@played("[sig-apps] Daemon set [Serial] should list and delete a collection of DaemonSets [Conformance]")
def collection(space):
    daemon(space)
    everywhere(space, "ds")
    assert len(space.items("daemonsets", "daemonset-name=ds", everywhere=False)) == 1
    space.delete_all("daemonsets", "daemonset-name=ds", gracePeriodSeconds=1)
    assert space.items("daemonsets", "daemonset-name=ds") == []
    space.no_pods()


@played("[sig-apps] Daemon set [Serial] should verify changes to a daemon set status [Conformance]")
def status(space):
    daemon(space)
    everywhere(space, "ds")
    status_endpoints(space, "daemonsets", "ds", "daemonset-name=ds")


@played("[sig-apps] ControllerRevision [Serial] should manage the lifecycle of a ControllerRevision [Conformance]")
def revision_lifecycle(space):
    made = daemon(space)
    everywhere(space, "ds")
    first = revisions(space, 1)[0]
    name = first["metadata"]["name"]
    assert first["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
    patched = space.patch("controllerrevisions", name, {"metadata": {"labels": {name: "patched"}}})
    assert patched["metadata"]["labels"][name] == "patched"
    labels = {"daemonset-name": "ds", HASH: "7d4f9c6b5d"}
    meta = {"name": "ds-7d4f9c6b5d", "labels": labels, "ownerReferences": first["metadata"]["ownerReferences"]}
    space.create("controllerrevisions", {"metadata": meta, "data": first["data"], "revision": first["revision"] + 1})
    revisions(space, 2)
    space.delete("controllerrevisions", name)
    current = revisions(space, 1)[0]["metadata"]["name"]
    written = space.update("controllerrevisions", current, lambda found: found["metadata"]["labels"].update({current: "updated"}))
    assert written["metadata"]["labels"][current] == "updated"
    patch = {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}, "updateStrategy": {"type": "RollingUpdate"}}
    space.patch("daemonsets", "ds", patch)
    revisions(space, 2)
    space.delete_all("controllerrevisions", f"{current}=updated")
    assert revisions(space, 1)[0]["revision"] == 3
