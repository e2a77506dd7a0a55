"""What the suite asks of Jobs and CronJobs."""
import datetime
import time

from steps import condition, is_ready, played, pod_spec, refused

SUCCEED = {"naru.io/simulated-exit-code": "0"}
FAIL = {"naru.io/simulated-exit-code": "1"}


def job(name, annotations=None, restart="Never", labels=None, **spec):
    meta = {"labels": {"job": name}, "annotations": annotations or {}}
    spec.setdefault("parallelism", 2)
    spec.setdefault("completions", 4)
    spec["template"] = {"metadata": meta, "spec": pod_spec(restartPolicy=restart, container="c")}
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": spec}


def ended(space, name, how, reason=None):
    """Waits for a Job's last condition, after which nothing of it is ready or terminating."""
    found = space.until(f"{name} is {how}", lambda: condition(space.get("jobs", name), how, "True"))
    assert reason in (None, found["reason"]), found
    status = space.get("jobs", name)["status"]
    assert status.get("ready", 0) == 0 and status.get("terminating", 0) == 0 and status.get("active", 0) == 0, status
    return status


def complete(space, name, succeeded, reason="CompletionsReached"):
    status = ended(space, name, "Complete", reason)
    assert status.get("succeeded", 0) == succeeded, status
    return status


def active(space, name, count):
    def found():
        pods = [p for p in space.items("pods", f"job={name}") if is_ready(p)]
        return len(pods) == count and pods

    return space.until(f"{count} pods of {name} run", found)


@played("[sig-apps] Job should run a job to completion when tasks sometimes fail and are locally restarted [Conformance]")
def restarted(space):
    annotations = {"naru.io/simulated-exit-code": "1", "naru.io/simulated-exit-after": "1s"}
    space.create("jobs", job("fail-once-local", annotations, "OnFailure", backoffLimit=6))
    done = set()
    while len(done) < 4:
        for pod in space.items("pods", "job=fail-once-local"):
            name = pod["metadata"]["name"]
            failed = any(c["restartCount"] for c in pod["status"].get("containerStatuses", []))
            if failed and name not in done:
                space.patch("pods", name, {"metadata": {"annotations": SUCCEED}})
                done.add(name)
        time.sleep(0.1)
    complete(space, "fail-once-local", 4)


