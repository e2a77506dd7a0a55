"""What upstream's conformance tests ask of a control plane, played through by the Python client's transport.

Prints a line for each name; the steps are those of the test of that name. A second argument plays those that want a
server that compacts soon."""
import copy
import json
import sys
import time

from kubernetes import config
from kubernetes.watch.watch import iter_resp_lines

API = config.new_client_from_config(sys.argv[1])
HOST = API.configuration.host
PATIENCE_S = 120
TESTS = []


class Failure(Exception):
    pass


def called(name):
    def register(play):
        TESTS.append((name, play))
        return play
    return register


def send(method, path, body=None, kind="application/json", accept="application/json", stream=False):
    data = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
    headers = {"Accept": accept, "Content-Type": kind}
    pool = API.rest_client.pool_manager
    return pool.request(method, HOST + path, body=data, headers=headers, preload_content=not stream, retries=False)


def call(method, path, body=None, expect=(200, 201, 202), **more):
    answer = send(method, path, body, **more)
    value = json.loads(answer.data) if answer.data else None
    if answer.status not in (expect if isinstance(expect, tuple) else (expect,)):
        raise Failure(f"{method} {path}: {answer.status} {answer.data[:600]}")
    return value


def get(path, **more):
    return call("GET", path, **more)


def patch(path, body, kind="application/merge-patch+json"):
    return call("PATCH", path, body, kind=kind)


def put(path, change, at="", expect=200):
    """What is there with a change; whoever writes in between makes us read it again."""
    def written():
        current = get(path)
        change(current)
        answer = send("PUT", path + at, current)
        if answer.status == 409:
            return None
        same(answer.status, expect, f"{path}: {answer.data[:600]}")
        return json.loads(answer.data)
    return until(f"a write of {path}", written)


def same(got, expect, what=""):
    if got != expect:
        raise Failure(f"{what}: {got!r} is not {expect!r}")


def true(value, what):
    if not value:
        raise Failure(what)


def until(what, check):
    end = time.monotonic() + PATIENCE_S
    last = None
    while time.monotonic() < end:
        last = check()
        if last:
            return last
        time.sleep(0.05)
    raise Failure(f"waited in vain for {what}: {last!r}")


def gone(path):
    until(f"the end of {path}", lambda: send("GET", path).status == 404)


def namespace(name):
    path = f"/api/v1/namespaces/{name}"
    call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    until("the service account", lambda: send("GET", f"{path}/serviceaccounts/default").status == 200)
    return path


def listed(path):
    return get(path)["items"]


class Watch:
    """A watch that runs: each event is asked for."""

    def __init__(self, path):
        self.answer = send("GET", path + ("&" if "?" in path else "?") + "watch=true&timeoutSeconds=600", stream=True)
        same(self.answer.status, 200, path)
        self.lines = iter_resp_lines(self.answer)

    def next(self):
        event = json.loads(next(self.lines))
        return event["type"], event["object"]

    def until(self, kind, check=lambda _: True):
        while True:
            got, item = self.next()
            if got == kind and check(item):
                return item

    def end(self):
        self.answer.close()


TEMPLATE = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "example.com/web:1"}]}}


def pod(name, **spec):
    return {"metadata": {"name": name}, "spec": {**copy.deepcopy(TEMPLATE["spec"]), **spec}}


def with_resources(name, requests=None, limits=None, **spec):
    made = pod(name, terminationGracePeriodSeconds=0, **spec)
    made["spec"]["containers"][0]["resources"] = {"requests": requests or {}, "limits": limits or {}}
    return made


def controller(name, replicas, **labels):
    labels = labels or {"app": name}
    template = {"metadata": {"labels": labels}, "spec": TEMPLATE["spec"]}
    return {"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": labels, "template": template}}


