#![no_main]

use underpass_terminal::Tame;

// The first byte says where the output is cut.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((cut, output)) = data.split_first() else {
        return;
    };
    let whole = Tame::default().pass(output);
    let (first, rest) = output.split_at(usize::from(*cut).min(output.len()));
    let mut tame = Tame::default();
    let pieces = [tame.pass(first), tame.pass(rest)].concat();
    assert_eq!(pieces, whole);
    assert_eq!(Tame::default().pass(&whole), whole);
});
