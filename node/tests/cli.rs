//! The `chancery` program itself: its exit codes and streams. What each verb does is tested in the
//! library.

#![allow(
    clippy::disallowed_methods,
    reason = "a test waits for a process by the clock of its machine"
)]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

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

/// A server that is killed where a test ends early.
struct Server(Child);

impl Server {
    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args([name, &pid]).status();
        assert!(sent.expect("there is a program kill").success());
    }

    /// Waits until `path` holds `text`.
    fn until(&mut self, path: &Path, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let log = fs::read_to_string(path).unwrap_or_default();
            if log.contains(text) {
                return log;
            }
            let ended = self.0.try_wait().expect("its state can be asked");
            assert!(ended.is_none(), "ended with {ended:?}: {log}");
            assert!(Instant::now() < deadline, "no {text:?} in {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_log_file_is_opened_again_when_who_renamed_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let free = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let (config, log, rotated) = (
        dir.path().join("chancery.toml"),
        dir.path().join("log"),
        dir.path().join("log.1"),
    );
    let text = format!(
        "trust_domain = 'example.org'\ndata_dir = '{0}/data'\n[api]\naddress = '{1}'\n\
         admin_socket = '{0}/api.sock'\n[peer]\naddress = '{2}'\n[cluster]\npeers = ['{2}']\n",
        dir.path().display(),
        free(),
        free()
    );
    fs::write(&config, text).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_chancery"))
        .args(["run", "-logFormat", "json", "-logSourceLocation"])
        .args([Path::new("-config"), &config, Path::new("-logFile"), &log])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut server = Server(child);
    let first = server.until(&log, "\"started\"");
    assert!(first.contains("\"filename\":\"node/src/"), "{first}");

    fs::rename(&log, &rotated).unwrap();
    server.signal("-USR2");
    server.until(&log, "\"log file opened again\"");
    assert!(fs::read_to_string(&rotated).unwrap().starts_with(&first));

    server.signal("-TERM");
    let deadline = Instant::now() + Duration::from_secs(60);
    let ended = loop {
        if let Some(status) = server.0.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(ended.code(), Some(0));
    let last = fs::read_to_string(&log).unwrap();
    assert!(
        last.contains("stopping") && !last.contains("\"started\""),
        "{last}"
    );
    for stream in [
        std::io::read_to_string(server.0.stdout.take().unwrap()),
        std::io::read_to_string(server.0.stderr.take().unwrap()),
    ] {
        assert_eq!(stream.unwrap(), "");
    }
}
