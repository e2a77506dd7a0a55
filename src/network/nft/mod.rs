//! nftables by netlink: batches of changes to one table, applied by the kernel as a whole or not at all.
//!
//! Architecture invariant: a batch names one table, ours; others' tables are never changed.

mod expr;
mod socket;
mod wire;

pub use expr::{Compare, Expr, Reg, Verdict};
pub use socket::Error;
pub(crate) use socket::{dump, exchange};

use wire::Message;

/// Elements in one message: attribute lengths have 16 bits.
const ELEMENTS: usize = 512;

/// Where a base chain sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Arriving packets before routing.
    Prerouting = 0,
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
    /// IPv4 address.
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
    fn type_number(self) -> u32 {
        match self {
            Field::Address => 7,
            Field::Protocol => 12,
            Field::Port => 13,
            Field::Number => 19,
        }
    }
}

fn concatenation(fields: &[Field]) -> (u32, u32) {
    let kind = fields.iter().fold(0, |kind, field| (kind << 6) | field.type_number());
    (kind, 4 * u32::try_from(fields.len()).unwrap_or(u32::MAX))
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

/// Changes to one IPv4 table, applied together.
#[derive(Debug)]
pub struct Batch {
    table: String,
    messages: wire::Messages,
    sets: u32,
}

impl Batch {
    /// An empty batch for `table`.
    pub fn new(table: &str) -> Self {
        Self { table: table.to_owned(), messages: wire::Messages::new(), sets: 0 }
    }

    fn push(&mut self, kind: wire::Kind, fill: impl FnOnce(&mut Message<'_>, &str)) {
        let table = &self.table;
        self.messages.push(kind, |message| fill(message, table));
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
        self.push(wire::Kind::NewRule, |m, table| {
            m.text(wire::RULE_TABLE, table);
            m.text(wire::RULE_CHAIN, chain);
            m.nest(wire::RULE_EXPRESSIONS, |m| {
                for expression in expressions {
                    m.nest(wire::LIST_ELEMENT, |m| expression.write(m));
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
        let id = self.sets;
        self.push(wire::Kind::NewSet, |m, table| {
            let (key_type, key_length) = concatenation(set.key);
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
                    let (data_type, data_length) = concatenation(fields);
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
        socket::exchange(Some(rustix::net::netlink::NETFILTER), &self.messages.finish())
    }
}
