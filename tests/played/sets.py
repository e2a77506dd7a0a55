"""What the suite asks of ReplicaSets, ReplicationControllers and StatefulSets."""
import time

from steps import condition, is_ready, played, pod_spec, scale_subresource, status_endpoints, template, workload

NEVER = {"naru.io/simulated-ready-after": "never"}


def controller(name, labels, replicas=1, **pod):
    """A ReplicationController."""
    spec = {"replicas": replicas, "selector": labels, "template": template(labels, **pod)}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec}


def owner(pod):
    return next((o for o in pod["metadata"].get("ownerReferences", []) if o.get("controller")), None)


def adopts(space, resource, body):
    """A pod without an owner gets one."""
    name = body["metadata"]["name"]
    space.create("pods", {"metadata": {"name": name, "labels": {"name": name}}, "spec": pod_spec()})
    space.running(f"name={name}", 1)
    made = space.create(resource, body)
    adopted = lambda: (owner(space.get("pods", name)) or {}).get("uid") == made["metadata"]["uid"]
    space.until("it is adopted", adopted)
    assert len(space.items("pods", f"name={name}")) == 1, "nothing is made beside it"


def releases(space, resource, name):
    """A pod that matches no longer loses its owner, and gets a successor."""
    uid = space.get(resource, name)["metadata"]["uid"]
    pod = space.running(f"name={name}", 1)[0]["metadata"]["name"]
    space.update("pods", pod, lambda found: found["metadata"].update(labels={"name": "not-matching-name"}))
    space.until("it is released", lambda: owner(space.get("pods", pod)) is None)
    successor = space.running(f"name={name}", 1)[0]
    assert owner(successor)["uid"] == uid


def surfaces(space, resource, body, name="condition-test"):
    """More pods than the quota allows: a condition says so, and goes when they fit."""
    quota = {"metadata": {"name": name}, "spec": {"hard": {"pods": "2"}}}
    space.create("resourcequotas", quota)
    counted = lambda: space.get("resourcequotas", name).get("status", {}).get("hard", {}).get("pods") == "2"
    space.until("the quota counts", counted)
    space.create(resource, body)
    told = lambda: condition(space.get(resource, name), "ReplicaFailure", "True")
    failure = space.until("the failure is told", told)
    assert failure["reason"] == "FailedCreate" and "exceeded quota" in failure["message"], failure
    space.update(resource, name, lambda found: found["spec"].update(replicas=2))
    space.until("it is over", lambda: condition(space.get(resource, name), "ReplicaFailure") is None)


@played("[sig-apps] ReplicaSet should adopt matching pods on creation and release no longer matching pods [Conformance]")
def replica_set_adopts(space):
    adopts(space, "replicasets", workload("pod-adoption-release", {"name": "pod-adoption-release"}))
    releases(space, "replicasets", "pod-adoption-release")


@played("[sig-apps] ReplicaSet Replicaset should have a working scale subresource [Conformance]")
def replica_set_scale(space):
    space.create("replicasets", workload("test-rs", {"name": "sample-pod"}))
    space.running("name=sample-pod", 1)
    scale_subresource(space, "replicasets", "test-rs")
    space.running("name=sample-pod", 4)


@played("[sig-apps] ReplicaSet Replace and Patch tests [Conformance]")
def replica_set_patch(space):
    start = space.list("replicasets", "test-rs=patched", everywhere=True)["metadata"]["resourceVersion"]
    space.create("replicasets", workload("test-rs", {"name": "sample-pod"}))
    space.running("name=sample-pod", 1)
    space.update("replicasets", "test-rs", lambda found: found["spec"].update(replicas=2))
    pod = {"terminationGracePeriodSeconds": 0, "containers": [{"name": "test-rs", "image": "example.com/pause:1"}]}
    patch = {"metadata": {"labels": {"test-rs": "patched"}}, "spec": {"replicas": 3, "template": {"spec": pod}}}
    space.patch("replicasets", "test-rs", patch)

    def wish(_, found):
        images = [c["image"] for c in found["spec"]["template"]["spec"]["containers"]]
        counts = [found["status"].get(field) for field in ("readyReplicas", "availableReplicas")]
        return counts == [3, 3] and images[0] == "example.com/pause:1"

    space.seen("three pods", "replicasets", start, wish, labels="test-rs=patched")


