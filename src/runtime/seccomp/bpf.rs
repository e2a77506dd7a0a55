//! From rules to instructions.

use super::{Action, Comparison, Condition, Rules, names};

/// Offsets in the kernel's seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

#[cfg(target_arch = "x86_64")]
const OWN_ARCHITECTURE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const OWN_ARCHITECTURE: u32 = 0xC000_00B7;

/// Numbers from here on belong to the 32-bit pointer variant of x86-64.
const X32: u32 = 0x4000_0000;
/// The kernel takes no more.
const MAX_PROGRAM: usize = 4096;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

fn step(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// The whole program. A call that is younger than the table of names is answered with ENOSYS, so
/// that C libraries fall back to an older one.
pub(super) fn assemble(rules: &Rules) -> Result<Vec<libc::sock_filter>, String> {
    let unknown = Action::Errno(libc::ENOSYS as u16).code();
    let mut program = vec![
        step(LOAD, ARCHITECTURE),
        jump(EQUAL, OWN_ARCHITECTURE, 1, 0),
        step(RETURN, unknown),
        step(LOAD, NUMBER),
        jump(AT_LEAST, X32, 0, 1),
        step(RETURN, unknown),
    ];
    if matches!(rules.default, Action::Errno(_)) {
        program.extend([jump(GREATER, names::largest(), 0, 1), step(RETURN, unknown)]);
    }
    let mut calls = rules.calls.iter().peekable();
    while let Some((number, alternatives)) = calls.next() {
        if let [(conditions, action)] = alternatives.as_slice()
            && conditions.is_empty()
        {
            // Neighbours with the same answer become one range.
            let mut last = *number;
            while let Some((next, _)) = calls.next_if(|(next, alternatives)| {
                **next == last + 1 && matches!(alternatives.as_slice(), [(c, a)] if c.is_empty() && a == action)
            }) {
                last = *next;
            }
            program.extend([jump(AT_LEAST, *number, 0, 2), jump(GREATER, last, 1, 0), step(RETURN, action.code())]);
        } else {
            let block = block(alternatives, rules.default)?;
            let length = u8::try_from(block.len()).map_err(|_| "too many conditions on one call".to_owned())?;
            program.push(jump(EQUAL, *number, 0, length));
            program.extend(block);
        }
    }
    program.push(step(RETURN, rules.default.code()));
    if program.len() > MAX_PROGRAM { Err("too long".to_owned()) } else { Ok(program) }
}

/// What decides about one call whose arguments matter.
fn block(alternatives: &[(Vec<Condition>, Action)], default: Action) -> Result<Vec<libc::sock_filter>, String> {
    let mut block = Vec::new();
    for (conditions, action) in alternatives {
        let compared: Vec<Vec<Step>> = conditions.iter().map(compare).collect();
        let mut left: usize = compared.iter().map(Vec::len).sum::<usize>() + 1;
        for condition in compared {
            let length = condition.len();
            for (index, step) in condition.into_iter().enumerate() {
                let offset = |target: Target| -> Result<u8, String> {
                    let distance = match target {
                        Target::Next => 0,
                        Target::Holds => length - index - 1,
                        Target::Fails => left - index - 1,
                    };
                    u8::try_from(distance).map_err(|_| "too many conditions on one call".to_owned())
                };
                block.push(jump(step.code, step.k, offset(step.yes)?, offset(step.no)?));
            }
            left -= length;
        }
        block.push(step(RETURN, action.code()));
        if conditions.is_empty() {
            return Ok(block);
        }
    }
    block.push(step(RETURN, default.code()));
    Ok(block)
}

/// Where a step of a comparison goes.
#[derive(Debug, Clone, Copy)]
enum Target {
    Next,
    Holds,
    Fails,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    code: u16,
    k: u32,
    yes: Target,
    no: Target,
}

/// Compares a 64-bit argument by its halves; both architectures are little-endian.
fn compare(condition: &Condition) -> Vec<Step> {
    use Target::{Fails, Holds, Next};
    let low = ARGUMENTS + 8 * u32::from(condition.argument);
    let plain = |code, k| Step { code, k, yes: Next, no: Next };
    let test = |code, k, yes, no| Step { code, k, yes, no };
    let halves = |value: u64| (value as u32, (value >> 32) as u32);
    let (load_low, load_high) = (plain(LOAD, low), plain(LOAD, low + 4));
    match condition.comparison {
        Comparison::Equal(value) => {
            let (l, h) = halves(value);
            vec![load_high, test(EQUAL, h, Next, Fails), load_low, test(EQUAL, l, Holds, Fails)]
        }
        Comparison::NotEqual(value) => {
            let (l, h) = halves(value);
            vec![load_high, test(EQUAL, h, Next, Holds), load_low, test(EQUAL, l, Fails, Holds)]
        }
        Comparison::MaskedEqual(mask, value) => {
            let ((ml, mh), (l, h)) = (halves(mask), halves(value));
            vec![
                load_high,
                plain(AND, mh),
                test(EQUAL, h, Next, Fails),
                load_low,
                plain(AND, ml),
                test(EQUAL, l, Holds, Fails),
            ]
        }
        Comparison::Greater(value) => order(halves(value), GREATER, (Holds, Fails), load_low, load_high),
        Comparison::GreaterOrEqual(value) => order(halves(value), AT_LEAST, (Holds, Fails), load_low, load_high),
        Comparison::Less(value) => order(halves(value), AT_LEAST, (Fails, Holds), load_low, load_high),
        Comparison::LessOrEqual(value) => order(halves(value), GREATER, (Fails, Holds), load_low, load_high),
    }
}

/// `code` on the low half decides where the high halves are equal.
fn order((l, h): (u32, u32), code: u16, (more, less): (Target, Target), low: Step, high: Step) -> Vec<Step> {
    vec![
        high,
        Step { code: GREATER, k: h, yes: more, no: Target::Next },
        Step { code: EQUAL, k: h, yes: Target::Next, no: less },
        low,
        Step { code, k: l, yes: more, no: less },
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs a program as the kernel would.
    fn run(program: &[libc::sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(architecture.to_le_bytes());
        data.extend([0; 8]);
        arguments.iter().for_each(|a| data.extend(a.to_le_bytes()));
        let (mut a, mut pc) = (0_u32, 0_usize);
        loop {
            let i = program[pc];
            pc += 1;
            let decide = |yes: bool| usize::from(if yes { i.jt } else { i.jf });
            match i.code {
                LOAD => a = u32::from_le_bytes(data[i.k as usize..i.k as usize + 4].try_into().unwrap()),
                AND => a &= i.k,
                EQUAL => pc += decide(a == i.k),
                GREATER => pc += decide(a > i.k),
                AT_LEAST => pc += decide(a >= i.k),
                RETURN => return i.k,
                other => panic!("instruction {other}"),
            }
        }
    }

    fn holds(comparison: Comparison, x: u64) -> bool {
        match comparison {
            Comparison::Equal(v) => x == v,
            Comparison::NotEqual(v) => x != v,
            Comparison::Greater(v) => x > v,
            Comparison::GreaterOrEqual(v) => x >= v,
            Comparison::Less(v) => x < v,
            Comparison::LessOrEqual(v) => x <= v,
            Comparison::MaskedEqual(mask, v) => x & mask == v,
        }
    }

    /// Few values, so that halves are often equal.
    fn value() -> impl Strategy<Value = u64> {
        (0_u64..3, 0_u64..3).prop_map(|(high, low)| high << 32 | low)
    }

    fn comparison() -> impl Strategy<Value = Comparison> {
        (0..7, value(), value()).prop_map(|(kind, v, mask)| match kind {
            0 => Comparison::Equal(v),
            1 => Comparison::NotEqual(v),
            2 => Comparison::Greater(v),
            3 => Comparison::GreaterOrEqual(v),
            4 => Comparison::Less(v),
            5 => Comparison::LessOrEqual(v),
            _ => Comparison::MaskedEqual(mask, v),
        })
    }

    proptest! {
        #[test]
        fn programs_decide_as_their_rules(
            alternatives in prop::collection::vec(prop::collection::vec((0_u8..2, comparison()), 0..3), 1..4),
            first in value(),
            second in value(),
        ) {
            let actions = [Action::Allow, Action::Trap, Action::KillProcess, Action::Log];
            let mut rules = Rules::new(Action::Errno(1));
            let entry: Vec<_> = alternatives
                .iter()
                .zip(actions)
                .map(|(conditions, action)| {
                    let conditions =
                        conditions.iter().map(|&(argument, comparison)| Condition { argument, comparison }).collect();
                    (conditions, action)
                })
                .collect();
            rules.calls.insert(7, entry.clone());
            rules.add("read", Vec::new(), Action::Allow);
            let program = assemble(&rules).unwrap();
            let arguments = [first, second, 0, 0, 0, 0];
            let expected = entry
                .iter()
                .find(|(conditions, _): &&(Vec<Condition>, Action)| {
                    conditions.iter().all(|c| holds(c.comparison, arguments[usize::from(c.argument)]))
                })
                .map_or(rules.default, |(_, action)| *action);
            prop_assert_eq!(run(&program, OWN_ARCHITECTURE, 7, arguments), expected.code());
        }
    }

    #[test]
    fn what_is_foreign_or_too_new_does_not_exist() {
        let mut rules = Rules::new(Action::Errno(1));
        for name in ["read", "write", "close"] {
            rules.add(name, Vec::new(), Action::Allow);
        }
        let program = assemble(&rules).unwrap();
        let missing = Action::Errno(libc::ENOSYS as u16).code();
        assert_eq!(run(&program, 0x4000_0003, 3, [0; 6]), missing);
        assert_eq!(run(&program, OWN_ARCHITECTURE, X32 | 1, [0; 6]), missing);
        assert_eq!(run(&program, OWN_ARCHITECTURE, names::largest() + 1, [0; 6]), missing);
        let read = names::number("read").unwrap();
        assert_eq!(run(&program, OWN_ARCHITECTURE, read, [0; 6]), Action::Allow.code());
        let mount = names::number("mount").unwrap();
        assert_eq!(run(&program, OWN_ARCHITECTURE, mount, [0; 6]), Action::Errno(1).code());
    }
}
