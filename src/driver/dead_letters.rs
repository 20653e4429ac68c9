//! The thread that writes dead letters: events that the receiver of webhooks never took, a line of JSON each.
//!
//! Disks are slow, and the loop has no time for them. What waits for the thread is bounded by bytes, and so is the file; what
//! finds no room is lost, and counted. The file is opened anew whenever there is something to write, so it may be moved
//! away at any time.

use crate::config::Config;
use crate::server::DeadLetter;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Letters written before the file is opened anew.
const BURST_MAX: usize = 64;

/// The file, as the loop sees it.
pub(super) struct DeadLetters {
    letters: Sender<DeadLetter>,
    counts: Arc<Counts>,
    /// Bytes that may wait for the thread.
    waiting_max: usize,
    /// Says nothing; breaks when the thread has ended.
    ended: Receiver<()>,
}

#[derive(Default)]
struct Counts {
    waiting_bytes: AtomicUsize,
    written: AtomicU64,
    lost: AtomicU64,
}

impl DeadLetters {
    /// Starts the thread, if there is a file to write.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn start(config: &Config) -> io::Result<Option<Self>> {
        if config.webhook_dead_letters_file.is_empty() {
            return Ok(None);
        }
        let path = PathBuf::from(&config.webhook_dead_letters_file);
        open(&path).map_err(|error| {
            let message = format!("webhook_dead_letters_file: {} cannot be written: {error}", path.display());
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })?;
        let bytes_max = config.webhook_dead_letters_bytes_max as u64;
        // Bounded by the bytes of what is in it.
        let (letters, queue) = unbounded();
        let (end, ended) = bounded(0);
        let counts = Arc::new(Counts::default());
        let mut writer = Writer { path, bytes_max, counts: Arc::clone(&counts), failing: false };
        let work = move || {
            let _end: Sender<()> = end;
            writer.run(&queue);
        };
        std::thread::Builder::new().name("suzu-letters".into()).spawn(work)?;
        Ok(Some(Self { letters, counts, waiting_max: config.webhook_bytes_max, ended }))
    }

    /// Hands a letter to the thread. Never waits.
    pub(super) fn push(&self, letter: DeadLetter) {
        let bytes = letter.bytes();
        let fits = self.counts.waiting_bytes.load(Relaxed) + bytes <= self.waiting_max;
        self.counts.waiting_bytes.fetch_add(bytes, Relaxed);
        if !fits || self.letters.send(letter).is_err() {
            self.counts.waiting_bytes.fetch_sub(bytes, Relaxed);
            self.counts.lost.fetch_add(1, Relaxed);
        }
    }

    /// Letters written, and letters lost.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.counts.written.load(Relaxed), self.counts.lost.load(Relaxed))
    }

    /// Waits until everything is written, unless the disk takes longer than that.
    pub(super) fn finish(self, patience: Duration) {
        let Self { letters, ended, counts, .. } = self;
        drop(letters);
        if ended.recv_timeout(patience).is_err_and(|error| error.is_timeout()) {
            log::error!(
                "dead letters of {} bytes are not written: the disk takes too long",
                counts.waiting_bytes.load(Relaxed)
            );
        }
    }
}

struct Writer {
    path: PathBuf,
    bytes_max: u64,
    counts: Arc<Counts>,
    /// The last letter was lost, and the log has been told.
    failing: bool,
}

impl Writer {
    fn run(&mut self, queue: &Receiver<DeadLetter>) {
        let mut line = Vec::new();
        while let Ok(first) = queue.recv() {
            let file = open(&self.path);
            for letter in std::iter::once(first).chain(queue.try_iter().take(BURST_MAX)) {
                line.clear();
                letter.encode(&mut line);
                let result = match &file {
                    Ok(file) => self.append(file, &line),
                    Err(error) => Err(error.to_string()),
                };
                self.note(result);
                self.counts.waiting_bytes.fetch_sub(letter.bytes(), Relaxed);
            }
        }
    }

