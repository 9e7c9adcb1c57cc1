//! Signals, stops, and the ends of threads, runtimes and processes, while faults are answered.

use std::{
    cell::RefCell,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicPtr, AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use hmmap_core::{
    Options, Runtime, SharedVec,
    embedded::{EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    host::HostFaults,
};

use crate::{
    kernels::{Add, Count},
    rig::{device, each_rung, runtime},
};

const PAGE: usize = 65_536 / 4;
const N: usize = 40 * PAGE;
/// Says to a test that it is the child and what it is to do.
const ACT: &str = "HMMAP_TEST_ACT";

fn counted(mem: &Runtime, seed: u32, pause_ms: u32) -> SharedVec<u32> {
    let mut y = SharedVec::new(mem, N).unwrap();
    mem.launch(N, Count { y: y.write(), seed, pause_ms }).unwrap();
    y
}

/// This program again, with one test and a part for it to play.
fn child(test: &str, act: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &format!("lives::{test}"), "--nocapture"]).env(ACT, act);
    child.stdout(Stdio::piped()).spawn().unwrap()
}

fn act() -> Option<String> {
    std::env::var(ACT).ok()
}

/// Rounds in which everything faults.
fn rounds(mem: &Runtime, count: u32) {
    for seed in 0..count {
        let mut y = counted(mem, seed, 0);
        assert_eq!(y[7 * PAGE], 7 * PAGE as u32 + seed);
        y[9 * PAGE] += 1;
        let mut z = counted(mem, 0, 0);
        mem.launch(N, Add { x: y.read(), y: z.update() }).unwrap();
        assert_eq!(z[9 * PAGE], 18 * PAGE as u32 + seed + 1);
    }
}

/// A handler that runs in the middle of a fault may touch another vector: its fault is answered before the one that it interrupted.
#[test]
fn a_signal_handler_touches_a_vector_in_the_middle_of_a_fault() {
    static QUICK: AtomicPtr<u32> = AtomicPtr::new(std::ptr::null_mut());
    static SEEN: AtomicU32 = AtomicU32::new(0);
    extern "C" fn handler(_: i32) {
        // SAFETY: the vector lives until the test ends, and nobody writes it.
        SEEN.store(unsafe { QUICK.load(SeqCst).read_volatile() }, SeqCst);
    }
    let install = handler as extern "C" fn(i32);
    // SAFETY: the handler loads from memory and stores to an atomic, which a handler may.
    let before = unsafe { libc::signal(libc::SIGUSR1, install as libc::sighandler_t) };
    assert_ne!(before, libc::SIG_ERR);
    for rung in [HostFaults::Auto, HostFaults::NoSharing, HostFaults::UserModeOnly] {
        let mem = runtime(rung, EmbeddedMemory::Own, 2);
        let mut quick = SharedVec::<u32>::new(&mem, N).unwrap();
        let kernel = Count { y: quick.write(), seed: 77, pause_ms: 0 };
        mem.launch_on(device(1), N, kernel).unwrap().wait().unwrap();
        let mut slow = SharedVec::<u32>::new(&mem, N).unwrap();
        let kernel = Count { y: slow.write(), seed: 1, pause_ms: 800 };
        let fence = mem.launch_on(device(0), N, kernel).unwrap();
        QUICK.store(quick.as_ptr().cast_mut(), SeqCst);
        SEEN.store(0, SeqCst);
        thread::scope(|scope| {
            let (tell, told) = std::sync::mpsc::channel();
            let slow = &slow;
            let faults = scope.spawn(move || {
                // SAFETY: names the calling thread.
                tell.send(unsafe { libc::pthread_self() }).unwrap();
                slow[5 * PAGE]
            });
            let thread = told.recv().unwrap();
            thread::sleep(Duration::from_millis(100));
            // SAFETY: the thread has not been joined.
            assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR1) }, 0);
            while SEEN.load(SeqCst) == 0 {
                thread::yield_now();
            }
            assert_eq!(SEEN.load(SeqCst), 77);
            assert!(!fence.has_ended(), "the handler waited for the fault that it interrupted");
            assert_eq!(faults.join().unwrap(), 5 * PAGE as u32 + 1);
        });
    }
}