@played("[sig-apps] Job should create pods for an Indexed job with completion indexes and specified hostname [Conformance]")
def indexed(space):
    space.create("jobs", job("indexed-job", SUCCEED, completionMode="Indexed"))
    assert complete(space, "indexed-job", 4)["completedIndexes"] == "0-3"
    at = {int(p["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]): p for p in space.items("pods", "job=indexed-job")}
    assert sorted(at) == [0, 1, 2, 3]
    for index, pod in at.items():
        assert pod["spec"]["hostname"] == f"indexed-job-{index}"
        assert pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == str(index)


@played("[sig-apps] Job should delete a job [Conformance]")
def deleted(space):
    space.create("jobs", job("foo"))
    active(space, "foo", 2)
    space.delete("jobs", "foo", propagationPolicy="Foreground")
    space.until("it is gone", lambda: space.gone("jobs", "foo"))
    assert space.items("pods") == [], "in the foreground the pods go first"


@played("[sig-apps] Job should adopt matching orphans and release non-matching pods [Conformance]")
def adopts(space):
    made = space.create("jobs", job("adopt-release"))
    name = active(space, "adopt-release", 2)[0]["metadata"]["name"]
    owner = lambda: next((o for o in space.get("pods", name)["metadata"].get("ownerReferences", [])), None)
    space.update("pods", name, lambda found: found["metadata"].pop("ownerReferences"))
    space.until("it is adopted again", lambda: (owner() or {}).get("uid") == made["metadata"]["uid"])
    space.update("pods", name, lambda found: found["metadata"].pop("labels"))
    space.until("it is released", lambda: owner() is None)
    finalizers = lambda: space.get("pods", name)["metadata"].get("finalizers", [])
    space.until("it is not tracked any more", lambda: finalizers() == [])
    active(space, "adopt-release", 2)


@played("[sig-apps] Job should allow to use a pod failure policy to ignore failure matching on DisruptionTarget condition [Conformance]")
def ignores_disruptions(space):
    rules = [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
    body = job("pod-disruption-failure-ignore", backoffLimit=0, completions=1, parallelism=1, podFailurePolicy={"rules": rules})
    space.create("jobs", body)
    pod = active(space, "pod-disruption-failure-ignore", 1)[0]["metadata"]
    space.create("pods", {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod["name"]}}, "eviction")
    fresh = lambda: [p for p in space.items("pods", "job=pod-disruption-failure-ignore") if p["metadata"]["uid"] != pod["uid"]]
    name = space.until("another pod is there", fresh)[0]["metadata"]["name"]
    space.patch("pods", name, {"metadata": {"annotations": SUCCEED}})
    status = complete(space, "pod-disruption-failure-ignore", 1)
    assert status.get("failed", 0) == 0, "what was disrupted does not count"


@played("[sig-apps] Job should allow to use the pod failure policy on exit code to fail the job early [Conformance]")
def fails_early(space):
    rules = [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}]
    body = job("pod-failure-failjob", FAIL, backoffLimit=6, completions=1, parallelism=1, podFailurePolicy={"rules": rules})
    space.create("jobs", body)
    status = ended(space, "pod-failure-failjob", "Failed", "PodFailurePolicy")
    assert status["failed"] == 1
    assert "matching FailJob rule at index 0" in condition({"status": status}, "Failed")["message"]


@played("[sig-apps] Job should apply changes to a job status [Conformance]")
def status(space):
    start = space.list("jobs", everywhere=True)["metadata"]["resourceVersion"]
    space.create("jobs", job("suspend-false-to-true", suspend=False))
    active(space, "suspend-false-to-true", 2)
    path = "suspend-false-to-true/status"
    refused(422, lambda: space.patch("jobs", path, {"status": {"startTime": "2020-01-01T00:00:00Z"}}, "merge"))
    conditions = [{"type": "CustomConditionType", "status": "True"}]
    patch = {"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"conditions": conditions}}
    patched = space.patch("jobs", path, patch, "merge")
    assert patched["metadata"]["annotations"]["patchedstatus"] == "true"
    assert condition(patched, "CustomConditionType")

    def change(found):
        found["metadata"]["annotations"]["patchedstatus"] = "again"
        found["status"].setdefault("conditions", []).append({"type": "StatusUpdate", "status": "True", "reason": "E2E"})

    written = space.update("jobs", "suspend-false-to-true", change, "/status")
    assert condition(written, "StatusUpdate")["reason"] == "E2E"
    assert space.get("jobs", path)["metadata"]["uid"] == written["metadata"]["uid"]
    space.seen("the status", "jobs", start, lambda _, found: condition(found, "StatusUpdate"), name="suspend-false-to-true")


@played("[sig-apps] Job should manage the lifecycle of a job [Conformance]")
def lifecycle(space):
    labels = {"e2e-job": "life"}
    start = space.list("jobs", "e2e-job=life", everywhere=True)["metadata"]["resourceVersion"]
    space.create("jobs", job("life", SUCCEED, labels=labels, suspend=True, backoffLimit=6))
    space.until("it is suspended", lambda: condition(space.get("jobs", "life"), "Suspended", "True"))
    patched = space.patch("jobs", "life", {"metadata": {"labels": {"life": "patched"}}})
    assert patched["metadata"]["labels"]["life"] == "patched"

    def change(found):
        found["spec"]["suspend"] = False
        found["metadata"].setdefault("annotations", {})["updated"] = "true"

    space.update("jobs", "life", change)
    complete(space, "life", 4)
    resumed = condition(space.get("jobs", "life"), "Suspended")
    assert (resumed["status"], resumed["reason"]) == ("False", "JobResumed"), resumed
    assert len(space.items("jobs", "e2e-job=life", everywhere=True)) == 1
    space.delete_all("jobs", "e2e-job=life", propagationPolicy="Background")
    space.seen("its end", "jobs", start, lambda kind, _: kind == "DELETED", labels="e2e-job=life")
    space.no_pods()


@played("[sig-apps] Job should execute all indexes despite some failing when using backoffLimitPerIndex [Conformance]")
def per_index(space):
    odd = {**SUCCEED, "naru.io/simulated-fails-at": "1,3"}
    space.create("jobs", job("with-backofflimitperindex", odd, completionMode="Indexed", backoffLimitPerIndex=1))
    status = ended(space, "with-backofflimitperindex", "Failed", "FailedIndexes")
    assert (status["failed"], status["succeeded"]) == (4, 2), status
    assert (status["failedIndexes"], status["completedIndexes"]) == ("1,3", "0,2"), status


@played("[sig-apps] Job should mark indexes as failed when the FailIndex action is matched in podFailurePolicy [Conformance]")
def fails_indexes(space):
    rules = [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [1]}}]
    odd = {**SUCCEED, "naru.io/simulated-fails-at": "1,3"}
    body = job("failindex", odd, completionMode="Indexed", backoffLimitPerIndex=1, podFailurePolicy={"rules": rules})
    space.create("jobs", body)
    status = ended(space, "failindex", "Failed", "FailedIndexes")
    assert (status["failed"], status["succeeded"]) == (2, 2), status
    assert (status["failedIndexes"], status["completedIndexes"]) == ("1,3", "0,2"), status


@played("[sig-apps] Job should terminate job execution when the number of failed indexes exceeds maxFailedIndexes [Conformance]")
def too_many_failed(space):
    body = job("with-max-failed-indexes", FAIL, completionMode="Indexed", parallelism=1, backoffLimitPerIndex=0, maxFailedIndexes=0)
    space.create("jobs", body)
    status = ended(space, "with-max-failed-indexes", "Failed", "MaxFailedIndexesExceeded")
    assert (status["failed"], status.get("succeeded", 0)) == (1, 0), status
    assert (status["failedIndexes"], status.get("completedIndexes", "")) == ("0", ""), status


def succeeds_by(space, name, rules, completed, pods=1):
    """Index 0 succeeds, the others run on until the policy ends them."""
    body = job(name, completionMode="Indexed", parallelism=pods, completions=5, successPolicy={"rules": rules})
    space.create("jobs", body)
    pods = active(space, name, pods)
    at = lambda pod: pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]
    for pod in pods:
        if at(pod) == "0":
            space.patch("pods", pod["metadata"]["name"], {"metadata": {"annotations": SUCCEED}})
    status = complete(space, name, 1, "SuccessPolicy")
    assert status["completedIndexes"] == completed, status
    met = condition({"status": status}, "SuccessCriteriaMet", "True")
    assert met and met["reason"] == "SuccessPolicy" and met["message"] == "Matched rules at index 0", status


