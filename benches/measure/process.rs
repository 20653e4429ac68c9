//! The server as a process: starts it bound to a core, reads what the kernel says of it, asks for its metrics.

use procfs::process::{FDTarget, Process};
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// The core that the server runs on where there is another one for this program.
const SERVER_CORE: usize = 0;

/// The program that is measured.
pub const BINARY: &str = env!("CARGO_BIN_EXE_suzu");

/// After this long without an answer the program gives up.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A running server. Killed when it goes out of scope.
pub struct Server {
    child: Child,
    pub addr: SocketAddr,
    began: CpuTime,
}

/// CPU time used so far.
#[derive(Clone, Copy, Default)]
pub struct CpuTime {
    /// By all threads, ended ones too.
    pub total: Duration,
    /// By the thread of the poll loop.
    pub poll_loop: Duration,
    /// Not used but waited for: runnable, while the core was somebody else's. The noise of the machine.
    pub waited: Duration,
}

/// Memory and descriptors at a moment.
#[derive(Clone, Copy)]
pub struct Held {
    pub resident_bytes: u64,
    pub resident_bytes_max: u64,
    pub descriptors: usize,
}

impl Server {
    /// Starts the binary of this build on a free port, with these flags besides, and waits until it listens.
    pub fn start(flags: &[&str]) -> Server {
        let mut command = Command::new(BINARY);
        command.args(["serve", "--port", "0"]).args(flags);
        command.env_clear().stdin(Stdio::null()).stderr(Stdio::piped());
        if cores() > 1 {
            // SAFETY: the closure makes one system call and touches no memory of the parent.
            unsafe { command.pre_exec(|| bind_to(&[SERVER_CORE])) };
        }
        let mut child = command.spawn().expect("the server starts");
        let addr = await_address(&mut child);
        let mut server = Server { child, addr, began: CpuTime::default() };
        server.began = server.cpu();
        let shown: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        println!("  suzu {}", shown.join(" "));
        server
    }

    /// CPU time since it began to listen.
    pub fn cpu(&self) -> CpuTime {
        let process = self.process();
        let mut cpu = CpuTime { total: cpu_of(process.pid()), ..CpuTime::default() };
        for task in process.tasks().expect("it runs").flatten() {
            // A thread may end between being listed and being read.
            let Ok(schedule) = task.schedstat() else { continue };
            cpu.waited += Duration::from_nanos(schedule.run_delay);
            if task.tid == process.pid() {
                cpu.poll_loop = Duration::from_nanos(schedule.sum_exec_runtime);
            }
        }
        cpu - self.began
    }

    pub fn held(&self) -> Held {
        let process = self.process();
        let status = process.status().expect("it runs");
        let bytes = |kib: Option<u64>| kib.expect("the kernel tells") * 1024;
        Held {
            resident_bytes: bytes(status.vmrss),
            resident_bytes_max: bytes(status.vmhwm),
            descriptors: process.fd().expect("it runs").flatten().count(),
        }
    }

    /// Sockets that it holds, the listening one included.
    pub fn sockets(&self) -> usize {
        let fds = self.process().fd().expect("it runs").flatten();
        fds.filter(|fd| matches!(fd.target, FDTarget::Socket(_))).count()
    }

    /// A figure of `/metrics` that has no labels.
    pub fn metric(&self, name: &str) -> f64 {
        let [value] = self.metrics([name]);
        value
    }

    /// Figures of `/metrics` that have no labels, of the same moment.
    pub fn metrics<const N: usize>(&self, names: [&str; N]) -> [f64; N] {
        let text = self.get("/metrics");
        names.map(|name| {
            let value =
                text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
            value.unwrap_or_else(|| panic!("/metrics has no {name}"))
        })
    }

    /// The answer to a GET, which must be 200, head and body.
    pub fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.addr).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a valid time");
        let request = format!("GET {path} HTTP/1.1\r\nHost: suzu\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers in UTF-8 and closes");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        answer
    }

    /// Ends it by SIGTERM, as service managers do; it must end well.
    pub fn stop(mut self) {
        // SAFETY: a plain system call; the child has not been waited for, so the number is still its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let status = self.child.wait().expect("it is our child");
        assert!(status.success(), "the server ended with {status}");
    }

    fn process(&self) -> Process {
        Process::new(self.child.id() as i32).expect("it runs")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if it has ended, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl std::ops::Sub for CpuTime {
    type Output = CpuTime;

    fn sub(self, earlier: CpuTime) -> CpuTime {
        CpuTime {
            total: self.total.saturating_sub(earlier.total),
            poll_loop: self.poll_loop.saturating_sub(earlier.poll_loop),
            waited: self.waited.saturating_sub(earlier.waited),
        }
    }
}

/// Reads the log until it tells the address; what follows is shown only if it is a warning or an error.
fn await_address(child: &mut Child) -> SocketAddr {
    let log = BufReader::new(child.stderr.take().expect("it was asked for"));
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for line in log.lines().map_while(Result::ok) {
            if let Some((_, addr)) = line.split_once("listening on http://") {
                // Nobody listens any more if the server was slow to start and given up.
                let _ = tell.send(addr.trim().parse().expect("an address"));
            } else if line.contains("WARN") || line.to_lowercase().contains("error") {
                eprintln!("  server: {line}");
            }
        }
    });
    told.recv_timeout(DEADLINE).expect("the server listens; what it said stands above")
}

/// CPU time of a process, to the nanosecond.
fn cpu_of(pid: i32) -> Duration {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both write to valid places of their own.
    let result = unsafe {
        match libc::clock_getcpuclockid(pid, &mut clock) {
            0 => libc::clock_gettime(clock, &mut time),
            error => error,
        }
    };
    assert_eq!(result, 0, "it runs");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Cores of the machine, whichever of them this program may use.
fn cores() -> usize {
    // SAFETY: asks for a number.
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(count).unwrap_or(1)
}

/// Binds this program to all cores but the server's.
pub fn keep_off_the_servers_core() {
    let rest: Vec<usize> = (0..cores()).filter(|&core| core != SERVER_CORE).collect();
    if rest.is_empty() {
        println!("one core only: this program takes time from the server, and the figures show it");
    } else {
        bind_to(&rest).expect("the cores are there");
    }
}

/// Binds the calling thread to the core of the server, which should have nothing to do meanwhile.
pub fn bind_to_the_servers_core() {
    if cores() > 1 {
        bind_to(&[SERVER_CORE]).expect("the core is there");
    }
}

/// Lets the calling thread run anywhere, the server's core included: for what is measured while the server rests.
pub fn use_every_core() {
    bind_to(&(0..cores()).collect::<Vec<_>>()).expect("the cores are there");
}

fn bind_to(cores: &[usize]) -> io::Result<()> {
    // SAFETY: the set is plain bits, for which zero is valid; the calls keep to its size.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        cores.iter().for_each(|&core| libc::CPU_SET(core, &mut set));
        libc::sched_setaffinity(0, size_of_val(&set), &set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets other threads of this program go first: for those that only make load.
pub fn yield_to_others() {
    // SAFETY: a plain system call. On Linux it concerns the calling thread. It cannot fail: everybody may yield.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
}

/// Allows as many descriptors as the system lets this program have.
pub fn raise_descriptor_limit() {
    // SAFETY: both calls take a pointer to a valid `rlimit` that lives across them.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