@played("[sig-apps] ReplicaSet should list and delete a collection of ReplicaSets [Conformance]")
def replica_set_collection(space):
    space.create("replicasets", workload("test-rs", {"e2e": "rs-collection"}, 3))
    space.running("e2e=rs-collection", 3)
    assert len(space.items("replicasets", "e2e=rs-collection", everywhere=True)) == 1
    space.delete_all("replicasets", "e2e=rs-collection", gracePeriodSeconds=1)
    assert space.items("replicasets", "e2e=rs-collection", everywhere=True) == []
    space.no_pods()


@played("[sig-apps] ReplicaSet should validate Replicaset Status endpoints [Conformance]")
def replica_set_status(space):
    space.create("replicasets", workload("test-rs", {"name": "sample-pod"}))
    space.running("name=sample-pod", 1)
    status_endpoints(space, "replicasets", "test-rs", "name=sample-pod")


@played("[sig-apps] ReplicaSet should serve a basic image on each replica with a public image [Conformance]")
def replica_set_serves(space):
    space.create("replicasets", workload("my-hostname", {"name": "my-hostname"}, 3))
    space.running("name=my-hostname", 3)
    surfaced = workload("condition-test", {"name": "condition-test"}, 3)
    space.delete("replicasets", "my-hostname")
    space.no_pods()
    surfaces(space, "replicasets", surfaced)


@played("[sig-apps] ReplicationController should serve a basic image on each replica with a public image [Conformance]")
def controller_serves(space):
    space.create("replicationcontrollers", controller("my-hostname", {"name": "my-hostname"}, 2))
    space.running("name=my-hostname", 2)


@played("[sig-apps] ReplicationController should surface a failure condition on a common issue like exceeded quota [Conformance]")
def controller_surfaces(space):
    surfaces(space, "replicationcontrollers", controller("condition-test", {"name": "condition-test"}, 3))


@played("[sig-apps] ReplicationController should adopt matching pods on creation [Conformance]")
def controller_adopts(space):
    adopts(space, "replicationcontrollers", controller("pod-adoption", {"name": "pod-adoption"}))


@played("[sig-apps] ReplicationController should release no longer matching pods [Conformance]")
def controller_releases(space):
    space.create("replicationcontrollers", controller("pod-release", {"name": "pod-release"}))
    releases(space, "replicationcontrollers", "pod-release")


@played("[sig-apps] ReplicationController should get and update a ReplicationController scale [Conformance]")
def controller_scale(space):
    space.create("replicationcontrollers", controller("e2e-rc", {"name": "sample-pod"}))
    space.running("name=sample-pod", 1)
    scale = space.get("replicationcontrollers", "e2e-rc/scale")
    scale["metadata"].pop("resourceVersion")
    scale["spec"]["replicas"] = 2
    assert space.put("replicationcontrollers", "e2e-rc/scale", scale)["spec"]["replicas"] == 2
    space.running("name=sample-pod", 2)
    assert space.get("replicationcontrollers", "e2e-rc")["spec"]["replicas"] == 2


