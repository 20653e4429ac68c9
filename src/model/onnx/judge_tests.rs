//! What is told of rows made up: thresholds, means, ends of streams, and contradictions.

use super::*;
use crate::model::{Event, EventKind};
use proptest::prelude::*;

/// Windows of 160 samples, 80 apart: 10 ms at 8 kHz.
fn resolve(text: &str, spec: OutputSpec) -> Result<Option<Judge>, String> {
    let text = format!("[audio]\nsample_rate = 8000\nwindow = 160\nhop = 80\n{text}");
    let manifest = Manifest::parse("model.toml", &text).expect("a right manifest");
    Judge::resolve(&manifest, manifest.audio.as_ref().expect("audio"), &[spec])
}

fn output(labels: &[&str]) -> OutputSpec {
    OutputSpec {
        shape: vec![labels.len()],
        labels: labels.iter().map(|&label| label.into()).collect(),
        ..OutputSpec::scalar("p", Datatype::Fp32)
    }
}

const P: &str = "[[output]]\nname = \"p\"\nkind = \"probability\"\n[postprocess]\n";

fn judge(text: &str, labels: &[&str]) -> Judge {
    resolve(&format!("{P}{text}"), output(labels)).expect("a judge that fits").expect("a judge")
}

fn play(judge: &Judge, rows: &[&[f32]], ends_at: Option<u64>) -> Findings {
    let (mut memory, mut findings) = (JudgeMemory::default(), Findings::default());
    for (window, row) in rows.iter().enumerate() {
        judge.step(&mut memory, row, window as u64, ends_at, &mut findings);
    }
    judge.conclude(&mut memory, rows.len(), ends_at, &mut findings);
    findings
}

const SPEECH: &str = "kind = \"speech\"\nmin_on = 15\nmin_off = 20\npad = 0\nlag = 10";

#[test]
fn speech_is_placed_behind_its_lag_and_counts_from_as_many_windows_as_its_shortest_time_takes() {
    let judge = judge(SPEECH, &["speech"]);
    let events = |rows: &[f32], ends_at| {
        let rows: Vec<&[f32]> = rows.iter().map(std::slice::from_ref).collect();
        let events = play(&judge, &rows, ends_at).events;
        events.into_iter().map(|event| (event.kind, event.at_sample)).collect::<Vec<_>>()
    };
    use EventKind::{SpeechEnded, SpeechStarted};
    assert_eq!(events(&[0.0, 1.0, 1.0, 0.0, 0.0, 0.0], None), [(SpeechStarted, 80), (SpeechEnded, 240)]);
    assert_eq!(events(&[0.0, 1.0, 0.0, 0.0], None), [], "15 ms are two windows");
    assert_eq!(events(&[1.0; 4], Some(200)), [(SpeechStarted, 0), (SpeechEnded, 200)]);
    assert_eq!(events(&[0.0, 0.0, 0.0, 1.0, 1.0], Some(240)), [], "they begin at the end or behind it");
}

#[test]
fn windows_behind_the_end_have_no_say_in_what_is_told_of_the_last_window() {
    let judge = judge(SPEECH, &["speech"]);
    let findings = play(&judge, &[&[0.9], &[0.8], &[0.1]], Some(160));
    assert_eq!((findings.speech_probability, findings.is_speech), (Some(0.8), Some(true)));
}

#[test]
fn speech_may_be_one_label_of_several() {
    let judge = judge(&format!("{SPEECH}\nlabel = \"voice\""), &["noise", "voice"]);
    let findings = play(&judge, &[&[0.9, 0.1], &[0.2, 0.8]], None);
    assert_eq!(findings.speech_probability, Some(0.8));
}

proptest! {
    #[test]
    fn events_alternate_and_none_lies_beyond_the_end(
        rows in proptest::collection::vec(0.0f32..1.0, 0..60),
        end in 0u64..5_000,
        lag in 0u64..40,
    ) {
        let text = format!("kind = \"speech\"\nmin_on = 10\nmin_off = 20\npad = 20\nlag = {lag}");
        let rows: Vec<&[f32]> = rows.iter().map(std::slice::from_ref).collect();
        let events: Vec<Event> = play(&judge(&text, &["speech"]), &rows, Some(end)).events;
        prop_assert!(events.len().is_multiple_of(2));
        prop_assert!(events.iter().all(|event| event.at_sample <= end));
        prop_assert!(events.windows(2).all(|pair| pair[0].kind != pair[1].kind));
        prop_assert!(events.windows(2).all(|pair| pair[0].at_sample <= pair[1].at_sample));
    }
}

