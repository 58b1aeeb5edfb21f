//! The recorder of an audience without a terminal.

use std::time::Duration;

use proptest::prelude::*;

use super::tests::{byte, fill, push};
use super::*;
use crate::record::{Cause, Exit};

const WAIT: Duration = Duration::from_secs(60);

fn recorded(required: bool, input: bool) -> (Audience, Instant) {
    let now = Instant::now();
    let recording = Recording {
        required,
        input,
        wait: WAIT,
    };
    (Audience::new(Size::fit(80, 24), Some(recording), now), now)
}

fn at(output: u64, input: u64) -> RecordedPlace {
    RecordedPlace { output, input }
}

/// Everything that the recorder hears now.
fn hear(audience: &mut Audience, recorder: RecorderId) -> Vec<Recorded> {
    let mut heard = Vec::new();
    loop {
        match audience.tell_recorder(recorder) {
            Recorded::Wait => return heard,
            last @ (Recorded::Dismissed | Recorded::Ended(..)) => {
                heard.push(last);
                return heard;
            }
            next => heard.push(next),
        }
    }
}

#[test]
fn rule_19_a_shell_whose_recorder_is_away_waits_and_then_ends() {
    let (mut audience, now) = recorded(true, false);
    assert_eq!(audience.recording_deadline(), None, "nothing waits");
    fill(&mut audience, now);
    assert_eq!(audience.output(), ring::length(limits::OUTPUT_BYTES));
    assert_eq!(audience.recording_deadline(), Some(now + WAIT));
    // A recorder that comes and writes nothing down changes nothing.
    let later = now + Duration::from_secs(30);
    let (idle, _) = audience.attach_recorder(at(0, 0), later);
    assert!(!hear(&mut audience, idle).is_empty());
    audience.detach_recorder(idle);
    let (recorder, from) = audience.attach_recorder(at(0, 0), later);
    assert_eq!((from, audience.room()), (at(0, 0), 0));
    assert_eq!(audience.recording_deadline(), Some(now + WAIT));
    // It has heard what it says that it has written down, and no more than that counts.
    audience.ack(recorder, at(u64::MAX, 0), later);
    assert_eq!(audience.room(), 0);
    assert!(!hear(&mut audience, recorder).is_empty());
    audience.ack(recorder, at(1000, 0), later);
    assert_eq!(audience.room(), 1000);
    assert_eq!(audience.recording_deadline(), Some(later + WAIT));
    audience.ack(recorder, at(u64::MAX, 0), later);
    assert_eq!(audience.recording_deadline(), None);
    // An earlier one says nothing any more.
    assert_eq!(hear(&mut audience, idle), [Recorded::Dismissed]);
    audience.detach_recorder(recorder);
    fill(&mut audience, later);
    assert_eq!(audience.output(), 2 * ring::length(limits::OUTPUT_BYTES));
    assert_eq!(audience.room(), 0);
}

#[test]
fn a_recorder_that_is_not_required_and_blocks_is_given_up_and_hears_what_it_lacks() {
    let (mut audience, now) = recorded(false, false);
    let (recorder, _) = audience.attach_recorder(at(0, 0), now);
    fill(&mut audience, now);
    assert_eq!(audience.patience(), Some(now + limits::STALLED));
    audience.dismiss(now + limits::STALLED);
    assert_eq!(hear(&mut audience, recorder), [Recorded::Dismissed]);
    for _ in 0..3 {
        push(&mut audience, 1000, now);
    }
    assert!(audience.room() > 0);
    assert_eq!(audience.recording_deadline(), None);
    let (_, from) = audience.attach_recorder(at(10, 0), now);
    assert_eq!(from, at(3000, 0), "the first that is kept");
}

#[test]
fn events_have_the_times_at_which_the_agent_had_them() {
    let (mut audience, now) = recorded(true, true);
    let (recorder, _) = audience.attach_recorder(at(0, 0), now);
    let ms = |number| now + Duration::from_millis(number);
    push(&mut audience, 3, ms(10));
    // As exact as it has to be.
    push(&mut audience, 3, ms(12));
    audience.resize(Size::fit(100, 30), ms(15));
    audience.note_input(b"ls\r", ms(20));
    push(&mut audience, 4, ms(20));
    push(&mut audience, 4, ms(500));
    let end = End {
        exit: Exit::Status(0),
        cause: Cause::Program,
    };
    audience.finish(end, ms(600));
    let since = Duration::from_millis;
    let bytes = |from: u64, to: u64| (from..to).map(byte).collect::<Vec<_>>();
    let heard = [
        Recorded::Output(since(10), bytes(0, 6)),
        Recorded::Resized(since(15), Size::fit(100, 30)),
        Recorded::Input(since(20), b"ls\r".to_vec()),
        Recorded::Output(since(20), bytes(6, 10)),
        Recorded::Output(since(500), bytes(10, 14)),
        Recorded::Ended(since(600), end),
    ];
    assert_eq!(hear(&mut audience, recorder), heard);
    // One that has written a part down hears the rest, and a size again that it may lack.
    let (recorder, from) = audience.attach_recorder(at(6, 3), ms(600));
    assert_eq!(from, at(6, 3));
    let rest = [
        Recorded::Resized(since(15), Size::fit(100, 30)),
        Recorded::Output(since(20), bytes(6, 10)),
        Recorded::Output(since(500), bytes(10, 14)),
        Recorded::Ended(since(600), end),
    ];
    assert_eq!(hear(&mut audience, recorder), rest);
}