def deployment(name, replicas=1):
    selector = {"matchLabels": {"app": "web"}}
    return {"metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"replicas": replicas, "selector": selector, "template": TEMPLATE}}


# --- discovery, version, tables ---

@called("server version should find the server version")
def version():
    info = get("/version")
    same(info["major"], "1", "major")
    true(info["minor"].rstrip("+").isdigit(), info["minor"])


@called("Discovery should locate the groupVersion and a resource within each APIGroup")
def each_group():
    for group in get("/apis")["groups"]:
        for each in group["versions"]:
            resources = get(f"/apis/{each['groupVersion']}")
            same(resources["groupVersion"], each["groupVersion"])
            true(resources["resources"], each["groupVersion"])
    wanted = {"apps/v1": "deployments", "authentication.k8s.io/v1": "tokenreviews",
              "authorization.k8s.io/v1": "selfsubjectaccessreviews", "autoscaling/v1": "horizontalpodautoscalers",
              "autoscaling/v2": "horizontalpodautoscalers", "batch/v1": "jobs",
              "certificates.k8s.io/v1": "certificatesigningrequests", "coordination.k8s.io/v1": "leases",
              "discovery.k8s.io/v1": "endpointslices", "events.k8s.io/v1": "events",
              "networking.k8s.io/v1": "ingresses", "node.k8s.io/v1": "runtimeclasses",
              "policy/v1": "poddisruptionbudgets", "rbac.authorization.k8s.io/v1": "clusterroles",
              "scheduling.k8s.io/v1": "priorityclasses", "storage.k8s.io/v1": "csinodes"}
    for at, resource in wanted.items():
        names = [r["name"] for r in get(f"/apis/{at}")["resources"]]
        true(resource in names, f"{at} {resource}")


@called("Discovery should validate PreferredVersion for each APIGroup")
def preferred():
    for group in get("/apis")["groups"]:
        one = get(f"/apis/{group['name']}")
        same(one["preferredVersion"], group["preferredVersion"], group["name"])
        true(group["preferredVersion"] in group["versions"], group["name"])


@called("Servers with support for Table transformation should return a 406 for a backend which does not implement metadata")
def no_table():
    review = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
              "spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}
    call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review, expect=406,
         accept="application/json;as=Table;v=v1;g=meta.k8s.io")


@called("FieldValidation should detect unknown and duplicate fields of a typed object")
def unknown_and_duplicate():
    at = namespace("typed")
    body = json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", **deployment("my-dep", 2)})
    body = body.replace('"replicas": 2', '"unknownField": "foo", "replicas": 2, "replicas": 3')
    path = at.replace("/api/v1", "/apis/apps/v1") + "/deployments?fieldManager=m&fieldValidation=Strict"
    message = call("POST", path, body, expect=400)["message"]
    wanted = 'strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas"'
    true(wanted in message, message)


@called("FieldValidation should detect unknown metadata fields of a typed object")
def unknown_metadata():
    body = {"apiVersion": "apps/v1", "kind": "Deployment", **deployment("my-dep", 2)}
    body["metadata"]["unknownMeta"] = "foo"
    path = "/apis/apps/v1/namespaces/typed/deployments?fieldManager=m&fieldValidation=Strict"
    message = call("POST", path, body, expect=400)["message"]
    true('strict decoding error: unknown field "metadata.unknownMeta"' in message, message)


# --- chunks ---

def pages(path, total, start=""):
    """Follows pages of different sizes to the end: the names, all at one version."""
    names, versions, token, size = [], set(), start, 3
    while True:
        page = get(f"{path}?limit={size}" + (f"&continue={token}" if token else ""))
        names += [item["metadata"]["name"] for item in page["items"]]
        true(len(page["items"]) <= size, "too large a page")
        versions.add(page["metadata"]["resourceVersion"])
        token = page["metadata"].get("continue", "")
        left = page["metadata"].get("remainingItemCount")
        same(left, total - len(names) if token else None, "remaining")
        if not token:
            return names, versions
        size = size % 7 + 1


def templates(name):
    at = namespace(name) + "/podtemplates"
    for i in range(40):
        call("POST", at, {"metadata": {"name": f"template-{i:04}"}, "template": TEMPLATE})
    return at


@called("Servers with support for API chunking should return chunks of results for list calls")
def chunks():
    at = templates("chunks")
    wanted = [f"template-{i:04}" for i in range(40)]
    for _ in range(3):
        names, versions = pages(at, 40)
        same(names, wanted)
        same(len(versions), 1, "versions")
    same(len(get(at + "?limit=41")["items"]), 40)


@called("Servers with support for API chunking should support continue listing from the last key if the original "
        "version has been compacted away, though the list is inconsistent")
