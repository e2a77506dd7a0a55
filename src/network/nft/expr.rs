//! Expressions: the steps of a rule. They work on registers of four bytes.

use super::wire::{self, Message};
use super::{Family, octets};
use naru_api::address::Cidr;

/// A register of four bytes, 0 to 15. Longer values take those that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reg(pub u8);

impl Reg {
    fn number(self) -> u32 {
        const FIRST: u32 = 8;
        FIRST + u32::from(self.0)
    }
}

/// The register that verdicts go to.
const VERDICT_REGISTER: u32 = 0;

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Goes on in another chain, and does not come back.
    Goto(String),
    /// Goes on in another chain, and comes back from its end.
    Jump(String),
    /// Goes back to where it came from.
    Return,
    /// Is dropped.
    Drop,
}

impl Verdict {
    pub(super) fn write(&self, m: &mut Message<'_>) {
        const JUMP: i32 = -3;
        const GOTO: i32 = -4;
        const RETURN: i32 = -5;
        m.nest(wire::DATA_VERDICT, |m| match self {
            Verdict::Jump(chain) => {
                m.number(wire::VERDICT_CODE, JUMP.cast_unsigned());
                m.text(wire::VERDICT_CHAIN, chain);
            }
            Verdict::Return => m.number(wire::VERDICT_CODE, RETURN.cast_unsigned()),
            Verdict::Goto(chain) => {
                m.number(wire::VERDICT_CODE, GOTO.cast_unsigned());
                m.text(wire::VERDICT_CHAIN, chain);
            }
            Verdict::Drop => m.number(wire::VERDICT_CODE, 0),
        });
    }
}

