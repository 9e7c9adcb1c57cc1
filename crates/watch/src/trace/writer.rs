//! Chrome's JSON, entry by entry.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Value, json};

/// One entry of a trace; the fields have the format's own names.
#[derive(Debug, Serialize)]
pub(super) struct Entry<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    cat: &'static str,
    ph: char,
    /// Microseconds.
    ts: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    pid: u32,
    tid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<usize>,
    /// A flow ends in the slice that is there, not in the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    bp: Option<&'static str>,
    /// A mark is of its thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) args: Option<Value>,
}

impl<'a> Entry<'a> {
    fn new(ph: char, pid: u32, tid: u32, name: &'a str, at_ns: u64) -> Self {
        let ts = at_ns as f64 / 1e3;
        Self { name, cat: "", ph, ts, dur: None, pid, tid, id: None, bp: None, s: None, args: None }
    }

    pub(super) fn slice(pid: u32, tid: u32, name: &'a str, at_ns: u64, long_ns: u64) -> Self {
        Self { dur: Some(long_ns as f64 / 1e3), ..Self::new('X', pid, tid, name, at_ns) }
    }

    pub(super) fn of(self, cat: &'static str) -> Self {
        Self { cat, ..self }
    }

    /// `s` begins a flow, `f` ends it.
    pub(super) fn flow(ph: char, id: usize, pid: u32, tid: u32, at_ns: u64) -> Self {
        let bp = (ph == 'f').then_some("e");
        Self { cat: "flow", id: Some(id), bp, ..Self::new(ph, pid, tid, "asked", at_ns) }
    }

    pub(super) fn mark(pid: u32, tid: u32, name: &'a str, at_ns: u64, args: Value) -> Self {
        Self {
            cat: "mark",
            s: Some("t"),
            args: Some(args),
            ..Self::new('i', pid, tid, name, at_ns)
        }
    }

    pub(super) fn counter(pid: u32, name: &'a str, at_ns: u64, args: Value) -> Self {
        Self { args: Some(args), ..Self::new('C', pid, 0, name, at_ns) }
    }
}

/// Writes a trace.
pub(super) struct Writer<'w, W> {
    to: &'w mut W,
    is_first: bool,
}

impl<'w, W: Write> Writer<'w, W> {
    pub(super) fn new(to: &'w mut W, facts: &Value) -> io::Result<Self> {
        write!(to, "{{\"displayTimeUnit\":\"ns\",\"otherData\":{facts},\"traceEvents\":[")?;
        Ok(Self { to, is_first: true })
    }

    pub(super) fn write(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let between = if self.is_first { "\n" } else { ",\n" };
        self.is_first = false;
        self.to.write_all(between.as_bytes())?;
        serde_json::to_writer(&mut *self.to, entry)?;
        Ok(())
    }

    pub(super) fn name_process(&mut self, pid: u32, name: &str) -> io::Result<()> {
        let args = Some(json!({ "name": name }));
        self.write(&Entry { args, ..Entry::new('M', pid, 0, "process_name", 0) })
    }

    pub(super) fn name_thread(&mut self, pid: u32, tid: u32, name: &str) -> io::Result<()> {
        let args = Some(json!({ "name": name }));
        self.write(&Entry { args, ..Entry::new('M', pid, tid, "thread_name", 0) })
    }

    pub(super) fn finish(self) -> io::Result<()> {
        self.to.write_all(b"\n]}\n")?;
        self.to.flush()
    }
}