def compacted():
    at = templates("compacted")
    first = get(at + "?limit=4")
    token = first["metadata"]["continue"]

    def expired():
        # Something happens, so that the version of the page is not the last one.
        patch(at + "/template-0000", {"metadata": {"annotations": {"at": str(time.monotonic())}}})
        answer = send("GET", f"{at}?limit=4&continue={token}")
        return json.loads(answer.data) if answer.status == 410 else None

    status = until("the token's end", expired)
    same(status["reason"], "Expired")
    names = [item["metadata"]["name"] for item in first["items"]]
    versions, token = [], status["metadata"]["continue"]
    while token:
        answer = send("GET", f"{at}?limit=4&continue={token}")
        page = json.loads(answer.data)
        token = page["metadata"].get("continue", "")
        # A page's version may be gone by now as well: the answer says how to go on.
        if answer.status != 410:
            same(answer.status, 200)
            names += [item["metadata"]["name"] for item in page["items"]]
            same(page["metadata"].get("remainingItemCount"), 40 - len(names) if token else None)
            versions.append(page["metadata"]["resourceVersion"])
    same(names, [f"template-{i:04}" for i in range(40)])
    true(first["metadata"]["resourceVersion"] not in versions, "the version that is gone")


# --- watchers ---

def settings(name, label, **data):
    return {"metadata": {"name": name, "labels": {"watch": label}}, "data": data}


@called("Watchers should observe add, update, and delete watch notifications on configmaps")
def notified():
    at = namespace("watched") + "/configmaps"
    a, b = Watch(at + "?labelSelector=watch%3Da"), Watch(at + "?labelSelector=watch%3Db")
    both = Watch(at + "?labelSelector=watch%20in%20(a,b)")
    for label, own in (("a", a), ("b", b)):
        call("POST", at, settings(f"map-{label}", label))
        for which in (own, both):
            which.until("ADDED", lambda item: item["metadata"]["name"] == f"map-{label}")
        for value in ("1", "2"):
            patch(f"{at}/map-{label}", {"data": {"mutation": value}})
            for which in (own, both):
                same(which.until("MODIFIED")["data"], {"mutation": value})
        call("DELETE", f"{at}/map-{label}")
        for which in (own, both):
            same(which.until("DELETED")["metadata"]["name"], f"map-{label}")
    for each in (a, b, both):
        each.end()


@called("Watchers should be able to start watching from a specific resource version")
def from_version():
    at = "/api/v1/namespaces/watched/configmaps"
    call("POST", at, settings("from", "v"))
    first = patch(at + "/from", {"data": {"mutation": "1"}})
    patch(at + "/from", {"data": {"mutation": "2"}})
    call("DELETE", at + "/from")
    watch = Watch(f"{at}?labelSelector=watch%3Dv&resourceVersion={first['metadata']['resourceVersion']}")
    kind, item = watch.next()
    same((kind, item["data"]), ("MODIFIED", {"mutation": "2"}))
    same(watch.next()[0], "DELETED")
    watch.end()


@called("Watchers should be able to restart watching from the last resource version observed by the previous watch")
def restarted():
    at = "/api/v1/namespaces/watched/configmaps"
    watch = Watch(at + "?labelSelector=watch%3Dr")
    call("POST", at, settings("again", "r"))
    patch(at + "/again", {"data": {"mutation": "1"}})
    watch.until("ADDED")
    last = watch.until("MODIFIED")
    watch.end()
    patch(at + "/again", {"data": {"mutation": "2"}})
    watch = Watch(f"{at}?labelSelector=watch%3Dr&resourceVersion={last['metadata']['resourceVersion']}")
    call("DELETE", at + "/again")
    kind, item = watch.next()
    same((kind, item["data"]), ("MODIFIED", {"mutation": "2"}))
    same(watch.next()[0], "DELETED")
    watch.end()


@called("Watchers should observe an object deletion if it stops meeting the requirements of the selector")
def out_of_the_selector():
    at = "/api/v1/namespaces/watched/configmaps"
    watch = Watch(at + "?labelSelector=watch%3Ds")
    call("POST", at, settings("label", "s"))
    patch(at + "/label", {"data": {"mutation": "1"}})
    patch(at + "/label", {"metadata": {"labels": {"watch": "other"}}})
    watch.until("ADDED")
    same(watch.until("MODIFIED")["data"], {"mutation": "1"})
    same(watch.next()[0], "DELETED")
    patch(at + "/label", {"data": {"mutation": "2"}})
    patch(at + "/label", {"metadata": {"labels": {"watch": "s"}}})
    patch(at + "/label", {"data": {"mutation": "3"}})
    call("DELETE", at + "/label")
    kind, item = watch.next()
    same((kind, item["data"]), ("ADDED", {"mutation": "2"}))
    kind, item = watch.next()
    same((kind, item["data"]), ("MODIFIED", {"mutation": "3"}))
    same(watch.next()[0], "DELETED")
    watch.end()


