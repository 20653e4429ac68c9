//! The engine inside the binary: rten.

/// Runs what a worker thread does for its whole life, so that the engine inside can compute on that thread. Without it
/// every call of the engine hands over to another thread and back. What is done elsewhere works, and costs that.
pub fn on_worker_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    work()
}
