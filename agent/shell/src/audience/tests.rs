//! The audience without a terminal.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::record::{Cause, Exit};
use crate::ring::length;

fn audience() -> (Audience, Instant) {
    let now = Instant::now();
    (Audience::new(Size::fit(80, 24), None, now), now)
}

/// The byte at a place.
pub(super) fn byte(at: u64) -> u8 {
    u8::try_from(at % 251).unwrap()
}

/// As the terminal's reader does: no more than there is room for.
pub(super) fn push(audience: &mut Audience, most: usize, now: Instant) {
    let from = audience.output();
    let number = audience.room().min(most).min(limits::PIECE_BYTES);
    let bytes: Vec<_> = (from..from + length(number)).map(byte).collect();
    audience.push(&bytes, now);
    while audience.model_next() != Next::Nothing {}
}

pub(super) fn fill(audience: &mut Audience, now: Instant) {
    while audience.room() > 0 {
        push(audience, limits::PIECE_BYTES, now);
    }
}

#[test]
fn a_viewer_that_blocks_is_dismissed_and_one_that_is_slow_is_not() {
    let (mut audience, now) = audience();
    let start = audience.place_at(0).unwrap();
    let stalled = audience.attach(start, Writes::WhereNoneDoes, now).unwrap();
    let slow = audience.attach(start, Writes::Never, now).unwrap();
    assert_eq!(audience.patience(), None);
    fill(&mut audience, now);
    assert_eq!(audience.patience(), Some(now + limits::STALLED));
    let later = now + limits::STALLED - Duration::from_secs(1);
    audience.tell(slow, later);
    audience.dismiss(later);
    assert_eq!(audience.viewers(), 2);
    let over = now + limits::STALLED;
    audience.dismiss(over);
    assert_eq!(
        (audience.viewers(), audience.is_writer(stalled)),
        (1, false)
    );
    assert!(audience.room() > 0);
    assert_eq!(audience.tell(stalled, over), Told::Dismissed);
    assert_eq!(audience.detached(), None);
    fill(&mut audience, over);
    // From the moment of its last bytes.
    assert_eq!(audience.patience(), Some(later + limits::STALLED));
    audience.dismiss(over + limits::STALLED);
    assert_eq!(audience.detached(), Some(over + limits::STALLED));
    assert!(audience.room() > 0, "no viewer is waited for");
}

#[test]
fn a_viewer_that_had_nothing_to_take_has_its_whole_time() {
    let (mut audience, now) = audience();
    let start = audience.place_at(0).unwrap();
    audience.attach(start, Writes::Never, now).unwrap();
    let night = now + Duration::from_secs(8 * 3600);
    fill(&mut audience, night);
    assert_eq!(audience.patience(), Some(night + limits::STALLED));
}

#[test]
fn the_end_comes_behind_all_output() {
    let (mut audience, now) = audience();
    let start = audience.place_at(0).unwrap();
    let viewer = audience.attach(start, Writes::Never, now).unwrap();
    push(&mut audience, 3, now);
    let end = End {
        exit: Exit::Status(0),
        cause: Cause::Program,
    };
    audience.finish(end, now);
    let data = vec![0, 1, 2];
    assert_eq!(audience.tell(viewer, now), Told::Output { at: 0, data });
    assert_eq!(audience.tell(viewer, now), Told::Ended(end));
    assert!(matches!(audience.take_over(viewer), Err(InputError::Ended)));
}

#[test]
fn rule_19_sizes_that_nobody_has_heard_of_are_bounded() {
    let (mut audience, now) = audience();
    let start = audience.place_at(0).unwrap();
    let viewer = audience.attach(start, Writes::Never, now).unwrap();
    for number in 0..2 * u16::try_from(limits::SIZES).unwrap() {
        audience.resize(Size::fit(81 + number % 500, 24), now);
        push(&mut audience, 1, now);
    }
    assert!(audience.changes.len() <= limits::SIZES);
    let mut last = None;
    loop {
        match audience.tell(viewer, now) {
            Told::Resized(size) => last = Some(size),
            Told::Wait => break,
            _ => {}
        }
    }
    assert_eq!(last, Some(audience.size()));
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Resize(u16),
    Attach(bool),
    Leave(usize),
    Tell(usize),
    Catch(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_usize..40_000).prop_map(Step::Push),
        1 => (1_u16..200).prop_map(Step::Resize),
        1 => any::<bool>().prop_map(Step::Attach),
        1 => (0_usize..4).prop_map(Step::Leave),
        4 => (0_usize..4).prop_map(Step::Tell),
        1 => (0_usize..4).prop_map(Step::Catch),
    ];
    proptest::collection::vec(step, 0..200)
}

/// A viewer, with the place and the size that it knows.
struct Known {
    viewer: ViewerId,
    next: u64,
    size: Size,
}

/// Gives false where there is nothing to hear.
fn hear(audience: &mut Audience, known: &mut Known, now: Instant) -> bool {
    match audience.tell(known.viewer, now) {
        Told::Output { at, data } => {
            assert_eq!(at, known.next, "lost, or twice");
            known.next += length(data.len());
            assert!(data.iter().copied().eq((at..known.next).map(byte)));
            true
        }
        Told::Resized(size) => {
            known.size = size;
            true
        }
        Told::TakenOver => true,
        Told::Wait => {
            assert_eq!(
                (known.next, known.size),
                (audience.output(), audience.size())
            );
            false
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_viewer_gets_every_byte_once_and_in_order(steps in steps()) {
        let (mut audience, now) = audience();
        let mut all: Vec<Known> = Vec::new();
        for step in steps {
            match step {
                Step::Push(most) => push(&mut audience, most, now),
                Step::Resize(columns) => {
                    audience.resize(Size::fit(columns, 24), now);
                    while audience.model_next() != Next::Nothing {}
                }
                Step::Attach(takes_over) => {
                    let place = audience.model_place();
                    let writes = if takes_over { Writes::TakesOver } else { Writes::Never };
                    if let Ok(viewer) = audience.attach(place, writes, now) {
                        all.push(Known { viewer, next: place.byte, size: audience.size() });
                    }
                }
                Step::Leave(number) if number < all.len() => {
                    audience.leave(all.remove(number).viewer, now);
                }
                Step::Tell(number) => {
                    if let Some(known) = all.get_mut(number) {
                        hear(&mut audience, known, now);
                    }
                }
                Step::Catch(number) => {
                    if let Some(known) = all.get_mut(number) {
                        while hear(&mut audience, known, now) {}
                    }
                }
                Step::Leave(_) => {}
            }
            prop_assert!(all.len() <= limits::VIEWERS);
            prop_assert_eq!(audience.detached().is_some(), all.is_empty());
            let kept = audience.output() - audience.ring.start();
            prop_assert!(kept <= length(limits::OUTPUT_BYTES));
            prop_assert!(all.iter().all(|known| known.next >= audience.ring.start()));
        }
        for known in &mut all {
            while hear(&mut audience, known, now) {}
        }
    }
}
