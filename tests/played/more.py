"""What workloads promise beyond what the suite asks."""
import time

from deployments import complete, sets_of
from jobs import SUCCEED, active, ended, job
from jobs import complete as completed
from sets import images, settled, stateful, to_image
from steps import condition, is_ready, played, pod_spec, refused, workload


def of_index(space, name):
    """The live pods of an Indexed Job by their indexes."""
    index = "batch.kubernetes.io/job-completion-index"
    pods = [p for p in space.items("pods", f"job={name}") if not p["metadata"].get("deletionTimestamp")]
    return {int(p["metadata"]["labels"][index]): p for p in pods if is_ready(p)}


@played("elastic indexed Jobs grow and shrink")
def elastic(space):
    space.create("jobs", job("elastic", completionMode="Indexed", completions=3, parallelism=3))
    for count in (5, 2):
        space.until("its indexes run", lambda: len(of_index(space, "elastic")) in (3, 5))
        both = {"spec": {"completions": count, "parallelism": count}}
        space.patch("jobs", "elastic", both, "merge")
        space.until(f"{count} indexes run", lambda: sorted(of_index(space, "elastic")) == list(range(count)))
    refused(422, lambda: space.patch("jobs", "elastic", {"spec": {"completions": 4}}, "merge"))
    for pod in of_index(space, "elastic").values():
        space.patch("pods", pod["metadata"]["name"], {"metadata": {"annotations": SUCCEED}})
    assert completed(space, "elastic", 2)["completedIndexes"] == "0,1"


@played("a Job that somebody else manages is left alone")
def managed_elsewhere(space):
    space.create("jobs", job("external", managedBy="example.com/other"))
    space.create("jobs", job("own", SUCCEED, managedBy="kubernetes.io/job-controller"))
    completed(space, "own", 4)
    assert space.items("pods", "job=external") == []
    assert space.get("jobs", "external").get("status", {}) == {}
    refused(422, lambda: space.patch("jobs", "external", {"spec": {"managedBy": "example.com/third"}}, "merge"))


