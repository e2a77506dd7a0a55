"""What the scripts here share: a client without types, waits, objects that they all make, and the list of what is played."""
import http.client
import json
import ssl
import threading
import time
import urllib.parse

from kubernetes import client, config

PATIENCE = 120
PLAYED = []
TYPES = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}
GROUPS = {
    "deployments": "apis/apps/v1",
    "replicasets": "apis/apps/v1",
    "statefulsets": "apis/apps/v1",
    "daemonsets": "apis/apps/v1",
    "controllerrevisions": "apis/apps/v1",
    "jobs": "apis/batch/v1",
    "cronjobs": "apis/batch/v1",
    "poddisruptionbudgets": "apis/policy/v1",
    "priorityclasses": "apis/scheduling.k8s.io/v1",
}
CLUSTER = {"nodes", "namespaces", "priorityclasses"}


def played(name, alone=False):
    """Marks a function as one that plays what the conformance suite does under this name."""

    def mark(function):
        PLAYED.append((name, function, alone))
        return function

    return mark


class Refused(Exception):
    """An answer that is none of success."""

    def __init__(self, code, status):
        super().__init__(f"{code} {status}")
        self.code, self.status = code, status


class Server:
    """Requests to the server, as what a kubeconfig says."""

    def __init__(self, kubeconfig):
        settings = client.Configuration()
        config.load_kube_config(kubeconfig, client_configuration=settings)
        url = urllib.parse.urlsplit(settings.host)
        self.host, self.port = url.hostname, url.port
        self.tls = ssl.create_default_context(cafile=settings.ssl_ca_cert)
        self.tls.load_cert_chain(settings.cert_file, settings.key_file)
        self.local = threading.local()

    def connection(self, timeout=PATIENCE):
        return http.client.HTTPSConnection(self.host, self.port, context=self.tls, timeout=timeout)

    def ask(self, method, path, text, headers):
        if getattr(self.local, "connection", None) is None:
            self.local.connection = self.connection()
        self.local.connection.request(method, path, text, headers)
        answer = self.local.connection.getresponse()
        return answer, json.loads(answer.read() or b"{}")

    def call(self, method, path, body=None, kind="application/json", query=None):
        if query:
            path += "?" + urllib.parse.urlencode(query)
        text = None if body is None else json.dumps(body)
        headers = {"Content-Type": kind, "Accept": "application/json"}
        try:
            answer, read = self.ask(method, path, text, headers)
        except (http.client.RemoteDisconnected, ConnectionError, ssl.SSLEOFError):
            # The server has closed a connection that was not used for a while.
            self.local.connection = None
            answer, read = self.ask(method, path, text, headers)
        if answer.status >= 300:
            raise Refused(answer.status, read)
        return read