/// A thread's last words, said while its locals are dropped.
struct LastWords(Option<(Arc<SharedVec<u32>>, std::sync::mpsc::Sender<u32>)>);

impl Drop for LastWords {
    fn drop(&mut self) {
        let (vec, said) = self.0.take().unwrap();
        said.send(vec[11 * PAGE] + vec.host(13 * PAGE..).unwrap()[0]).unwrap();
    }
}

#[test]
fn a_thread_touches_a_vector_as_it_ends() {
    thread_local!(static WORDS: RefCell<Option<LastWords>> = const { RefCell::new(None) });
    each_rung(|mem| {
        let vec = Arc::new(counted(mem, 3, 5));
        let (say, said) = std::sync::mpsc::channel();
        let words = LastWords(Some((vec, say)));
        // The last to hold the vector is the thread: it goes with it. What the library keeps for a thread that used it goes before
        // that, since the thread comes to have it later.
        let works = move || {
            WORDS.with(|cell| cell.replace(Some(words)));
            WORDS.with_borrow(|words| {
                let (vec, _) = words.as_ref().unwrap().0.as_ref().unwrap();
                assert_eq!(vec.host(..1).unwrap()[0], 3);
            });
        };
        thread::spawn(works).join().unwrap();
        assert_eq!(said.recv(), Ok(24 * PAGE as u32 + 6));
    });
}

/// Another program, run by ours, gets nothing of it.
#[test]
fn another_program_gets_no_descriptor_of_ours() {
    let ours = || -> Vec<String> {
        let files = fs::read_dir("/proc/self/fd").unwrap();
        let links = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
        let names = links.map(|link| link.to_string_lossy().into_owned());
        names.filter(|name| name.contains("userfaultfd") || name.contains("memfd")).collect()
    };
    if act().is_some() {
        assert!(ours().is_empty(), "{:?}", ours());
        return;
    }
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    assert!(ours().len() >= 2, "it would prove nothing: {:?}", ours());
    let vec = counted(&mem, 1, 0);
    let status = child("another_program_gets_no_descriptor_of_ours", "look").wait().unwrap();
    assert!(status.success());
    assert_eq!(vec[0], 1);
}

/// Stopped and continued as by a shell, at any moment.
#[test]
fn a_process_that_is_stopped_and_continued_goes_on() {
    if act().is_some() {
        rounds(&runtime(HostFaults::Auto, EmbeddedMemory::Own, 1), 400);
        return;
    }
    let mut child = child("a_process_that_is_stopped_and_continued_goes_on", "fault");
    let pid = child.id() as libc::pid_t;
    let mut stops = 0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        for signal in [libc::SIGSTOP, libc::SIGCONT] {
            // SAFETY: the child was not waited for with success, so its number is not anybody else's.
            assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
            thread::sleep(Duration::from_millis(3));
        }
        stops += 1;
    };
    assert!(status.success() && stops > 3, "{status:?} after {stops} stops");
}

/// Threads of a process that runs, by their names. Those that end meanwhile are left out.
fn threads_named(pid: u32, name: &str) -> Vec<libc::pid_t> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let named = tasks.filter_map(Result::ok).filter(|task| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    });
    named.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
}

