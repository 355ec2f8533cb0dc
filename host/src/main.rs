//! The `theseus` command.

fn main() -> std::process::ExitCode {
    theseus_host::cli::main()
}