    /// Appends a line, whole or not at all.
    fn append(&self, mut file: &File, line: &[u8]) -> Result<(), String> {
        let before = file.metadata().map_err(|error| error.to_string())?.len();
        if before + line.len() as u64 > self.bytes_max {
            return Err("it has webhook_dead_letters_bytes_max; move it away".into());
        }
        file.write_all(line).map_err(|error| {
            // Half a line would spoil the next one.
            let cut = file.set_len(before).err().map(|error| format!(", nor cut: {error}"));
            format!("{error}{}", cut.unwrap_or_default())
        })
    }

    /// The first failure is worth a line in the log; the others are counted.
    fn note(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.counts.written.fetch_add(1, Relaxed);
                self.failing = false;
            }
            Err(why) => {
                self.counts.lost.fetch_add(1, Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    let path = self.path.display();
                    log::error!("dead letters are lost, for {path} cannot be written: {why}");
                }
            }
        }
    }
}

/// Opens the file at its end. What is in it is nobody else's business.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn letter(number: u32, body: &str) -> DeadLetter {
        let (event, body) = (format!("msg_{number}").into(), body.as_bytes().into());
        DeadLetter { event, unix_ms: 1_700_000_000_000, attempts: 2, why: "said \"no\"".into(), body }
    }

    fn start(path: &Path, bytes_max: usize) -> DeadLetters {
        let config = Config {
            webhook_dead_letters_file: path.to_str().unwrap().into(),
            webhook_dead_letters_bytes_max: bytes_max,
            ..Config::default()
        };
        DeadLetters::start(&config).unwrap().unwrap()
    }

    #[test]
    fn each_letter_is_a_line_with_its_event_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("letters.jsonl");
        let letters = start(&path, 1 << 20);
        let counts = Arc::clone(&letters.counts);
        (0..200).for_each(|number| letters.push(letter(number, "{\"a\": 1}")));
        letters.finish(PATIENCE);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 200);
        for (number, line) in lines.iter().enumerate() {
            let expected = serde_json::json!({
                "id": format!("msg_{number}"), "time": "2023-11-14T22:13:20.000Z", "attempts": 2,
                "why": "said \"no\"", "event": {"a": 1},
            });
            assert_eq!(*line, expected);
        }
        assert!(text.contains("\"event\":{\"a\": 1}}\n"), "the body is what was signed, byte for byte");
        assert_eq!((counts.written.load(Relaxed), counts.lost.load(Relaxed)), (200, 0));
        assert_eq!(counts.waiting_bytes.load(Relaxed), 0);
    }

    #[test]
    fn a_full_file_takes_no_more_and_what_is_lost_is_counted_until_it_is_moved_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("letters.jsonl");
        let one = start(&path, 300);
        let counts = Arc::clone(&one.counts);
        (0..10).for_each(|number| one.push(letter(number, "{}")));
        one.finish(PATIENCE);
        let full = std::fs::read(&path).unwrap();
        assert!(full.len() <= 300 && full.ends_with(b"\n"));
        let written = counts.written.load(Relaxed);
        assert!(written > 0 && written + counts.lost.load(Relaxed) == 10, "{written}");
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        let other = start(&path, 300);
        other.push(letter(1, "{}"));
        other.finish(PATIENCE);
        assert!(!std::fs::read(&path).unwrap().is_empty());
    }

    #[test]
    fn what_waits_for_the_thread_is_bounded_by_bytes() {
        let (letters, _nobody_takes) = unbounded();
        let (_end, ended) = bounded(0);
        let one = letter(0, "{}").bytes();
        let dead = DeadLetters { letters, counts: Arc::default(), waiting_max: 4 * one - 1, ended };
        (0..10).for_each(|number| dead.push(letter(number, "{}")));
        assert_eq!(dead.counts.waiting_bytes.load(Relaxed), 3 * one);
        assert_eq!(dead.counts(), (0, 7));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named_at_the_start() {
        let config = Config { webhook_dead_letters_file: "/nowhere/letters".into(), ..Config::default() };
        let refused = DeadLetters::start(&config).map(drop).unwrap_err().to_string();
        assert!(refused.contains("webhook_dead_letters_file: /nowhere/letters"), "{refused}");
    }
}
