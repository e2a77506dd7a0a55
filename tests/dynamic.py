"""The Python client's dynamic half: discovery, server-side apply, patches, a watch; prints what came of it."""
import sys

from kubernetes import config, dynamic
from kubernetes.dynamic.exceptions import ConflictError

client = dynamic.DynamicClient(config.new_client_from_config(sys.argv[1]))
maps = client.resources.get(api_version="v1", kind="ConfigMap")
start = maps.get(namespace="default").metadata.resourceVersion


def settings(colour):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dynamic"}, "data": {"colour": colour}}


def apply(manager, colour, **more):
    return maps.server_side_apply(body=settings(colour), namespace="default", field_manager=manager, **more)


apply("one", "blue")
try:
    apply("two", "red")
except ConflictError as error:
    print("conflict", error.status)
apply("two", "red", force_conflicts=True)
patch = [{"op": "replace", "path": "/data/colour", "value": "green"}]
maps.patch(name="dynamic", namespace="default", body=patch, content_type="application/json-patch+json")
maps.delete(name="dynamic", namespace="default")
for event in maps.watch(namespace="default", resource_version=start, field_selector="metadata.name=dynamic", timeout=60):
    print(event["type"], event["object"].data.colour)
    if event["type"] == "DELETED":
        break
scale = client.resources.get(api_version="apps/v1", kind="Deployment").subresources["scale"]
print("scale", scale.kind, sorted(scale.verbs))
