//! `hmmap trace` and `hmmap top` on another process: this very program, started again as one that lets others look.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use hmmap::{
    Choice, Hmmap, MemoryModel, Options, SharedVec,
    core::embedded::{Backing, EmbeddedMemory, EmbeddedOptions},
    kernels::Fill,
};
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use serde_json::Value;

/// Set: this process is the program that is looked at.
const PART: &str = "HMMAP_TEST_WATCHED";
const LEN: usize = 3 << 20;

/// Does nothing but in the process that the other tests start.
#[test]
fn the_program_that_is_looked_at() {
    if env::var_os(PART).is_none() {
        return;
    }
    let options = Options {
        memory_model: MemoryModel::Migrate,
        device_memory_limit_bytes: Some(8 << 20),
        ..Options::default()
    };
    let (memory, backing) = (EmbeddedMemory::Own, Backing::Blocks);
    let embedded = EmbeddedOptions { memory, backing, ..EmbeddedOptions::default() };
    let builder = Hmmap::builder().devices(Choice::Embedded).options(options);
    let mem = builder.embedded(embedded).build().unwrap();
    let observed = hmmap_watch::from_environment(&mem).unwrap();
    let mut vec = SharedVec::<f32>::new(&mem, LEN).unwrap();
    vec.set_name("the named one");
    for part in 0..3 {
        let range = part << 20..(part + 1) << 20;
        let out = vec.write().range(range);
        mem.launch(1usize << 20, Fill { out, value: 1.0 }).unwrap().wait().unwrap();
    }
    println!("ready");
    // Until it is enough.
    let _ = std::io::stdin().read(&mut [0]);
    drop(vec);
    observed.finish().unwrap();
}

