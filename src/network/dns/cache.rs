//! Answers of other resolvers, kept for as long as their TTLs allow, and longer when nobody answers.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Answers kept.
const CAPACITY: usize = 4096;
/// Records of one answer that is kept.
const MAX_RECORDS: usize = 100;
/// Longest time that an answer is believed.
const MAX_TTL: u32 = 3600;
/// Longest time that an absence is believed: names are often asked for just before they are made.
const MAX_NEGATIVE_TTL: u32 = 30;
/// How long a failure is believed.
const FAILURE_TTL: u32 = 2;
/// How long an answer is kept for the time when nobody answers, beyond its TTL (RFC 8767).
const STALE: Duration = Duration::from_secs(3600);
/// The TTL of such an answer.
const STALE_TTL: u32 = 30;

/// What is asked. Names compare without case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Name.
    pub(super) name: Name,
    /// Type.
    pub(super) kind: RecordType,
    /// Whether signatures are wanted.
    pub(super) dnssec: bool,
}

/// What another resolver said.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Answer {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) additionals: Vec<Record>,
    /// Checked by that resolver.
    pub(super) authentic: bool,
}

impl Answer {
    /// An answer without records.
    pub(super) fn code(code: ResponseCode) -> Self {
        Self { code, ..Self::default() }
    }

    fn records(&self) -> impl Iterator<Item = &Record> {
        self.answers.iter().chain(&self.authorities).chain(&self.additionals)
    }

    fn records_mut(&mut self) -> impl Iterator<Item = &mut Record> {
        self.answers.iter_mut().chain(&mut self.authorities).chain(&mut self.additionals)
    }

    /// Seconds for which it holds; 0: it is not kept.
    fn ttl(&self) -> u32 {
        let shortest = self.answers.iter().map(|record| record.ttl).min();
        match (self.code, shortest) {
            (ResponseCode::NoError, Some(ttl)) => ttl.min(MAX_TTL),
            (ResponseCode::NoError | ResponseCode::NXDomain, _) => {
                // RFC 2308: the shorter of the record's own and its minimum.
                let negative = self.authorities.iter().find_map(|record| match &record.data {
                    RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                    _ => None,
                });
                negative.unwrap_or_default().min(MAX_NEGATIVE_TTL)
            }
            (ResponseCode::ServFail, _) => FAILURE_TTL,
            _ => 0,
        }
    }

    fn aged(&self, seconds: u32) -> Self {
        let mut copy = self.clone();
        copy.records_mut().for_each(|record| record.ttl = record.ttl.saturating_sub(seconds));
        copy
    }
}

/// The cache. When it is full the oldest answer goes.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// Leaf lock.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Key, Entry>,
    /// Keys in the order of their insertion. One that was replaced since has another number.
    order: VecDeque<(Key, u64)>,
    inserted: u64,
}

#[derive(Debug)]
struct Entry {
    answer: Arc<Answer>,
    number: u64,
    since: Instant,
    ttl: u32,
}

impl Cache {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer that still holds, with the rest of its time.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<Answer> {
        let (answer, age) = {
            let inner = self.lock();
            let entry = inner.entries.get(key)?;
            let age = u32::try_from(now.duration_since(entry.since).as_secs()).ok()?;
            (age < entry.ttl).then(|| (entry.answer.clone(), age))?
        };
        Some(answer.aged(age))
    }

    /// An answer that need not hold any more.
    pub(super) fn stale(&self, key: &Key, now: Instant) -> Option<Answer> {
        let mut answer = {
            let inner = self.lock();
            let entry = inner.entries.get(key)?;
            let usable = entry.answer.code != ResponseCode::ServFail
                && now.duration_since(entry.since) < Duration::from_secs(entry.ttl.into()) + STALE;
            usable.then(|| Answer::clone(&entry.answer))?
        };
        answer.records_mut().for_each(|record| record.ttl = STALE_TTL);
        Some(answer)
    }

    pub(super) fn put(&self, key: Key, answer: &Answer, now: Instant) {
        let ttl = answer.ttl();
        if ttl == 0 || answer.records().count() > MAX_RECORDS {
            return;
        }
        let answer = Arc::new(answer.clone());
        let mut inner = self.lock();
        inner.inserted += 1;
        let number = inner.inserted;
        inner.order.push_back((key.clone(), number));
        inner.entries.insert(key, Entry { answer, number, since: now, ttl });
        while inner.entries.len() > CAPACITY || inner.order.len() > 2 * CAPACITY {
            let Some((key, number)) = inner.order.pop_front() else { break };
            if inner.entries.get(&key).is_some_and(|entry| entry.number == number) {
                inner.entries.remove(&key);
            }
        }
    }

    /// Answers kept.
    pub(super) fn len(&self) -> usize {
        self.lock().entries.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use hickory_proto::rr::rdata::{A, SOA};

    fn name(text: &str) -> Name {
        super::super::zone::absolute(text).unwrap()
    }

    fn key(text: &str) -> Key {
        Key { name: name(text), kind: RecordType::A, dnssec: false }
    }

    fn address(text: &str, ttl: u32) -> Answer {
        let record = Record::from_rdata(name(text), ttl, RData::A(A::new(192, 0, 2, 1)));
        Answer { answers: vec![record], ..Answer::default() }
    }

    #[test]
    fn answers_age_expire_and_serve_when_stale() {
        let (cache, start) = (Cache::default(), Instant::now());
        cache.put(key("a.example"), &address("a.example", 60), start);
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(cache.get(&key("A.Example"), after(20)).unwrap().answers[0].ttl, 40);
        assert_eq!(cache.get(&key("a.example"), after(60)), None);
        assert_eq!(cache.stale(&key("a.example"), after(600)).unwrap().answers[0].ttl, 30);
        assert_eq!(cache.stale(&key("a.example"), after(3700)), None);
    }

    #[test]
    fn absence_is_kept_by_the_authority_and_not_without_one() {
        let (cache, now) = (Cache::default(), Instant::now());
        cache.put(key("no.example"), &Answer::code(ResponseCode::NXDomain), now);
        assert_eq!(cache.get(&key("no.example"), now), None);
        let soa = SOA::new(name("ns.example"), name("root.example"), 1, 1, 1, 1, 10);
        let authority = Record::from_rdata(name("example"), 300, RData::SOA(soa));
        let absent = Answer { code: ResponseCode::NXDomain, authorities: vec![authority], ..Answer::default() };
        cache.put(key("no.example"), &absent, now);
        assert!(cache.get(&key("no.example"), now + Duration::from_secs(9)).is_some());
        assert_eq!(cache.get(&key("no.example"), now + Duration::from_secs(10)), None);
    }

    #[test]
    fn the_oldest_goes_when_it_is_full() {
        let (cache, now) = (Cache::default(), Instant::now());
        for number in 0..=CAPACITY {
            let text = format!("{number}.example");
            cache.put(key(&text), &address(&text, 60), now);
        }
        assert_eq!(cache.len(), CAPACITY);
        assert_eq!(cache.get(&key("0.example"), now), None);
        for _ in 0..3 * CAPACITY {
            cache.put(key("1.example"), &address("1.example", 60), now);
        }
        assert!(cache.lock().order.len() <= 2 * CAPACITY);
        assert!(cache.get(&key("1.example"), now).is_some());
    }
}