/// How values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// Equal.
    Equal = 0,
    /// Not equal.
    NotEqual = 1,
}

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads the source address.
    LoadSource(Reg),
    /// Loads the destination address.
    LoadDestination(Reg),
    /// Loads the transport protocol.
    LoadProtocol(Reg),
    /// Loads the destination port (of any protocol that has it where TCP has).
    LoadDestinationPort(Reg),
    /// Loads the packet's mark.
    LoadMark(Reg),
    /// Loads the packet's priority.
    LoadPriority(Reg),
    /// Loads the connection's state bits.
    LoadConnectionState(Reg),
    /// Loads the type of the destination address: 2 is this host's own.
    LoadDestinationType(Reg),
    /// Loads the index of the interface that the packet came in by.
    LoadInputInterface(Reg),
    /// Loads a fixed value.
    Load(Reg, Vec<u8>),
    /// Sets the packet's mark.
    StoreMark(Reg),
    /// Sets the packet's priority.
    StorePriority(Reg),
    /// Goes on only if the comparison holds.
    Compare(Reg, Compare, Vec<u8>),
    /// `(register & mask) ^ xor`, as many bytes as the mask has.
    Bits(Reg, Vec<u8>, Vec<u8>),
    /// A random number below the modulus, and the offset added to it.
    Random(Reg, u32, u32),
    /// Goes on only if the set has the key in the registers from this one on.
    Contains(&'static str, Reg),
    /// Takes the value for a key from a data map, or ends the rule.
    Map(&'static str, Reg, Reg),
    /// Puts a value under a key into a data map for so many seconds, or lets what is there stay for as long: map, key,
    /// value, seconds. Ends the rule when the map is full.
    Remember(&'static str, Reg, Reg, u32),
    /// Takes what is remembered under a key out of a data map: map, key, and any value, which does not count.
    Forget(&'static str, Reg, Reg),
    /// Follows the verdict for a key in a verdict map, or ends the rule.
    VerdictMap(&'static str, Reg),
    /// Rewrites the destination: address and port from two registers.
    RewriteDestination(Reg, Reg),
    /// Rewrites the source to the outgoing interface's address.
    Masquerade,
    /// Refuses with ICMP port unreachable.
    Reject,
    /// Refuses with a TCP reset. Only for TCP.
    Reset,
    /// Ends with a verdict.
    Verdict(Verdict),
}

impl Expr {
    /// Goes on only if the address in the register is (or is not) in the range.
    pub fn in_range(register: Reg, compare: Compare, range: Cidr) -> [Expr; 2] {
        let network = octets(range.network);
        let all = u128::MAX.checked_shl(128 - u32::from(range.bits)).unwrap_or(0).to_be_bytes();
        let mask = all.get(..network.len()).unwrap_or_default().to_vec();
        [Expr::Bits(register, mask, vec![0; network.len()]), Expr::Compare(register, compare, network)]
    }

    pub(super) fn write(&self, m: &mut Message<'_>, family: Family) {
        let mut expression = |name: &str, fill: &dyn Fn(&mut Message<'_>)| {
            m.text(wire::EXPRESSION_NAME, name);
            m.nest(wire::EXPRESSION_DATA, |m| fill(m));
        };
        let length = 4 * u32::from(family.words());
        // Where the source's address is in the header; the destination's follows.
        let source = if family == Family::V4 { 12 } else { 8 };
        const NETWORK: u32 = 1;
        const TRANSPORT: u32 = 2;
        let payload = |register: Reg, base: u32, offset: u32, length: u32| {
            move |m: &mut Message<'_>| {
                for (kind, value) in [(1, register.number()), (2, base), (3, offset), (4, length)] {
                    m.number(kind, value);
                }
            }
        };
        // Attributes 1 and 2 of `meta` and `ct`: the register to load, and what.
        let load = |register: Reg, key: u32| {
            move |m: &mut Message<'_>| {
                m.number(1, register.number());
                m.number(2, key);
            }
        };
        // The other way round there.
        let store = |register: Reg, key: u32| {
            move |m: &mut Message<'_>| {
                m.number(2, key);
                m.number(3, register.number());
            }
        };
        const PRIORITY: u32 = 2;
        const MARK: u32 = 3;
        match self {
            Expr::LoadSource(register) => expression("payload", &payload(*register, NETWORK, source, length)),
            Expr::LoadDestination(register) => {
                expression("payload", &payload(*register, NETWORK, source + length, length))
            }
            Expr::LoadDestinationPort(register) => expression("payload", &payload(*register, TRANSPORT, 2, 2)),
            Expr::LoadProtocol(register) => expression("meta", &load(*register, 16)),
            Expr::LoadMark(register) => expression("meta", &load(*register, MARK)),
            Expr::LoadPriority(register) => expression("meta", &load(*register, PRIORITY)),
            Expr::LoadInputInterface(register) => expression("meta", &load(*register, 4)),
            Expr::LoadConnectionState(register) => expression("ct", &load(*register, 0)),
            Expr::LoadDestinationType(register) => expression("fib", &|m| {
                const ADDRESS_TYPE: u32 = 3;
                const OF_DESTINATION: u32 = 2;
                m.number(1, register.number());
                m.number(2, ADDRESS_TYPE);
                m.number(3, OF_DESTINATION);
            }),
            Expr::Load(register, value) => expression("immediate", &|m| {
                m.number(1, register.number());
                m.nest(2, |m| m.bytes(wire::DATA_VALUE, value));
            }),
            Expr::StoreMark(register) => expression("meta", &store(*register, MARK)),
            Expr::StorePriority(register) => expression("meta", &store(*register, PRIORITY)),
            Expr::Compare(register, compare, value) => expression("cmp", &|m| {
                m.number(1, register.number());
                m.number(2, *compare as u32);
                m.nest(3, |m| m.bytes(wire::DATA_VALUE, value));
            }),
            Expr::Bits(register, mask, xor) => expression("bitwise", &|m| {
                m.number(1, register.number());
                m.number(2, register.number());
                m.number(3, u32::try_from(mask.len()).unwrap_or_default());
                m.nest(4, |m| m.bytes(wire::DATA_VALUE, mask));
                m.nest(5, |m| m.bytes(wire::DATA_VALUE, xor));
            }),
            Expr::Random(register, modulus, offset) => expression("numgen", &|m| {
                const RANDOM: u32 = 1;
                m.number(1, register.number());
                m.number(2, *modulus);
                m.number(3, RANDOM);
                m.number(4, *offset);
            }),
            Expr::Contains(set, key) => expression("lookup", &|m| {
                m.text(1, set);
                m.number(2, key.number());
            }),
            Expr::Map(map, key, value) => expression("lookup", &|m| {
                m.text(1, map);
                m.number(2, key.number());
                m.number(3, value.number());
            }),
            Expr::Remember(map, key, value, seconds) => expression("dynset", &|m| {
                const UPDATE: u32 = 1;
                m.text(1, map);
                m.number(3, UPDATE);
                m.number(4, key.number());
                m.number(5, value.number());
                m.bytes(6, &(u64::from(*seconds) * 1000).to_be_bytes());
            }),
            Expr::Forget(map, key, value) => expression("dynset", &|m| {
                const DELETE: u32 = 2;
                m.text(1, map);
                m.number(3, DELETE);
                m.number(4, key.number());
                m.number(5, value.number());
            }),
            Expr::VerdictMap(map, key) => expression("lookup", &|m| {
                m.text(1, map);
                m.number(2, key.number());
                m.number(3, VERDICT_REGISTER);
            }),
            Expr::RewriteDestination(address, port) => expression("nat", &|m| {
                const DESTINATION: u32 = 1;
                m.number(1, DESTINATION);
                m.number(2, family.number().into());
                m.number(3, address.number());
                m.number(5, port.number());
            }),
            Expr::Masquerade => expression("masq", &|m| {
                const FULLY_RANDOM: u32 = 16;
                m.number(1, FULLY_RANDOM);
            }),
            Expr::Reject => expression("reject", &|m| {
                const ICMP_UNREACHABLE: u32 = 0;
                // The port, in the family's own numbers.
                let code = if family == Family::V4 { 3 } else { 4 };
                m.number(1, ICMP_UNREACHABLE);
                m.bytes(2, &[code]);
            }),
            Expr::Reset => expression("reject", &|m| {
                const TCP_RESET: u32 = 1;
                m.number(1, TCP_RESET);
            }),
            Expr::Verdict(verdict) => expression("immediate", &|m| {
                m.number(1, VERDICT_REGISTER);
                m.nest(2, |m| verdict.write(m));
            }),
        }
    }
}
