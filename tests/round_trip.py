"""Creates, watches, changes and deletes a ConfigMap with the Python client; prints what the watch saw."""
import sys

from kubernetes import client, config, watch

config.load_kube_config(sys.argv[1])
api = client.CoreV1Api()
start = api.list_namespaced_config_map("default").metadata.resource_version
body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="round-trip"), data={"a": "1"})
api.create_namespaced_config_map("default", body)
api.patch_namespaced_config_map("round-trip", "default", {"data": {"a": "2"}})
api.delete_namespaced_config_map("round-trip", "default")
watcher = watch.Watch()
for event in watcher.stream(
    api.list_namespaced_config_map,
    "default",
    resource_version=start,
    field_selector="metadata.name=round-trip",
    timeout_seconds=60,
):
    print(event["type"], event["object"].data["a"])
    if event["type"] == "DELETED":
        watcher.stop()