@called("Watchers should receive events on concurrent watches in same order")
def in_order():
    at = "/api/v1/namespaces/watched/configmaps"
    own = at + "?labelSelector=watch%3Do&resourceVersion="
    start = get(at)["metadata"]["resourceVersion"]
    first = Watch(own + start)
    for i in range(5):
        call("POST", at, settings(f"order-{i}", "o"))
        patch(f"{at}/order-{i}", {"data": {"i": str(i)}})
        call("DELETE", f"{at}/order-{i}")
    events = [first.next() for _ in range(15)]
    first.end()
    seen = [(kind, item["metadata"]["resourceVersion"]) for kind, item in events]
    versions = [start] + [each for _, each in seen]
    for i in range(15):
        later = Watch(own + versions[i])
        same([(kind, item["metadata"]["resourceVersion"]) for kind, item in (later.next() for _ in range(15 - i))], seen[i:])
        later.end()


# --- namespaces ---

@called("Namespaces [Serial] should patch a Namespace")
def patched_namespace():
    at = namespace("patched")
    patch(at, {"metadata": {"labels": {"testLabel": "testValue"}}}, kind="application/strategic-merge-patch+json")
    same(get(at)["metadata"]["labels"]["testLabel"], "testValue")


@called("Namespaces [Serial] should apply changes to a namespace status")
def namespace_status():
    at = "/api/v1/namespaces/patched/status"
    same(get(at)["status"], {"phase": "Active"})
    condition = {"type": "StatusPatch", "status": "True", "reason": "E2E", "message": "Patched by an e2e test"}
    patch(at, {"metadata": {"annotations": {"e2e-patched-ns-status": "patched"}}, "status": {"conditions": [condition]}})
    current = get(at)
    same(current["metadata"]["annotations"]["e2e-patched-ns-status"], "patched")
    same(current["status"]["conditions"][0]["type"], "StatusPatch")
    more = {"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Updated by an e2e test"}
    updated = put(at, lambda current: current["status"]["conditions"].append(more))
    same([c["type"] for c in updated["status"]["conditions"]], ["StatusPatch", "StatusUpdate"])
    same(get("/api/v1/namespaces/patched")["status"]["phase"], "Active")


@called("Namespaces [Serial] should apply an update to a Namespace")
def updated_namespace():
    at = "/api/v1/namespaces/patched"
    updated = put(at, lambda current: current["metadata"]["labels"].update({"patched-update": "updated"}))
    same(updated["metadata"]["labels"]["patched-update"], "updated")


@called("Namespaces [Serial] should apply a finalizer to a Namespace")
def finalized_namespace():
    at = namespace("finalized")
    same(get(at)["spec"]["finalizers"], ["kubernetes"])
    for finalizers in (["kubernetes", "e2e.example.com/fake"], ["kubernetes"]):
        updated = put(at, lambda current: current["spec"].update({"finalizers": finalizers}), "/finalize")
        same(updated["spec"]["finalizers"], finalizers)
    call("DELETE", at)
    gone(at)


@called("Namespaces [Serial] should ensure that all pods are removed when a namespace is deleted")
def namespace_of_pods():
    at = namespace("of-pods")
    call("POST", at + "/pods", pod("test-pod"))
    call("DELETE", at)
    gone(at)
    namespace("of-pods")
    call("GET", at + "/pods/test-pod", expect=404)


