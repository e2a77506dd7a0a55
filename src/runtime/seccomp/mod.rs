//! System call filters: the default one and profile files, compiled to the kernel's classic BPF
//! without a C library. Programs of foreign architectures (32-bit ones) get ENOSYS for everything.

mod bpf;
mod default;
mod names;
mod profile;

use crate::spec::SeccompProfile;
use serde_json::{Value, json};
use std::io;

/// A compiled filter; without instructions, none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    program: Vec<libc::sock_filter>,
}

impl Filter {
    /// Compiles a profile for a program that holds these capabilities.
    pub(crate) fn compile(profile: &SeccompProfile, capabilities: &[&str]) -> Result<Self, String> {
        let rules = match profile {
            SeccompProfile::Unconfined => return Ok(Self::default()),
            SeccompProfile::RuntimeDefault => default::rules(capabilities),
            SeccompProfile::Localhost(path) => {
                profile::read(path).map_err(|text| format!("seccomp profile {}: {text}", path.display()))?
            }
        };
        Ok(Self { program: bpf::assemble(&rules)? })
    }

    /// Whether there is anything to install.
    pub(crate) fn is_some(&self) -> bool {
        !self.program.is_empty()
    }

    /// Puts this process under the filter, for good.
    pub(crate) fn install(&self) -> io::Result<()> {
        let Ok(len @ 1..) = u16::try_from(self.program.len()) else { return Ok(()) };
        let program = libc::sock_fprog { len, filter: self.program.as_ptr().cast_mut() };
        // SAFETY: the kernel reads `len` instructions, which live until the call returns.
        let done =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0_usize, &raw const program) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// A profile as other OCI runtimes take it; nothing for none.
pub(crate) fn for_other_runtimes(profile: &SeccompProfile, capabilities: &[&str]) -> Result<Option<Value>, String> {
    match profile {
        SeccompProfile::Unconfined => Ok(None),
        SeccompProfile::RuntimeDefault => Ok(Some(default::rules(capabilities).json())),
        SeccompProfile::Localhost(path) => {
            profile::text(path).map(Some).map_err(|text| format!("seccomp profile {}: {text}", path.display()))
        }
    }
}

/// What happens to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Allow,
    Errno(u16),
    KillThread,
    KillProcess,
    Trap,
    Log,
}

impl Action {
    fn code(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Self::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Self::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Self::Trap => libc::SECCOMP_RET_TRAP,
            Self::Log => libc::SECCOMP_RET_LOG,
        }
    }
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal(u64),
    NotEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    /// Mask, value.
    MaskedEqual(u64, u64),
}

/// One argument's condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    argument: u8,
    comparison: Comparison,
}

/// A profile in numbers.
#[derive(Debug, Clone)]
struct Rules {
    default: Action,
    /// For each call: alternatives in order, the first whose conditions all hold decides.
    calls: std::collections::BTreeMap<u32, Vec<(Vec<Condition>, Action)>>,
}

impl Rules {
    fn new(default: Action) -> Self {
        Self { default, calls: std::collections::BTreeMap::new() }
    }

    /// In the format of the OCI runtime specification.
    fn json(&self) -> Value {
        let set = |action: Action| match action {
            Action::Allow => json!({"action": "SCMP_ACT_ALLOW"}),
            Action::Errno(errno) => json!({"action": "SCMP_ACT_ERRNO", "errnoRet": errno}),
            Action::KillThread => json!({"action": "SCMP_ACT_KILL_THREAD"}),
            Action::KillProcess => json!({"action": "SCMP_ACT_KILL_PROCESS"}),
            Action::Trap => json!({"action": "SCMP_ACT_TRAP"}),
            Action::Log => json!({"action": "SCMP_ACT_LOG"}),
        };
        let argument = |condition: &Condition| {
            let (op, value, second) = match condition.comparison {
                Comparison::Equal(value) => ("SCMP_CMP_EQ", value, 0),
                Comparison::NotEqual(value) => ("SCMP_CMP_NE", value, 0),
                Comparison::Greater(value) => ("SCMP_CMP_GT", value, 0),
                Comparison::GreaterOrEqual(value) => ("SCMP_CMP_GE", value, 0),
                Comparison::Less(value) => ("SCMP_CMP_LT", value, 0),
                Comparison::LessOrEqual(value) => ("SCMP_CMP_LE", value, 0),
                Comparison::MaskedEqual(mask, value) => ("SCMP_CMP_MASKED_EQ", mask, value),
            };
            json!({"index": condition.argument, "value": value, "valueTwo": second, "op": op})
        };
        let mut calls = Vec::new();
        for (number, rules) in &self.calls {
            let Some(name) = names::name(*number) else { continue };
            for (conditions, action) in rules {
                let mut call = set(*action);
                call["names"] = json!([name]);
                call["args"] = conditions.iter().map(argument).collect();
                calls.push(call);
            }
        }
        let default = set(self.default);
        json!({"defaultAction": default["action"], "defaultErrnoRet": default["errnoRet"], "syscalls": calls})
    }

    /// Adds a rule; a name that this architecture does not have is left out.
    fn add(&mut self, name: &str, conditions: Vec<Condition>, action: Action) {
        if let Some(number) = names::number(name) {
            self.calls.entry(number).or_default().push((conditions, action));
        }
    }
}
