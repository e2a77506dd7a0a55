//! Ports that Services have on the nodes. What is taken is worked out from the cache at start and kept in
//! memory: this server is the only one that hands them out.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

/// Why there is no such port to be had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PortError {
    #[error("range is full")]
    Full,
    #[error("provided port is already allocated")]
    Allocated,
    #[error("provided port is not in the valid range. The range of valid ports is {0}-{1}")]
    OutOfRange(u16, u16),
}

/// Hands out ports. A number is one Service's, whatever the protocol.
#[derive(Debug)]
pub(super) struct Ports {
    range: RangeInclusive<u16>,
    /// Leaf lock, never held across an await.
    taken: Mutex<HashSet<u16>>,
}

impl Ports {
    pub(super) fn new(range: RangeInclusive<u16>) -> Self {
        Self { range, taken: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<u16>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is there already.
    pub(super) fn take_all(&self, ports: impl Iterator<Item = u16>) {
        self.lock().extend(ports);
    }

    pub(super) fn give_back(&self, ports: &[u16]) {
        let mut taken = self.lock();
        for port in ports {
            taken.remove(port);
        }
    }

    /// Whether this port can be had.
    pub(super) fn check(&self, port: u16) -> Result<(), PortError> {
        if !self.range.contains(&port) {
            return Err(PortError::OutOfRange(*self.range.start(), *self.range.end()));
        }
        if self.lock().contains(&port) { Err(PortError::Allocated) } else { Ok(()) }
    }

    /// Takes this port.
    pub(super) fn take(&self, port: u16) -> Result<(), PortError> {
        self.check(port)?;
        if self.lock().insert(port) { Ok(()) } else { Err(PortError::Allocated) }
    }

    /// Takes any port, from the upper band while it has any: low ones are left to those who ask for one.
    pub(super) fn next(&self) -> Result<u16, PortError> {
        let (first, last) = (u32::from(*self.range.start()), u32::from(*self.range.end()));
        let size = last - first + 1;
        let middle = first + if size <= 16 { 0 } else { (size / 32).clamp(16, 128) };
        let mut taken = self.lock();
        let found =
            [(middle, last + 1), (first, middle)].into_iter().filter(|(from, to)| from < to).find_map(|(from, to)| {
                let count = to - from;
                let start = rand::random_range(0..count);
                let mut candidates = (0..count).filter_map(|step| u16::try_from(from + (start + step) % count).ok());
                candidates.find(|port| !taken.contains(port))
            });
        let port = found.ok_or(PortError::Full)?;
        taken.insert(port);
        Ok(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_handed_out_once_and_the_low_ones_last() {
        let ports = Ports::new(30_000..=30_063);
        assert_eq!(
            ports.take(80).map_err(|why| why.to_string()),
            Err("provided port is not in the valid range. The range of valid ports is 30000-30063".to_owned())
        );
        ports.take(30_001).expect("free");
        assert_eq!(ports.take(30_001), Err(PortError::Allocated));
        for given in 0..63 {
            let port = ports.next().expect("a free port");
            assert!(port >= 30_016 || given >= 48);
        }
        assert_eq!(ports.next(), Err(PortError::Full));
        ports.give_back(&[30_005]);
        assert_eq!(ports.next(), Ok(30_005));
    }
}