@called("Namespaces [Serial] should ensure that all services are removed when a namespace is deleted")
def namespace_of_services():
    at = namespace("of-services")
    call("POST", at + "/services", {"metadata": {"name": "test-service"}, "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}})
    call("DELETE", at)
    gone(at)
    namespace("of-services")
    call("GET", at + "/services/test-service", expect=404)


@called("OrderedNamespaceDeletion namespace deletion should delete pod first")
def pods_first():
    at = namespace("ordered")
    held = pod("testpod")
    held["metadata"]["finalizers"] = ["e2e.example.com/finalizer"]
    call("POST", at + "/pods", held)
    call("POST", at + "/configmaps", {"metadata": {"name": "testmap"}})
    call("DELETE", at)

    def waits():
        conditions = {c["type"]: c for c in get(at)["status"].get("conditions", [])}
        content = conditions.get("NamespaceContentRemaining", {})
        finalizers = conditions.get("NamespaceFinalizersRemaining", {})
        return "pods. has 1" in content.get("message", "") and "e2e.example.com/finalizer" in finalizers.get("message", "")

    until("the conditions", waits)
    true("deletionTimestamp" in get(at + "/pods/testpod")["metadata"], "the pod is not on its way out")
    true("deletionTimestamp" not in get(at + "/configmaps/testmap")["metadata"], "the map went before the pod")
    patch(at + "/pods/testpod", {"metadata": {"finalizers": None}})
    gone(at)


# --- garbage ---

def controllers(name):
    at = namespace(name)
    return at + "/replicationcontrollers", at + "/pods"


def grown(pods, count):
    return until(f"{count} pods", lambda: len(listed(pods)) == count and listed(pods))


def options(policy):
    return {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy}


@called("Garbage collector should delete pods created by rc when not orphaning")
def background():
    owners, pods = controllers("gc-background")
    call("POST", owners, controller("rc", 2))
    grown(pods, 2)
    call("DELETE", owners + "/rc", options("Background"))
    gone(owners + "/rc")
    until("no pods", lambda: not listed(pods))


@called("Garbage collector should orphan pods created by rc if delete options say so")
def orphaned():
    owners, pods = controllers("gc-orphan")
    call("POST", owners, controller("rc", 5))
    grown(pods, 5)
    call("DELETE", owners + "/rc", options("Orphan"))
    gone(owners + "/rc")
    left = listed(pods)
    same(len(left), 5)
    true(all("ownerReferences" not in each["metadata"] for each in left), "owned still")


def web_sets(name, policy):
    at = namespace(name).replace("/api/v1", "/apis/apps/v1")
    call("POST", at + "/deployments", deployment("web"))
    until("a ReplicaSet", lambda: listed(at + "/replicasets"))
    call("DELETE", at + "/deployments/web", options(policy))
    gone(at + "/deployments/web")
    return at + "/replicasets"


@called("Garbage collector should delete RS created by deployment when not orphaning")
def sets_go():
    sets = web_sets("gc-sets", "Background")
    until("no sets", lambda: not listed(sets))


@called("Garbage collector should orphan RS created by deployment when deleteOptions.PropagationPolicy is Orphan")
def sets_stay():
    left = listed(web_sets("gc-sets-orphan", "Orphan"))
    same(len(left), 1)
    true("ownerReferences" not in left[0]["metadata"], "owned still")


@called("Garbage collector should keep the rc around until all its pods are deleted if the deleteOptions says so")
def foreground():
    owners, pods = controllers("gc-foreground")
    call("POST", owners, controller("rc", 10))
    first = grown(pods, 10)[0]["metadata"]["name"]
    patch(f"{pods}/{first}", {"metadata": {"finalizers": ["example.com/hold"]}})
    call("DELETE", owners + "/rc", options("Foreground"))
    until("one pod", lambda: len(listed(pods)) == 1)
    same(get(owners + "/rc")["metadata"]["finalizers"], ["foregroundDeletion"])
    patch(f"{pods}/{first}", {"metadata": {"finalizers": None}})
    gone(owners + "/rc")
    same(listed(pods), [])


@called("Garbage collector should not delete dependents that have both valid owner and owner that's waiting for "
        "dependents to be deleted")
def two_owners():
    owners, pods = controllers("gc-two")
    call("POST", owners, controller("to-be-deleted", 10))
    stays = call("POST", owners, controller("to-stay", 0, other="app"))
    second = {"apiVersion": "v1", "kind": "ReplicationController", "name": "to-stay", "uid": stays["metadata"]["uid"]}
    half = [each["metadata"]["name"] for each in grown(pods, 10)[:5]]
    for name in half:
        patch(f"{pods}/{name}", {"metadata": {"ownerReferences": [second]}}, kind="application/strategic-merge-patch+json")
    call("DELETE", owners + "/to-be-deleted", options("Foreground"))
    gone(owners + "/to-be-deleted")
    left = listed(pods)
    same(sorted(each["metadata"]["name"] for each in left), sorted(half))
    for each in left:
        true("deletionTimestamp" not in each["metadata"], "on its way out")
        same([o["name"] for o in each["metadata"]["ownerReferences"]], ["to-stay"])


@called("Garbage collector should not be blocked by dependency circle")
def circle():
    pods = namespace("gc-circle") + "/pods"
    made = [call("POST", pods, pod(f"pod{i}")) for i in range(3)]
    for i, each in enumerate(made):
        owner = made[i - 1]["metadata"]
        reference = {"apiVersion": "v1", "kind": "Pod", "name": owner["name"], "uid": owner["uid"], "controller": True,
                     "blockOwnerDeletion": True}
        patch(f"{pods}/{each['metadata']['name']}", {"metadata": {"ownerReferences": [reference]}})
    call("DELETE", pods + "/pod0", options("Foreground"))
    until("no pods", lambda: not listed(pods))


# --- quotas ---

def quota(at, name, hard, **spec):
    call("POST", at + "/resourcequotas", {"metadata": {"name": name}, "spec": {"hard": hard, **spec}})
    until("a status", lambda: get(f"{at}/resourcequotas/{name}")["status"].get("hard") == hard)


def used(at, name, **wanted):
    wanted = {key.replace("__", "/").replace("_", "."): value for key, value in wanted.items()}
    path = f"{at}/resourcequotas/{name}"
    shown = lambda: {k: v for k, v in get(path)["status"]["used"].items() if k in wanted}
    until(f"use {wanted} of {name}", lambda: shown() == wanted or None)


@called("ResourceQuota should create a ResourceQuota and ensure its status is promptly calculated.")
def promptly():
    at = namespace("quota-status")
    quota(at, "q", {"pods": "5", "services": "10", "cpu": "1", "memory": "500Mi"})
    used(at, "q", pods="0", services="0", cpu="0", memory="0")


@called("ResourceQuota should create a ResourceQuota and capture the life of a service.")
def services():
    at = namespace("quota-services")
    path = at + "/services"
    quota(at, "q", {"services": "10", "services.nodeports": "1", "services.loadbalancers": "1"})
    one = lambda name, kind, **more: {"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"port": 80}], **more}}
    call("POST", path, one("cluster", "ClusterIP"))
    call("POST", path, one("node", "NodePort"))
    refused = call("POST", path, one("balancer", "LoadBalancer", allocateLoadBalancerNodePorts=True), expect=403)
    true("exceeded quota: q" in refused["message"], refused["message"])
    used(at, "q", services="2", services_nodeports="1", services_loadbalancers="0")
    for name in ("cluster", "node"):
        call("DELETE", f"{path}/{name}")
    used(at, "q", services="0", services_nodeports="0", services_loadbalancers="0")


def counted(what, make, start=lambda at: 0):
    at = namespace("quota-" + what)
    base = start(at)
    quota(at, "q", {what: str(base + 2)})
    key = {what: str(base)}
    used(at, "q", **key)
    call("POST", f"{at}/{what}", make("one"))
    used(at, "q", **{what: str(base + 1)})
    call("POST", f"{at}/{what}", make("two"))
    call("POST", f"{at}/{what}", make("three"), expect=403)
    for name in ("one", "two"):
        call("DELETE", f"{at}/{what}/{name}", options("Background"))
    used(at, "q", **key)


@called("ResourceQuota should create a ResourceQuota and capture the life of a secret.")
def secrets():
    counted("secrets", lambda name: {"metadata": {"name": name}, "stringData": {"a": "b"}})


@called("ResourceQuota should create a ResourceQuota and capture the life of a configMap.")
def maps():
    def root(at):
        until("the authority", lambda: listed(at + "/configmaps"))
        return 1
    counted("configmaps", lambda name: {"metadata": {"name": name}}, root)


@called("ResourceQuota should create a ResourceQuota and capture the life of a replication controller.")
def replication():
    counted("replicationcontrollers", lambda name: controller(name, 0))


@called("ResourceQuota should create a ResourceQuota and capture the life of a replica set.")
def replica_sets():
    at = namespace("quota-sets")
    path = at.replace("/api/v1", "/apis/apps/v1") + "/replicasets"
    quota(at, "q", {"count/replicasets.apps": "5"})
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": TEMPLATE}
    call("POST", path, {"metadata": {"name": "one"}, "spec": spec})
    used(at, "q", count__replicasets_apps="1")
    call("DELETE", path + "/one")
    used(at, "q", count__replicasets_apps="0")


@called("ResourceQuota should create a ResourceQuota and capture the life of a pod.")
def life_of_a_pod():
    at = namespace("quota-pods")
    quota(at, "q", {"pods": "5", "cpu": "1", "memory": "500Mi", "ephemeral-storage": "50Gi", "requests.example.com/dongle": "3"})
    path, dongle = at + "/pods", {"example.com/dongle": "2"}
    asked = {"cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi", **dongle}
    call("POST", path, with_resources("test-pod", asked, dongle))
    total = {"pods": "1", "cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi", "requests.example.com/dongle": "2"}
    used(at, "q", **total)
    message = call("POST", path, with_resources("too-much", {"cpu": "600m", "memory": "100Mi"}), expect=403)["message"]
    true("exceeded quota: q, requested: cpu=600m" in message, message)
    wanted = {"cpu": "500m", "memory": "100Mi", "ephemeral-storage": "30Gi", **dongle}
    call("POST", path, with_resources("too-many", wanted, dongle), expect=403)
    put(path + "/test-pod", lambda pod: pod["spec"]["containers"][0]["resources"]["requests"].update(cpu="100m"), expect=422)
    used(at, "q", **total)
    call("DELETE", path + "/test-pod", {"gracePeriodSeconds": 0})
    used(at, "q", **{key: "0" for key in total})


@called("ResourceQuota should be able to update and delete ResourceQuota.")
def updated_quota():
    at = namespace("quota-update") + "/resourcequotas"
    made = call("POST", at, {"metadata": {"name": "q"}, "spec": {"hard": {"cpu": "1", "memory": "500Mi"}}})
    same(made["spec"]["hard"], {"cpu": "1", "memory": "500Mi"})
    put(at + "/q", lambda quota: quota["spec"].update(hard={"cpu": "2", "memory": "1Gi"}))
    same(get(at + "/q")["spec"]["hard"], {"cpu": "2", "memory": "1Gi"})
    call("DELETE", at + "/q")
    call("GET", at + "/q", expect=404)


def scoped(name, scopes, first, second):
    """Each pod is counted by the quota of its own scope, and by the other one never."""
    at = namespace(name)
    hard = {"pods": "5"}
    for which, scope in enumerate(scopes):
        quota(at, f"q{which}", hard, scopes=[scope])
    for which, made in enumerate((first, second)):
        call("POST", at + "/pods", made)
        used(at, f"q{which}", pods="1")
        used(at, f"q{1 - which}", pods="0")
        call("DELETE", f"{at}/pods/{made['metadata']['name']}", {"gracePeriodSeconds": 0})
        used(at, f"q{which}", pods="0")


@called("ResourceQuota should verify ResourceQuota with terminating scopes.")
def terminating():
    asked = {"cpu": "500m", "memory": "200Mi"}
    scoped("quota-ends", ["NotTerminating", "Terminating"], with_resources("test-pod", asked, asked),
           with_resources("terminating-pod", asked, asked, activeDeadlineSeconds=3600))


@called("ResourceQuota should verify ResourceQuota with best effort scope.")
def best_effort():
    asked = {"cpu": "500m", "memory": "200Mi"}
    scoped("quota-effort", ["BestEffort", "NotBestEffort"], with_resources("besteffort-pod"),
           with_resources("burstable-pod", asked, asked))


@called("ResourceQuota should manage the lifecycle of a ResourceQuota")
def managed_quota():
    at = namespace("quota-life") + "/resourcequotas"
    labels, hard = {"kind": "e2e"}, {"cpu": "1", "memory": "500Mi"}
    made = call("POST", at, {"metadata": {"name": "q", "labels": labels}, "spec": {"hard": hard}})
    same(made["metadata"]["labels"], labels)
    same(len(listed("/api/v1/resourcequotas?labelSelector=kind%3De2e")), 1)
    patch(at + "/q", {"metadata": {"labels": {"q": "patched"}}, "spec": {"hard": {"memory": "750Mi"}}},
          kind="application/strategic-merge-patch+json")
    current = get(at + "/q")
    same((current["metadata"]["labels"]["q"], current["spec"]["hard"]["memory"]), ("patched", "750Mi"))
    call("DELETE", at + "?labelSelector=kind%3De2e")
    until("no quotas", lambda: not listed("/api/v1/resourcequotas?labelSelector=kind%3De2e"))


@called("ResourceQuota should apply changes to a resourcequota status")
def quota_status():
    at = namespace("quota-own")
    path, hard = at + "/resourcequotas/q", {"cpu": "500m", "memory": "500Mi"}
    quota(at, "q", hard)
    watch = Watch(at + "/resourcequotas")

    put(path, lambda quota: quota["spec"].update(hard={"cpu": "1", "memory": "1Gi"}))
    watch.until("MODIFIED", lambda item: item["status"].get("hard") == {"cpu": "1", "memory": "1Gi"})
    wanted = {"cpu": "2", "memory": "2Gi"}
    same(put(path, lambda quota: quota["status"].update(hard=wanted), "/status")["status"]["hard"], wanted)
    watch.until("MODIFIED", lambda item: item["status"]["hard"] == {"cpu": "2", "memory": "2Gi"})
    # What the spec says comes back by itself.
    watch.until("MODIFIED", lambda item: item["status"]["hard"] == {"cpu": "1", "memory": "1Gi"})
    changed = patch(path + "/status", {"metadata": {"annotations": {"n": "1"}}, "status": {"hard": {"cpu": "3"}}})
    same(changed["status"]["hard"]["cpu"], "3")
    watch.until("MODIFIED", lambda item: item["status"]["hard"]["cpu"] == "3")
    watch.end()


# --- fairness ---

def lifecycle(path, make, status_of):
    """Create, get, list, watch, patch, update, the status, delete, delete together."""
    group, rest = path.rsplit("/", 1)
    names = [each["name"] for each in get(group)["resources"]]
    true(rest in names and f"{rest}/status" in names, names)
    label = "labelSelector=e2e%3Dlife"
    for name in ("one", "two", "three"):
        call("POST", path, make(f"life-{name}"))
    same(get(path + "/life-one")["metadata"]["name"], "life-one")
    items = get(f"{path}?{label}")
    same(len(items["items"]), 3)
    watch = Watch(f"{path}?{label}&resourceVersion={items['metadata']['resourceVersion']}")
    patched = patch(path + "/life-one", {"metadata": {"annotations": {"patched": "true"}}, "spec": {}})
    same(patched["metadata"]["annotations"]["patched"], "true")
    put(path + "/life-one", lambda item: item["metadata"]["annotations"].update(updated="true"))
    updated = lambda item: item["metadata"].get("annotations", {}).get("updated") == "true"
    watch.until("MODIFIED", updated)
    same(get(path + "/life-one/status")["metadata"]["name"], "life-one")
    condition = {"type": status_of, "status": "False", "reason": "PatchStatusFailed", "message": "patched",
                 "lastTransitionTime": "2026-01-01T00:00:00Z"}
    changed = patch(path + "/life-one/status", {"status": {"conditions": [condition]}})
    same(changed["status"]["conditions"][0]["message"], "patched")
    watch.until("MODIFIED", lambda item: item["status"].get("conditions", [{}])[0].get("message") == "patched")
    last = [{**condition, "message": "updated"}]
    changed = put(path + "/life-one", lambda item: item["status"].update(conditions=last), "/status")
    same(changed["status"]["conditions"][0]["message"], "updated")
    call("DELETE", path + "/life-one")
    gone(path + "/life-one")
    same(watch.until("DELETED")["metadata"]["name"], "life-one")
    watch.end()
    call("DELETE", f"{path}?{label}")
    until("none", lambda: not listed(f"{path}?{label}"))


FLOWS = "/apis/flowcontrol.apiserver.k8s.io/v1"


@called("API priority and fairness should support FlowSchema API operations")
def flow_schemas():
    subject = {"kind": "User", "user": {"name": "example-e2e-non-existent-user"}}
    rule = {"subjects": [subject], "nonResourceRules": [{"nonResourceURLs": ["*"], "verbs": ["*"]}]}
    spec = {"matchingPrecedence": 10000, "priorityLevelConfiguration": {"name": "global-default"},
            "distinguisherMethod": {"type": "ByUser"}, "rules": [rule]}
    lifecycle(FLOWS + "/flowschemas", lambda name: {"metadata": {"name": name, "labels": {"e2e": "life"}}, "spec": spec}, "Dangling")


@called("API priority and fairness should support PriorityLevelConfiguration API operations")
def priority_levels():
    limited = {"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}}
    make = lambda name: {"metadata": {"name": name, "labels": {"e2e": "life"}}, "spec": {"type": "Limited", "limited": limited}}
    lifecycle(FLOWS + "/prioritylevelconfigurations", make, "Own")


def main():
    failed = 0
    # One name wants a server that compacts soon, which would be in the others' way.
    soon = len(sys.argv) > 2
    for name, play in (each for each in TESTS if ("compacted" in each[0]) == soon):
        try:
            play()
            print("passed", name, flush=True)
        except Exception as error:  # Each is played, whatever the others do.
            failed += 1
            print("FAILED", name, repr(error), file=sys.stderr)
    sys.exit(1 if failed else 0)


main()
