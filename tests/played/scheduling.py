"""What the suite asks of the scheduler, of priorities and of LimitRanges."""
from steps import condition, is_ready, played, pod_spec, refused, workload

RESOURCE = "scheduling.k8s.io/foo"


def unschedulable(space, name):
    """Waits until a pod is told that it fits nowhere; returns why."""
    return space.until(
        f"{name} fits nowhere", lambda: condition(space.get("pods", name), "PodScheduled", "False")
    )["message"]


def placed(space, name):
    return space.until(f"{name} runs", lambda: is_ready(space.get("pods", name)) and space.get("pods", name))


def node_names(space):
    return sorted(node["metadata"]["name"] for node in space.items("nodes"))


def offer(space, node, resource, amount):
    """Nodes that offer what nobody else asks for."""
    status = {"capacity": {resource: amount}, "allocatable": {resource: amount}}
    space.patch("nodes", f"{node}/status", {"status": status})
    shown = lambda: space.get("nodes", node)["status"]["allocatable"].get(resource) == amount
    space.until("it is on offer", lambda: amount is None or shown())


def asking(amount, **more):
    spec = pod_spec(**more)
    spec["containers"][0]["resources"] = {"requests": amount, "limits": amount}
    return spec


def on(node):
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    return {"nodeAffinity": required}


@played("[sig-scheduling] SchedulerPredicates [Serial] validates resource limits of pods that are allowed to run [Conformance]", alone=True)
def fits(space):
    for node in node_names(space):
        offer(space, node, RESOURCE, "10")
        body = {"metadata": {"name": f"filler-{node}", "labels": {"app": "filler"}}, "spec": asking({RESOURCE: "7"}, affinity=on(node))}
        space.create("pods", body)
    space.running("app=filler", len(node_names(space)))
    space.create("pods", {"metadata": {"name": "additional-pod"}, "spec": asking({RESOURCE: "5"})})
    count = len(node_names(space))
    why = unschedulable(space, "additional-pod")
    assert f"0/{count} nodes are available: {count} Insufficient {RESOURCE}." in why, why
    told = lambda: [e for e in space.items("events") if e["reason"] == "FailedScheduling" and e["involvedObject"]["name"] == "additional-pod"]
    space.until("an event says so", told)
    space.delete("pods", f"filler-{node_names(space)[0]}")
    placed(space, "additional-pod")
    for node in node_names(space):
        offer(space, node, RESOURCE, None)


@played("[sig-scheduling] SchedulerPredicates [Serial] validates that NodeSelector is respected if not matching [Conformance]")
def selector_without_match(space):
    space.create("pods", {"metadata": {"name": "restricted-pod"}, "spec": pod_spec(nodeSelector={"label": "nonempty"})})
    why = unschedulable(space, "restricted-pod")
    assert "node(s) didn't match Pod's node affinity/selector" in why, why


@played("[sig-scheduling] SchedulerPredicates [Serial] validates that NodeSelector is respected if matching [Conformance]", alone=True)
def selector_with_match(space):
    node, label = node_names(space)[0], "kubernetes.io/e2e-played"
    space.patch("nodes", node, {"metadata": {"labels": {label: "42"}}})
    space.create("pods", {"metadata": {"name": "with-labels"}, "spec": pod_spec(nodeSelector={label: "42"})})
    assert placed(space, "with-labels")["spec"]["nodeName"] == node
    space.patch("nodes", node, {"metadata": {"labels": {label: None}}})


@played("[sig-scheduling] SchedulerPredicates [Serial] validates that there exists conflict between pods with same hostPort and protocol but one using 0.0.0.0 hostIP [Conformance]")
def ports(space):
    node = node_names(space)[0]

    def create(name, address):
        spec = pod_spec(nodeSelector={"kubernetes.io/hostname": node})
        port = {"hostPort": 54322, "containerPort": 8080, "protocol": "TCP"}
        spec["containers"][0]["ports"] = [{**port, "hostIP": address} if address else port]
        space.create("pods", {"metadata": {"name": name}, "spec": spec})

    create("pod4", "")
    placed(space, "pod4")
    create("pod5", "127.0.0.1")
    why = unschedulable(space, "pod5")
    assert "1 node(s) didn't have free ports for the requested pod ports" in why, why


def classes(space):
    """Three levels of priority, which other plays have made perhaps."""
    for name, value in (("played-low", 1), ("played-medium", 100), ("played-high", 1000)):
        try:
            space.create("priorityclasses", {"metadata": {"name": name}, "value": value})
        except Exception as error:
            assert getattr(error, "code", None) == 409, error


def victims(space, resource):
    """A pod on each node that leaves room for half of another; the first one is of low priority."""
    classes(space)
    for number, node in enumerate(node_names(space)):
        offer(space, node, resource, "3")
        level = "played-medium" if number else "played-low"
        spec = asking({resource: "2"}, affinity=on(node), priorityClassName=level)
        space.create("pods", {"metadata": {"name": f"pod{number}", "labels": {"app": "victim"}}, "spec": spec})
    space.running("app=victim", len(node_names(space)))