@played("[sig-apps] Job with successPolicy should succeeded when all indexes succeeded [Conformance]")
def all_succeed(space):
    body = job("with-success-policy", SUCCEED, completionMode="Indexed", completions=5, successPolicy={"rules": [{"succeededCount": 5}]})
    space.create("jobs", body)
    status = ended(space, "with-success-policy", "Complete")
    assert status["completedIndexes"] == "0-4" and condition({"status": status}, "SuccessCriteriaMet", "True"), status


@played("[sig-apps] Job with successPolicy succeededCount rule should succeeded even when some indexes remain pending [Conformance]")
def count_succeeds(space):
    succeeds_by(space, "with-success-count", [{"succeededCount": 1}], "0", 2)


@played("[sig-apps] Job with successPolicy succeededIndexes rule should succeeded even when some indexes remain pending [Conformance]")
def indexes_succeed(space):
    succeeds_by(space, "with-success-indexes", [{"succeededIndexes": "0"}], "0", 2)


def cron(name, policy, schedule="@every 1s", annotations=None, **spec):
    inner = job(name, annotations, completions=1, parallelism=1)["spec"]
    body = {"schedule": schedule, "concurrencyPolicy": policy, "jobTemplate": {"spec": inner}, **spec}
    return {"metadata": {"name": name}, "spec": body}


