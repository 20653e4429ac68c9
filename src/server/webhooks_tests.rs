//! Tests of the queue of webhooks: single steps, and what holds after any sequence of answers.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const POLICY: Policy = Policy {
    attempts_max: 4,
    retry_delay: Duration::from_secs(1),
    timeout: Duration::from_secs(10),
    posts_max: 2,
    bytes_max: 64 << 10,
};

fn stream(slot: u32) -> SessionId {
    SessionId { slot, generation: 0 }
}

fn at(ms: u64) -> Now {
    Now { instant: Instant::from_origin(Duration::from_millis(ms)), unix_ms: 1_700_000_000_000 + ms }
}

fn status(status: u16) -> PostAnswer {
    PostAnswer::Status { status, retry_after: None }
}

fn later(status: u16, field: &str) -> PostAnswer {
    PostAnswer::Status { status, retry_after: Some(field.into()) }
}

fn failed() -> PostAnswer {
    PostAnswer::Failed("the line is cut".into())
}

fn push(webhooks: &mut Webhooks, slot: u32, body: &str, now: Now) -> Option<DeadLetter> {
    let letter = webhooks.push(stream(slot), body.as_bytes().to_vec(), now);
    webhooks.check_invariants();
    letter
}

/// Answers the attempt; the letter, if the event was given up.
fn answer(webhooks: &mut Webhooks, post: &Post, with: &PostAnswer, now: Now) -> Option<DeadLetter> {
    let (_, letter) = webhooks.on_answer(post.id, with, now);
    webhooks.check_invariants();
    letter
}

#[test]
fn an_event_is_posted_at_once_and_gone_when_the_receiver_has_it() {
    let mut webhooks = Webhooks::new(POLICY, 7);
    assert_eq!((webhooks.due(), webhooks.is_empty()), (None, true));
    assert!(push(&mut webhooks, 1, "{}", at(1_500)).is_none());
    let post = webhooks.next_post(at(1_500)).expect("it is due");
    assert_eq!((&*post.body, post.timestamp_s), (&b"{}"[..], 1_700_000_001));
    assert!(post.event.starts_with("msg_") && post.event.len() == 40, "{}", post.event);
    assert!(webhooks.next_post(at(1_500)).is_none());
    assert!(answer(&mut webhooks, &post, &status(204), at(1_600)).is_none());
    assert_eq!((webhooks.due(), webhooks.is_empty()), (None, true));
    let figures = webhooks.figures();
    assert_eq!((figures.made, figures.delivered, figures.attempts, figures.bytes), (1, 1, 1, 0));
}

#[test]
fn what_may_succeed_later_is_tried_again_and_nothing_else_is() {
    let again = [408, 425, 429, 500, 502, 503, 504, 599];
    let never = [301, 302, 307, 308, 400, 401, 403, 404, 410, 413, 422, 426, 600];
    for code in [200, 201, 202, 204, 299] {
        assert_eq!(judge(&status(code), 0), Verdict::Delivered, "{code}");
    }
    for code in again {
        let verdict = judge(&status(code), 0);
        assert_eq!(verdict, Verdict::Again(format!("the receiver answered {code}"), Duration::ZERO));
    }
    for code in never {
        assert!(matches!(judge(&status(code), 0), Verdict::Never(why) if why.contains(&code.to_string())));
    }
    assert_eq!(judge(&failed(), 0), Verdict::Again("the line is cut".into(), Duration::ZERO));
}

#[test]
fn every_attempt_has_the_events_name_and_its_own_time_and_the_last_failure_ends_it() {
    let mut webhooks = Webhooks::new(POLICY, 7);
    push(&mut webhooks, 1, "{}", at(0));
    let (mut names, mut times) = (BTreeSet::new(), Vec::new());
    let letter = loop {
        let due = webhooks.due().expect("it waits");
        let now = at(due.since(Instant::default()).as_millis() as u64 + 1);
        let post = webhooks.next_post(now).expect("it is due");
        names.insert(post.event.clone());
        times.push(now.instant);
        if let Some(letter) = answer(&mut webhooks, &post, &status(500), now) {
            break letter;
        }
    };
    assert_eq!((names.len(), times.len()), (1, POLICY.attempts_max as usize));
    let waits: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    for (wait, ceiling) in waits.iter().zip([1.0, 2.0, 4.0]) {
        assert!((ceiling / 2.0..=ceiling + 0.002).contains(wait), "{waits:?}");
    }
    assert_eq!((letter.attempts, letter.why.as_str()), (4, "the receiver answered 500"));
    assert!(names.contains(&letter.event));
    assert!(webhooks.is_empty());
}

