//! Which devices may be made and opened in a cgroup of version 2: a program that the kernel asks, assembled
//! from the same rules that version 1 takes as text.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// `BPF_PROG_TYPE_CGROUP_DEVICE`.
const PROGRAM_TYPE: u32 = 15;
/// `BPF_CGROUP_DEVICE`.
const ATTACH_TYPE: u32 = 6;
/// `BPF_F_ALLOW_MULTI`: beside what others attach.
const ALLOW_MULTI: u32 = 2;
const LOAD: libc::c_int = 5;
const ATTACH: libc::c_int = 8;

/// Kinds of devices and of access, as the kernel numbers them.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const EVERYTHING: i32 = MAKE | READ | WRITE;

/// What a rule allows; `None` stands for every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    kind: i32,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

impl Rule {
    /// Reads the form of `devices.allow`: `c 1:3 rwm`.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let kind = match words.next()? {
            "b" => BLOCK,
            "c" => CHARACTER,
            _ => return None,
        };
        let (major, minor) = words.next()?.split_once(':')?;
        let number = |text: &str| if text == "*" { Some(None) } else { text.parse().ok().map(Some) };
        let access = words.next()?.chars().fold(0, |access, letter| {
            access
                | match letter {
                    'm' => MAKE,
                    'r' => READ,
                    'w' => WRITE,
                    _ => 0,
                }
        });
        Some(Self { kind, major: number(major)?, minor: number(minor)?, access })
    }
}

/// One instruction of the kernel's machine.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// The target's number in the low four bits, the source's in the high ones.
    registers: u8,
    offset: i16,
    value: i32,
}

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const MOVE_VALUE: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

fn instruction(code: u8, target: u8, source: u8, offset: i16, value: i32) -> Instruction {
    Instruction { code, registers: target | source << 4, offset, value }
}

/// The program: it answers 1 for what some rule allows and 0 for all else.
fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let plain = |code, target, value| instruction(code, target, 0, 0, value);
    let mut program = vec![
        // The kernel hands over the access above the kind, then major and minor.
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(MOVE, ACCESS, KIND, 0, 0),
        plain(SHIFT_RIGHT, ACCESS, 16),
        plain(AND, KIND, 0xffff),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules {
        let mut checks = vec![(KIND, rule.kind)];
        checks.extend(rule.major.map(|major| (MAJOR, major)));
        checks.extend(rule.minor.map(|minor| (MINOR, minor)));
        let mut block = Vec::new();
        if rule.access != EVERYTHING {
            block.push(instruction(MOVE, SCRATCH, ACCESS, 0, 0));
            block.push(plain(AND, SCRATCH, EVERYTHING & !rule.access));
            checks.push((SCRATCH, 0));
        }
        // Whoever fails a check goes on behind the two instructions that allow.
        let mut left = checks.len();
        for (register, value) in checks {
            left -= 1;
            let beyond = i16::try_from(left + 2).unwrap_or(i16::MAX);
            block.push(instruction(JUMP_UNLESS_EQUAL, register, 0, beyond, value));
        }
        block.push(plain(MOVE_VALUE, RESULT, 1));
        block.push(plain(EXIT, 0, 0));
        program.extend(block);
    }
    program.push(plain(MOVE_VALUE, RESULT, 0));
    program.push(plain(EXIT, 0, 0));
    program
}

/// What `bpf(BPF_PROG_LOAD)` reads, up to the last field that is used.
#[repr(C)]
#[derive(Default)]
struct LoadArguments {
    program_type: u32,
    instructions: u32,
    program: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// What `bpf(BPF_PROG_ATTACH)` reads.
#[repr(C)]
struct AttachArguments {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_int, arguments: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads as many bytes of the arguments as it is told; what they point to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(arguments), size_of::<T>()) };
    libc::c_int::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}

/// Allows what `rules` say in the cgroup at `directory`, and nothing else, as long as the cgroup is there.
pub(super) fn restrict<'a>(directory: &Path, rules: impl Iterator<Item = &'a str>) -> io::Result<()> {
    let rules: Vec<Rule> = rules.filter_map(Rule::parse).collect();
    let program = assemble(&rules);
    let load = LoadArguments {
        program_type: PROGRAM_TYPE,
        instructions: program.len() as u32,
        program: program.as_ptr() as u64,
        licence: c"Apache-2.0".as_ptr() as u64,
        ..LoadArguments::default()
    };
    let fd = bpf(LOAD, &load)?;
    // SAFETY: new and ours alone. The cgroup keeps the program once it is attached.
    let loaded = unsafe { OwnedFd::from_raw_fd(fd) };
    let group = std::fs::File::open(directory)?;
    let attach = AttachArguments {
        target: group.as_raw_fd() as u32,
        program: loaded.as_raw_fd() as u32,
        attach_type: ATTACH_TYPE,
        flags: ALLOW_MULTI,
    };
    bpf(ATTACH, &attach).map(drop)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// What the kernel's machine makes of a program.
    fn answer(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> i64 {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_i64; 7];
        let mut at = 0;
        loop {
            let Instruction { code, registers: pair, offset, value } = program[at];
            let (target, source) = (usize::from(pair & 15), usize::from(pair >> 4));
            at += 1;
            match code {
                LOAD_WORD => registers[target] = context[usize::try_from(offset).unwrap() / 4].into(),
                MOVE => registers[target] = registers[source],
                MOVE_VALUE => registers[target] = value.into(),
                AND => registers[target] &= i64::from(value),
                SHIFT_RIGHT => registers[target] >>= value,
                JUMP_UNLESS_EQUAL if registers[target] != i64::from(value) => at += usize::try_from(offset).unwrap(),
                JUMP_UNLESS_EQUAL => {}
                EXIT => return registers[0],
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn what_no_rule_allows_is_denied() {
        let rules: Vec<Rule> = ["c *:* m", "b *:* m", "c 1:3 rwm", "c 136:* rwm", "b 8:1 r"]
            .iter()
            .map(|text| Rule::parse(text).unwrap())
            .collect();
        let program = assemble(&rules);
        let check = |kind, access, major, minor, allowed: bool| {
            let got = answer(&program, kind, access, major, minor);
            assert_eq!(got, i64::from(allowed), "{kind} {access} {major}:{minor}");
        };
        check(CHARACTER, READ | WRITE, 1, 3, true);
        check(CHARACTER, READ, 1, 1, false);
        check(CHARACTER, MAKE, 1, 1, true);
        check(CHARACTER, MAKE | READ, 1, 1, false);
        check(CHARACTER, WRITE, 136, 77, true);
        check(BLOCK, READ, 8, 1, true);
        check(BLOCK, READ | WRITE, 8, 1, false);
        check(BLOCK, READ, 8, 0, false);
        check(BLOCK, MAKE, 8, 0, true);
        check(BLOCK, READ, 1, 3, false);
    }

    #[test]
    fn rules_are_read_as_version_1_has_them() {
        assert_eq!(Rule::parse("c 5:* rw"), Some(Rule { kind: 2, major: Some(5), minor: None, access: READ | WRITE }));
        assert_eq!(Rule::parse("a *:* rwm"), None);
        assert_eq!(Rule::parse("c x:1 r"), None);
    }
}
