//! The Underpass agent.

use std::process::ExitCode;

/// Buffers are filled in one thread and let go in another all the time, which with glibc's allocator costs a sixth of
/// the throughput (docs/PERFORMANCE.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    underpass_agent::main()
}