class Space:
    """One namespace, and what is done in it."""

    def __init__(self, server, name, labels=None):
        self.server, self.name = server, name
        meta = {"name": name, "labels": labels or {}}
        server.call("POST", "/api/v1/namespaces", {"metadata": meta})
        self.until("its account", lambda: self.get("serviceaccounts", "default"), missing=True)

    def path(self, resource, name=None, everywhere=False):
        root = GROUPS.get(resource, "api/v1")
        scope = "" if everywhere or resource in CLUSTER else f"/namespaces/{self.name}"
        return f"/{root}{scope}/{resource}" + (f"/{name}" if name else "")

    def create(self, resource, body, part=None):
        name = f"{body['metadata']['name']}/{part}" if part else None
        return self.server.call("POST", self.path(resource, name), body)

    def get(self, resource, name):
        return self.server.call("GET", self.path(resource, name))

    def list(self, resource, labels="", everywhere=False, **query):
        if labels:
            query["labelSelector"] = labels
        return self.server.call("GET", self.path(resource, everywhere=everywhere), query=query)

    def items(self, resource, labels="", **query):
        return self.list(resource, labels, **query)["items"]

    def patch(self, resource, name, body, kind="strategic", **query):
        return self.server.call("PATCH", self.path(resource, name), body, TYPES[kind], query)

    def put(self, resource, name, body, **query):
        return self.server.call("PUT", self.path(resource, name), body, query=query)

    def update(self, resource, name, change, part=""):
        """Reads, changes and writes, again when somebody else was faster."""
        while True:
            found = self.get(resource, name)
            change(found)
            try:
                return self.put(resource, name + part, found)
            except Refused as error:
                if error.code != 409:
                    raise

    def delete(self, resource, name, **options):
        return self.server.call("DELETE", self.path(resource, name), options or None)

    def delete_all(self, resource, labels, **options):
        return self.server.call("DELETE", self.path(resource), options or None, query={"labelSelector": labels})

    def gone(self, resource, name):
        try:
            self.get(resource, name)
        except Refused as error:
            return error.code == 404
        return False

    def until(self, what, holds, missing=False):
        """Waits until something holds and returns it; `missing`: what is not there yet may come."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                found = holds()
            except Refused as error:
                if not (missing and error.code == 404):
                    raise
                found = None
            if found:
                return found
            if time.monotonic() > end:
                raise AssertionError(f"waited in vain until {what}: {self.state()}")
            time.sleep(0.1)

    def state(self):
        """What to show when nothing comes of a wait."""
        shown = [
            {"kind": kind, "name": item["metadata"]["name"], "spec": item.get("spec"), "status": item.get("status")}
            for kind in ("pods", "jobs", "deployments", "replicasets", "statefulsets", "daemonsets")
            for item in self.items(kind)
        ]
        told = [f"{e.get('reason')}: {e.get('message')}" for e in self.items("events")]
        return json.dumps(shown)[:6000] + json.dumps(told)[:3000]

    def watch(self, resource, version, labels="", name="", everywhere=False):
        """Changes since a version, as pairs of type and object."""
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": PATIENCE}
        if labels:
            query["labelSelector"] = labels
        if name:
            query["fieldSelector"] = f"metadata.name={name}"
        connection = self.server.connection()
        path = self.path(resource, everywhere=everywhere) + "?" + urllib.parse.urlencode(query)
        connection.request("GET", path, headers={"Accept": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        try:
            for line in answer:
                event = json.loads(line)
                yield event["type"], event["object"]
        finally:
            connection.close()

    def seen(self, what, resource, version, wish, **query):
        """Waits for a change that is as wished."""
        for kind, found in self.watch(resource, version, **query):
            assert kind != "ERROR", found
            if wish(kind, found):
                return found
        raise AssertionError(f"{what} was not seen: {self.state()}")

    def running(self, labels, count):
        """Waits until so many pods run, and returns them."""

        def found():
            pods = [p for p in self.items("pods", labels) if not p["metadata"].get("deletionTimestamp")]
            return len(pods) == count and all(is_ready(pod) for pod in pods) and pods

        return self.until(f"{count} pods {labels} run", found)

    def no_pods(self, labels=""):
        self.until(f"no pods {labels} are left", lambda: not self.items("pods", labels))


def is_ready(pod):
    return pod["status"].get("phase") == "Running" and condition(pod, "Ready", "True") is not None


def condition(found, kind, status=None):
    """The condition of a type, if it is there and has that status."""
    for one in found.get("status", {}).get("conditions", []):
        if one["type"] == kind and status in (None, one["status"]):
            return one
    return None


def refused(code, work):
    """What the refusal of a request says."""
    try:
        work()
    except Refused as error:
        assert error.code == code, error
        return error.status["message"]
    raise AssertionError(f"it should have been refused with {code}")


def pod_spec(image="example.com/web:1", container="web", **more):
    return {"terminationGracePeriodSeconds": 0, "containers": [{"name": container, "image": image}], **more}


def template(labels, annotations=None, **more):
    meta = {"labels": labels}
    if annotations:
        meta["annotations"] = annotations
    return {"metadata": meta, "spec": pod_spec(**more)}


def workload(name, labels, replicas=1, more=None, annotations=None, **pod):
    """A Deployment, ReplicaSet or StatefulSet; a DaemonSet with `replicas=None`."""
    spec = {"selector": {"matchLabels": labels}, "template": template(labels, annotations, **pod)}
    if replicas is not None:
        spec["replicas"] = replicas
    spec.update(more or {})
    return {"metadata": {"name": name, "labels": labels}, "spec": spec}


def status_endpoints(space, resource, name, labels):
    """What every kind of the suite goes through: the status is read, replaced and patched, and each change is seen."""
    version = space.list(resource, everywhere=True)["metadata"]["resourceVersion"]
    found = space.get(resource, f"{name}/status")
    assert found["metadata"]["name"] == name and "status" in found

    def add(read):
        new = {"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from e2e test"}
        read["status"].setdefault("conditions", []).append(new)

    written = space.update(resource, name, add, "/status")
    assert condition(written, "StatusUpdate")["message"] == "Set from e2e test"
    told = lambda kind: lambda _, found: condition(found, kind) is not None
    space.seen("the updated status", resource, version, told("StatusUpdate"), labels=labels, name=name)
    patch = {"status": {"conditions": [{"type": "StatusPatched", "status": "True"}]}}
    written = space.patch(resource, f"{name}/status", patch, "merge")
    assert condition(written, "StatusPatched")
    space.seen("the patched status", resource, version, told("StatusPatched"), labels=labels, name=name)


def scale_subresource(space, resource, name):
    """The scale is read, replaced without a version, and patched."""
    scale = space.get(resource, f"{name}/scale")
    assert scale["kind"] == "Scale" and scale["spec"]["replicas"] == 1, scale
    space.until("the scale tells the pod", lambda: space.get(resource, f"{name}/scale")["status"]["replicas"] == 1)
    scale["metadata"].pop("resourceVersion")
    scale["spec"]["replicas"] = 2
    assert space.put(resource, f"{name}/scale", scale)["spec"]["replicas"] == 2
    assert space.get(resource, name)["spec"]["replicas"] == 2
    assert space.patch(resource, f"{name}/scale", {"spec": {"replicas": 4}})["spec"]["replicas"] == 4
    assert space.get(resource, name)["spec"]["replicas"] == 4