def only_the_first_went(space, preemptor):
    assert preemptor["spec"]["nodeName"] == node_names(space)[0]
    space.until("the least one is gone", lambda: space.gone("pods", "pod0"))
    for number in range(1, len(node_names(space))):
        assert "deletionTimestamp" not in space.get("pods", f"pod{number}")["metadata"]


@played("[sig-scheduling] SchedulerPreemption [Serial] validates basic preemption works [Conformance]", alone=True)
def preempts(space):
    resource = "scheduling.k8s.io/basic"
    victims(space, resource)
    spec = asking({resource: "2"}, priorityClassName="played-high")
    space.create("pods", {"metadata": {"name": "preemptor-pod"}, "spec": spec})
    found = placed(space, "preemptor-pod")
    only_the_first_went(space, found)
    assert "nominatedNodeName" not in found["status"], "it waits for no node any more"
    told = lambda: [e["message"] for e in space.items("events") if e["reason"] == "Preempted"]
    uid = found["metadata"]["uid"]
    assert space.until("an event says so", told)[0].startswith(f"Preempted by pod {uid} on node"), told()


@played("[sig-scheduling] SchedulerPreemption [Serial] validates lower priority pod preemption by critical pod [Conformance]", alone=True)
def critical(space):
    resource = "scheduling.k8s.io/critical"
    victims(space, resource)
    system = "/api/v1/namespaces/kube-system/pods"
    spec = asking({resource: "2"}, priorityClassName="system-cluster-critical")
    space.server.call("POST", system, {"metadata": {"name": "critical-pod"}, "spec": spec})
    read = lambda: space.server.call("GET", f"{system}/critical-pod")
    space.until("it runs", lambda: is_ready(read()))
    found = read()
    assert found["spec"]["priority"] == 2000000000
    space.server.call("DELETE", f"{system}/critical-pod", {"gracePeriodSeconds": 0})
    only_the_first_went(space, found)


@played("[sig-scheduling] SchedulerPreemption [Serial] validates pod disruption condition is added to the preempted pod [Conformance]", alone=True)
def disrupted(space):
    classes(space)
    node, resource = node_names(space)[0], "scheduling.k8s.io/disrupted"
    offer(space, node, resource, "1")
    victim = {"metadata": {"name": "victim", "finalizers": ["example.com/test-finalizer"]}}
    space.create("pods", {**victim, "spec": asking({resource: "1"}, priorityClassName="played-low")})
    placed(space, "victim")
    spec = asking({resource: "1"}, priorityClassName="played-high")
    space.create("pods", {"metadata": {"name": "preemptor-pod"}, "spec": spec})
    space.until("the victim goes", lambda: space.get("pods", "victim")["metadata"].get("deletionTimestamp"))
    told = condition(space.get("pods", "victim"), "DisruptionTarget", "True")
    assert told["reason"] == "PreemptionByScheduler", told
    assert told["message"] == "default-scheduler: preempting to accommodate a higher priority pod", told
    space.patch("pods", "victim", {"metadata": {"finalizers": None}}, "merge")
    placed(space, "preemptor-pod")
    offer(space, node, resource, None)


@played("[sig-scheduling] SchedulerPreemption [Serial] PreemptionExecutionPath runs ReplicaSets to verify preemption running path [Conformance]", alone=True)
def path(space):
    node, resource = node_names(space)[0], "example.com/fakecpu"
    offer(space, node, resource, "1k")
    for number in range(1, 5):
        space.create("priorityclasses", {"metadata": {"name": f"p{number}"}, "value": number})
    start = space.list("pods")["metadata"]["resourceVersion"]

    def create(level, amount):
        body = workload(f"rs-{level}", {"name": level})
        spec = asking({resource: amount}, priorityClassName=level, nodeSelector={"kubernetes.io/hostname": node})
        body["spec"]["template"]["spec"] = spec
        space.create("replicasets", body)
        space.running(f"name={level}", 1)

    for level, amount in (("p1", "200"), ("p2", "300"), ("p3", "450")):
        create(level, amount)
    # The one of p3 can stay, those of p1 and p2 have to go; their sets make them anew.
    create("p4", "500")
    made = {"p1": 0, "p2": 0, "p3": 0, "p4": 0}
    for kind, pod in space.watch("pods", start):
        made[pod["spec"]["priorityClassName"]] += kind == "ADDED"
        if made["p1"] >= 2 and made["p2"] >= 2 and made["p4"]:
            break
    assert made == {"p1": 2, "p2": 2, "p3": 1, "p4": 1}, made
    for level in ("p1", "p2", "p3", "p4"):
        space.delete("replicasets", f"rs-{level}")
    space.no_pods()
    for number in range(1, 5):
        space.delete("priorityclasses", f"p{number}")
    offer(space, node, resource, None)