@played("[sig-apps] ReplicationController should test the lifecycle of a ReplicationController [Conformance]")
def controller_lifecycle(space):
    labels, flat, kind = {"test-rc-static": "true"}, "test-rc-static=true", "replicationcontrollers"
    start = space.list(kind, flat)["metadata"]["resourceVersion"]
    events = space.watch(kind, start, flat)

    def next_of(wish):
        return next(found for event in events if (found := wish(*event)))

    space.create(kind, controller("rc-test", labels))
    next_of(lambda event, found: event == "ADDED")
    counts = lambda wanted: lambda _, found: (
        [found["status"].get(f, 0) for f in ("replicas", "readyReplicas")] == [wanted, wanted] and found
    )
    next_of(counts(1))
    patched = space.patch(kind, "rc-test", {"metadata": {"labels": {"test-rc": "patched"}}})
    assert patched["metadata"]["labels"]["test-rc"] == "patched"
    next_of(lambda event, _: event == "MODIFIED")
    zero = {"status": {"readyReplicas": 0, "availableReplicas": 0}}
    patched = space.patch(kind, "rc-test/status", zero)
    assert patched["status"].get("readyReplicas", 0) == 0
    next_of(lambda event, _: event == "MODIFIED")
    next_of(lambda _, found: found["status"].get("replicas") == 1)
    assert space.get(kind, "rc-test/status")["status"]["replicas"] == 1
    space.patch(kind, "rc-test/scale", {"spec": {"replicas": 2}})
    next_of(counts(2))
    found = space.get(kind, "rc-test")
    assert found["metadata"]["labels"]["test-rc"] == "patched"

    def change(read):
        read["status"].update(availableReplicas=1, readyReplicas=1)

    space.update(kind, "rc-test", change, "/status")
    next_of(lambda event, _: event == "MODIFIED")
    assert len(space.items(kind, flat, everywhere=True)) == 1
    space.delete_all(kind, flat)
    next_of(lambda event, _: event == "DELETED")


def stateful(space, name, replicas, more=None, annotations=None, **pod):
    """A StatefulSet and its Service."""
    service = {"metadata": {"name": "test"}, "spec": {"clusterIP": "None", "selector": {"foo": name}, "ports": [{"port": 80}]}}
    space.create("services", service)
    body = workload(name, {"foo": name}, replicas, {"serviceName": "test", **(more or {})}, annotations, **pod)
    return space.create("statefulsets", body)


def settled(space, name, **counts):
    """Waits until a StatefulSet's status has these numbers for what it is asked now."""

    def found():
        read = space.get("statefulsets", name)
        status = read["status"]
        if status.get("observedGeneration", 0) < read["metadata"]["generation"]:
            return None
        return all(status.get(field, 0) == wanted for field, wanted in counts.items()) and read

    return space.until(f"StatefulSet {name} counts {counts}", found)


def images(space, name):
    pods = sorted(space.items("pods", f"foo={name}"), key=lambda pod: pod["metadata"]["name"])
    return [pod["spec"]["containers"][0]["image"].rsplit(":", 1)[1] for pod in pods]


def order(space, start, labels, count, event):
    """The names of pods in the order in which they came or went, or turned ready."""
    names = []
    for kind, pod in space.watch("pods", start, labels):
        name = pod["metadata"]["name"]
        happened = is_ready(pod) if event == "READY" else kind == event
        if happened and name not in names:
            names.append(name)
        if len(names) == count:
            return names
    return names


@played("[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Scaling should happen in predictable order and halt if any stateful pod is unhealthy [Slow] [Conformance]")
def stateful_order(space):
    start = space.list("pods")["metadata"]["resourceVersion"]
    stateful(space, "ss", 1)
    settled(space, "ss", readyReplicas=1)

    def ready(name, value):
        space.patch("pods", name, {"metadata": {"annotations": {"naru.io/simulated-ready-after": value}}})
        wanted = value != "never"
        space.until(f"{name} is {wanted}", lambda: is_ready(space.get("pods", name)) == wanted)

    ready("ss-0", "never")
    settled(space, "ss", readyReplicas=0)
    space.update("statefulsets", "ss", lambda found: found["spec"].update(replicas=3))
    settled(space, "ss", replicas=1)
    # Whoever does not wait has made the second pod by now.
    time.sleep(1)
    assert len(space.items("pods")) == 1, "it does not go on beside an unhealthy pod"
    ready("ss-0", "0s")
    settled(space, "ss", readyReplicas=3)
    assert order(space, start, "foo=ss", 3, "READY") == ["ss-0", "ss-1", "ss-2"]
    start = space.list("pods")["metadata"]["resourceVersion"]
    for name in ("ss-0", "ss-1", "ss-2"):
        ready(name, "never")
    settled(space, "ss", readyReplicas=0)
    space.update("statefulsets", "ss", lambda found: found["spec"].update(replicas=0))
    time.sleep(1)
    assert len(space.items("pods")) == 3, "it does not scale down beside unhealthy pods"
    ready("ss-0", "0s")
    space.patch("pods", "ss-1", {"metadata": {"annotations": {"naru.io/simulated-ready-after": "0s"}}})
    space.no_pods()
    settled(space, "ss", replicas=0)
    assert order(space, start, "foo=ss", 3, "DELETED") == ["ss-2", "ss-1", "ss-0"]


