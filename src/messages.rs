//! SCHEMA, RECORD and STATE: the only writer of stdout.

use std::io::{BufWriter, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::Result;

/// The stream of Singer messages; whoever writes a line holds the lock for the whole of it.
pub(crate) struct Messages {
    inner: Mutex<Inner>,
}

struct Inner {
    out: BufWriter<Box<dyn Write + Send>>,
    line: Vec<u8>,
    /// The state that is true at this point of the stream, whether written yet or not.
    truth: Option<Value>,
    /// What the last STATE line said, and whether other lines followed it.
    written: Option<Value>,
    since_state: u64,
}

#[derive(Serialize)]
struct RecordLine<'a, R> {
    r#type: &'static str,
    stream: &'a str,
    record: &'a R,
    time_extracted: &'a str,
}

impl Messages {
    pub(crate) fn new(out: Box<dyn Write + Send>) -> Messages {
        let inner = Inner {
            out: BufWriter::with_capacity(1 << 16, out),
            line: Vec::with_capacity(1 << 12),
            truth: None,
            written: None,
            since_state: 0,
        };
        Messages { inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn schema(
        &self,
        stream: &str,
        schema: &Value,
        keys: &[&str],
        replication_key: Option<&str>,
    ) -> Result<()> {
        let mut message = json!({"type": "SCHEMA", "stream": stream, "schema": schema, "key_properties": keys});
        if let Some(key) = replication_key {
            message["bookmark_properties"] = json!([key]);
        }
        self.lock().write(&message)
    }

    /// One record; `extracted` is the time its page was read, as [`stamp`] writes it.
    pub(crate) fn record<R: Serialize>(&self, stream: &str, record: &R, extracted: &str) -> Result<()> {
        self.lock().write(&RecordLine { r#type: "RECORD", stream, record, time_extracted: extracted })
    }

    /// Says what state is true from here on, without writing it yet.
    pub(crate) fn now_true(&self, state: Value) {
        self.lock().truth = Some(state);
    }

    /// How many lines stand between here and the last STATE.
    pub(crate) fn since_state(&self) -> u64 {
        self.lock().since_state
    }

    /// Writes the newest true state, unless it is already the last line.
    pub(crate) fn state(&self) -> Result<()> {
        self.lock().state()
    }

    /// Writes the newest true state as the last line of all: whoever writes after it waits for ever.
    pub(crate) fn end(&self) -> Result<()> {
        let mut inner = self.lock();
        let outcome = inner.state();
        std::mem::forget(inner);
        outcome
    }

    /// Pretty-printed, since Meltano cannot read a discovery line of over 64 KiB.
    pub(crate) fn catalog(&self, catalog: &Value) -> Result<()> {
        self.answer(format!("{catalog:#}\n").as_bytes())
    }

    /// What was asked for instead of messages.
    pub(crate) fn answer(&self, text: &[u8]) -> Result<()> {
        let mut inner = self.lock();
        inner.out.write_all(text)?;
        Ok(inner.out.flush()?)
    }

    pub(crate) fn flush(&self) -> Result<()> {
        Ok(self.lock().out.flush()?)
    }
}

impl Inner {
    fn state(&mut self) -> Result<()> {
        if let Some(truth) = self.truth.take() {
            // After other lines it is said again even if equal: targets keep only a STATE that comes last.
            if self.since_state > 0 || self.written.as_ref() != Some(&truth) {
                self.write(&json!({"type": "STATE", "value": truth}))?;
                self.since_state = 0;
                self.written = Some(truth.clone());
            }
            self.truth = Some(truth);
        }
        Ok(self.out.flush()?)
    }

    /// A line is built whole before a byte of it is written, so that no failure leaves half a line.
    fn write<T: Serialize>(&mut self, message: &T) -> Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, message).map_err(std::io::Error::from)?;
        self.line.push(b'\n');
        self.since_state += 1;
        Ok(self.out.write_all(&self.line)?)
    }
}