const WORDS: [&str; 3] = ["silence", "yes", "no"];
const SILENCE: &[f32] = &[1.0, 0.0, 0.0];
const YES: &[f32] = &[0.0, 1.0, 0.0];
const NO: &[f32] = &[0.0, 0.0, 1.0];

fn words(smooth: usize, rows: &[&[f32]], ends_at: Option<u64>) -> Vec<(String, u64)> {
    let text = format!("kind = \"keyword\"\nsmooth = {smooth}\nrefractory = 30\nignore = [\"silence\"]");
    let found = play(&judge(&text, &WORDS), rows, ends_at).detections;
    found.into_iter().map(|found| (found.label.to_string(), found.at_sample)).collect()
}

#[test]
fn a_word_is_told_once_and_again_after_something_else_and_the_refractory_time() {
    let rows = [YES, YES, YES, SILENCE, YES, YES, NO, NO, NO, NO];
    let wanted = [("yes".into(), 240), ("yes".into(), 560), ("no".into(), 800)];
    assert_eq!(words(2, &rows, None), wanted);
}

#[test]
fn no_word_is_told_before_there_are_enough_windows_nor_beyond_the_end() {
    assert_eq!(words(3, &[YES, YES], None), []);
    assert_eq!(words(3, &[YES; 4], Some(250)), [("yes".into(), 250)]);
    assert_eq!(words(3, &[YES; 4], Some(160)), [], "the third window begins at the end");
    assert_eq!(words(1, &[SILENCE; 4], None), []);
}

#[test]
fn classes_are_the_best_of_the_mean_and_told_of_calls_with_windows_only() {
    let judge = judge("kind = \"classify\"\ntop_k = 2\nsmooth = 2", &["a", "b", "c"]);
    let classes = |rows: &[&[f32]]| {
        let classes = play(&judge, rows, None).classes;
        classes.into_iter().map(|class| (class.label.to_string(), class.score)).collect::<Vec<_>>()
    };
    let rows: [&[f32]; 3] = [&[0.0, 0.0, 9.0], &[1.0, 0.0, 0.0], &[0.0, 0.5, 0.25]];
    assert_eq!(classes(&rows), [("a".into(), 0.5), ("b".into(), 0.25)]);
    assert_eq!(classes(&rows[..1]), [("c".into(), 9.0), ("a".into(), 0.0)]);
    assert_eq!(classes(&[]), []);
}

#[test]
fn what_contradicts_the_outputs_is_told_with_both_sides() {
    let plain = OutputSpec { labels: Vec::new(), ..output(&WORDS) };
    let double = OutputSpec { datatype: Datatype::Fp64, ..output(&WORDS) };
    let cases = [
        (
            format!("{P}{SPEECH}"),
            output(&WORDS),
            "output `p` has rows of 3 elements; say in postprocess.label",
        ),
        (format!("{P}{SPEECH}\nlabel = \"voice\""), output(&WORDS), "postprocess.label is `voice`"),
        (format!("{P}kind = \"keyword\""), plain, "output `p` has 0 for rows of 3 elements"),
        (
            format!("{P}kind = \"keyword\"\nignore = [\"hum\"]"),
            output(&WORDS),
            "postprocess.ignore has `hum`",
        ),
        (format!("{P}kind = \"classify\""), double, "output `p`, which is FP64"),
        (format!("{P}kind = \"classify\"\noutput = \"q\""), output(&WORDS), "`q`, but the model gives `p`"),
        ("[postprocess]\nkind = \"classify\"".into(), output(&WORDS), "and 0 of `p` are"),
        (
            "[postprocess]\nkind = \"classify\"\noutput = \"p\"".into(),
            output(&WORDS),
            "postprocess.output is `p`, whose kind is \"raw\"",
        ),
    ];
    for (text, spec, wanted) in cases {
        let error = resolve(&text, spec).err().expect(wanted);
        assert!(error.contains(wanted), "{error} for {wanted}");
    }
}
