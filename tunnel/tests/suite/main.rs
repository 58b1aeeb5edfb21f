//! One suite for all transports: a session's promises do not depend on its transport.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test states what it expects, its helpers too"
)]

mod addresses;
mod answers;
mod bytes;
mod copying;
mod dead_path;
mod dial;
mod ends;
mod flow;
mod handshake;
mod harness;
mod hostile;
mod keys;
mod lanes;
mod life;
mod moves;
mod path;
mod peer;
mod proxies;
mod reconnect;
mod registry;
mod relay;
mod server;
mod silent_relay;
mod streams;
mod survive;
mod trust;
mod udp;
mod vanish;

/// Instantiates tests on a pair (`pairs`) and tests that build their own (`own`) per transport.
macro_rules! per_transport {
    (pairs { $($pair_file:ident: $($pair_test:ident),+;)+ } own { $($own_file:ident: $($own_test:ident),+;)+ }) => {
        per_transport!(@one memory, Memory, { $($pair_file: $($pair_test),+;)+ } { $($own_file: $($own_test),+;)+ });
        per_transport!(@one quic, Quic, { $($pair_file: $($pair_test),+;)+ } { $($own_file: $($own_test),+;)+ });
        per_transport!(@one websocket, WebSocket, { $($pair_file: $($pair_test),+;)+ } { $($own_file: $($own_test),+;)+ });
        per_transport!(@one proxied, Proxied, { $($pair_file: $($pair_test),+;)+ } { $($own_file: $($own_test),+;)+ });
        per_transport!(@one yamux, Yamux, { $($pair_file: $($pair_test),+;)+ } { $($own_file: $($own_test),+;)+ });
    };
    (@one $transport:ident, $kind:ident, { $($pair_file:ident: $($pair_test:ident),+;)+ } { $($own_file:ident: $($own_test:ident),+;)+ }) => {
        mod $transport {
            use crate::harness::Kind;
            $($(
                #[test]
                fn $pair_test() {
                    crate::harness::run_pair(Kind::$kind, crate::$pair_file::$pair_test);
                }
            )+)+
            $($(
                #[test]
                fn $own_test() {
                    crate::harness::run(crate::$own_file::$own_test(Kind::$kind));
                }
            )+)+
        }
    };
}

per_transport! {
    pairs {
        streams: echo, payload_travels_with_the_open_header, bulk_in_both_directions_at_once,
            a_thousand_streams_one_after_the_other, three_hundred_streams_at_once,
            both_sides_open, an_open_header_of_exactly_the_limit,
            an_open_header_above_the_limit_is_the_callers_error, what_was_asked_for_arrives;
        copying: a_copy_carries_both_directions_to_their_ends, a_copy_passes_a_keystroke_on_at_once,
            a_copy_whose_connection_breaks_resets_the_stream,
            a_copy_that_is_given_up_ends_both_sides_and_tells_its_bytes,
            a_copy_whose_stream_is_reset_closes_the_connection,
            a_copy_that_stands_still_hears_that_its_peer_has_gone,
            a_copy_in_one_direction_hears_that_its_peer_has_gone, a_refused_stream_is_the_copys_error,
            chunks_come_in_order_and_to_the_end;
        ends: half_close_by_the_opener, half_close_by_the_other_side,
            a_reset_is_seen_as_its_code, a_stop_is_seen_as_its_code,
            a_dropped_stream_is_cancelled, a_dropped_read_half_ends_one_direction,
            a_dropped_write_half_ends_one_direction, a_writer_whose_reader_is_gone_sees_a_stop,
            a_finished_stream_may_be_dropped, a_refusal_carries_code_and_reason,
            an_incoming_stream_dropped_is_cancelled,
            a_reset_behind_unread_bytes_arrives_with_its_code,
            a_dropped_open_leaves_nothing;
        flow: a_reader_that_does_not_read_stalls_its_own_stream_only,
            a_blocked_writer_survives_a_reader_in_another_task,
            a_blocked_writer_survives_its_dropped_reader,
            full_duplex_in_four_tasks_with_small_pieces,
            many_streams_that_nobody_reads_do_not_stall_the_control_stream;
    }
    own {
        life: drain_waits_for_live_streams, drain_delivers_the_last_bytes,
            a_draining_session_opens_nothing, code_and_reason_of_a_close_reach_the_peer,
            a_close_amid_bulk_data_arrives_with_its_reason,
            a_stream_knows_how_its_session_ended_as_soon_as_it_has,
            a_dead_transport_is_an_error_and_no_end, the_last_handle_ends_the_session,
            local_close_wakes_everyone, the_stream_limit_is_kept_and_given_back,
            streams_that_nobody_took_do_not_outlive_the_session, accept_is_cancel_safe,
            a_queue_that_nobody_empties_refuses;
        hostile: a_malformed_open_header_costs_the_stream, an_oversized_open_header_costs_the_stream,
            a_stream_that_ends_before_its_header, garbage_on_the_control_stream_ends_the_session,
            an_oversized_control_frame_ends_the_session,
            a_frame_that_has_no_place_ends_the_session, a_stream_id_of_the_wrong_side_ends_the_session,
            a_stream_id_in_use_ends_the_session, a_control_stream_that_ends_ends_the_session,
            streams_before_authentication_are_not_kept, a_flood_of_pings_is_answered_or_ended;
        survive: a_transfer_survives_a_cut_every_50_ms, many_short_streams_survive_cuts,
            half_closed_streams_survive, ends_that_were_said_without_a_transport_arrive,
            streams_opened_without_a_transport_wait_for_one, a_later_transport_takes_over,
            the_resume_window_ends_in_typed_errors, a_close_without_a_transport_is_found_out,
            a_stolen_session_id_is_worth_nothing;
        lanes: copies_have_the_lane_to_themselves, copies_go_on_without_their_lane,
            copies_survive_the_loss_of_either_link, a_lane_does_not_outlive_the_main_link;
        handshake: a_wrong_key_is_refused_on_both_sides, no_common_version,
            garbage_instead_of_hello, an_oversized_hello;
    }
}
