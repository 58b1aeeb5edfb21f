//! The helper of the shells that the tests open.

fn main() -> std::process::ExitCode {
    underpass_agent_shell::helper::run()
}
