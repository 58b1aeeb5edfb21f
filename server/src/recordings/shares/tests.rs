//! Shares of users.

use underpass_core::{ClusterName, ShellId, ShellKind};

use super::super::facts::Finished;
use super::*;

const HOUR: u64 = 60 * 60;

/// A recording of this user's, which is being written.
fn begun(user: &str) -> Facts {
    Facts {
        cluster: ClusterName::new("edge").unwrap(),
        id: ShellId::random(),
        kind: ShellKind::Kubectl,
        user: user.to_owned(),
        uid: None,
        origin: None,
        place: "cluster:edge".to_owned(),
        agent: "a1".to_owned(),
        created: OffsetDateTime::UNIX_EPOCH,
        begun: None,
        recording: underpass_api::ShellRecording {
            required: true,
            input: false,
            wait_seconds: 60,
        },
        identity: String::new(),
        finished: None,
    }
}

/// One that ended so many hours after 1970.
fn finished(user: &str, hours: u64) -> Facts {
    let after = std::time::Duration::from_secs(hours * HOUR);
    let finished = Finished {
        at: OffsetDateTime::UNIX_EPOCH + after,
        bytes: 0,
        milliseconds: 0,
        sha256: String::new(),
        missing: 0,
        end: None,
    };
    Facts {
        finished: Some(finished),
        ..begun(user)
    }
}

fn holder(user: &str) -> Holder {
    begun(user).holder()
}

fn shares(blocks: u64, number: u64) -> Shares {
    let bytes = blocks * BLOCK;
    Shares::of(Room { bytes, number })
}

/// So many blocks of a file, and one of its facts.
fn blocks(number: u64) -> u64 {
    (number - 1) * BLOCK
}

#[test]
fn rule_19_a_user_who_fills_the_room_loses_their_own_recordings_alone() {
    let mut shares = shares(100, 1000);
    let bobs: Vec<_> = (0..10).map(|hour| finished("bob", hour)).collect();
    bobs.iter().for_each(|one| shares.add(one, blocks(2)));
    // Bob's are the oldest, and alice prints twice as much as there is room.
    let mut alices = std::collections::VecDeque::new();
    for hour in 100..140 {
        while let Place::After(oldest) = shares.place(&holder("alice"), Room::bytes(blocks(6))) {
            let gone: Facts = alices.pop_front().unwrap();
            assert_eq!(gone.key(), oldest);
            shares.take(&gone);
        }
        let one = finished("alice", hour);
        shares.add(&one, blocks(5));
        alices.push_back(one);
    }
    assert_eq!(alices.len(), 16);
    assert_eq!(shares.holders[&holder("bob")].room.number, 10);
    // A third one has room as well: alice's.
    let wanted = Room::bytes(20 * BLOCK);
    let expected = Place::After(alices[0].key());
    assert_eq!(shares.place(&holder("carol"), wanted), expected);
    assert_eq!(shares.oldest(), Some(&bobs[0].key()));
}

#[test]
fn rule_19_nobody_at_or_below_an_equal_share_loses_a_recording() {
    let (most, users) = (200, ["a", "b", "c", "d", "e"]);
    let mut shares = shares(most, 60);
    let mut all: BTreeMap<Key, Facts> = BTreeMap::new();
    // Any sequence does: this one is always the same.
    let mut seed = 7_u64;
    let mut next = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    let mut lost = 0;
    for hour in 0..3000 {
        // The first ones record more, and in smaller pieces.
        let user = users[usize::try_from(next(5) * next(5) / 4).unwrap()];
        let size = 1 + next(1 + 3 * u64::from(user.as_bytes()[0] - b'a'));
        let wanted = Room {
            bytes: size * BLOCK,
            number: 1,
        };
        while let Place::After(key) = shares.place(&holder(user), wanted) {
            let gone = all.remove(&key).unwrap();
            let (loser, own) = (gone.holder(), gone.user == user);
            let has = shares.holders[&loser].room;
            let mut holders = shares.holders.len() as u64;
            holders += u64::from(!shares.holders.contains_key(&holder(user)));
            let extra = if own { wanted } else { Room::default() };
            let is_above = has.bytes + extra.bytes > most * BLOCK / holders
                || has.number + extra.number > 60 / holders;
            assert!(is_above, "{loser:?} {has:?} of {holders}");
            shares.take(&gone);
            lost += 1;
        }
        assert_eq!(shares.place(&holder(user), wanted), Place::Free);
        let one = finished(user, hour);
        shares.add(&one, blocks(size));
        all.insert(one.key(), one);
        assert!(shares.bytes() <= most * BLOCK && all.len() <= 60);
    }
    assert!(lost > 1000, "{lost}");
    all.values().for_each(|one| shares.take(one));
    assert_eq!((shares.bytes(), shares.holders.len()), (0, 0));
}

#[test]
fn rule_19_small_recordings_count_in_blocks_and_by_their_number() {
    let mut by_bytes = shares(10, 1000);
    let mut by_number = shares(1000, 5);
    for hour in 0..5 {
        by_bytes.add(&finished("alice", hour), 1);
        by_number.add(&finished("alice", hour), 1);
    }
    for shares in [by_bytes, by_number] {
        let place = shares.place(&holder("alice"), Room::one());
        assert!(matches!(place, Place::After(_)), "{place:?}");
    }
}

#[test]
fn rule_19_recordings_that_are_being_written_are_stopped_at_the_half_of_what_others_leave() {
    let mut shares = shares(100, 1000);
    let alices = begun("alice");
    shares.add(&alices, blocks(50));
    assert_eq!(shares.place(&holder("alice"), Room::one()), Place::Free);
    shares.take(&alices);
    shares.add(&alices, blocks(51));
    assert_eq!(
        shares.place(&holder("alice"), Room::one()),
        Place::NotTheirs
    );
    // Another user's go on.
    let bobs = begun("bob");
    shares.add(&bobs, blocks(24));
    assert_eq!(shares.place(&holder("bob"), Room::one()), Place::Free);
    // Nothing that is being written goes, and nothing of those who have less.
    let carols = finished("carol", 1);
    shares.add(&carols, blocks(25));
    assert_eq!(shares.place(&holder("bob"), Room::one()), Place::None);
    let more = Room::bytes(20 * BLOCK);
    assert_eq!(shares.place(&holder("bob"), more), Place::NotTheirs);
}
