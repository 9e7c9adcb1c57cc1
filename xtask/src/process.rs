//! Child processes under supervision: a time limit, an output limit, and nobody left behind.
//!
//! Everything that this program starts goes through here. A child leads a process group of its own, so that what *it*
//! started (a helper process of a test, a nested cargo) ends with it. A limit that is passed kills the whole group; so
//! does an interrupt of this program.
//!
//! Standard input is always `/dev/null`. Mesa's lavapipe 25 maps file descriptor 0 when external memory is bound to a
//! sparse buffer, and would write into whatever file stands there.
//!
//! The group is killed *before* its leader is reaped (`waitid` with `NOWAIT` only looks), so the number cannot have
//! been given to a stranger meanwhile.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// A child that writes more than this is stopped, so that a loop that prints cannot fill the disk.
pub(crate) const OUTPUT_LIMIT_BYTES: u64 = 64 << 20;

/// Leaders of the groups that run now, for [`kill_all`].
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// How a supervised child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It ended by itself.
    Exited(ExitStatus),
    /// It was killed at its time limit.
    TimedOut,
    /// It was killed because its log grew past the limit.
    TooMuchOutput,
}

impl End {
    /// True if the child ended by itself and reported success.
    pub(crate) fn success(self) -> bool {
        matches!(self, Self::Exited(status) if status.success())
    }

    /// A few words for a person: `exit code 101`, `killed by signal 11`, ...
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Exited(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (None, Some(signal)) => format!("ended by signal {signal}"),
                (None, None) => String::from("ended for an unknown reason"),
            },
            Self::TimedOut => String::from("ran past its time limit and was killed"),
            Self::TooMuchOutput => {
                format!("wrote more than {} MiB and was killed", OUTPUT_LIMIT_BYTES >> 20)
            }
        }
    }
}

/// What a child said and how it ended.
#[derive(Debug)]
pub(crate) struct Captured {
    /// True if it could be run to its end and reported success.
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `command` to its end and collects its output. For short tools (apt-cache, dpkg-query): no time limit.
///
/// # Errors
///
/// The program cannot be started; the message names it.
pub(crate) fn capture(command: &mut Command) -> Result<Captured> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", show(command)))?;
    Ok(Captured {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs `command` with its output on ours, until it ends or `deadline` comes.
///
/// # Errors
///
/// The program cannot be started or waited for; the message names it.
pub(crate) fn run_visible(command: &mut Command, deadline: Option<Instant>) -> Result<End> {
    supervise(command, deadline, None)
}

/// Runs `command` with both its outputs in the file `log`, until it ends, `deadline` comes, or the log is too long.
///
/// # Errors
///
/// The program cannot be started or waited for, or the log not be made.
pub(crate) fn run_logged(
    command: &mut Command,
    deadline: Option<Instant>,
    log: &Path,
) -> Result<End> {
    let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    let second = file.try_clone().context("cannot duplicate the log's descriptor")?;
    command.stdout(file).stderr(second);
    supervise(command, deadline, Some(log))
}

/// The last `limit_bytes` of a log, as text.
///
/// # Errors
///
/// The file cannot be read.
pub(crate) fn tail(log: &Path, limit_bytes: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let len_bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(len_bytes.saturating_sub(limit_bytes)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Kills every group that runs now. Called when this program is interrupted.
pub(crate) fn kill_all() {
    for &leader in running().iter() {
        // It may have ended by itself just now; there is nothing to do then.
        let _ = kill_process_group(leader, Signal::KILL);
    }
}

/// The command as a person would type it, for messages.
pub(crate) fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn supervise(command: &mut Command, deadline: Option<Instant>, log: Option<&Path>) -> Result<End> {
    command.stdin(Stdio::null()).process_group(0);
    let mut child = command.spawn().with_context(|| format!("cannot run {}", show(command)))?;
    let leader = Pid::from_child(&child);
    running().push(leader);
    let cut_off = watch(leader, deadline, log);
    // Whatever the leader left running ends here; no such process is the usual answer.
    let _ = kill_process_group(leader, Signal::KILL);
    running().retain(|&other| other != leader);
    let status = reap(&mut child, command)?;
    Ok(cut_off?.unwrap_or(End::Exited(status)))
}

/// Looks at the child, without reaping it, until it has ended (`None`) or has to be stopped.
fn watch(leader: Pid, deadline: Option<Instant>, log: Option<&Path>) -> Result<Option<End>> {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let mut pause = Duration::from_millis(1);
    loop {
        if waitid(WaitId::Pid(leader), look).context("cannot wait for a child")?.is_some() {
            return Ok(None);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(Some(End::TimedOut));
        }
        let written_bytes = log.and_then(|log| log.metadata().ok()).map_or(0, |data| data.len());
        if written_bytes > OUTPUT_LIMIT_BYTES {
            return Ok(Some(End::TooMuchOutput));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn reap(child: &mut Child, command: &Command) -> Result<ExitStatus> {
    child.wait().with_context(|| format!("cannot wait for {}", show(command)))
}

fn running() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_child_that_ends_reports_its_code_and_output() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let end = run_logged(&mut shell("echo out; echo err >&2; exit 3"), None, &log).unwrap();
        assert_eq!(end.describe(), "exit code 3");
        assert!(!end.success());
        assert_eq!(tail(&log, 1 << 10).unwrap(), "out\nerr\n");
        assert_eq!(tail(&log, 4).unwrap(), "err\n");
    }

    #[test]
    fn the_deadline_ends_the_child_and_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let deadline = Instant::now() + Duration::from_millis(300);
        let script = "sleep 600 & echo $!; wait";
        let end = run_logged(&mut shell(script), Some(deadline), &log).unwrap();
        assert_eq!(end, End::TimedOut);
        assert_gone(&tail(&log, 1 << 10).unwrap());
    }

    #[test]
    fn what_an_ended_child_left_running_ends_too() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let end = run_logged(&mut shell("sleep 600 & echo $!"), None, &log).unwrap();
        assert!(end.success());
        assert_gone(&tail(&log, 1 << 10).unwrap());
    }

    #[test]
    fn a_child_that_never_stops_printing_is_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let end = run_logged(&mut shell("yes"), None, &dir.path().join("log")).unwrap();
        assert_eq!(end, End::TooMuchOutput);
    }

    #[test]
    fn standard_input_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = shell("readlink /proc/self/fd/0; cat");
        // Whatever the caller had put there.
        command.stdin(File::open("/proc/self/cmdline").unwrap());
        let end = run_logged(&mut command, None, &log).unwrap();
        assert!(end.success());
        assert_eq!(tail(&log, 1 << 10).unwrap(), "/dev/null\n");
    }

    /// The process with this number is gone or only waits to be reaped by its new parent.
    fn assert_gone(pid: &str) {
        let path = format!("/proc/{}/stat", pid.trim());
        for _ in 0..200 {
            match std::fs::read_to_string(&path) {
                Err(_) => return,
                Ok(stat) if stat.contains(") Z ") => return,
                Ok(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        panic!("process {} still runs", pid.trim());
    }
}
