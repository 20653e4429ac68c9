//! Servers as processes on a core of their own, and the generator against them.

use crate::figures::Report;
use crate::machine;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// For a server to load its models and listen.
const START_MAX: Duration = Duration::from_secs(30);

/// Lines of its log that are kept until it listens, to be told if it does not.
const LINES_SAID_MAX: usize = 20;

/// Where everything is.
pub struct Places {
    pub suzu: PathBuf,
    pub generator: PathBuf,
    pub rival: PathBuf,
    pub models: Option<PathBuf>,
    /// ONNX Runtime's.
    pub library: Option<PathBuf>,
}

/// Which program to start.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Suzu,
    Rival,
}

/// A running server. Ended when it goes out of scope.
pub struct Server {
    child: Child,
    /// Host and port.
    pub authority: String,
}

impl Places {
    /// A program on the servers' core, without an environment but for ONNX Runtime's place.
    fn command(&self, program: Program, args: &[OsString]) -> Command {
        let mut command = Command::new(match program {
            Program::Suzu => &self.suzu,
            Program::Rival => &self.rival,
        });
        command.env_clear().args(args).stdin(Stdio::null());
        if let Some(library) = &self.library {
            command.env("ORT_DYLIB_PATH", library);
        }
        // SAFETY: the closure makes system calls and touches no memory of the parent.
        unsafe { command.pre_exec(machine::bind_to_the_servers_core) };
        command
    }

    /// Starts a server and waits until it listens.
    ///
    /// # Errors
    /// What it said instead.
    pub fn start(&self, program: Program, args: &[OsString]) -> Result<Server, String> {
        let mut command = self.command(program, args);
        let mut child = command.stderr(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
        let log = BufReader::new(child.stderr.take().expect("it was asked for"));
        let mut server = Server { child, authority: String::new() };
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let mut said = Vec::new();
            for line in log.lines().map_while(Result::ok) {
                if let Some((_, authority)) = line.split_once("listening on http://") {
                    // Nobody listens any more if it was slow to start.
                    let _ = tell.send(Ok(authority.trim().to_owned()));
                } else if line.contains("panicked") || line.contains("ERROR") {
                    eprintln!("  server: {line}");
                } else if said.len() < LINES_SAID_MAX {
                    said.push(line);
                }
            }
            let _ = tell.send(Err(format!("it ended; it said: {}", said.join(" / "))));
        });
        let told = told.recv_timeout(START_MAX).map_err(|_| "it does not listen".to_owned())?;
        server.authority = told?;
        Ok(server)
    }

    /// Runs a program that prints one JSON value, and gives that.
    ///
    /// # Errors
    /// That it failed.
    pub fn ask(&self, program: Program, args: &[OsString]) -> Result<serde_json::Value, String> {
        let output = self.command(program, args).output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
    }

    /// Runs `suzu load` against a server.
    ///
    /// # Errors
    /// What it said, if it could not do its work.
    pub fn generate(&self, server: &Server, url: &str, args: &[OsString]) -> Result<Report, String> {
        let mut command = Command::new(&self.generator);
        command.env_clear().arg("load").args(["--url", url, "--json", "-", "--no-progress"]);
        command.args(["--server-pid", &server.child.id().to_string()]).args(args);
        let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let args: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
            return Err(format!("suzu {} said {said}", args.join(" ")));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| format!("the generator's JSON: {error}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: a plain system call; the child has not been waited for, so the number is still its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

/// Arguments of several kinds as one list.
pub fn args(words: &str) -> Vec<OsString> {
    words.split_whitespace().map(OsString::from).collect()
}

/// An option with a path.
pub fn path_option(name: &str, path: &Path) -> [OsString; 2] {
    [name.into(), path.into()]
}
