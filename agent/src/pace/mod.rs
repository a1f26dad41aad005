//! How much of its machine this agent may use: bytes read from the disk, sent to the store and received from it, and
//! processor time. One for all tasks of an agent; what is in force can change at any time (docs/operations/neighbour.md).
//!
//! The log is not held back: what is not stored of it is lost with the node.
use std::sync::{Mutex, PoisonError};

use palinurus_proto::v1;
use palinurus_repository::{Error, Result};

mod bucket;
mod gate;
mod received;
mod worker;

pub(crate) use gate::Gate;
pub(crate) use received::Received;
pub(crate) use worker::{Pacer, ThreadTime};

/// Nanoseconds of processor time a second that one percent of a processor is.
const PERCENT: u64 = 10_000_000;

#[derive(Debug, Default)]
pub struct Pace {
    pub(crate) read: Gate,
    pub(crate) send: Gate,
    pub(crate) receive: Gate,
    /// In nanoseconds.
    pub(crate) cpu: Gate,
    in_force: Mutex<Rates>,
}

/// A second; 0: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    pub(crate) read: u64,
    pub(crate) send: u64,
    pub(crate) receive: u64,
    /// In percent of one processor.
    pub(crate) cpu: u32,
}

impl Rates {
    /// What the operator said of this node goes over what the agent's own settings say.
    pub(crate) fn under(self, told: Option<&v1::Limits>) -> Self {
        let told = told.copied().unwrap_or_default();
        Self {
            read: told.read.unwrap_or(self.read),
            send: told.send.unwrap_or(self.send),
            receive: told.receive.unwrap_or(self.receive),
            cpu: told.cpu.unwrap_or(self.cpu),
        }
    }
}

impl Pace {
    pub(crate) fn new(rates: Rates) -> Self {
        let pace = Self::default();
        pace.set(rates);
        pace
    }

    pub(crate) fn set(&self, rates: Rates) {
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        if *in_force == rates {
            return;
        }
        *in_force = rates;
        let Rates { read, send, receive, cpu } = rates;
        self.read.set(read);
        self.send.set(send);
        self.receive.set(receive);
        self.cpu.set(u64::from(cpu) * PERCENT);
        tracing::info!(read, send, receive, cpu, "limits, a second; 0: none");
    }
}

/// `50MiB`, of a second; nothing: no limit.
pub(crate) fn bytes(key: &str, text: &str) -> Result<u64> {
    const UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1)];
    let parse = |(unit, size): &(&str, u64)| {
        text.strip_suffix(unit)?.trim().parse::<u64>().ok()?.checked_mul(*size).filter(|bytes| *bytes > 0)
    };
    if text.is_empty() {
        return Ok(0);
    }
    UNITS.iter().find_map(parse).ok_or_else(|| {
        Error::invalid(format!("limits.{key} {text:?}"))
            .with_hint("such as \"50MiB\" a second; \"\": no limit")
    })
}

/// `150%` of a processor; nothing: no limit.
pub(crate) fn percent(text: &str) -> Result<u32> {
    if text.is_empty() {
        return Ok(0);
    }
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse().ok());
    number.filter(|number| *number > 0).ok_or_else(|| {
        Error::invalid(format!("limits.cpu {text:?}"))
            .with_hint("such as \"50%\" of one processor, or \"150%\"; \"\": no limit")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operator_says_goes_over_the_file_field_by_field() {
        let own = Rates { read: 10, send: 20, receive: 30, cpu: 40 };
        assert_eq!(own.under(None), own);
        let told = v1::Limits { read: Some(0), send: Some(7), ..Default::default() };
        assert_eq!(own.under(Some(&told)), Rates { read: 0, send: 7, ..own });
    }

    #[test]
    fn sizes_are_read_and_nonsense_is_refused() {
        assert_eq!(bytes("read", "").unwrap(), 0);
        for (text, size) in [("50MiB", 50 << 20), ("7 KiB", 7 << 10), ("1GiB", 1 << 30), ("123", 123)] {
            assert_eq!(bytes("read", text).unwrap(), size);
        }
        for text in ["0", "fast", "5MB", "-1", "99999999999999GiB"] {
            assert!(bytes("read", text).unwrap_err().what().contains(text));
        }
        assert_eq!((percent("").unwrap(), percent("150%").unwrap()), (0, 150));
        for text in ["0%", "1", "x%"] {
            assert!(percent(text).is_err());
        }
    }
}