/// A debugger that stops the thread that answers faults stops whoever faults, until it lets go.
#[test]
fn faults_wait_for_a_stopped_handler_and_no_longer() {
    const NAME: &str = "faults_wait_for_a_stopped_handler_and_no_longer";
    if act().is_some() {
        let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
        let mut y = SharedVec::<u32>::new(&mem, N).unwrap();
        let fence = mem.launch(N, Count { y: y.write(), seed: 1, pause_ms: 0 }).unwrap();
        fence.wait().unwrap();
        println!("ready");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        println!("touched {}", y[3 * PAGE]);
        // Not by way of the runtime's end, which waits for the thread that is stopped.
        std::process::exit(0);
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("lives::{NAME}"), "--nocapture"]).env(ACT, "fault");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.any(|line| line.ends_with("ready")));
    // It takes its name once it runs, which may be later than all the other threads have got.
    let tid = loop {
        let handlers = threads_named(child.id(), "hmmap faults");
        assert!(handlers.len() < 2, "nothing has been waited for, so one is enough");
        match handlers.first() {
            Some(tid) => break *tid,
            None => thread::sleep(Duration::from_millis(1)),
        }
    };
    let null = std::ptr::null_mut::<libc::c_void>();
    let trace = |request| {
        // SAFETY: these requests take no address; the thread is our child's.
        unsafe { libc::ptrace(request, tid, null, null) }
    };
    if trace(libc::PTRACE_SEIZE) != 0 {
        println!("HMMAP-SKIP: no ptrace: {}", std::io::Error::last_os_error());
        child.kill().unwrap();
        child.wait().unwrap();
        return;
    }
    assert_eq!(trace(libc::PTRACE_INTERRUPT), 0);
    let mut status = 0;
    // SAFETY: waits for the thread that was stopped.
    assert_eq!(unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL) }, tid);
    assert!(libc::WIFSTOPPED(status));
    drop(child.stdin.take());
    thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none(), "it touched what nobody brought");
    assert_eq!(trace(libc::PTRACE_DETACH), 0);
    assert!(said.any(|line| line == format!("touched {}", 3 * PAGE + 1)));
    assert!(child.wait().unwrap().success());
}

/// A program that has let go of its runtime may end, or unload a driver: nobody answers faults behind its back.
#[test]
fn the_end_of_a_runtime_waits_for_whoever_answers_faults() {
    for host_faults in [HostFaults::Auto, HostFaults::NoSharing, HostFaults::UserModeOnly] {
        let memory = EmbeddedMemory::Own;
        let options = EmbeddedOptions { memory, ..EmbeddedOptions::default() };
        let provider = Arc::new(EmbeddedProvider::new(options));
        let lives = Arc::downgrade(&provider);
        let options = Options { host_faults, ..Options::default() };
        let mem = Runtime::new(vec![provider], options).unwrap();
        let mut y = counted(&mem, 0, 0);
        let slow = Count { y: y.write().range(8 * PAGE..), seed: 0, pause_ms: 400 };
        mem.launch(N - 8 * PAGE, slow).unwrap();
        // A stream: what is brought ahead of it has to wait for the kernel, and the reader does not.
        for page in 0..5 {
            assert_eq!(y[page * PAGE], (page * PAGE) as u32);
        }
        drop((y, mem));
        assert!(lives.upgrade().is_none(), "{host_faults:?}: somebody still has the device");
    }
}

/// The ends that a program may come to while a thread of the fault loop works: the runtime is dropped, or forgotten, or `main` returns,
/// with faults that wait for a kernel.
#[test]
fn a_program_may_end_while_faults_are_answered() {
    const NAME: &str = "a_program_may_end_while_faults_are_answered";
    if let Some(act) = act() {
        let (ends, turn) = act.split_once(' ').unwrap();
        let turn: u32 = turn.parse().unwrap();
        let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
        rounds(&mem, 3);
        // Vectors whose pages are on their way home, ahead of a stream, while everything ends.
        let y = Arc::new(counted(&mem, 5, turn % 4));
        let touches: Vec<_> = (0..3)
            .map(|thread| {
                let y = y.clone();
                thread::spawn(move || (thread * 8..N / PAGE).map(|page| y[page * PAGE]).max())
            })
            .collect();
        thread::sleep(Duration::from_micros(u64::from(turn * 131 % 3000)));
        match ends {
            "exit" => std::process::exit(0),
            "forget" => std::mem::forget(mem),
            "drop" => {
                let touched = touches.into_iter().map(|touch| touch.join().unwrap().unwrap());
                assert_eq!(touched.max(), Some((N - PAGE) as u32 + 5));
                // The last handle, by a thread that has just faulted.
                drop((y, mem));
            }
            _ => drop((y, mem)),
        }
        return;
    }
    let deep = std::env::var_os("HMMAP_DEEP").is_some();
    for turn in 0..if deep { 500 } else { 15 } {
        for ends in ["exit", "forget", "drop", "leave"] {
            let mut child = child(NAME, &format!("{ends} {turn}"));
            let status = child.wait().unwrap();
            assert!(status.success(), "{ends} {turn}: {status:?}, signal {:?}", status.signal());
        }
    }
}