def started(space, name, count):
    return space.until(f"{count} are active", lambda: len(space.get("cronjobs", name)["status"].get("active", [])) >= count)


def running_jobs(space):
    return [j for j in space.items("jobs") if not j["status"].get("completionTime") and not j["metadata"].get("deletionTimestamp")]


@played("[sig-apps] CronJob should schedule multiple jobs concurrently [Conformance]")
def concurrent(space):
    space.create("cronjobs", cron("concurrent", "Allow"))
    started(space, "concurrent", 2)
    assert len(running_jobs(space)) >= 2
    space.delete("cronjobs", "concurrent")


@played("[sig-apps] CronJob should not schedule jobs when suspended [Slow] [Conformance]")
def suspended(space):
    space.create("cronjobs", cron("suspended", "Allow", suspend=True))
    time.sleep(4)
    assert space.get("cronjobs", "suspended")["status"].get("active", []) == []
    assert space.items("jobs") == []
    space.delete("cronjobs", "suspended")


@played("[sig-apps] CronJob should not schedule new jobs when ForbidConcurrent [Slow] [Conformance]")
def forbidden(space):
    space.create("cronjobs", cron("forbid", "Forbid"))
    started(space, "forbid", 1)
    time.sleep(3)
    assert len(space.get("cronjobs", "forbid")["status"]["active"]) == 1
    assert len(running_jobs(space)) == 1
    space.delete("cronjobs", "forbid")


@played("[sig-apps] CronJob should replace jobs when ReplaceConcurrent [Conformance]")
def replaced(space):
    space.create("cronjobs", cron("replace", "Replace"))
    started(space, "replace", 1)
    first = space.get("cronjobs", "replace")["status"]["active"][0]["name"]
    space.until("it is replaced", lambda: space.gone("jobs", first))
    space.until("another one runs", lambda: [j for j in running_jobs(space) if j["metadata"]["name"] != first])
    space.delete("cronjobs", "replace")


@played("[sig-apps] CronJob should support CronJob API operations [Conformance]")
def operations(space):
    body = cron("test-api", "Allow", "0 0 1 1 *")
    body["metadata"]["labels"] = {"special-label": space.name}
    flat = f"special-label={space.name}"
    made = space.create("cronjobs", body)
    assert space.get("cronjobs", "test-api")["metadata"]["uid"] == made["metadata"]["uid"]
    found = space.list("cronjobs", flat)
    start = found["metadata"]["resourceVersion"]
    assert len(found["items"]) == 1 == len(space.list("cronjobs", flat, everywhere=True)["items"])
    patched = space.patch("cronjobs", "test-api", {"metadata": {"annotations": {"patched": "true"}}}, "merge")
    assert patched["metadata"]["annotations"]["patched"] == "true"

    def change(found):
        found["metadata"]["annotations"]["updated"] = "true"

    assert space.update("cronjobs", "test-api", change)["metadata"]["annotations"]["updated"] == "true"
    for everywhere in (False, True):
        seen = lambda kind, found: kind == "MODIFIED" and found["metadata"]["annotations"].get("updated")
        space.seen("the update", "cronjobs", start, seen, labels=flat, everywhere=everywhere)
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    patch = {"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"lastScheduleTime": now}}
    patched = space.patch("cronjobs", "test-api/status", patch, "merge")
    assert patched["status"]["lastScheduleTime"] == now
    assert patched["metadata"]["annotations"]["patchedstatus"] == "true"
    later = "2030-01-01T00:00:00Z"
    written = space.update("cronjobs", "test-api", lambda found: found["status"].update(lastScheduleTime=later), "/status")
    assert written["status"]["lastScheduleTime"] == later
    assert space.get("cronjobs", "test-api/status")["metadata"]["uid"] == made["metadata"]["uid"]
    space.delete("cronjobs", "test-api")
    refused(404, lambda: space.get("cronjobs", "test-api"))
    space.create("cronjobs", body)
    space.delete_all("cronjobs", flat)
    assert space.items("cronjobs", flat) == []
