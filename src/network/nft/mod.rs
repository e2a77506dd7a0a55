//! nftables by netlink: batches of changes to our tables, applied by the kernel as a whole or not at all.
//!
//! Architecture invariant: a batch names one table, ours, of either family; others' tables are never changed.

mod expr;
mod socket;
mod wire;

pub use expr::{Compare, Expr, Reg, Verdict};
pub use socket::Error;
#[cfg(test)]
pub(crate) use socket::OURS;
pub(crate) use socket::{dump, exchange, is_ours};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use wire::Message;

/// IPv4 or IPv6. Each has a table of its own under the same name: keys hold addresses, and those differ in length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// An address's.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Registers that an address takes.
    pub(crate) fn words(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 4,
        }
    }

    /// The kernel's number, of netfilter's families and of sockets' alike.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// The address that stands for any.
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

/// An address as it is in packets.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Elements in one message: attribute lengths have 16 bits.
const ELEMENTS: usize = 512;

/// Where a base chain sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Arriving packets before routing.
    Prerouting = 0,
    /// Packets that are passed on.
    Forward = 2,
    /// Packets of the host itself.
    Output = 3,
    /// Packets about to leave.
    Postrouting = 4,
}

/// What a base chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainType {
    /// Accept and refuse; sees every packet.
    Filter,
    /// Rewrite addresses; sees the first packet of a connection.
    Nat,
}

/// What a set's elements stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetKind {
    /// Keys alone.
    Set,
    /// Keys that lead to a verdict.
    VerdictMap,
    /// Keys that lead to values of these fields.
    DataMap(&'static [Field]),
    /// The same, filled by rules; its elements go after a time, and there are at most so many.
    Memory(&'static [Field], u32),
}

/// A field of a key or a value; each takes whole words of four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Address of the table's family.
    Address,
    /// Protocol number in the first byte.
    Protocol,
    /// Port, big-endian in the first two bytes.
    Port,
    /// Number in the machine's byte order.
    Number,
}

impl Field {
    /// The type number by which the `nft` program prints the field.
    fn type_number(self, family: Family) -> u32 {
        match self {
            Field::Address if family == Family::V6 => 8,
            Field::Address => 7,
            Field::Protocol => 12,
            Field::Port => 13,
            Field::Number => 19,
        }
    }
}

fn concatenation(fields: &[Field], family: Family) -> (u32, u32) {
    let kind = fields.iter().fold(0, |kind, field| (kind << 6) | field.type_number(family));
    let words = |field: &Field| if *field == Field::Address { family.words() } else { 1 };
    (kind, fields.iter().map(|field| 4 * u32::from(words(field))).sum())
}

