//! Addresses that somebody else has.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use anyhow::ensure;

use crate::server::{Setup, run};

#[tokio::test]
async fn a_port_in_use_is_named_with_its_key_and_nothing_is_written() -> anyhow::Result<()> {
    let setup = Setup::new()?;
    let config = setup.write(&setup.text(""))?;
    let [api, peer, metrics, health] = setup.ports;
    let keys = [
        (api, "[api] address"),
        (peer, "[peer] address"),
        (metrics, "[metrics] or [health] address"),
        (health, "[metrics] or [health] address"),
    ];
    for (port, key) in keys {
        let address = format!("127.0.0.1:{port}");
        let _taken = TcpListener::bind(&address)?;
        let said = run(&config).await?;
        let wanted = format!(
            "Error: {key}: cannot listen on {address}: Address already in use (os error 98); "
        );
        ensure!(said.starts_with(&wanted), "{said}");
        ensure!(
            said.contains("stop what listens there, or configure another address"),
            "{said}"
        );
        setup.nothing_written()?;
    }
    Ok(())
}

#[tokio::test]
async fn an_admin_socket_in_use_is_left_to_its_server() -> anyhow::Result<()> {
    let setup = Setup::new()?;
    let config = setup.write(&setup.text(""))?;
    let _answers = UnixListener::bind(setup.socket())?;
    let said = run(&config).await?;
    let wanted = format!("another server answers on {}", setup.socket().display());
    ensure!(
        said.contains("[api] admin_socket") && said.contains(&wanted),
        "{said}"
    );
    ensure!(
        said.contains("give each server a socket of its own"),
        "{said}"
    );
    ensure!(
        setup.socket().exists(),
        "the socket of the other server was removed"
    );
    Ok(())
}

#[tokio::test]
async fn an_address_of_another_machine_is_named() -> anyhow::Result<()> {
    let setup = Setup::new()?;
    let [api, ..] = setup.ports;
    // TEST-NET-1 (RFC 5737): no machine has it.
    let text = setup
        .text("")
        .replace(&format!("127.0.0.1:{api}"), &format!("192.0.2.1:{api}"));
    let said = run(&setup.write(&text)?).await?;
    ensure!(
        said.contains(&format!("[api] address: cannot listen on 192.0.2.1:{api}")),
        "{said}"
    );
    ensure!(
        said.contains("must be an address of this machine"),
        "{said}"
    );
    setup.nothing_written()
}
