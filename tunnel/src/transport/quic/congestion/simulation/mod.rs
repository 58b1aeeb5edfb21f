//! The controller on paths of many kinds, in simulated time.

mod world;

use std::time::Duration;

use self::world::{Link, Load, Reno, Seen, Window, World};
use super::model::Model;

const DATAGRAM: u16 = 1452;
const SEEDS: std::ops::Range<u64> = 0..3;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// The path of the benchmarks: its queue holds as much as the path.
const PATH: Link = Link {
    rate: 100e6,
    round_trip: Duration::from_millis(40),
    queue: Duration::from_millis(40),
    loss: 0.0,
    clump: Duration::ZERO,
};

fn ours(world: &World) -> Box<dyn Window> {
    Box::new(Model::new(world.now(), DATAGRAM))
}

fn reno() -> Box<dyn Window> {
    Box::new(Reno::new(DATAGRAM.into()))
}

fn empty(link: Link, seed: u64) -> World {
    World::new(link, DATAGRAM.into(), seed)
}

/// One of ours that always has more to send.
fn alone(link: Link, seed: u64) -> World {
    let mut world = empty(link, seed);
    let model = ours(&world);
    world.add(model, Load::Bulk, Duration::ZERO);
    world
}

/// Each one's share of the link.
fn shares(seen: &Seen, link: Link) -> Vec<f64> {
    seen.rates.iter().map(|rate| rate / link.rate).collect()
}

/// One of ours, after `before`, for `time`: at least so much of the link.
fn carries(link: Link, before: Duration, time: Duration, least: f64) -> Vec<Seen> {
    SEEDS
        .map(|seed| {
            let mut world = alone(link, seed);
            world.run(before);
            let seen = world.run(time);
            assert!(shares(&seen, link)[0] >= least, "{link:?} {seed}: {seen:?}");
            seen
        })
        .collect()
}

#[test]
fn a_path_is_filled_and_its_queue_stays_short() {
    for queue in [40, 400] {
        let link = Link {
            queue: ms(queue),
            ..PATH
        };
        for seen in carries(link, s(2), s(20), 0.95) {
            assert_eq!(seen.lost, 0.0, "{seen:?}");
            assert!(seen.queue < ms(4), "{seen:?}");
            assert!(seen.queue_p99 < ms(15), "{seen:?}");
        }
    }
}

#[test]
fn two_seconds_are_enough_to_begin() {
    carries(PATH, Duration::ZERO, s(2), 0.75);
}

#[test]
fn a_path_that_loses_by_itself_is_filled() {
    for (loss, least) in [(0.001, 0.93), (0.01, 0.9), (0.02, 0.75)] {
        let link = Link { loss, ..PATH };
        for seen in carries(link, s(2), s(20), least) {
            assert!(seen.queue < ms(5), "{seen:?}");
        }
    }
    // Reno gets a twentieth of it, halved by each loss: the simulated path does what it should.
    let link = Link { loss: 0.01, ..PATH };
    let mut world = empty(link, 0);
    world.add(reno(), Load::Bulk, Duration::ZERO);
    world.run(s(2));
    assert!(shares(&world.run(s(20)), link)[0] < 0.1);
}

#[test]
fn a_short_queue_is_hardly_overrun() {
    let link = Link {
        queue: ms(4),
        ..PATH
    };
    for seen in carries(link, s(2), s(20), 0.8) {
        assert!(seen.lost < 0.015, "{seen:?}");
    }
}

#[test]
fn paths_of_other_sizes_are_filled_too() {
    let of = |megabits: f64, round_trip, queue, loss| Link {
        rate: megabits * 1e6,
        round_trip: ms(round_trip),
        queue: ms(queue),
        loss,
        ..PATH
    };
    carries(of(1000.0, 1, 5, 0.0), ms(500), s(1), 0.97);
    carries(of(2.0, 100, 200, 0.0), s(2), s(20), 0.95);
    carries(of(300.0, 150, 100, 0.001), s(5), s(5), 0.85);
    carries(of(0.3, 40, 1000, 0.0), s(5), s(20), 0.9);
}