/// Whether our table of IPv4 or IPv6 is there. Blocks.
pub(crate) fn has_table(table: &str) -> Result<bool, Error> {
    const GET_TABLE: u16 = 1;
    for family in [Family::V4, Family::V6] {
        let message = query(GET_TABLE, family.number(), false, &[(wire::TABLE_NAME, table)]);
        match exchange(Some(rustix::net::netlink::NETFILTER), &message) {
            Ok(()) => return Ok(true),
            Err(Error::Refused(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// A question to nftables, about one thing or (a dump) all.
pub(crate) fn query(kind: u16, family: u8, dump: bool, texts: &[(u16, &str)]) -> Vec<u8> {
    const SUBSYSTEM: u16 = 10;
    const REQUEST: u16 = 1;
    const ACK: u16 = 4;
    const DUMP: u16 = 0x300;
    let mut message = vec![0; 4];
    message.extend_from_slice(&((SUBSYSTEM << 8) | kind).to_ne_bytes());
    message.extend_from_slice(&(REQUEST | if dump { DUMP } else { ACK }).to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[family, 0, 0, 0]);
    for (kind, text) in texts {
        message.extend_from_slice(&u16::try_from(text.len() + 5).unwrap_or_default().to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(text.as_bytes());
        message.push(0);
        message.resize(message.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(message.len()).unwrap_or_default();
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

/// The value of the first attribute of a kind.
pub(crate) fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    while bytes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        if u16::from_ne_bytes([bytes[2], bytes[3]]) & 0x3fff == kind {
            return bytes.get(4..length);
        }
        bytes = bytes.get(length.max(4).next_multiple_of(4)..)?;
    }
    None
}

/// A set or map.
#[derive(Debug, Clone, Copy)]
pub struct SetSpec {
    /// Its name.
    pub name: &'static str,
    /// The fields of its keys.
    pub key: &'static [Field],
    /// What it holds.
    pub kind: SetKind,
}

/// The value of a map's element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// In a set.
    None,
    /// In a verdict map.
    Verdict(Verdict),
    /// In a data map.
    Data(Vec<u8>),
}

/// Changes to the tables of one name, applied together.
#[derive(Debug)]
pub struct Batch {
    table: String,
    family: Family,
    messages: wire::Messages,
    sets: u32,
}

impl Batch {
    /// An empty batch for `table`, that of IPv4 at first.
    pub fn new(table: &str) -> Self {
        Self { table: table.to_owned(), family: Family::V4, messages: wire::Messages::new(), sets: 0 }
    }

    /// What follows is for the table of this family.
    pub fn turn_to(&mut self, family: Family) {
        self.family = family;
    }

    fn push(&mut self, kind: wire::Kind, fill: impl FnOnce(&mut Message<'_>, &str)) {
        let table = &self.table;
        self.messages.push(kind, self.family, |message| fill(message, table));
    }

    /// Creates the table if it is missing.
    pub fn add_table(&mut self) {
        self.push(wire::Kind::NewTable, |m, table| m.text(wire::TABLE_NAME, table));
    }

    /// Deletes the table with all that is in it. It must exist.
    pub fn delete_table(&mut self) {
        self.push(wire::Kind::DeleteTable, |m, table| m.text(wire::TABLE_NAME, table));
    }

    /// Creates a chain that rules and maps lead to, if it is missing.
    pub fn add_chain(&mut self, name: &str) {
        self.push(wire::Kind::NewChain, |m, table| {
            m.text(wire::CHAIN_TABLE, table);
            m.text(wire::CHAIN_NAME, name);
        });
    }

    /// Creates a chain that packets enter at a hook.
    pub fn add_base_chain(&mut self, name: &str, kind: ChainType, hook: Hook, priority: i32) {
        self.push(wire::Kind::NewChain, |m, table| {
            m.text(wire::CHAIN_TABLE, table);
            m.text(wire::CHAIN_NAME, name);
            m.nest(wire::CHAIN_HOOK, |m| {
                m.number(wire::HOOK_NUMBER, hook as u32);
                m.number(wire::HOOK_PRIORITY, priority.cast_unsigned());
            });
            m.text(wire::CHAIN_TYPE, if kind == ChainType::Nat { "nat" } else { "filter" });
        });
    }

    /// Appends a rule.
    pub fn add_rule(&mut self, chain: &str, expressions: &[Expr]) {
        let family = self.family;
        self.push(wire::Kind::NewRule, |m, table| {
            m.text(wire::RULE_TABLE, table);
            m.text(wire::RULE_CHAIN, chain);
            m.nest(wire::RULE_EXPRESSIONS, |m| {
                for expression in expressions {
                    m.nest(wire::LIST_ELEMENT, |m| expression.write(m, family));
                }
            });
        });
    }

    /// Creates a set or map.
    pub fn add_set(&mut self, set: &SetSpec) {
        const MAP: u32 = 8;
        const TIMEOUT: u32 = 16;
        const FILLED_BY_RULES: u32 = 32;
        const DATA_VERDICT: u32 = 0xffff_ff00;
        self.sets += 1;
        let (id, family) = (self.sets, self.family);
        self.push(wire::Kind::NewSet, |m, table| {
            let (key_type, key_length) = concatenation(set.key, family);
            m.text(wire::SET_TABLE, table);
            m.text(wire::SET_NAME, set.name);
            let flags = match set.kind {
                SetKind::Set => 0,
                SetKind::VerdictMap | SetKind::DataMap(_) => MAP,
                SetKind::Memory(..) => MAP | TIMEOUT | FILLED_BY_RULES,
            };
            m.number(wire::SET_FLAGS, flags);
            m.number(wire::SET_KEY_TYPE, key_type);
            m.number(wire::SET_KEY_LENGTH, key_length);
            match set.kind {
                SetKind::Set => {}
                // Sixteen bytes is what the kernel holds a verdict in.
                SetKind::VerdictMap => {
                    m.number(wire::SET_DATA_TYPE, DATA_VERDICT);
                    m.number(wire::SET_DATA_LENGTH, 16);
                }
                SetKind::DataMap(fields) | SetKind::Memory(fields, _) => {
                    let (data_type, data_length) = concatenation(fields, family);
                    m.number(wire::SET_DATA_TYPE, data_type);
                    m.number(wire::SET_DATA_LENGTH, data_length);
                }
            }
            if let SetKind::Memory(_, most) = set.kind {
                m.nest(wire::SET_DESCRIPTION, |m| m.number(wire::SET_SIZE, most));
            }
            m.number(wire::SET_ID, id);
        });
    }

    /// Adds elements. Those that are there with another value make the batch fail.
    pub fn add_elements(&mut self, set: &str, elements: &[(Vec<u8>, Value)]) {
        self.elements(wire::Kind::NewElements, set, elements);
    }

    /// Deletes elements, of which only the keys count. They must exist.
    pub fn delete_elements(&mut self, set: &str, elements: &[(Vec<u8>, Value)]) {
        self.elements(wire::Kind::DeleteElements, set, elements);
    }

    fn elements(&mut self, kind: wire::Kind, set: &str, elements: &[(Vec<u8>, Value)]) {
        for chunk in elements.chunks(ELEMENTS) {
            self.push(kind, |m, table| {
                m.text(wire::ELEMENTS_TABLE, table);
                m.text(wire::ELEMENTS_SET, set);
                m.nest(wire::ELEMENTS_LIST, |m| {
                    for (key, value) in chunk {
                        m.nest(wire::LIST_ELEMENT, |m| {
                            m.nest(wire::ELEMENT_KEY, |m| m.bytes(wire::DATA_VALUE, key));
                            match value {
                                Value::None => {}
                                Value::Verdict(verdict) => {
                                    m.nest(wire::ELEMENT_DATA, |m| verdict.write(m));
                                }
                                Value::Data(data) => {
                                    m.nest(wire::ELEMENT_DATA, |m| m.bytes(wire::DATA_VALUE, data));
                                }
                            }
                        });
                    }
                });
            });
        }
    }

    /// Whether there is nothing to apply.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Hands the batch to the kernel of the calling thread's network namespace. Blocks, some milliseconds
    /// for thousands of elements.
    ///
    /// # Errors
    /// When the kernel refuses any of it; nothing has changed then.
    pub fn commit(self) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        socket::commit(&self.messages.finish())
    }

    /// The same, as another program would.
    #[cfg(test)]
    pub(crate) fn commit_as_somebody_else(self) -> Result<(), Error> {
        socket::exchange(Some(rustix::net::netlink::NETFILTER), &self.messages.finish())
    }
}
