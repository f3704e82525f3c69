//! Temporary.
fn main() -> std::process::ExitCode {
    agent::main()
}