#[test]
fn rule_19_input_waits_for_a_required_recording_and_is_bounded_for_any() {
    let (mut audience, now) = recorded(true, true);
    audience.note_input(&vec![b'x'; limits::INPUT_BYTES], now);
    assert_eq!(audience.input_room(), 0);
    assert_eq!(audience.recording_deadline(), Some(now + WAIT));
    let (recorder, _) = audience.attach_recorder(at(0, 0), now);
    assert!(!hear(&mut audience, recorder).is_empty());
    audience.ack(recorder, at(0, 1000), now);
    assert_eq!(audience.input_room(), 1000);
    let (mut audience, now) = recorded(false, true);
    for _ in 0..10 {
        audience.note_input(&vec![b'x'; limits::INPUT_BYTES], now);
    }
    assert_eq!(audience.input_room(), usize::MAX);
    let all = ring::length(10 * limits::INPUT_BYTES);
    let (_, from) = audience.attach_recorder(at(0, 0), now);
    assert_eq!(from, at(0, all - ring::length(limits::INPUT_BYTES)));
    // Where it is not asked for, none is kept.
    let (mut audience, now) = recorded(true, false);
    audience.note_input(b"secret", now);
    let (recorder, _) = audience.attach_recorder(at(0, 0), now);
    assert_eq!(hear(&mut audience, recorder), []);
}

#[test]
fn rule_19_a_recorder_that_is_away_costs_so_many_times_and_no_more() {
    let (mut audience, mut now) = recorded(true, false);
    for _ in 0..3 * limits::MARKS {
        now += 2 * limits::MARK_STEP;
        push(&mut audience, 1, now);
    }
    let (recorder, _) = audience.attach_recorder(at(0, 0), now);
    let heard = hear(&mut audience, recorder);
    assert!(heard.len() <= limits::MARKS && heard.len() > limits::MARKS / 4);
    let bytes = heard.into_iter().map(|event| match event {
        Recorded::Output(_, bytes) => bytes.len(),
        other => panic!("{other:?}"),
    });
    assert_eq!(bytes.sum::<usize>(), 3 * limits::MARKS);
}

#[test]
fn a_shell_that_was_not_recorded_is_from_what_is_kept_on() {
    let now = Instant::now();
    let mut audience = Audience::new(Size::fit(80, 24), None, now);
    push(&mut audience, 100, now);
    let later = now + Duration::from_secs(9);
    let (recorder, from) = audience.attach_recorder(at(0, 0), later);
    assert_eq!(from, at(0, 0));
    let bytes: Vec<_> = (0..100).map(byte).collect();
    let heard = [Recorded::Output(Duration::from_secs(9), bytes)];
    assert_eq!(hear(&mut audience, recorder), heard);
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Type(usize),
    Resize(u16),
    Hear(usize),
    Ack,
    Leave,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..20_000).prop_map(Step::Push),
        2 => (0_usize..3000).prop_map(Step::Type),
        1 => (20_u16..200).prop_map(Step::Resize),
        4 => (0_usize..40).prop_map(Step::Hear),
        4 => Just(Step::Ack),
        1 => Just(Step::Leave),
        2 => (0_u64..100).prop_map(Step::Pass),
    ]
}

proptest! {
    /// The recorder may go away at any time, and comes back behind what it has written down.
    #[test]
    fn a_required_recording_has_every_byte_once(steps in proptest::collection::vec(step(), 1..120)) {
        let (mut audience, mut now) = recorded(true, true);
        let (mut output, mut input, mut typed) = (Vec::new(), Vec::new(), 0_u64);
        let mut recorder = audience.attach_recorder(at(0, 0), now).0;
        for step in steps {
            match step {
                Step::Push(most) => push(&mut audience, most, now),
                Step::Type(most) => {
                    let number = ring::length(audience.input_room().min(most));
                    let bytes: Vec<_> = (typed..typed + number).map(byte).collect();
                    typed += number;
                    audience.note_input(&bytes, now);
                }
                Step::Resize(columns) => audience.resize(Size::fit(columns, 24), now),
                Step::Hear(most) => for _ in 0..most {
                    match audience.tell_recorder(recorder) {
                        Recorded::Output(_, bytes) => output.extend(bytes),
                        Recorded::Input(_, bytes) => input.extend(bytes),
                        Recorded::Wait => break,
                        _ => {}
                    }
                },
                Step::Ack => {
                    let had = at(ring::length(output.len()), ring::length(input.len()));
                    audience.ack(recorder, had, now);
                }
                Step::Leave => {
                    audience.detach_recorder(recorder);
                    let had = at(ring::length(output.len()), ring::length(input.len()));
                    let (again, from) = audience.attach_recorder(had, now);
                    prop_assert_eq!(from, had);
                    recorder = again;
                }
                Step::Pass(ms) => now += Duration::from_millis(ms),
            }
            prop_assert!(audience.output() - ring::length(output.len()) <= ring::length(limits::OUTPUT_BYTES));
        }
        for heard in hear(&mut audience, recorder) {
            match heard {
                Recorded::Output(_, bytes) => output.extend(bytes),
                Recorded::Input(_, bytes) => input.extend(bytes),
                _ => {}
            }
        }
        let all = |number| (0..number).map(byte).collect::<Vec<_>>();
        prop_assert_eq!(output, all(audience.output()));
        prop_assert_eq!(input, all(typed));
    }
}
