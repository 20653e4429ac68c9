//! Memory, counted: the bounds that the server's memory limit is computed from hold, and steady work allocates
//! little.
//!
//! Each thread counts its own allocations, so tests that run at the same time do not disturb each other.

use super::resample::{self, RESAMPLER_BYTES_MAX, WORKSHOP_BYTES_MAX};
use super::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static BYTES: Cell<isize> = const { Cell::new(0) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator unchanged; the counters need no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.set(BYTES.get() + layout.size() as isize);
        CALLS.set(CALLS.get() + 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.set(BYTES.get() - layout.size() as isize);
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn noise(len: usize) -> Vec<f32> {
    let mut seed = 1u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as f32 / (1u32 << 24) as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

fn run(model: &Arc<dyn Model>, rate_hz: u32, units: usize) -> Run {
    let state = StreamState::new(&**model, rate_hz).expect("a rate that is served");
    let unit = unit(model.spec(), rate_hz).expect("a rate that is served");
    Run::new(Box::new(state), noise(units * unit), false)
}

/// Bytes that a stream's state holds after some runs.
fn state_bytes(model: &Arc<dyn Model>, rate_hz: u32) -> usize {
    let mut runs = vec![run(model, rate_hz, 5)];
    for _ in 0..3 {
        execute(&**model, &mut runs);
    }
    let state = runs.pop().expect("the run").state;
    let before = BYTES.get();
    drop(state);
    (before - BYTES.get()) as usize
}

#[test]
fn no_stream_holds_more_than_its_models_bound() {
    let rates_hz = [
        8_000, 8_001, 11_025, 12_000, 15_950, 16_000, 16_050, 22_050, 24_000, 32_000, 44_100, 44_101, 47_950,
        47_999, 48_000,
    ];
    for model in Registry::builtin().audio() {
        let spec = model.spec();
        let sizes = rates_hz.map(|rate_hz| (state_bytes(model, rate_hz), rate_hz));
        println!("{}: bound {}, {sizes:?}", spec.name, state_bytes_max(spec));
        let (largest, rate_hz) = sizes.into_iter().max().expect("some rates");
        assert!(largest <= state_bytes_max(spec), "{} at {rate_hz} Hz: {largest}", spec.name);
        // At the model's own rate nothing is resampled: what is left is the model's.
        let own = state_bytes(model, spec.rate_for(16_000)) - size_of::<StreamState>();
        assert!(own <= spec.state_bytes, "{}: {own} of {}", spec.name, spec.state_bytes);
    }
}

#[test]
fn a_stream_that_has_not_begun_holds_next_to_nothing() {
    for model in Registry::builtin().audio() {
        let before = BYTES.get();
        let state = Box::new(StreamState::new(&**model, 44_101).expect("a rate that is served"));
        let held = (BYTES.get() - before) as usize;
        assert_eq!(held, size_of::<StreamState>(), "{}", model.spec().name);
        drop(state);
    }
}

#[test]
fn no_resampler_of_a_thread_is_larger_than_its_share_of_the_bound() {
    let mut largest = (0, 0, 0);
    let pairs = (8_000..=48_000).flat_map(|a| [16_000, 48_000].map(|b| (a, b))).filter(|(a, b)| a != b);
    for (from_hz, to_hz) in pairs.flat_map(|(a, b)| [(a, b), (b, a)]) {
        // Making one is slow, and it is the long blocks that need memory.
        let frames = resample::block(from_hz, to_hz).max(resample::block(to_hz, from_hz));
        if resample::is_shared(from_hz, to_hz) && frames >= 850 {
            let before = BYTES.get();
            let fft = resample::new_fft(from_hz, to_hz);
            largest = largest.max((BYTES.get() - before, from_hz, to_hz));
            drop(fft);
        }
    }
    println!("the largest: {largest:?}");
    assert!(largest.0 > 0 && largest.0 as usize * 16 <= WORKSHOP_BYTES_MAX, "{largest:?}");
}

#[test]
fn no_resampler_of_a_stream_is_larger_than_its_bound() {
    let mut workshop = resample::Workshop::default();
    for (from_hz, to_hz) in
        [(8_001, 48_000), (48_000, 8_001), (47_999, 16_000), (44_101, 16_000), (22_050, 16_000)]
    {
        let mut out = Vec::with_capacity(400_000);
        let samples = noise(from_hz as usize + 7);
        // The first fills the thread's workshop, the second is weighed.
        resample::Resampler::new(from_hz, to_hz).push(&mut workshop, &samples, &mut out);
        out.clear();
        let before = BYTES.get();
        let mut resampler = resample::Resampler::new(from_hz, to_hz);
        resampler.push(&mut workshop, &samples, &mut out);
        let held = (BYTES.get() - before) as usize;
        println!("{from_hz} -> {to_hz}: {held}");
        assert!(held <= RESAMPLER_BYTES_MAX, "{from_hz} -> {to_hz}: {held}");
    }
}

#[test]
fn steady_work_allocates_nothing_of_our_own() {
    for (name, rate_hz) in [("vad", 16_000), ("vad", 48_000), ("vad", 44_101), ("echo", 16_000)] {
        let model = Registry::builtin().get(name).expect("a model inside");
        let mut runs = vec![run(&model, rate_hz, 50)];
        for _ in 0..5 {
            execute(&*model, &mut runs);
        }
        let before = CALLS.get();
        execute(&*model, &mut runs);
        assert_eq!(CALLS.get() - before, 0, "{name} at {rate_hz} Hz");
    }
}
