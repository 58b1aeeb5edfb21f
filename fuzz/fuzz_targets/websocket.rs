#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| underpass_tunnel::proto::fuzzing::websocket(data));
