"""What the conformance suite's [sig-auth] tests ask of a cluster, as far as no pod has to run."""

import base64
import sys
import time

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException

NS = "identity"
# A request for CN=e2e-example, as it stands in an object.
REQUEST = (
    "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIUk1IZ0NBUUF3RmpFVU1CSUdBMVVFQXd3TFpUSmxMV1Y0WVcx"
    "d2JHVXdXVEFUQmdjcWhrak9QUUlCQmdncQpoa2pPUFFNQkJ3TkNBQVIrdWJCanZYekZTVjVBTlJHc1JnNkN3Q1lsUDNlM2twajFi"
    "elVycjhnM2VBaUpaNnBPCnZNRDIxanFwdjBtNnE0K1ZaMFVmRWpYK0JzM1FPd3QvUzViL29BQXdDZ1lJS29aSXpqMEVBd0lEU1FB"
    "d1JnSWgKQU1MMzM0cFE0Y1ZQNmJxNXN1ODdGUGtVcUdlTXVZcXZHenN2VmZvWkVEOVdBaUVBc1pNU3hLTXB6UHQySThrdwpMSXFM"
    "b2htZmtiUnFVZVprcWhIdVNOMG5paDA9Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo="
)


def eventually(what, holds):
    """Waits for what controllers do."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = holds()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(what)


def refused(code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ApiException as error:
        assert error.status == code, error
        return
    raise AssertionError(f"not refused with {code}")


def requests_for_certificates(api):
    """Certificates API: every operation on requests, their approval and status."""
    groups = client.ApisApi(api).get_api_versions().groups
    assert any(v.group_version == "certificates.k8s.io/v1" for g in groups for v in g.versions)
    kinds = client.CertificatesV1Api(api).get_api_resources().resources
    names = {kind.name for kind in kinds}
    assert names >= {"certificatesigningrequests", "certificatesigningrequests/approval", "certificatesigningrequests/status"}, names
    v1 = client.CertificatesV1Api(api)
    body = {
        "metadata": {"generateName": "e2e-example-csr-", "labels": {"special": "csr"}},
        "spec": {"request": REQUEST, "signerName": "example.com/e2e", "expirationSeconds": 3600,
                 "usages": ["digital signature", "key encipherment", "server auth"]},
    }
    made = [v1.create_certificate_signing_request(body) for _ in range(3)]
    assert v1.read_certificate_signing_request(made[0].metadata.name).metadata.uid == made[0].metadata.uid
    assert made[0].spec.username == "system:admin" and "system:masters" in made[0].spec.groups
    assert len(v1.list_certificate_signing_request(label_selector="special=csr").items) == 3
    name = made[0].metadata.name
    stream = watch.Watch().stream(v1.list_certificate_signing_request, label_selector="special=csr",
                                  resource_version=made[2].metadata.resource_version, timeout_seconds=60)
    v1.patch_certificate_signing_request(name, {"metadata": {"annotations": {"patched": "true"}}})
    got = next(e for e in stream if e["type"] == "MODIFIED")
    assert got["object"].metadata.annotations == {"patched": "true"}
    csr = v1.read_certificate_signing_request(name)
    csr.metadata.annotations["updated"] = "true"
    assert v1.replace_certificate_signing_request(name, csr).metadata.annotations["updated"] == "true"
    approved = {"type": "ApprovalPatch", "status": "True", "reason": "e2e", "message": "patched"}
    condition = v1.patch_certificate_signing_request_approval(name, {
        "metadata": {"annotations": {"patchedapproval": "true"}}, "status": {"conditions": [approved]}})
    assert condition.status.conditions[0].type == "ApprovalPatch"
    assert condition.metadata.annotations["patchedapproval"] == "true"
    csr = v1.read_certificate_signing_request_approval(name)
    csr.status.conditions.append(client.V1CertificateSigningRequestCondition(
        type="Approved", status="True", reason="E2E", message="Set from an e2e test"))
    csr = v1.replace_certificate_signing_request_approval(name, csr)
    assert [c.type for c in csr.status.conditions] == ["ApprovalPatch", "Approved"]
    wrong = base64.b64encode(b"-----BEGIN CERTIFICATE-----\n").decode()
    refused(422, v1.patch_certificate_signing_request_status, name, {"status": {"certificate": wrong}})
    with open(api.configuration.ssl_ca_cert, "rb") as file:
        certificate = base64.b64encode(file.read()).decode()
    csr = v1.patch_certificate_signing_request_status(name, {
        "metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"certificate": certificate}})
    assert csr.status.certificate == certificate and csr.metadata.annotations["patchedstatus"] == "true"
    csr = v1.read_certificate_signing_request_status(name)
    csr.status.conditions.append(client.V1CertificateSigningRequestCondition(
        type="StatusUpdate", status="True", reason="E2E", message="Set from an e2e test"))
    csr = v1.replace_certificate_signing_request_status(name, csr)
    assert csr.status.conditions[-1].type == "StatusUpdate"
    v1.delete_certificate_signing_request(name)
    refused(404, v1.read_certificate_signing_request, name)
    assert len(v1.list_certificate_signing_request(label_selector="special=csr").items) == 2
    v1.delete_collection_certificate_signing_request(label_selector="special=csr")
    assert not v1.list_certificate_signing_request(label_selector="special=csr").items


def service_accounts(core):
    """ServiceAccounts: created, watched, patched, replaced and deleted; each namespace has the default one."""
    account = core.create_namespaced_service_account(NS, {"metadata": {"name": "sa", "labels": {"static": "true"}}})
    stream = watch.Watch().stream(core.list_namespaced_service_account, NS, label_selector="static=true",
                                  resource_version=account.metadata.resource_version, timeout_seconds=60)
    core.patch_namespaced_service_account("sa", NS, {"automountServiceAccountToken": False})
    assert next(stream)["object"].automount_service_account_token is False
    found = core.list_service_account_for_all_namespaces(label_selector="static=true").items
    assert [a.metadata.name for a in found] == ["sa"]
    account = core.read_namespaced_service_account("sa", NS)
    account.automount_service_account_token = True
    assert core.replace_namespaced_service_account("sa", NS, account).automount_service_account_token is True
    core.delete_collection_namespaced_service_account(NS, label_selector="static=true")
    refused(404, core.read_namespaced_service_account, "sa", NS)
    eventually("the default account", lambda: [
        a for a in core.list_namespaced_service_account(NS).items if a.metadata.name == "default"])


def root_certificates(core):
    """kube-root-ca.crt is there, comes back and is put right."""
    def now():
        found = [c for c in core.list_namespaced_config_map(NS).items if c.metadata.name == "kube-root-ca.crt"]
        return found[0] if found else None

    first = eventually("kube-root-ca.crt", now)
    assert "BEGIN CERTIFICATE" in first.data["ca.crt"]
    core.delete_namespaced_config_map("kube-root-ca.crt", NS)
    eventually("a new one", lambda: now() and now().metadata.uid != first.metadata.uid)
    core.patch_namespaced_config_map("kube-root-ca.crt", NS, {"data": {"ca.crt": ""}})
    eventually("the right text", lambda: now() and now().data == first.data)


def automounting(core):
    """Pods opt out of a token for themselves, or their account does for them."""
    accounts = {"mount": True, "nomount": False, "plain": None}
    for name, wanted in accounts.items():
        core.create_namespaced_service_account(NS, {"metadata": {"name": name}, "automountServiceAccountToken": wanted})
    for account, of_account in accounts.items():
        for of_pod in (None, True, False):
            name = f"{account}-{of_pod}".lower()
            spec = {"serviceAccountName": account, "automountServiceAccountToken": of_pod,
                    "containers": [{"name": "c", "image": "none.invalid/none"}]}
            eventually("the account is known", lambda: core.read_namespaced_service_account(account, NS))
            pod = core.create_namespaced_pod(NS, {"metadata": {"name": name}, "spec": spec})
            mounts = [m.mount_path for m in pod.spec.containers[0].volume_mounts or []]
            expected = of_pod if of_pod is not None else of_account is not False
            assert ("/var/run/secrets/kubernetes.io/serviceaccount" in mounts) == expected, (name, mounts)
            core.delete_namespaced_pod(name, NS, grace_period_seconds=0)


def tokens(core, api):
    """A requested token is good, says whose it is, and ends with what it is bound to."""
    review = client.AuthenticationV1Api(api)
    core.create_namespaced_service_account(NS, {"metadata": {"name": "asked"}})
    core.create_namespaced_secret(NS, {"metadata": {"name": "bound"}})
    plain = core.create_namespaced_service_account_token("asked", NS, {"spec": {"expirationSeconds": 3600}}).status.token
    status = review.create_token_review({"spec": {"token": plain}}).status
    assert status.authenticated and status.user.username == f"system:serviceaccount:{NS}:asked"
    assert status.audiences == ["https://kubernetes.default.svc.cluster.local"]
    assert set(status.user.groups) == {"system:serviceaccounts", f"system:serviceaccounts:{NS}", "system:authenticated"}
    other = core.create_namespaced_service_account_token("asked", NS, {"spec": {"audiences": ["vault"]}}).status.token
    assert not review.create_token_review({"spec": {"token": other}}).status.authenticated
    assert review.create_token_review({"spec": {"token": other, "audiences": ["vault"]}}).status.audiences == ["vault"]
    reference = {"apiVersion": "v1", "kind": "Secret", "name": "bound"}
    bound = core.create_namespaced_service_account_token("asked", NS, {"spec": {"boundObjectRef": reference}}).status.token
    assert review.create_token_review({"spec": {"token": bound}}).status.authenticated
    core.delete_namespaced_secret("bound", NS)
    eventually("the bound token ends", lambda: not review.create_token_review({"spec": {"token": bound}}).status.authenticated)
    return plain


def discovery(api, token):
    """An account reads the issuer's documents, and a token's issuer is the document's."""
    own = client.Configuration()
    own.host, own.ssl_ca_cert = api.configuration.host, api.configuration.ssl_ca_cert
    own.api_key = {"authorization": f"Bearer {token}"}
    as_account = client.ApiClient(own)
    document = client.WellKnownApi(as_account).get_service_account_issuer_open_id_configuration()
    document = document if isinstance(document, str) else str(document)
    assert "https://kubernetes.default.svc.cluster.local" in document and "/openid/v1/jwks" in document
    keys = str(client.OpenidApi(as_account).get_service_account_issuer_open_id_keyset())
    assert "kid" in keys
    payload = token.split(".")[1]
    claims = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).decode()
    assert '"iss":"https://kubernetes.default.svc.cluster.local"' in claims, claims


