//! The promises of every transport, over any connection: the documentation of `Transport`,
//! `SendStream` and `RecvStream`, sentence by sentence.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test states what it expects, its helpers too"
)]

mod closing;
mod harness;
mod limits;
mod streams;
mod wakeups;

/// Instantiates tests on a pair of each kind.
macro_rules! per_transport {
    ($($file:ident: $($test:ident),+;)+) => {
        per_transport!(@one underpass_over_a_pipe, UnderpassPipe, { $($file: $($test),+;)+ });
        per_transport!(@one underpass_over_tls, UnderpassTls, { $($file: $($test),+;)+ });
        per_transport!(@one yamux_over_tls, YamuxTls, { $($file: $($test),+;)+ });
    };
    (@one $transport:ident, $kind:ident, { $($file:ident: $($test:ident),+;)+ }) => {
        mod $transport {
            use crate::harness::{Kind, run_pair};
            $($(
                #[test]
                fn $test() {
                    run_pair(Kind::$kind, crate::$file::$test);
                }
            )+)+
        }
    };
}

per_transport! {
    streams: both_sides_open_and_accept, bytes_of_many_streams_do_not_mix,
        a_stream_is_seen_once_something_was_written, a_half_close_leaves_the_other_direction,
        a_reset_is_seen_with_its_code, a_stop_is_seen_with_its_code,
        a_dropped_writer_is_a_reset, a_dropped_reader_is_a_stop,
        finishing_again_changes_nothing, a_finished_half_takes_no_more,
        a_finished_stream_may_be_dropped, a_stopped_writer_may_finish,
        halves_live_in_different_tasks, reads_give_no_more_than_was_asked_for,
        a_reset_half_stays_reset, who_stopped_reads_no_more,
        thousands_of_streams_leave_nothing, priorities_lose_nothing;
    wakeups: a_reader_is_woken_by_each_end, a_writer_is_woken_by_a_stop,
        a_writer_is_woken_by_room, an_accept_is_cancel_safe, several_accepts_share_the_streams,
        a_read_is_cancel_safe;
    closing: what_was_finished_before_a_close_arrives, a_close_wakes_everybody_here,
        a_close_wakes_everybody_there, a_peer_that_vanishes_is_a_loss,
        a_dropped_transport_is_closed, bytes_are_heard, the_unauthenticated_get_one_stream;
}
