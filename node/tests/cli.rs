//! The `chancery` program itself: its exit codes and streams. What each verb does is tested in the
//! library.

use std::process::{Command, Output};

/// Runs the program in an environment without its variables.
fn chancery(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chancery"))
        .args(args)
        .env_remove("SPIRE_SERVER_PRIVATE_SOCKET")
        .env_remove("SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE")
        .output()
        .expect("Cargo built the program for this test")
}

#[test]
fn a_result_is_on_standard_output_with_code_0() {
    let output = chancery(&["-version"]);
    assert_eq!(output.status.code(), Some(0));
    let version = concat!("chancery ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), version);
    assert!(output.stderr.is_empty());
}

#[test]
fn a_failure_is_on_standard_error_with_code_1() {
    for args in [
        ["entry", "count", "-socketPath", "/nonexistent/api.sock"].as_slice(),
        &["entry", "shwo"],
        &["x509", "mint"],
        &["server", "run", "-config", "/nonexistent/chancery.toml"],
    ] {
        let output = chancery(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.starts_with("Error: "), "{args:?}: {error}");
    }
}
