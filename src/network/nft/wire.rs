//! The netlink encoding: messages in a batch, attributes in messages. Numbers are the kernel's.

use super::Family;

/// Kinds of messages, numbered as in `linux/netfilter/nf_tables.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    NewTable = 0,
    DeleteTable = 2,
    NewChain = 3,
    NewRule = 6,
    NewSet = 9,
    NewElements = 12,
    DeleteElements = 14,
}

pub(super) const TABLE_NAME: u16 = 1;
pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_TYPE: u16 = 7;
pub(super) const HOOK_NUMBER: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;
pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const LIST_ELEMENT: u16 = 1;
pub(super) const EXPRESSION_NAME: u16 = 1;
pub(super) const EXPRESSION_DATA: u16 = 2;
pub(super) const SET_TABLE: u16 = 1;
pub(super) const SET_NAME: u16 = 2;
pub(super) const SET_FLAGS: u16 = 3;
pub(super) const SET_KEY_TYPE: u16 = 4;
pub(super) const SET_KEY_LENGTH: u16 = 5;
pub(super) const SET_DATA_TYPE: u16 = 6;
pub(super) const SET_DATA_LENGTH: u16 = 7;
pub(super) const SET_DESCRIPTION: u16 = 9;
pub(super) const SET_SIZE: u16 = 1;
pub(super) const SET_ID: u16 = 10;
pub(super) const ELEMENTS_TABLE: u16 = 1;
pub(super) const ELEMENTS_SET: u16 = 2;
pub(super) const ELEMENTS_LIST: u16 = 3;
pub(super) const ELEMENT_KEY: u16 = 1;
pub(super) const ELEMENT_DATA: u16 = 2;
pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;
pub(super) const VERDICT_CODE: u16 = 1;
pub(super) const VERDICT_CHAIN: u16 = 2;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
const FAMILY_NONE: u8 = 0;
const HEADER: usize = 16;

/// A batch being written.
#[derive(Debug)]
pub(super) struct Messages {
    buffer: Vec<u8>,
    sequence: u32,
    /// Where the last message begins.
    last: usize,
}

impl Messages {
    pub(super) fn new() -> Self {
        let mut messages = Self { buffer: Vec::with_capacity(4096), sequence: 0, last: 0 };
        messages.begin(BATCH_BEGIN, REQUEST, FAMILY_NONE, SUBSYSTEM);
        messages
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sequence == 1
    }

    fn begin(&mut self, kind: u16, flags: u16, family: u8, resource: u16) {
        self.last = self.buffer.len();
        self.sequence += 1;
        self.buffer.extend_from_slice(&20_u32.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(&flags.to_ne_bytes());
        self.buffer.extend_from_slice(&self.sequence.to_ne_bytes());
        self.buffer.extend_from_slice(&0_u32.to_ne_bytes());
        self.buffer.extend_from_slice(&[family, 0]);
        self.buffer.extend_from_slice(&resource.to_be_bytes());
    }

    pub(super) fn push(&mut self, kind: Kind, family: Family, fill: impl FnOnce(&mut Message<'_>)) {
        let flags = match kind {
            Kind::NewTable | Kind::NewChain | Kind::NewSet | Kind::NewElements => REQUEST | CREATE,
            Kind::NewRule => REQUEST | CREATE | APPEND,
            Kind::DeleteTable | Kind::DeleteElements => REQUEST,
        };
        self.begin((SUBSYSTEM << 8) | kind as u16, flags, family.number(), 0);
        fill(&mut Message { buffer: &mut self.buffer });
        let length = u32::try_from(self.buffer.len() - self.last).unwrap_or(u32::MAX);
        self.buffer[self.last..self.last + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// The whole batch. The acknowledgement is asked for on the last real message: it comes when all
    /// before it have been taken.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let flags = self.last + 6;
        let with_ack = u16::from_ne_bytes([self.buffer[flags], self.buffer[flags + 1]]) | ACK;
        self.buffer[flags..flags + 2].copy_from_slice(&with_ack.to_ne_bytes());
        self.begin(BATCH_END, REQUEST, FAMILY_NONE, SUBSYSTEM);
        self.buffer
    }
}

/// One message, or one nested attribute, being written.
#[derive(Debug)]
pub(super) struct Message<'a> {
    buffer: &'a mut Vec<u8>,
}

impl Message<'_> {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("values are addresses, names and keys");
        self.buffer.extend_from_slice(&length.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(value);
        self.buffer.resize(self.buffer.len().next_multiple_of(4), 0);
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Message<'_>)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0, 0]);
        self.buffer.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(&mut Message { buffer: self.buffer });
        let length = u16::try_from(self.buffer.len() - start).expect("lists are written in chunks that fit");
        self.buffer[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

/// The outcome of a batch, if `answer` holds it: the kernel's error number, 0 for success.
pub(super) fn outcome(answer: &[u8]) -> Option<i32> {
    const ERROR: u16 = 2;
    let mut rest = answer;
    while rest.len() >= HEADER + 4 {
        let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        if u16::from_ne_bytes([rest[4], rest[5]]) == ERROR {
            return Some(-i32::from_ne_bytes([rest[16], rest[17], rest[18], rest[19]]));
        }
        rest = rest.get(length.next_multiple_of(4).max(HEADER)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_cover_nested_attributes_and_padding() {
        let mut messages = Messages::new();
        assert!(messages.is_empty());
        messages.push(Kind::NewChain, Family::V4, |m| {
            m.text(CHAIN_NAME, "abcd");
            m.nest(CHAIN_HOOK, |m| m.number(HOOK_NUMBER, 3));
        });
        assert!(!messages.is_empty());
        let bytes = messages.finish();
        // Begin and end have 20 bytes each; the message 20, the name 4 + 5 + 3, the hook 4 + 8.
        assert_eq!(bytes.len(), 20 + 20 + 12 + 12 + 20);
        assert_eq!(bytes[20..24], 44_u32.to_ne_bytes());
        assert_eq!(bytes[26..28], (REQUEST | CREATE | ACK).to_ne_bytes(), "the last real message asks for an answer");
        assert_eq!(bytes[40..44], [9, 0, 3, 0], "an attribute's length leaves the padding out");
        assert_eq!(bytes[52..56], [12, 0, 4, 0x80]);
        assert_eq!(bytes[60..64], 3_u32.to_be_bytes());
    }

    #[test]
    fn finds_the_outcome_among_other_messages() {
        let mut answer = vec![0; 20];
        answer[0] = 20;
        answer[4] = 9;
        assert_eq!(outcome(&answer), None);
        let mut error = vec![0; 36];
        error[0] = 36;
        error[4] = 2;
        error[16..20].copy_from_slice(&(-17_i32).to_ne_bytes());
        answer.extend(error);
        assert_eq!(outcome(&answer), Some(17));
        assert_eq!(outcome(&[1, 2, 3]), None);
    }
}