#[test]
fn acknowledgements_in_clumps_do_not_stop_it() {
    let link = Link {
        clump: ms(10),
        ..PATH
    };
    carries(link, s(3), s(20), 0.9);
}

#[test]
fn two_share_a_path() {
    for seed in SEEDS {
        let mut world = alone(PATH, seed);
        let late = ours(&world);
        world.add(late, Load::Bulk, s(5));
        world.run(s(20));
        let seen = world.run(s(30));
        let shares = shares(&seen, PATH);
        assert!(shares.iter().all(|share| *share > 0.3), "{seed}: {seen:?}");
        assert!(seen.lost < 0.01, "{seed}: {seen:?}");
    }
}

#[test]
fn who_fills_the_queue_gets_a_share_and_leaves_one() {
    for (queue, least) in [(40, 0.3), (100, 0.2), (400, 0.1)] {
        let link = Link {
            queue: ms(queue),
            ..PATH
        };
        for seed in SEEDS {
            let mut world = alone(link, seed);
            world.add(reno(), Load::Bulk, s(3));
            world.run(s(20));
            let seen = world.run(s(60));
            let shares = shares(&seen, link);
            assert!(
                shares.iter().all(|share| *share > least),
                "{seed}: {seen:?}"
            );
        }
    }
}

#[test]
fn a_path_that_gets_slower_is_noticed() {
    for seed in SEEDS {
        let mut world = alone(PATH, seed);
        world.link.queue = ms(1000);
        world.run(s(5));
        world.link.rate = 10e6;
        world.run(s(5));
        let seen = world.run(s(10));
        assert!(shares(&seen, world.link)[0] > 0.9, "{seed}: {seen:?}");
        assert!(seen.queue < ms(15), "{seed}: {seen:?}");
    }
}

#[test]
fn a_path_that_gets_faster_is_noticed() {
    for seed in SEEDS {
        let mut world = alone(Link { rate: 10e6, ..PATH }, seed);
        world.run(s(5));
        world.link.rate = 100e6;
        world.run(s(4));
        let seen = world.run(s(10));
        assert!(shares(&seen, world.link)[0] > 0.9, "{seed}: {seen:?}");
    }
}

#[test]
fn a_path_that_gets_longer_or_shorter_is_noticed() {
    for (before, after) in [(20, 100), (100, 20)] {
        for seed in SEEDS {
            let mut world = alone(
                Link {
                    round_trip: ms(before),
                    queue: ms(200),
                    ..PATH
                },
                seed,
            );
            world.run(s(5));
            world.link.round_trip = ms(after);
            world.run(s(15));
            let seen = world.run(s(15));
            assert!(shares(&seen, world.link)[0] > 0.9, "{seed}: {seen:?}");
            assert!(seen.queue < ms(10), "{seed}: {seen:?}");
        }
    }
}

#[test]
fn who_has_little_to_send_forgets_nothing_of_the_path() {
    for seed in SEEDS {
        let mut world = alone(PATH, seed);
        world.run(s(3));
        let window = world.window(0);
        world.set_load(0, Load::Trickle(2, ms(100)));
        world.run(s(60));
        assert!(
            world.window(0) > window / 2,
            "{} of {window}",
            world.window(0)
        );
        world.set_load(0, Load::Bulk);
        let seen = world.run(s(1));
        assert!(shares(&seen, PATH)[0] > 0.8, "{seed}: {seen:?}");
    }
}

#[test]
fn who_has_little_to_send_is_allowed_no_more_than_that_shows() {
    let mut world = empty(PATH, 0);
    let model = ours(&world);
    world.add(model, Load::Trickle(5, ms(100)), Duration::ZERO);
    let window = world.window(0);
    world.run(s(60));
    assert_eq!(world.window(0), window);
}
