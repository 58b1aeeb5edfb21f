//! How much is in flight over QUIC: as much as the path holds without a queue.
//!
//! quinn's default, Cubic (RFC 9438), takes each loss for a full queue: with 1% of loss and 40 ms it carries 3 of 100
//! Mbit/s. Where nothing is lost by itself it fills the queue until something is, and a keystroke waits behind that. Here
//! the window is the product of two measurements, as in BBR (draft-ietf-ccwg-bbr): the rate at which the path delivers, and
//! its shortest round trip. Loss only counts above 4%.
//!
//! quinn has no say for the pacing rate, which is 1.25 windows for each round trip. BBR's own window, two round trips' worth,
//! would stand in the queue by half. So it is the window that goes up and down here to ask for more and to see the
//! path empty, and it is doubled only while others fill the queue.

mod filter;
mod model;
mod rate;
#[cfg(test)]
mod simulation;

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory};

use self::model::Model;

/// Makes the controller of each path.
#[derive(Debug)]
pub(super) struct Rate;

impl ControllerFactory for Rate {
    fn build(self: Arc<Self>, now: Instant, datagram: u16) -> Box<dyn Controller> {
        Box::new(Model::new(now, datagram))
    }
}

impl Controller for Model {
    fn on_sent(&mut self, now: Instant, _bytes: u64, _last_packet_number: u64) {
        self.on_sent(now);
    }

    fn on_ack(
        &mut self,
        _now: Instant,
        sent: Instant,
        bytes: u64,
        _app_limited: bool,
        _rtt: &RttEstimator,
    ) {
        self.on_ack(sent, bytes);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        self.on_end_acks(now, in_flight, app_limited);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        _sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.on_congestion(now, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.set_datagram(new_mtu);
    }

    fn window(&self) -> u64 {
        self.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