def reviews(api):
    """Access reviews for a user, with and without a namespace in the path."""
    auth = client.AuthorizationV1Api(api)
    spec = {"resourceAttributes": {"verb": "get", "group": "apps", "resource": "deployments", "namespace": NS},
            "user": "system:serviceaccount:identity:e2e", "groups": ["system:authenticated"], "uid": "1", "extra": {"a": ["b"]}}
    assert auth.create_subject_access_review({"spec": spec}).status.allowed is False
    review = auth.create_namespaced_local_subject_access_review(NS, {"metadata": {"namespace": NS}, "spec": spec})
    assert review.status.allowed is False
    rules = client.RbacAuthorizationV1Api(api)
    rules.create_namespaced_role(NS, {"metadata": {"name": "r"}, "rules": [
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]}]})
    subject = {"kind": "ServiceAccount", "name": "e2e", "namespace": NS}
    rules.create_namespaced_role_binding(NS, {"metadata": {"name": "b"}, "subjects": [subject],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}})
    eventually("the binding counts", lambda: auth.create_subject_access_review({"spec": spec}).status.allowed)
    assert auth.create_namespaced_local_subject_access_review(NS, {"spec": spec}).status.allowed is True
    refused(422, auth.create_namespaced_local_subject_access_review, "other", {"spec": spec})


def main():
    config.load_kube_config(sys.argv[1])
    api = client.ApiClient()
    core = client.CoreV1Api(api)
    core.create_namespace({"metadata": {"name": NS}})
    given = {}
    played = [
        ("ServiceAccounts should run through the lifecycle of a ServiceAccount", lambda: service_accounts(core)),
        ("ServiceAccounts should guarantee kube-root-ca.crt exist in any namespace", lambda: root_certificates(core)),
        ("ServiceAccounts should allow opting out of API token automount", lambda: automounting(core)),
        ("ServiceAccounts should create a serviceAccountToken and ensure a successful TokenReview",
         lambda: given.update(token=tokens(core, api))),
        ("ServiceAccounts ServiceAccountIssuerDiscovery should support OIDC discovery of service account issuer",
         lambda: discovery(api, given["token"])),
        ("SubjectReview should support SubjectReview API operations", lambda: reviews(api)),
        ("Certificates API [Privileged:ClusterAdmin] should support CSR API operations",
         lambda: requests_for_certificates(api)),
    ]
    for name, play in played:
        play()
        print("passed [sig-auth]", name)
    core.delete_namespace(NS)


main()
