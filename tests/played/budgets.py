"""What the suite asks of PodDisruptionBudgets."""
from steps import condition, played, pod_spec, refused

KIND = "poddisruptionbudgets"


def budget(name="foo", labels=None, **spec):
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": {"selector": {"matchLabels": {"foo": "bar"}}, **spec}}


def pods(space, count):
    for number in range(count):
        body = {"metadata": {"name": f"pod-{number}", "labels": {"foo": "bar"}}, "spec": pod_spec()}
        space.create("pods", body)
    space.running("foo=bar", count)


def processed(space, name="foo"):
    """Waits until the controller has looked at a budget as it is."""

    def found():
        read = space.get(KIND, name)
        return read["status"].get("observedGeneration", 0) >= read["metadata"]["generation"] and read

    return space.until(f"{name} is processed", found)


def evict(space, name):
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    return space.create("pods", body, "eviction")


@played("[sig-apps] DisruptionController Listing PodDisruptionBudgets for all namespaces should list and delete a collection of PodDisruptionBudgets [Conformance]")
def collection(space):
    labels = {"pdbs": space.name}
    for name in ("foo", "foo2", "foo3"):
        space.create(KIND, budget(name, labels, minAvailable=1))
        processed(space, name)
    flat = f"pdbs={space.name}"
    assert len(space.items(KIND, flat, everywhere=True)) == 3
    space.delete_all(KIND, flat)
    assert space.items(KIND, flat) == []


@played("[sig-apps] DisruptionController should create a PodDisruptionBudget [Conformance]")
def created(space):
    space.create(KIND, budget(minAvailable=1))
    processed(space)
    space.update(KIND, "foo", lambda found: found["spec"].update(minAvailable=2))
    assert processed(space)["spec"]["minAvailable"] == 2
    space.patch(KIND, "foo", {"spec": {"minAvailable": "3%"}}, "merge")
    assert processed(space)["spec"]["minAvailable"] == "3%"
    space.delete(KIND, "foo")
    space.until("it is gone", lambda: space.gone(KIND, "foo"))


@played("[sig-apps] DisruptionController should observe PodDisruptionBudget status updated [Conformance]")
def observed(space):
    space.create(KIND, budget(minAvailable=1))
    pods(space, 3)
    status = lambda: space.get(KIND, "foo")["status"]
    space.until("some may go", lambda: status()["disruptionsAllowed"] > 0)
    space.until("all are counted", lambda: (status()["currentHealthy"], status()["expectedPods"]) == (3, 3))
    assert condition(space.get(KIND, "foo"), "DisruptionAllowed", "True")["reason"] == "SufficientPods"


@played("[sig-apps] DisruptionController should update/patch PodDisruptionBudget status [Conformance]")
def status(space):
    space.create(KIND, budget(minAvailable=1))
    pods(space, 1)
    space.until("it is counted", lambda: space.get(KIND, "foo")["status"].get("currentHealthy") == 1)

    def add(found):
        now = "2026-01-01T00:00:00Z"
        found["status"]["disruptedPods"] = {"pod-0": found["metadata"]["creationTimestamp"] or now}

    written = space.update(KIND, "foo", add, "/status")
    assert list(written["status"]["disruptedPods"]) == ["pod-0"]
    found = space.get(KIND, "foo/status")
    patch = [
        {"op": "add", "path": "/status/disruptedPods/pod-1", "value": found["metadata"]["creationTimestamp"]},
        {"op": "remove", "path": "/status/disruptedPods/pod-0"},
    ] if "pod-0" in found["status"].get("disruptedPods", {}) else []
    patch.append({"op": "replace", "path": "/status/currentHealthy", "value": 7})
    assert space.patch(KIND, "foo/status", patch, "json")["status"]["currentHealthy"] == 7


@played("[sig-apps] DisruptionController should block an eviction until the PDB is updated to allow it [Conformance]")
def blocks(space):
    space.create(KIND, budget(minAvailable=3))
    pods(space, 3)
    space.until("all are counted", lambda: space.get(KIND, "foo")["status"].get("currentHealthy") == 3)
    message = refused(429, lambda: evict(space, "pod-0"))
    assert message == "Cannot evict pod as it would violate the pod's disruption budget.", message
    space.update(KIND, "foo", lambda found: found["spec"].update(minAvailable=2))
    processed(space)
    evict(space, "pod-0")
    space.until("it is gone", lambda: space.gone("pods", "pod-0"))
    space.update(KIND, "foo", lambda found: found["spec"].update(minAvailable=3))
    processed(space)
    refused(429, lambda: evict(space, "pod-1"))
    space.delete(KIND, "foo")
    space.until("no budget is left", lambda: space.gone(KIND, "foo"))
    evict(space, "pod-1")
    space.until("it goes too", lambda: space.gone("pods", "pod-1"))
