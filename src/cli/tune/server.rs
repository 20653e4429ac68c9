//! A server of one's own: a child process of this same program that does not outlive it.
//!
//! Owns the process and what it logs. It is started with an empty environment, so only the file and the flags decide.

use crate::cli::Error;
use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// For the server to listen: its models are tried first.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// For the server to end after SIGTERM; it is killed then.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// For an answer to a question about its figures.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Lines of its log that are kept for the case that it fails.
const LINES_MAX: usize = 20;

/// The process that must not be left behind when a signal ends this one; 0: there is none.
#[derive(Clone, Default)]
pub(super) struct Ward(Arc<AtomicU32>);

/// A running server. Killed when it goes out of scope.
pub(super) struct Server {
    child: Child,
    ward: Ward,
    pub(super) addr: SocketAddr,
    /// Closes when the server has closed its log, hence ended.
    ended: Receiver<SocketAddr>,
}

impl Ward {
    /// From now on SIGINT and SIGTERM end the child before they end this process, as they would have without.
    pub(super) fn on_signals() -> Result<Ward, Error> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let ward = Ward::default();
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])
            .map_err(|error| Error::failed(format!("cannot watch signals: {error}")))?;
        let watched = ward.clone();
        let watch = move || {
            if let Some(signal) = signals.forever().next() {
                watched.kill();
                // Does not return for these two.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        };
        thread::Builder::new()
            .name("signals".into())
            .spawn(watch)
            .map_err(|error| Error::failed(format!("cannot start a thread: {error}")))?;
        Ok(ward)
    }

    fn kill(&self) {
        if let Ok(pid @ 1..) = libc::pid_t::try_from(self.0.swap(0, Ordering::SeqCst)) {
            // SAFETY: a plain system call. The number is taken back before the child is waited for, so it is its own.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

impl Server {
    /// Starts `suzu serve` with these arguments on a free port of this machine and waits until it listens.
    pub(super) fn start(arguments: &[String], ward: &Ward) -> Result<Server, Error> {
        let program = std::env::current_exe().map_err(|error| {
            Error::failed(format!("this program cannot be found to be started again: {error}"))
        })?;
        let mut command = Command::new(program);
        // How many it holds is the question, so it must not refuse anybody before it is answered.
        let fixed = ["--host", "127.0.0.1", "--port", "0", "--capacity-percent", "0"];
        command.arg("serve").args(arguments).args(fixed);
        command.args(["--log-level", "info", "--log-format", "text"]);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        #[cfg(target_os = "linux")]
        die_with_parent(&mut command);
        let mut child = command
            .spawn()
            .map_err(|error| Error::failed(format!("the server cannot be started: {error}")))?;
        ward.0.store(child.id(), Ordering::SeqCst);
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let told = follow(&mut child, Arc::clone(&lines));
        let mut server =
            Server { child, ward: ward.clone(), addr: SocketAddr::from(([127, 0, 0, 1], 0)), ended: told };
        match server.ended.recv_timeout(START_TIMEOUT) {
            Ok(addr) => server.addr = addr,
            Err(error) => {
                let said = lines.lock().unwrap_or_else(PoisonError::into_inner);
                let said = said.iter().map(String::as_str).collect::<Vec<_>>().join("\n  ");
                let what = match error {
                    RecvTimeoutError::Timeout => "did not listen in time",
                    RecvTimeoutError::Disconnected => "did not start",
                };
                return Err(Error::failed(format!(
                    "the server {what} with {}; it said:\n  {said}",
                    arguments.join(" ")
                )));
            }
        }
        Ok(server)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Batches and runs so far, as its metrics tell.
    pub(super) fn batches(&self) -> Option<(f64, f64)> {
        let text = get(self.addr, "/metrics").ok()?;
        let value = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok())
        };
        Some((value("suzu_batch_size_count")?, value("suzu_batch_size_sum")?))
    }

    /// Ends it by SIGTERM and waits.
    pub(super) fn stop(self) {
        // SAFETY: a plain system call; the child has not been waited for, so the number is its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        // Its log ends with it. If it takes too long it is killed as it goes out of scope.
        let _ = self.ended.recv_timeout(STOP_TIMEOUT);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ward.0.store(0, Ordering::SeqCst);
        // Fails if it has ended, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The kernel kills the child when this process ends, however that comes about.
#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    // SAFETY: the closure makes two system calls and touches no memory of the parent.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // It may have ended before the kernel was asked.
            if libc::getppid() as u32 != parent {
                return Err(io::ErrorKind::NotConnected.into());
            }
            Ok(())
        });
    }
}

/// Reads the log to its end, so that the server is never held up by it. Tells the address once it is there.
fn follow(child: &mut Child, lines: Arc<Mutex<VecDeque<String>>>) -> Receiver<SocketAddr> {
    let (tell, told) = unbounded();
    let Some(log) = child.stderr.take() else { return told };
    thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            let address =
                line.split_once("listening on http://").and_then(|(_, addr)| addr.trim().parse().ok());
            if let Some(address) = address {
                // Nobody listens any more if it was given up meanwhile.
                let _ = tell.send(address);
            }
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push_back(line);
            if lines.len() > LINES_MAX {
                lines.pop_front();
            }
        }
    });
    told
}

/// Head and body of the answer to a GET.
fn get(addr: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_start_says_what_it_said() {
        // This program is the test, which has no command `serve` and no such options.
        let error =
            Server::start(&["--batch-max".into(), "8".into()], &Ward::default()).err().expect("no server");
        let told = error.to_string();
        assert!(told.contains("the server did not start with --batch-max 8; it said:\n"), "{told}");
        assert!(told.contains("option"), "{told}");
    }
}
