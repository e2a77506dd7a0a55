//! Capability names, and what this process may hand on.

/// In the order of their numbers.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const VERSION_3: u32 = 0x2008_0522;

/// What capget and capset begin with.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// A set of capabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Set(u64);

impl Set {
    pub(super) const SYS_ADMIN: Set = Set(1 << 21);

    /// From names, with or without `CAP_`, in any case; `ALL` is everything. Unknown names are
    /// left out.
    pub(super) fn from_names<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Self {
        names.into_iter().fold(Self(0), |set, name| {
            let name = name.as_ref().to_ascii_uppercase();
            let short = name.strip_prefix("CAP_").unwrap_or(&name);
            if short == "ALL" {
                return Self((1 << NAMES.len()) - 1);
            }
            match NAMES.iter().position(|known| known.strip_prefix("CAP_") == Some(short)) {
                Some(number) => Self(set.0 | 1 << number),
                None => set,
            }
        })
    }

    /// What this process can give at most: its bounding and permitted sets.
    pub(super) fn own() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = |label| {
            let line = status.lines().find_map(|line| line.strip_prefix(label));
            line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default()
        };
        Self(mask("CapBnd:") & mask("CapPrm:") & ((1 << NAMES.len()) - 1))
    }

    /// What this process has now. Needs no /proc, which inside a container is not to be trusted.
    pub(super) fn own_permitted() -> Self {
        let header = Header { version: VERSION_3, pid: 0 };
        let mut data = [0_u32; 6];
        // SAFETY: version 3 writes two triples of 32-bit words.
        unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
        Self(u64::from(data[1]) | u64::from(data[4]) << 32)
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn names(self) -> Vec<&'static str> {
        NAMES.iter().enumerate().filter(|(number, _)| self.0 & (1 << number) != 0).map(|(_, name)| *name).collect()
    }

    /// Takes everything else out of the bounding set. Needs CAP_SETPCAP.
    pub(super) fn bound(self) {
        for number in (0..64).filter(|number| self.0 & (1 << number) == 0) {
            // SAFETY: prctl with integers only. It fails beyond the last capability, harmlessly.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number as libc::c_ulong, 0, 0, 0) };
        }
    }

    /// Makes this the effective and permitted set, with nothing to inherit.
    pub(super) fn hold(self) -> std::io::Result<()> {
        let header = Header { version: VERSION_3, pid: 0 };
        let (low, high) = (self.0 as u32, (self.0 >> 32) as u32);
        let data: [u32; 6] = [low, low, 0, high, high, 0];
        // SAFETY: version 3 reads a header and two triples of 32-bit words, as laid out here.
        let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
        if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_every_spelling() {
        let set = Set::from_names(["NET_ADMIN", "cap_sys_admin", "CAP_NONSENSE"]);
        assert_eq!(set.names(), ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]);
        assert_eq!(set.and(Set::SYS_ADMIN), Set::SYS_ADMIN);
        assert_eq!(Set::from_names(["ALL"]).names().len(), NAMES.len());
    }
}
