//! Tokens that cannot be used: no module, a PIN that others can read, a wrong PIN.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::ensure;
use chancery_tests::cluster::{Cluster, Options, bin_dir, text};

use crate::server::{Setup, path, refused, refused_with_log, stop};

/// Writes a PIN file with a mode.
fn write_pin(file: &Path, pin: &str, mode: u32) -> anyhow::Result<()> {
    fs::write(file, pin)?;
    Ok(fs::set_permissions(file, Permissions::from_mode(mode))?)
}

#[tokio::test]
async fn a_missing_module_or_a_pin_that_others_can_read_is_refused_before_the_token()
-> anyhow::Result<()> {
    let setup = Setup::new()?;
    let (module, pin) = (
        setup.dir.path().join("libtoken.so"),
        setup.dir.path().join("pin"),
    );
    let keys = format!(
        "[keys]\nbackend = \"pkcs11\"\n[keys.pkcs11]\nmodule = \"{}\"\ntoken_label = \"x\"\npin_file = \"{}\"\n",
        module.display(),
        pin.display()
    );
    let file = setup.write(&setup.text(&keys))?;
    let both = || async {
        let validate = refused(&["server", "validate", "--config", path(&file)?], &[]).await?;
        let run = refused(&["server", "run", "--config", path(&file)?], &[]).await?;
        assert_eq!(validate, run, "what validates also starts");
        ensure!(!setup.data_dir().exists(), "the data directory was made");
        anyhow::Ok(run)
    };

    write_pin(&pin, "1234", 0o600)?;
    let said = both().await?;
    let wanted = format!(
        "keys.pkcs11.module: there is no {}; install the vendor's library or correct the path",
        module.display()
    );
    ensure!(said.contains(&wanted), "{said}");

    // A file that is no library is found out by loading it.
    fs::write(&module, "not a library")?;
    let said = refused(&["server", "run", "--config", path(&file)?], &[]).await?;
    ensure!(
        said.contains(&format!(
            "{} is not a usable PKCS#11 module",
            module.display()
        )),
        "{said}"
    );
    ensure!(said.contains("[keys.pkcs11]"), "{said}");
    fs::remove_dir_all(setup.data_dir())?;

    for mode in [0o644, 0o640, 0o604] {
        write_pin(&pin, "1234", mode)?;
        let said = both().await?;
        let wanted = format!(
            "keys.pkcs11.pin_file: {} has mode {mode:04o}; it must be readable by its owner alone (chmod 600)",
            pin.display()
        );
        ensure!(said.contains(&wanted), "{said}");
    }
    fs::remove_file(&pin)?;
    let said = both().await?;
    ensure!(
        said.contains(&format!(
            "keys.pkcs11.pin_file: {} cannot be read",
            pin.display()
        )),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn a_wrong_pin_is_tried_once_and_no_pin_after_it() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Options {
        nodes: 1,
        ..Options::default()
    })?;
    let node = cluster.nodes()[0].clone();
    stop(&cluster, &node).await?;
    let identity = node.data_dir.join("identity");
    let before = fs::read(&identity)?;
    let (pin, softhsm) = (
        cluster.dir().join("pin"),
        cluster.dir().join("softhsm2.conf"),
    );
    let env = [("SOFTHSM2_CONF", softhsm.as_path())];
    let run = ["server", "run", "--config", path(&node.config)?];
    let right = fs::read_to_string(&pin)?;

    write_pin(&pin, "wrong-pin", 0o600)?;
    let (log, said) = refused_with_log(&run, &env).await?;
    assert_eq!(
        log.matches("login refused; not tried again").count(),
        1,
        "{log}"
    );
    ensure!(
        said.contains("[keys.pkcs11]: wrong PIN for token \"chancery\" (serial "),
        "{said}"
    );
    ensure!(
        said.contains("not tried again (CKR_PIN_INCORRECT): correct the PIN file"),
        "{said}"
    );
    ensure!(
        !said.contains("wrong-pin") && !log.contains("wrong-pin"),
        "the PIN was told: {log}{said}"
    );

    // The next start does not even try the right one: the token shows what was lost.
    for next in ["wrong-pin", right.as_str()] {
        write_pin(&pin, next, 0o600)?;
        let (log, said) = refused_with_log(&run, &env).await?;
        ensure!(!log.contains("login"), "a login was tried: {log}");
        ensure!(said.contains("token \"chancery\" (serial "), "{said}");
        ensure!(
            said.contains("shows an earlier wrong PIN (USER_PIN_COUNT_LOW); no login tried"),
            "{said}"
        );
        ensure!(
            said.contains("make sure that the PIN file is right"),
            "{said}"
        );
        ensure!(
            fs::read(&identity)? == before,
            "the refused start wrote the identity record"
        );
    }

    // Making the token ready needs no login where it is ready.
    let so_pin = cluster.dir().join("so-pin");
    let output = std::process::Command::new(bin_dir()?.join("chancery"))
        .args([
            "hsm",
            "init",
            "-config",
            path(&node.config)?,
            "-soPinFile",
            path(&so_pin)?,
        ])
        .env("SOFTHSM2_CONF", &softhsm)
        .output()?;
    let said = text(&output);
    ensure!(
        output.status.success() && said.contains("is there already; nothing was changed."),
        "{said}"
    );
    Ok(())
}
