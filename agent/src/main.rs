//! The `chancery-agent` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Fails only where a provider is installed already, and nothing ran before this.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    chancery_agent::cli::main(std::env::args_os())
}
