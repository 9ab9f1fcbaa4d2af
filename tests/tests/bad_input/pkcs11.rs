//! Tokens that cannot be used: no module, a PIN that others can read. A wrong PIN, and what a server
//! does meanwhile, is in `logins.rs`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::ensure;

use crate::server::{Setup, path, refused};

/// Writes a PIN file with a mode.
fn write_pin(file: &Path, pin: &str, mode: u32) -> anyhow::Result<()> {
    fs::write(file, pin)?;
    Ok(fs::set_permissions(file, Permissions::from_mode(mode))?)
}

#[tokio::test]
async fn a_pin_that_others_can_read_is_refused_and_a_missing_module_named() -> anyhow::Result<()> {
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

    // A server without its module takes part in the cluster; whoever validates is told.
    write_pin(&pin, "1234", 0o600)?;
    let said = refused(&["server", "validate", "--config", path(&file)?], &[]).await?;
    let wanted = format!(
        "keys.pkcs11.module: there is no {}; install the vendor's library or correct the path",
        module.display()
    );
    ensure!(said.contains(&wanted), "{said}");

    // A file that is no library is found out by loading it.
    fs::write(&module, "not a library")?;
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