@played("pods of Jobs are replaced when they go, or when they have failed, as the policy says")
def replacement(space):
    for policy, stop in (("TerminatingOrFailed", "500s"), ("Failed", "2s")):
        name = f"policy-{policy.lower()}"
        slow = {"naru.io/simulated-stop-after": stop}
        body = job(name, slow, completions=1, parallelism=1, backoffLimit=9, podReplacementPolicy=policy)
        body["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 600
        space.create("jobs", body)
        pod = active(space, name, 1)[0]["metadata"]["name"]
        start = space.list("jobs")["metadata"]["resourceVersion"]
        space.delete("pods", pod)
        counts = lambda found: (found["status"].get("terminating", 0), found["status"].get("active", 0))
        if policy != "Failed":
            space.seen("both at once", "jobs", start, lambda _, found: counts(found) == (1, 1), name=name)
        else:
            for _, found in space.watch("jobs", start, name=name):
                assert sum(counts(found)) <= 1, f"one beside the other: {found['status']}"
                if found["status"].get("failed") == 1 and counts(found) == (0, 1):
                    break


@played("Jobs end by their deadline or their back-off and go when their time is over")
def limits(space):
    space.create("jobs", job("late", activeDeadlineSeconds=1))
    status = ended(space, "late", "Failed", "DeadlineExceeded")
    assert condition({"status": status}, "FailureTarget", "True")["reason"] == "DeadlineExceeded"
    fail = {"naru.io/simulated-exit-code": "1"}
    space.create("jobs", job("sick", fail, completions=1, parallelism=1, backoffLimit=0))
    ended(space, "sick", "Failed", "BackoffLimitExceeded")
    space.create("jobs", job("short", SUCCEED, ttlSecondsAfterFinished=1))
    space.until("it is gone", lambda: space.gone("jobs", "short"))
    space.no_pods("job=short")


@played("CronJobs keep so many of their Jobs and know time zones")
def cron(space):
    inner = job("tick", SUCCEED, completions=1, parallelism=1)["spec"]
    # A Job's name is that of its minute: the next one of the minute can be made once the last one is not kept.
    spec = {"schedule": "@every 1s", "jobTemplate": {"spec": inner}, "successfulJobsHistoryLimit": 0}
    space.create("cronjobs", {"metadata": {"name": "tick"}, "spec": spec})
    of_cron = lambda event: event["involvedObject"]["kind"] == "CronJob"

    def times(reason):
        told = [e for e in space.items("events") if e["reason"] == reason and of_cron(e)]
        return sum(event.get("count", 1) for event in told)

    space.until("two were deleted", lambda: times("SuccessfulDelete") >= 2 and times("SuccessfulCreate") >= 2)
    space.patch("cronjobs", "tick", {"spec": {"suspend": True}})
    space.until("none is kept", lambda: not space.items("jobs"))
    space.until("a success is noted", lambda: space.get("cronjobs", "tick")["status"].get("lastSuccessfulTime"))
    zone = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": inner}, "timeZone": "Europe/Nowhere"}
    message = refused(422, lambda: space.create("cronjobs", {"metadata": {"name": "zone"}, "spec": zone}))
    assert "unknown time zone Europe/Nowhere" in message, message
    zone["timeZone"] = "Asia/Kathmandu"
    space.create("cronjobs", {"metadata": {"name": "zone"}, "spec": zone})


@played("a Deployment whose set's name is taken finds another")
def collision(space):
    body = workload("test", {"app": "collision"})
    space.create("deployments", body)
    complete(space, "test")
    name = sets_of(space, "test")[0]["metadata"]["name"]
    space.delete("deployments", "test")
    space.until("its set is gone", lambda: space.gone("replicasets", name))
    space.no_pods()
    space.create("replicasets", workload(name, {"other": "one"}, 0))
    space.create("deployments", body)
    found = complete(space, "test")
    assert found["status"]["collisionCount"] == 1
    assert sets_of(space, "test")[0]["metadata"]["name"] != name


@played("a Deployment tells of its pods that are on their way out")
def terminating(space):
    body = workload("test", {"app": "slow"}, 3, annotations={"naru.io/simulated-stop-after": "3s"})
    body["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 30
    space.create("deployments", body)
    complete(space, "test")
    start = space.list("deployments")["metadata"]["resourceVersion"]
    space.patch("deployments", "test", {"spec": {"replicas": 1}})
    count = lambda wanted: lambda _, found: found["status"].get("terminatingReplicas") == wanted
    space.seen("two that go", "deployments", start, count(2))
    space.seen("none", "deployments", start, count(0))


@played("what is cheap to lose goes first")
def cheap(space):
    space.create("replicasets", workload("test", {"app": "cheap"}, 3))
    pods = space.running("app=cheap", 3)
    cheapest = pods[1]["metadata"]["name"]
    cost = {"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}}}
    space.patch("pods", cheapest, cost)
    space.patch("replicasets", "test", {"spec": {"replicas": 2}})
    space.until("it is gone", lambda: space.gone("pods", cheapest))
    assert len(space.running("app=cheap", 2)) == 2


@played("StatefulSets count from where they are told and renew several pods at once")
def stateful_more(space):
    policy = {"podManagementPolicy": "Parallel", "ordinals": {"start": 5}}
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}
    stateful(space, "ss", 4, {**policy, "updateStrategy": rolling, "minReadySeconds": 1})
    settled(space, "ss", readyReplicas=4, availableReplicas=4)
    names = sorted(pod["metadata"]["name"] for pod in space.items("pods"))
    assert names == ["ss-5", "ss-6", "ss-7", "ss-8"], names
    start = space.list("pods")["metadata"]["resourceVersion"]
    space.update("statefulsets", "ss", to_image(2))
    settled(space, "ss", updatedReplicas=4, availableReplicas=4, currentReplicas=4)
    assert images(space, "ss") == ["2"] * 4
    # The first two go before any new one has come.
    kinds = []
    for kind, pod in space.watch("pods", start):
        if kind in ("ADDED", "DELETED"):
            kinds.append((kind, pod["metadata"]["name"]))
        if len([kind for kind, _ in kinds if kind == "DELETED"]) == 4:
            break
    assert [kind for kind, _ in kinds[:2]] == ["DELETED", "DELETED"], kinds
    assert {name for kind, name in kinds if kind == "DELETED"} == set(names), kinds


@played("DaemonSets bear the troubles of nodes and wait for deletions when told")
def daemons(space):
    body = workload("ds", {"app": "ds"}, None, {"updateStrategy": {"type": "OnDelete"}})
    space.create("daemonsets", body)
    nodes = len(space.items("nodes"))
    pods = space.running("app=ds", nodes)
    borne = {(t["key"], t["effect"]) for t in pods[0]["spec"]["tolerations"]}
    troubles = {
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    }
    assert borne == troubles, borne
    space.update("daemonsets", "ds", to_image(2))
    seen = lambda: space.get("daemonsets", "ds")
    space.until("it is noticed", lambda: seen()["status"].get("observedGeneration") == seen()["metadata"]["generation"])
    time.sleep(1)
    assert {p["spec"]["containers"][0]["image"] for p in space.items("pods")} == {"example.com/web:1"}
    space.delete("pods", pods[0]["metadata"]["name"])
    renewed = lambda: [p for p in space.items("pods") if p["spec"]["containers"][0]["image"] == "example.com/web:2"]
    space.until("one is renewed", renewed)
    assert seen()["status"]["desiredNumberScheduled"] == nodes


@played("budgets let sick pods go as their policy says")
def sick_pods(space):
    never = {"naru.io/simulated-ready-after": "never"}
    for name, policy in (("guarded", "IfHealthyBudget"), ("open", "AlwaysAllow")):
        labels = {"app": name}
        meta = {"name": name, "labels": labels, "annotations": never}
        space.create("pods", {"metadata": meta, "spec": pod_spec()})
        spec = {"minAvailable": 1, "selector": {"matchLabels": labels}, "unhealthyPodEvictionPolicy": policy}
        space.create("poddisruptionbudgets", {"metadata": {"name": name}, "spec": spec})
        space.until("it runs", lambda: space.get("pods", name)["status"].get("phase") == "Running")
        seen = lambda: space.get("poddisruptionbudgets", name)["status"].get("observedGeneration")
        space.until("it is counted", seen)
    evict = lambda name: space.create("pods", {"metadata": {"name": name}}, "eviction")
    refused(429, lambda: evict("guarded"))
    evict("open")
    space.until("it goes", lambda: space.gone("pods", "open"))