@played("[sig-scheduling] SchedulerPreemption [Serial] PriorityClass endpoints verify PriorityClass endpoints can be operated with different HTTP methods [Conformance]")
def endpoints(space):
    for number in (1, 2):
        body = {"metadata": {"name": f"endpoints-p{number}", "labels": {"endpoints": "x"}}, "value": number}
        space.create("priorityclasses", body)
    for number in (1, 2):
        name = f"endpoints-p{number}"
        message = refused(422, lambda: space.patch("priorityclasses", name, {"value": number * 10}))
        assert "may not be changed in an update" in message, message
        refused(422, lambda: space.update("priorityclasses", name, lambda found: found.update(value=number * 10)))
        assert space.patch("priorityclasses", name, {"description": "patched"})["description"] == "patched"
        assert space.update("priorityclasses", name, lambda found: found.update(description="updated"))["description"] == "updated"
        assert space.get("priorityclasses", name)["value"] == number
    assert len(space.items("priorityclasses", "endpoints=x")) == 2
    space.delete_all("priorityclasses", "endpoints=x")
    assert space.items("priorityclasses", "endpoints=x") == []


def limits(name, labels=None):
    limit = {
        "type": "Container",
        "min": {"cpu": "50m", "memory": "100Mi", "ephemeral-storage": "100Gi"},
        "max": {"cpu": "500m", "memory": "500Mi", "ephemeral-storage": "500Gi"},
        "default": {"cpu": "500m", "memory": "500Mi", "ephemeral-storage": "500Gi"},
        "defaultRequest": {"cpu": "100m", "memory": "200Mi", "ephemeral-storage": "200Gi"},
    }
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": {"limits": [limit]}}


@played("[sig-scheduling] LimitRange should create a LimitRange with defaults and ensure pod has those defaults applied. [Conformance]")
def limited(space):
    start = space.list("limitranges")["metadata"]["resourceVersion"]
    made = space.create("limitranges", limits("limit-range"))
    space.seen("its creation", "limitranges", start, lambda kind, _: kind == "ADDED")
    assert space.get("limitranges", "limit-range")["spec"] == made["spec"]
    resources = lambda pod: pod["spec"]["containers"][0]["resources"]
    found = resources(space.create("pods", {"metadata": {"name": "pod-no-resources"}, "spec": pod_spec()}))
    assert found["requests"] == {"cpu": "100m", "memory": "200Mi", "ephemeral-storage": "200Gi"}, found
    assert found["limits"] == {"cpu": "500m", "memory": "500Mi", "ephemeral-storage": "500Gi"}, found
    spec = pod_spec()
    spec["containers"][0]["resources"] = {"requests": {"memory": "150Mi", "ephemeral-storage": "150Gi"}, "limits": {"cpu": "300m"}}
    found = resources(space.create("pods", {"metadata": {"name": "pod-partial-resources"}, "spec": spec}))
    assert found["requests"] == {"cpu": "300m", "memory": "150Mi", "ephemeral-storage": "150Gi"}, found
    assert found["limits"] == {"cpu": "300m", "memory": "500Mi", "ephemeral-storage": "500Gi"}, found
    for name, amount in (("pod-less", "10m"), ("pod-more", "600m")):
        spec = asking({"cpu": amount})
        message = refused(403, lambda: space.create("pods", {"metadata": {"name": name}, "spec": spec}))
        assert "cpu usage per Container is" in message, message
    space.update("limitranges", "limit-range", lambda found: found["spec"]["limits"][0].update(min={"cpu": "9m", "memory": "10Mi"}))
    space.create("pods", {"metadata": {"name": "pod-less"}, "spec": asking({"cpu": "10m"})})
    refused(403, lambda: space.create("pods", {"metadata": {"name": "pod-more"}, "spec": asking({"cpu": "600m"})}))
    space.delete("limitranges", "limit-range")
    space.until("it is gone", lambda: space.gone("limitranges", "limit-range"))
    space.create("pods", {"metadata": {"name": "pod-more"}, "spec": asking({"cpu": "600m"})})


@played("[sig-scheduling] LimitRange should list, patch and delete a LimitRange by collection [Conformance]")
def limits_collection(space):
    labels = {"e2e-limits": space.name}
    flat = f"e2e-limits={space.name}"
    space.create("limitranges", limits("one", labels))
    assert len(space.items("limitranges", flat, everywhere=True)) == 1
    change = [{"type": "Container", "min": {"cpu": "60m"}, "max": {"cpu": "500m"}}]
    patched = space.patch("limitranges", "one", {"metadata": {"labels": {"one": "patched"}}, "spec": {"limits": change}})
    assert patched["metadata"]["labels"]["one"] == "patched"
    assert patched["spec"]["limits"][0]["min"]["cpu"] == "60m", patched
    space.delete_all("limitranges", "one=patched")
    assert space.items("limitranges", "one=patched", everywhere=True) == []