@played("[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Burst scaling should run to completion even with unhealthy pods [Slow] [Conformance]")
def stateful_burst(space):
    stateful(space, "ss", 1, {"podManagementPolicy": "Parallel"}, NEVER)
    space.until("a pod runs", lambda: len(space.items("pods")) == 1)
    space.update("statefulsets", "ss", lambda found: found["spec"].update(replicas=3))
    space.until("all are there", lambda: len(space.items("pods")) == 3)
    settled(space, "ss", replicas=3, readyReplicas=0)
    space.update("statefulsets", "ss", lambda found: found["spec"].update(replicas=0))
    space.no_pods()
    settled(space, "ss", replicas=0)


@played("[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Should recreate evicted statefulset [Conformance]")
def stateful_evicted(space):
    node = space.items("nodes")[0]["metadata"]["name"]
    port = {"ports": [{"containerPort": 21017, "hostPort": 21017}], "name": "web", "image": "example.com/web:1"}
    pod = {"nodeName": node, "containers": [port], "terminationGracePeriodSeconds": 0}
    start = space.list("pods")["metadata"]["resourceVersion"]
    body = workload("ss", {"foo": "ss"}, 1, {"serviceName": "test"})
    body["spec"]["template"]["spec"] = pod
    space.create("statefulsets", body)
    uid = space.until("its pod is there", lambda: space.get("pods", "ss-0")["metadata"]["uid"], missing=True)
    # Nodes without containers refuse nothing themselves.
    space.patch("pods", "ss-0/status", {"status": {"phase": "Failed"}})
    space.seen("the failed pod's end", "pods", start, lambda kind, pod: kind == "DELETED" and pod["metadata"]["uid"] == uid)
    fresh = space.until("a new one is there", lambda: space.get("pods", "ss-0"), missing=True)
    assert fresh["metadata"]["uid"] != uid
    space.running("foo=ss", 1)


@played("[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should have a working scale subresource [Conformance]")
def stateful_scale(space):
    stateful(space, "ss", 1)
    settled(space, "ss", readyReplicas=1)
    scale_subresource(space, "statefulsets", "ss")
    settled(space, "ss", readyReplicas=4)


@played("[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should list, patch and delete a collection of StatefulSets [Conformance]")
def stateful_collection(space):
    stateful(space, "test-ss", 1)
    settled(space, "test-ss", readyReplicas=1)
    pod = {"containers": [{"name": "web", "image": "example.com/pause:2"}], "terminationGracePeriodSeconds": 0}
    labels = {"test-ss": "patched"}
    space.patch("statefulsets", "test-ss", {"metadata": {"labels": labels}, "spec": {"replicas": 2, "template": {"spec": pod}}})
    found = settled(space, "test-ss", readyReplicas=2, updatedReplicas=2)
    assert found["metadata"]["labels"]["test-ss"] == "patched"
    assert images(space, "test-ss") == ["2", "2"]
    assert len(space.items("statefulsets", "test-ss=patched", everywhere=True)) == 1
    space.delete_all("statefulsets", "test-ss=patched", gracePeriodSeconds=1)
    assert space.items("statefulsets", "test-ss=patched", everywhere=True) == []
    space.no_pods()