#[test]
fn waits_double_up_to_five_minutes_unless_a_longer_one_is_asked_for() {
    let mut webhooks = Webhooks::new(POLICY, 7);
    for before in 0..40 {
        let ceiling = Duration::from_secs(1).saturating_mul(2u32.saturating_pow(before)).min(RETRY_MAX);
        let wait = webhooks.delay(before, RETRY_MAX);
        assert!(wait >= ceiling / 2 && wait <= ceiling, "{before}: {wait:?}");
    }
    let hour = Duration::from_secs(3600);
    let mut slow = Webhooks::new(Policy { retry_delay: hour, ..POLICY }, 7);
    assert!(slow.delay(9, RETRY_MAX) >= hour / 2);
    let drawn: BTreeSet<_> = (0..100).map(|_| slow.delay(0, RETRY_MAX)).collect();
    assert!(drawn.len() > 90, "what failed together does not come again together");
}

#[test]
fn a_receiver_that_asks_for_time_gets_it_from_all_events() {
    let mut webhooks = Webhooks::new(POLICY, 7);
    push(&mut webhooks, 1, "{}", at(0));
    push(&mut webhooks, 2, "{}", at(0));
    let post = webhooks.next_post(at(0)).unwrap();
    answer(&mut webhooks, &post, &later(503, "60"), at(0));
    assert!(webhooks.next_post(at(59_999)).is_none());
    assert_eq!(webhooks.due(), Some(at(60_000).instant));
    assert!(webhooks.next_post(at(60_000)).is_some() && webhooks.next_post(at(60_000)).is_some());
    // 1,700,000,000 is 22:13:20.
    assert_eq!(wait("Tue, 14 Nov 2023 22:13:50 GMT", 1_700_000_000_000), Some(Duration::from_secs(30)));
    assert_eq!(wait("Tue, 14 Nov 2023 22:13:00 GMT", 1_700_000_000_000), Some(Duration::ZERO));
    assert_eq!(wait("soon", 0), None);
    let endless = later(429, "99999999999");
    assert_eq!(judge(&endless, 0), Verdict::Again("the receiver answered 429".into(), RETRY_AFTER_MAX));
}

#[test]
fn events_of_a_stream_keep_their_order_and_others_pass_them() {
    let mut webhooks = Webhooks::new(POLICY, 7);
    for (slot, body) in [(1, "1"), (1, "2"), (1, "3"), (2, "4")] {
        push(&mut webhooks, slot, body, at(0));
    }
    let first = webhooks.next_post(at(0)).unwrap();
    let other = webhooks.next_post(at(0)).unwrap();
    assert_eq!((&*first.body, &*other.body), (&b"1"[..], &b"4"[..]));
    answer(&mut webhooks, &other, &status(200), at(1));
    assert!(webhooks.next_post(at(1)).is_none(), "those behind the first wait for it");
    answer(&mut webhooks, &first, &status(500), at(1));
    assert!(webhooks.next_post(at(2)).is_none(), "and while it waits for its next attempt too");
    let again = webhooks.next_post(at(2_000)).unwrap();
    assert_eq!(again.event, first.event);
    assert!(answer(&mut webhooks, &again, &status(400), at(2_001)).is_some());
    assert_eq!(&*webhooks.next_post(at(2_001)).unwrap().body, b"2", "what follows a dead letter goes on");
}

#[test]
fn an_event_without_room_is_a_dead_letter_at_once() {
    let one = EVENT_BYTES + 10;
    let mut webhooks = Webhooks::new(Policy { bytes_max: 2 * one, ..POLICY }, 7);
    let body = "x".repeat(10);
    assert!(push(&mut webhooks, 1, &body, at(0)).is_none());
    assert!(push(&mut webhooks, 1, &body, at(0)).is_none());
    let letter = push(&mut webhooks, 1, &body, at(0)).expect("there is no room");
    assert_eq!((letter.attempts, &*letter.body), (0, body.as_bytes()));
    assert_eq!(webhooks.figures().crowded_out, 1);
    let post = webhooks.next_post(at(0)).unwrap();
    answer(&mut webhooks, &post, &status(200), at(1));
    assert!(push(&mut webhooks, 1, &body, at(1)).is_none(), "there is room again");
}

