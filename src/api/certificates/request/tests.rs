//! What can be wrong with a request for a certificate, and who may change which part of it.

use super::*;

const CSR: &str = "-----BEGIN CERTIFICATE REQUEST-----
MIHiMIGKAgEAMCgxFzAVBgNVBAoMDnN5c3RlbTptYXN0ZXJzMQ0wCwYDVQQDDARq
YW5lMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEuWhS1n/UwCuCBStXTOzi+A1D
IMJ7NxfpPDEzBblis+tG7T49UhNWpnIRGgB3bL6OOSVAzG5DTa1RS2ItDjg9caAA
MAoGCCqGSM49BAMCA0cAMEQCIEhIRg4lOhZIKNJJQHbDGlaNSgEFYJugZu5ayB0T
cTMEAiBf59iJXJr5CvJFk52J7uZsyaoymBJbe8s0I04VEWTBvA==
-----END CERTIFICATE REQUEST-----
";

fn request() -> Value {
    json!({"metadata": {"name": "r"}, "spec": {
        "request": STANDARD.encode(CSR), "signerName": "example.com/x", "usages": ["client auth"]}})
}

fn errors_of(csr: &Value) -> Vec<String> {
    let mut errors = FieldErrors::default();
    validate(csr, &mut errors);
    errors.messages()
}

#[test]
fn a_signed_request_is_good() {
    assert_eq!(errors_of(&request()), [""; 0]);
    assert_eq!(organizations(&request()), Ok(vec!["system:masters".to_owned()]));
}

#[test]
fn what_can_be_wrong() {
    let check = |change: &dyn Fn(&mut Value), expect: &[&str]| {
        let mut csr = request();
        change(&mut csr["spec"]);
        assert_eq!(errors_of(&csr), expect);
    };
    check(
        &|spec| spec["request"] = "eA==".into(),
        &["spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST"],
    );
    check(&|spec| spec["usages"] = json!([]), &["spec.usages: Required value: usages must be provided"]);
    check(&|spec| spec["usages"] = json!(["any", "any"]), &["spec.usages[1]: Duplicate value: \"any\""]);
    check(&|spec| spec["signerName"] = "".into(), &["spec.signerName: Required value: signerName must be provided"]);
    check(
        &|spec| spec["signerName"] = "a".into(),
        &[
            "spec.signerName: Invalid value: \"a\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ],
    );
    check(
        &|spec| spec["signerName"] = "a/b".into(),
        &["spec.signerName: Invalid value: \"a\": should be a domain with at least two segments separated by dots"],
    );
    check(
        &|spec| spec["signerName"] = LEGACY_SIGNER.into(),
        &[
            "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
        ],
    );
    check(
        &|spec| spec["expirationSeconds"] = 599.into(),
        &["spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)"],
    );
    let mut forged = CSR.replace("BJbe8s0I04VEWTBvA", "BJbe8s0I04VEWTBvB");
    forged.push('\n');
    let mut csr = request();
    csr["spec"]["request"] = STANDARD.encode(forged).into();
    assert!(errors_of(&csr)[0].contains("spec.request: Invalid value:"));
}

#[test]
fn conditions_are_for_approvers_and_certificates_for_signers() {
    let old = request();
    let mut new = old.clone();
    new["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}]});
    let of = |part: Part| {
        let mut errors = FieldErrors::default();
        changes(&new, &old, part, &mut errors);
        errors.messages()
    };
    assert_eq!(of(Part::Approval), [""; 0]);
    assert_eq!(
        of(Part::Status),
        ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]
    );
    let mut errors = FieldErrors::default();
    changes(&old, &new, Part::Approval, &mut errors);
    assert_eq!(
        errors.messages(),
        ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
    );
    let mut both = new.clone();
    both["status"]["conditions"] =
        json!([{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "False"}]);
    let mut errors = FieldErrors::default();
    validate_approval(&both, &old, &mut errors);
    assert_eq!(
        errors.messages(),
        [
            "status.conditions[1].status: Unsupported value: \"False\": supported values: \"True\"",
            "status.conditions[1].type: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
        ]
    );
    let mut issued = old.clone();
    issued["status"] = json!({"certificate": STANDARD.encode(CSR)});
    let mut errors = FieldErrors::default();
    validate_approval(&issued, &old, &mut errors);
    assert_eq!(
        errors.messages(),
        [
            "status.certificate: Invalid value: \"<certificate data>\": only CERTIFICATE PEM blocks are allowed, found \"CERTIFICATE REQUEST\"",
            "status.certificate: Forbidden: updates may not set certificate content",
        ]
    );
}

#[test]
fn times_of_conditions() {
    let old = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "lastTransitionTime": "then"}]}});
    let mut new =
        json!({"status": {"conditions": [{"type": "Approved", "status": "True"}, {"type": "X", "status": "True"}]}});
    stamp_conditions(&mut new, &old, "now");
    let conditions = &new["status"]["conditions"];
    assert_eq!(
        (&conditions[0]["lastTransitionTime"], &conditions[0]["lastUpdateTime"]),
        (&"then".into(), &"now".into())
    );
    assert_eq!(conditions[1]["lastTransitionTime"], "now");
}

#[test]
fn rows() {
    let mut csr = request();
    csr["spec"]["username"] = "jane".into();
    csr["spec"]["expirationSeconds"] = 3600.into();
    csr["status"] = json!({"conditions": [{"type": "Approved"}], "certificate": "eA=="});
    assert_eq!(Value::from(row(&csr, 0)), json!(["r", "<unknown>", "example.com/x", "jane", "60m", "Approved,Issued"]));
}
