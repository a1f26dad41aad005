//! What happened when and where: the tree's own log, and what the simulated parts add to it. Its hash says whether two
//! runs were the same.
use std::collections::VecDeque;
use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::chance::hash;
use crate::world;

/// Lines kept for a failure.
const KEPT: usize = 400;

#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) tell: bool,
    pub(crate) lines: VecDeque<String>,
    pub(crate) hash: u64,
    pub(crate) count: u64,
}

impl Trace {
    /// The sum does not depend on the order of lines: what happens in one moment has none.
    pub(crate) fn push(&mut self, at: u64, host: &str, text: &str) {
        let line = format!("{:>8.3} {host:<8} {text}", at as f64 / 1000.0);
        self.hash = self.hash.wrapping_add(hash(line.as_bytes()));
        self.count += 1;
        if self.tell {
            #[expect(clippy::print_stdout, reason = "asked for")]
            {
                println!("{line}");
            }
        }
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub(crate) fn sum(&self) -> u64 {
        self.hash
    }

    pub(crate) fn last(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}

/// Takes the tree's log on this thread into the trace of the world that runs on it.
#[derive(Debug)]
pub(crate) struct Log;

#[derive(Default)]
struct Text(String, Option<u64>);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "epoch" {
            self.1 = Some(value);
        }
        self.record_debug(field, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.0, " {}={value}", field.name());
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("palinurus")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        world::trace(&text.0);
        let from_agent = event.metadata().target().starts_with("palinurus_agent");
        if let Some(epoch) = text.1.filter(|_| from_agent) {
            world::obeys(epoch);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
