//! Trying a model in a process of its own before this one loads it.
//!
//! An ONNX file can make an engine abort, hang or ask for all memory there is, and no `catch_unwind` helps. Owns the child
//! process, its time limit and the reading of its reason; what the child does is its program's affair. Called by
//! [`super::Repository::load`] on a loader's thread: it waits, so never on the poll loop.
//!
//! Invariants: the child is gone when [`Trial::run`] returns; what it says is read within a bound.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

/// What is kept of the child's standard error: a reason is a few lines.
const REASON_BYTES_MAX: u64 = 16 * 1024;

/// How models are tried.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What is run; it gets `args` and then the folder of the model's version, and ends with 0 if the model is good.
    pub program: PathBuf,
    /// The arguments before the folder.
    pub args: Vec<OsString>,
    /// How long it may take; after that it is killed.
    pub time_max: Duration,
}

impl Trial {
    /// Runs the program for the folder of a model's version and waits for its end, or ends it.
    ///
    /// # Errors
    /// Why the model must not be loaded, for people: what the program wrote to standard error, by which signal it
    /// ended, or that it took too long.
    pub fn run(&self, folder: &Path) -> Result<(), String> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).arg(folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let cannot = |error: io::Error| {
            let program = self.program.display();
            format!("cannot run `{program}`, which tries models before they are loaded: {error}")
        };
        let mut child = command.spawn().map_err(cannot)?;
        let (tell, told) = sync_channel(1);
        let started = match child.stderr.take() {
            // The thread ends when nobody holds the other end of the pipe any more.
            Some(stderr) => std::thread::Builder::new()
                .name("suzu-trial".into())
                .spawn(move || tell.send(read_reason(stderr)))
                .map(drop),
            None => Err(io::Error::other("its standard error is not there")),
        };
        let told = match started {
            Ok(()) => told.recv_timeout(self.time_max),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(cannot(error));
            }
        };
        // Standard error closes when the process ends: its exit code stands by then, and killing what has ended does
        // nothing. One that closed it by itself and goes on is not waited for.
        let _ = child.kill();
        let status = child.wait().map_err(cannot)?;
        match told {
            Ok(_) if status.success() => Ok(()),
            Ok(reason) => Err(told_by(&reason, status)),
            Err(RecvTimeoutError::Timeout) => Err(format!(
                "it was not loaded and tried within {}; make it smaller, or allow more time",
                humantime::format_duration(self.time_max)
            )),
            Err(RecvTimeoutError::Disconnected) => Err(told_by("", status)),
        }
    }
}

/// The beginning of what the child says; the rest is read and thrown away, so that it is not held up.
fn read_reason(mut stderr: ChildStderr) -> String {
    let mut bytes = Vec::new();
    let _ = stderr.by_ref().take(REASON_BYTES_MAX).read_to_end(&mut bytes);
    let _ = io::copy(&mut stderr, &mut io::sink());
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn told_by(reason: &str, status: ExitStatus) -> String {
    let reason = reason.strip_prefix("error: ").unwrap_or(reason);
    match (reason, status.code()) {
        ("", _) => format!("trying it ended with {status}"),
        (reason, Some(1)) => reason.to_owned(),
        (reason, _) => format!("trying it ended with {status}: {reason}"),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn trial(script: &str, time_max: Duration) -> Result<(), String> {
        let args = ["-c", script, "sh"].map(OsString::from).to_vec();
        Trial { program: "/bin/sh".into(), args, time_max }.run(Path::new("models/m/1"))
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_ends_well_is_good_and_gets_the_folder() {
        assert_eq!(trial("test \"$1\" = models/m/1", LONG), Ok(()));
        assert_eq!(trial("echo all is well >&2", LONG), Ok(()));
    }

    #[test]
    fn the_reason_is_what_it_said() {
        assert_eq!(trial("echo 'error: no such weights' >&2; exit 1", LONG), Err("no such weights".into()));
        assert!(trial("exit 3", LONG).unwrap_err().contains("exit status: 3"));
    }

    #[test]
    fn an_abort_is_told_with_its_signal_and_survived() {
        let told = trial("echo 'memory allocation of 9 bytes failed' >&2; kill -ABRT $$", LONG).unwrap_err();
        assert!(told.contains("signal: 6"), "{told}");
        assert!(told.ends_with("memory allocation of 9 bytes failed"), "{told}");
    }

    #[test]
    fn what_hangs_is_killed() {
        // It becomes the shell's own process, so that nothing is left behind.
        let told = trial("exec sleep 600", Duration::from_millis(50)).unwrap_err();
        assert!(told.contains("within 50ms"), "{told}");
    }

    #[test]
    fn what_says_nothing_more_and_goes_on_is_not_waited_for() {
        let told = trial("exec 2>&-; exec sleep 600", LONG).unwrap_err();
        assert!(told.contains("signal: 9"), "{told}");
    }

    #[test]
    fn what_says_too_much_is_read_to_its_end_and_kept_short() {
        let told = trial("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1", LONG).unwrap_err();
        assert_eq!(told.len() as u64, REASON_BYTES_MAX);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let trial = Trial { program: "/no/such/program".into(), args: Vec::new(), time_max: LONG };
        assert!(trial.run(Path::new("m")).unwrap_err().contains("/no/such/program"));
    }
}
