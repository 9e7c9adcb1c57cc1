//! Another process: this program again, with one test and the other part in it. The two talk in lines, so that each knows where the other is.

use std::{
    io::{BufRead, BufReader, Lines, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// Says to a test that it plays the other part, and where the exporter's socket is.
const SOCKET: &str = "HMMAP_TEST_SOCKET";
/// Before what is said, since the test runner talks too.
const MARK: &str = "=> ";

/// The other process. It is killed when the test is through with it.
pub(crate) struct Other {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
    to: Option<ChildStdin>,
}

/// In the other process: where to connect.
pub(crate) fn part() -> Option<PathBuf> {
    std::env::var_os(SOCKET).map(PathBuf::from)
}

/// A path for a socket, nobody else's.
pub(crate) fn socket_path(test: &str) -> PathBuf {
    let name = format!("hmmap-{}-{}", std::process::id(), test.replace("::", "-"));
    let path = std::env::temp_dir().join(name);
    // Of a test that failed in a process of the same number.
    let _ = std::fs::remove_file(&path);
    path
}

/// In the other process: says where it is.
pub(crate) fn say(line: &str) {
    println!("\n{MARK}{line}");
}

/// In the other process: waits for the word.
pub(crate) fn hear(line: &str) {
    let mut heard = String::new();
    std::io::stdin().read_line(&mut heard).unwrap();
    assert_eq!(heard.trim_end(), line);
}

impl Other {
    /// Starts it for the test of this name.
    pub(crate) fn start(test: &str, socket: &std::path::Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(SOCKET, socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        let to = child.stdin.take();
        Self { child, said, to }
    }

    /// Waits until it says this; what the test runner says is passed on.
    pub(crate) fn expect(&mut self, line: &str) {
        assert_eq!(self.says(), line);
    }

    /// Waits for its next word.
    pub(crate) fn says(&mut self) -> String {
        for said in self.said.by_ref().map_while(Result::ok) {
            match said.strip_prefix(MARK) {
                Some(said) => return said.to_owned(),
                None => println!("    | {said}"),
            }
        }
        panic!("the other process ended without a word");
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.to.as_mut().unwrap(), "{line}").unwrap();
    }

    /// It has done its part.
    pub(crate) fn join(mut self) {
        self.to = None;
        for said in self.said.by_ref().map_while(Result::ok) {
            println!("    | {said}");
        }
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status:?}");
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