#[test]
fn an_answer_that_does_not_come_is_a_failure_and_when_it_comes_late_it_is_left_out() {
    let mut webhooks = Webhooks::new(POLICY, 7);
    push(&mut webhooks, 1, "{}", at(0));
    let post = webhooks.next_post(at(0)).unwrap();
    let late = POLICY.timeout + GRACE;
    assert_eq!(webhooks.due(), Some(at(0).instant + late));
    assert_eq!(webhooks.overdue(at(10_999).instant), None);
    assert_eq!(webhooks.overdue(at(11_000).instant), Some(post.id));
    answer(&mut webhooks, &post, &failed(), at(11_000));
    let again = webhooks.next_post(at(13_000)).unwrap();
    assert!(again.id != post.id && again.event == post.event);
    assert!(answer(&mut webhooks, &post, &status(200), at(13_001)).is_none());
    assert_eq!(webhooks.figures().delivered, 0, "the second attempt is still under way");
    answer(&mut webhooks, &again, &status(200), at(13_002));
    assert_eq!(webhooks.figures().delivered, 1);
}

#[test]
fn a_receiver_that_fails_again_and_again_is_left_alone_by_all() {
    let mut webhooks = Webhooks::new(Policy { attempts_max: 100, ..POLICY }, 7);
    (0..50).for_each(|slot| assert!(push(&mut webhooks, slot, "{}", at(0)).is_none()));
    let mut attempts = 0;
    for ms in 0..10_000 {
        while let Some(post) = webhooks.next_post(at(ms)) {
            attempts += 1;
            answer(&mut webhooks, &post, &failed(), at(ms));
        }
    }
    assert!((6..15).contains(&attempts), "{attempts} attempts in ten seconds of nothing but failures");
    let ms = webhooks.due().unwrap().since(Instant::default()).as_millis() as u64 + 1;
    let post = webhooks.next_post(at(ms)).unwrap();
    assert_eq!(webhooks.on_answer(post.id, &status(200), at(ms)).0, Some(News::Recovered));
    let delivered = (0..50)
        .take_while(|_| {
            let post = webhooks.next_post(at(ms + 1));
            post.is_some_and(|post| answer(&mut webhooks, &post, &status(200), at(ms + 1)).is_none())
        })
        .count();
    assert!(delivered > 30, "after a success the others go at once: {delivered}");
}

#[test]
fn the_log_is_told_of_the_first_failure_and_of_the_success_after_it() {
    let mut webhooks = Webhooks::new(POLICY, 7);
    let mut news = Vec::new();
    for (ms, code) in [(0, 200), (10_000, 500), (20_000, 404), (30_000, 200), (40_000, 200), (50_000, 400)] {
        push(&mut webhooks, ms as u32, "{}", at(ms));
        while let Some(post) = webhooks.next_post(at(ms)) {
            news.extend(webhooks.on_answer(post.id, &status(code), at(ms)).0);
        }
    }
    let trouble = |code| News::Trouble(format!("the receiver answered {code}"));
    assert_eq!(news, [trouble(500), News::Recovered, trouble(400)]);
}

#[test]
fn a_shutdown_gives_everything_one_more_attempt_and_what_cannot_be_in_time_is_given_up() {
    let mut webhooks = Webhooks::new(POLICY, 7);
    push(&mut webhooks, 1, "{}", at(0));
    push(&mut webhooks, 2, "{}", at(0));
    let post = webhooks.next_post(at(0)).unwrap();
    answer(&mut webhooks, &post, &later(503, "3000"), at(0));
    webhooks.hurry(at(100).instant, at(600).instant);
    webhooks.check_invariants();
    let (one, two) = (webhooks.next_post(at(100)).unwrap(), webhooks.next_post(at(100)).unwrap());
    assert!(answer(&mut webhooks, &one, &status(200), at(200)).is_none());
    let letter = answer(&mut webhooks, &two, &status(500), at(200));
    assert!(letter.is_some_and(|letter| letter.why.contains("shuts down")), "a second is too long");
    assert!(webhooks.is_empty());
}

#[test]
fn at_the_end_everything_left_is_a_dead_letter_and_so_is_what_comes_after() {
    let mut webhooks = Webhooks::new(POLICY, 7);
    (0..4).for_each(|slot| assert!(push(&mut webhooks, slot, "{}", at(0)).is_none()));
    let under_way = webhooks.next_post(at(0)).unwrap();
    let letters: Vec<_> = std::iter::from_fn(|| webhooks.close(at(1))).collect();
    assert_eq!(letters.len(), 4);
    assert!(letters[0].why.contains("may have it") && letters[0].event == under_way.event);
    assert!(letters[1..].iter().all(|letter| letter.why == "the server shuts down"));
    assert!(push(&mut webhooks, 9, "{}", at(2)).is_some());
    assert_eq!(webhooks.on_answer(under_way.id, &status(200), at(3)).0, None);
    assert_eq!((webhooks.due(), webhooks.is_empty()), (None, true));
    let figures = webhooks.figures();
    assert_eq!((figures.made, figures.dead, figures.bytes), (5, 5, 0));
}

