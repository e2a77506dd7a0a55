//! Makes inputs: wild objects from the facts, and mutations of what is there.

use crate::facts::{self, Field, Kind, Shape, Type};
use crate::registry::Resource;
use serde_json::{Map, Value, json};

/// Texts that rules look at closely.
const TEXTS: &[&str] = &[
    "",
    "a",
    "x-y",
    "A_B",
    "a.b",
    "-",
    "é",
    "\0",
    "\n",
    "a/b",
    "kubernetes.io/x",
    "10.0.0.1",
    "::1",
    "fd00::/64",
    "10.0.0.0/8",
    "256.1.1.1/33",
    "0",
    "-1",
    "1",
    "100m",
    "1Gi",
    "1e400",
    "0.5",
    "9223372036854775808",
    "50%",
    "101%",
    "-5%",
    "http",
    "TCP",
    "UDP",
    "Always",
    "Never",
    "OnFailure",
    "None",
    "ClusterIP",
    "NodePort",
    "ExternalName",
    "IPv4",
    "IPv6",
    "SingleStack",
    "RequireDualStack",
    "RollingUpdate",
    "Recreate",
    "OnDelete",
    "NonIndexed",
    "Indexed",
    "In",
    "NotIn",
    "Exists",
    "DoesNotExist",
    "Gt",
    "Equal",
    "NoSchedule",
    "NoExecute",
    "Exact",
    "Prefix",
    "ImplementationSpecific",
    "Resource",
    "Pods",
    "Utilization",
    "AverageValue",
    "cpu",
    "memory",
    "hugepages-2Mi",
    "ephemeral-storage",
    "example.com/gpu",
    "requests.cpu",
    "count/pods",
    "* * * * *",
    "@daily",
    "61 * * * *",
    "TZ=UTC * * * * *",
    "Europe/Berlin",
    "../..",
    "/etc",
    "/a/../b",
    "kubernetes.io/dockerconfigjson",
    "kubernetes.io/tls",
    "kubernetes.io/service-account-token",
    "kubernetes.io/kube-apiserver-client",
    "Queue",
    "Limited",
    "Exempt",
    "ReadWriteOnce",
    "ReadWriteOncePod",
    "Filesystem",
    "Block",
    "Retain",
    "WaitForFirstConsumer",
    "metadata.name",
    "status.podIP",
    "limits.cpu",
    "{}",
    "[]",
    "2020-01-01T00:00:00Z",
    "2020-13-01T00:00:00Z",
    "0001-01-01T00:00:00.000001Z",
    "*",
    "*.example.com",
    "system:masters",
    "rbac.authorization.k8s.io",
    "User",
    "Group",
    "ServiceAccount",
    "ClusterRole",
    "get",
    "pods",
    "SYN",
    "$(A)",
    "$$(A",
    "a=b",
];

/// A small generator of pseudo-random numbers (xorshift64*): a seed repeats a run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % bound
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// A wild object of the resource's kind as JSON.
pub(super) fn object(random: &mut Random, resource: &Resource) -> Vec<u8> {
    let ty = facts::type_by_name(resource.type_name).unwrap();
    let mut value = structure(random, ty, 0);
    value["kind"] = resource.kind.into();
    value["apiVersion"] = resource.api_version().into();
    value.to_string().into_bytes()
}

fn structure(random: &mut Random, ty: &'static Type, depth: usize) -> Value {
    let mut object = Map::new();
    // Deep down only a few fields are set, or objects would grow without bound.
    let sparse = if ty.fields.len() > 12 || depth > 4 { 3 + depth } else { 2 };
    for field in ty.fields {
        let likely = field.required || matches!(field.name, "spec" | "metadata" | "template" | "containers" | "name");
        if (likely && !random.one_in(12)) || random.one_in(sparse) {
            object.insert(field.name.to_owned(), field_value(random, field, depth));
        }
    }
    Value::Object(object)
}

fn field_value(random: &mut Random, field: &Field, depth: usize) -> Value {
    value(random, &field.kind, depth + 1)
}

fn value(random: &mut Random, kind: &Kind, depth: usize) -> Value {
    if depth > 14 || random.one_in(200) {
        return Value::Null;
    }
    match kind {
        Kind::Str => text(random),
        Kind::I32 => (*random.pick(&[0, 1, -1, 2, 80, 65_536, 511, i64::from(i32::MAX), i64::from(i32::MIN)])).into(),
        Kind::I64 => (*random.pick(&[0, 1, -1, 30, 1 << 40, i64::MAX, i64::MIN])).into(),
        Kind::F64 => json!(*random.pick(&[0.0, 1.5, -1e308])),
        Kind::Bool => random.one_in(2).into(),
        Kind::Bytes => (*random.pick(&["", "YQ==", "e30="])).into(),
        Kind::Object(ty) => special(random, ty, depth),
        Kind::List(item) => (0..random.below(3)).map(|_| value(random, item, depth)).collect(),
        Kind::Map(entry) => {
            let count = random.below(3);
            let mut map = Map::new();
            for _ in 0..count {
                map.insert((*random.pick(TEXTS)).to_owned(), value(random, entry, depth));
            }
            Value::Object(map)
        }
    }
}

fn text(random: &mut Random) -> Value {
    if random.one_in(150) { "x".repeat(random.below(300)).into() } else { (*random.pick(TEXTS)).into() }
}

fn special(random: &mut Random, ty: &'static Type, depth: usize) -> Value {
    match ty.shape {
        Shape::Object => structure(random, ty, depth),
        Shape::IntOrString if random.one_in(2) => (*random.pick(&[0, 1, -1, 80, 65_536, 200])).into(),
        Shape::Quantity if random.one_in(2) => (*random.pick(&["1", "100m", "1Gi", "-1", "0", "1.5", "1e3"])).into(),
        Shape::Time | Shape::MicroTime if !random.one_in(4) => "2021-02-03T04:05:06Z".into(),
        Shape::FieldsV1 | Shape::RawExtension | Shape::Json => json!({"a": [1, {"b": "c"}]}),
        _ => text(random),
    }
}

/// One of `bodies`, damaged.
pub(super) fn mutated(random: &mut Random, bodies: &[Vec<u8>]) -> Vec<u8> {
    const TOKENS: &[&[u8]] = &[
        b"null",
        b"{}",
        b"[]",
        b"\"",
        b"-",
        b"1e999",
        b"99999999999999999999",
        b"true",
        b":",
        b",",
        b"\xff\xfe",
        b"\0",
        b"\\u0000",
        b"\\ud800",
        b"&a",
        b"*a",
        b"<<",
        b"---",
        b"!!binary",
        b"k8s\0",
    ];
    let mut body = random.pick(bodies).clone();
    for _ in 0..=random.below(4) {
        let at = random.below(body.len() + 1);
        match random.below(5) {
            0 if at < body.len() => body[at] ^= 1 << random.below(8),
            1 => body.truncate(at),
            2 => drop(body.splice(at..at, random.pick(TOKENS).iter().copied())),
            3 => {
                let other = random.pick(bodies);
                let from = random.below(other.len() + 1);
                body.truncate(at);
                body.extend(&other[from..]);
            }
            _ => {
                let end = (at + random.below(40)).min(body.len());
                let piece = body[at..end].to_vec();
                body.splice(at..at, piece);
            }
        }
    }
    body.truncate(64 * 1024);
    body
}