@played("[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should validate Statefulset Status endpoints [Conformance]")
def stateful_status(space):
    stateful(space, "ss", 1)
    settled(space, "ss", readyReplicas=1)
    status_endpoints(space, "statefulsets", "ss", "foo=ss")


def to_image(tag):
    def change(found):
        found["spec"]["template"]["spec"]["containers"][0]["image"] = f"example.com/web:{tag}"

    return change


@played("[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should perform rolling updates and roll backs of template modifications [Conformance]")
def stateful_rolls(space):
    stateful(space, "ss2", 3)
    first = settled(space, "ss2", readyReplicas=3)["status"]
    assert first["currentRevision"] == first["updateRevision"]
    start = space.list("pods")["metadata"]["resourceVersion"]
    space.update("statefulsets", "ss2", to_image(2))
    found = lambda: space.get("statefulsets", "ss2")["status"]
    space.until("there is a new revision", lambda: found()["updateRevision"] != first["updateRevision"])
    status = settled(space, "ss2", readyReplicas=3, currentReplicas=3, updatedReplicas=3)["status"]
    assert status["currentRevision"] == status["updateRevision"] != first["currentRevision"]
    assert images(space, "ss2") == ["2"] * 3
    assert order(space, start, "foo=ss2", 3, "DELETED") == ["ss2-2", "ss2-1", "ss2-0"]
    start = space.list("pods")["metadata"]["resourceVersion"]
    space.update("statefulsets", "ss2", to_image(1))
    space.until("the first revision is back", lambda: found()["updateRevision"] == first["updateRevision"])
    settled(space, "ss2", readyReplicas=3, currentReplicas=3)
    space.until("all have it", lambda: found()["currentRevision"] == first["currentRevision"])
    assert images(space, "ss2") == ["1"] * 3
    assert order(space, start, "foo=ss2", 3, "DELETED") == ["ss2-2", "ss2-1", "ss2-0"]


@played("[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should perform canary updates and phased rolling updates of template modifications [Conformance]")
def stateful_canary(space):
    stateful(space, "ss2", 3)
    first = settled(space, "ss2", readyReplicas=3)["status"]["currentRevision"]
    part = lambda n: {"type": "RollingUpdate", "rollingUpdate": {"partition": n}}

    def change(found):
        found["spec"]["updateStrategy"] = part(3)
        to_image(2)(found)

    space.update("statefulsets", "ss2", change)
    found = lambda: space.get("statefulsets", "ss2")["status"]
    space.until("there is a new revision", lambda: found()["updateRevision"] != first)
    second = found()["updateRevision"]
    settled(space, "ss2", readyReplicas=3, updatedReplicas=0)
    assert images(space, "ss2") == ["1"] * 3, "a partition above all holds them back"
    space.update("statefulsets", "ss2", lambda found: found["spec"].update(updateStrategy=part(2)))
    settled(space, "ss2", readyReplicas=3, updatedReplicas=1, currentReplicas=2)
    assert images(space, "ss2") == ["1", "1", "2"]
    for name, revision in (("ss2-0", first), ("ss2-2", second)):
        uid = space.get("pods", name)["metadata"]["uid"]
        space.delete("pods", name)
        anew = lambda: space.get("pods", name)["metadata"]["uid"] != uid
        space.until(f"{name} is back", anew, missing=True)
        assert space.get("pods", name)["metadata"]["labels"]["controller-revision-hash"] == revision
    settled(space, "ss2", readyReplicas=3)
    for at, tags in ((1, ["1", "2", "2"]), (0, ["2", "2", "2"])):
        space.update("statefulsets", "ss2", lambda found: found["spec"].update(updateStrategy=part(at)))
        settled(space, "ss2", readyReplicas=3, updatedReplicas=3 - at)
        assert images(space, "ss2") == tags
    space.until("it is current", lambda: found()["currentRevision"] == second)