/// What may happen to the queue.
#[derive(Clone, Debug)]
enum Step {
    Push { slot: u32, bytes: usize },
    Answer { which: usize, code: u16 },
    Wait { ms: u64 },
    Hurry { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4u32, 0..3_000usize).prop_map(|(slot, bytes)| Step::Push { slot, bytes }),
        6 => (0..8usize, prop::sample::select(vec![0, 200, 200, 200, 302, 404, 429, 500]))
            .prop_map(|(which, code)| Step::Answer { which, code }),
        5 => prop::sample::select(vec![0, 1, 700, 3_000, 12_000]).prop_map(|ms| Step::Wait { ms }),
        1 => (1..20_000u64).prop_map(|ms| Step::Hurry { ms }),
    ]
}

proptest! {
    /// Whatever is answered and when: every event is delivered or a dead letter, once; names are unique; events of a stream
    /// are posted in their order; no bound is exceeded.
    #[test]
    fn every_event_ends_once(steps in prop::collection::vec(step(), 1..200), posts_max in 1..4usize, seed: u64) {
        let policy = Policy { posts_max, bytes_max: 16 << 10, ..POLICY };
        let mut webhooks = Webhooks::new(policy, seed);
        let (mut ms, mut made, mut flying) = (0, 0u64, Vec::<Post>::new());
        let mut ended = BTreeMap::<Arc<str>, &str>::new();
        let mut newest = BTreeMap::<u8, u64>::new();
        let mut end = |event: &Arc<str>, how| prop_assert_eq_ok(ended.insert(Arc::clone(event), how).is_none());
        for step in steps {
            let mut letters = Vec::new();
            match step {
                Step::Push { slot, bytes } => {
                    // The first byte is the stream, the next eight are the number.
                    let mut body = vec![slot as u8];
                    body.extend_from_slice(&made.to_be_bytes());
                    body.resize(body.len() + bytes, b' ');
                    made += 1;
                    letters.extend(webhooks.push(stream(slot), body, at(ms)));
                }
                Step::Answer { which, code } if !flying.is_empty() => {
                    let post = flying.remove(which % flying.len());
                    let answer = if code == 0 { failed() } else { status(code) };
                    let delivered = webhooks.figures().delivered;
                    letters.extend(webhooks.on_answer(post.id, &answer, at(ms)).1);
                    if webhooks.figures().delivered > delivered {
                        end(&post.event, "delivered")?;
                    }
                }
                Step::Answer { .. } => {}
                Step::Wait { ms: more } => ms += more,
                Step::Hurry { ms: more } => webhooks.hurry(at(ms).instant, at(ms + more).instant),
            }
            while let Some(id) = webhooks.overdue(at(ms).instant) {
                letters.extend(webhooks.on_answer(id, &failed(), at(ms)).1);
            }
            while let Some(post) = webhooks.next_post(at(ms)) {
                let number = u64::from_be_bytes(post.body[1..9].try_into().unwrap());
                let last = newest.insert(post.body[0], number);
                prop_assert!(last.is_none_or(|last| last <= number), "{last:?} before {number}");
                flying.push(post);
            }
            for letter in letters {
                end(&letter.event, "dead")?;
            }
            webhooks.check_invariants();
            prop_assert!(webhooks.due().is_none_or(|due| due > at(ms).instant), "what is due has been done");
        }
        while let Some(letter) = webhooks.close(at(ms)) {
            end(&letter.event, "dead")?;
        }
        webhooks.check_invariants();
        let figures = webhooks.figures();
        let count = |how| ended.values().filter(|ended| **ended == how).count() as u64;
        prop_assert_eq!((figures.made, figures.delivered, figures.dead), (made, count("delivered"), count("dead")));
        prop_assert_eq!(ended.len() as u64, made, "no two have one name");
    }
}

fn prop_assert_eq_ok(first: bool) -> Result<(), TestCaseError> {
    match first {
        true => Ok(()),
        false => Err(TestCaseError::fail("an event ended twice")),
    }
}