fn folder(name: &str) -> PathBuf {
    // Short: a socket's path has at most 107 bytes.
    let folder = env::temp_dir().join(format!("hmmap-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    folder
}

fn hmmap(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hmmap"));
    command.args(arguments).env("XDG_RUNTIME_DIR", folder).stdin(Stdio::null());
    command
}

/// The program, past its launches.
struct Watched(Child, BufReader<ChildStdout>);

impl Watched {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "the_program_that_is_looked_at", "--nocapture"])
            .env(PART, "1")
            .env("HMMAP_PUBLISH", "1")
            .env("XDG_RUNTIME_DIR", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let ready =
            said.by_ref().lines().map_while(Result::ok).find(|line| line.ends_with("ready"));
        assert!(ready.is_some(), "it ended before it was ready");
        Self(child, said)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ok(mut command: Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn another_process_is_read_while_it_runs_and_missed_when_it_has_gone() {
    let folder = folder("top");
    let top = |arguments: &[&str]| hmmap(&folder, &[&["top"], arguments].concat());
    assert!(refused(top(&["--once"])).contains("HMMAP_PUBLISH=1"));
    let mut watched = Watched::start(&folder);
    let process = watched.0.id();
    let reading: Value = serde_json::from_str(&ok(top(&["--json"]))).unwrap();
    assert_eq!(reading["process"], process);
    assert_eq!((&reading["launches"], &reading["evicted_blocks"]), (&3.into(), &2.into()));
    let vector = &reading["vectors"][0];
    assert_eq!(
        (&vector["name"], &vector["len_bytes"]),
        (&"the named one".into(), &(12 << 20).into())
    );
    let eviction = &reading["causes"][4];
    assert_eq!(
        (&eviction["cause"], &eviction["to_host_bytes"]),
        (&"eviction".into(), &(4 << 20).into())
    );
    assert_eq!(reading["nodes"][1]["limit_bytes"], 8 << 20);
    let text = ok(top(&["--once", "--pid", &process.to_string()]));
    for word in ["the named one", "device 0", "8 MiB", "eviction", "12 MiB"] {
        assert!(text.contains(word), "no {word} in {text}");
    }
    let other = refused(top(&["--once", "--pid", "1"]));
    assert!(other.contains("process 1 ") && other.contains(&process.to_string()), "{other}");
    watched.signal(Signal::STOP);
    let silent = refused(top(&["--once"]));
    assert!(silent.contains("has not answered"), "{silent}");
    watched.signal(Signal::CONT);
    // It ends by itself, and takes its socket with it.
    drop(watched.0.stdin.take());
    watched.1.read_to_end(&mut Vec::new()).unwrap();
    assert!(watched.0.wait().unwrap().success());
    assert_eq!(fs::read_dir(folder.join("hmmap")).unwrap().count(), 0);
    // Killed, it leaves its socket, which whoever looks next takes away.
    drop(Watched::start(&folder));
    assert_eq!(fs::read_dir(folder.join("hmmap")).unwrap().count(), 1);
    assert!(refused(top(&["--once"])).contains("no program of yours"));
    assert_eq!(fs::read_dir(folder.join("hmmap")).unwrap().count(), 0);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_folder_of_somebody_else_is_no_place_to_meet() {
    for folder in ["relative", "/no/such/folder"] {
        assert!(refused(hmmap(Path::new(folder), &["top", "--once"])).contains("XDG_RUNTIME_DIR"));
    }
}

#[test]
fn a_program_that_asks_the_environment_is_traced_and_one_that_does_not_is_told_how() {
    let folder = folder("trace");
    let [trace, map, line] = ["t.json", "m.svg", "l.svg"].map(|file| folder.join(file));
    let (trace_file, map_file) = (trace.to_str().unwrap(), map.to_str().unwrap());
    let line_file = line.to_str().unwrap();
    let files = ["--heatmap", map_file, "--timeline", line_file, "--"];
    let to = [&["trace", "--out", trace_file], &files[..]].concat();
    let this = env::current_exe().unwrap();
    let itself = [this.to_str().unwrap(), "--exact", "the_program_that_is_looked_at"];
    let mut command = hmmap(&folder, &[&to[..], &itself].concat());
    command.env(PART, "1");
    let said = ok(command);
    assert!(said.contains(trace_file) && said.contains(map_file), "{said}");
    let traced: Value = serde_json::from_str(&fs::read_to_string(&trace).unwrap()).unwrap();
    let entries = traced["traceEvents"].as_array().unwrap();
    let home = entries.iter().filter(|one| one["cat"] == "to_host");
    let home: u64 = home.map(|slice| slice["args"]["bytes"].as_u64().unwrap()).sum();
    assert_eq!(home, 4 << 20, "what was evicted dirty");
    assert!(fs::read_to_string(&map).unwrap().contains("the named one"));
    assert!(fs::read_to_string(&line).unwrap().contains("kernels"));
    // The file of the program before is not this one's.
    std::thread::sleep(std::time::Duration::from_millis(50));
    let nothing = refused(hmmap(&folder, &[&to[..], &["true"]].concat()));
    assert!(nothing.contains("from_environment") && nothing.contains("true"), "{nothing}");
    let missing = refused(hmmap(&folder, &[&to[..], &["no-such-program"]].concat()));
    assert!(missing.contains("cannot run no-such-program"), "{missing}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_demonstration_is_traced_and_its_table_is_the_trace_s() {
    let folder = folder("demo");
    let (trace, map) = (folder.join("t.json"), folder.join("m.svg"));
    let to = ["--out", trace.to_str().unwrap(), "--heatmap", map.to_str().unwrap()];
    let arguments = [&["trace", "--device", "embedded", "--rounds", "2"], &to[..]].concat();
    let table = ok(hmmap(&folder, &arguments));
    let traced: Value = serde_json::from_str(&fs::read_to_string(&trace).unwrap()).unwrap();
    let entries = traced["traceEvents"].as_array().unwrap();
    for cause in ["launch", "prefetch", "eviction", "guard", "fault"] {
        assert!(table.lines().any(|line| line.trim().starts_with(cause)), "no {cause} in {table}");
        assert!(entries.iter().any(|one| one["args"]["cause"] == cause), "no {cause} in the trace");
    }
    assert!(fs::read_to_string(&map).unwrap().contains("hot"));
    let nowhere = ["trace", "--rounds", "1", "--device", "embedded", "--out", "/no/such/folder/t"];
    assert!(refused(hmmap(&folder, &nowhere)).contains("/no/such/folder/t"));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_live_view_is_drawn_on_a_terminal_and_leaves_at_q() {
    let folder = folder("pty");
    let mut controller = {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let size = Winsize { ws_row: 34, ws_col: 110, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&controller, size).unwrap();
        fs::File::from(controller)
    };
    let name = ptsname(&controller, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let open = || -> OwnedFd { rustix::fs::open(&*name, flags, Mode::empty()).unwrap() };
    let mut top = hmmap(&folder, &["top", "--demo", "--device", "embedded", "--every-ms", "50"]);
    let mut child = top
        .stdin(Stdio::from(open()))
        .stdout(Stdio::from(open()))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(top);
    let mut drawn = Vec::new();
    let mut part = [0; 4096];
    let has = |drawn: &[u8], words: &str| String::from_utf8_lossy(drawn).contains(words);
    // Reading ends with an error when the other end is closed.
    while !(has(&drawn, "eviction") && has(&drawn, "q quits") && has(&drawn, "hot")) {
        match controller.read(&mut part) {
            Ok(count) => drawn.extend_from_slice(&part[..count]),
            Err(_) => break,
        }
    }
    let _ = controller.write_all(b"q");
    while let Ok(1..) = controller.read(&mut part) {}
    let ended = child.wait().unwrap();
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert!(ended.success(), "{error}\n{}", String::from_utf8_lossy(&drawn));
    assert!(has(&drawn, "32 MiB"), "{}", String::from_utf8_lossy(&drawn));
    fs::remove_dir_all(folder).unwrap();
}
