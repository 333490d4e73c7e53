//! The agent's `launch` and nothing else, so that tests of the QEMU layer need no whole agent.

fn main() -> std::process::ExitCode {
    goliath_agent::qemu::launch::main()
}
