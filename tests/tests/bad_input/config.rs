//! Configuration files with keys and values that there are not.

use anyhow::ensure;
use chancery_tests::cluster::{bin_dir, text};

use crate::server::{Setup, path, refused};

#[tokio::test]
async fn an_unknown_key_is_an_error_that_tells_the_one_that_was_meant() -> anyhow::Result<()> {
    let setup = Setup::new()?;
    let good = setup.text("");
    let cases = [
        (
            good.replace("data_dir", "data_dri"),
            "data_dri: unknown key; did you mean `data_dir`?",
        ),
        (
            good.replace("admin_socket", "adminsocket"),
            "api.adminsocket: unknown key; did you mean `admin_socket`?",
        ),
        (
            format!("{good}\n[raft]\nprofil = \"lan\"\n"),
            "raft.profil: unknown key; did you mean `profile`?",
        ),
        (
            format!("agent_ttl = \"1h\"\n{good}"),
            "agent_ttl: unknown key; did you mean `issuance.agent_ttl`?",
        ),
        (
            format!("{good}\n[isuance]\nmode = \"direct\"\n"),
            "isuance: unknown key; did you mean `issuance`?",
        ),
        (
            format!("{good}\n[database]\nurl = \"x\"\n"),
            "database: unknown key",
        ),
        (
            format!("{good}\n[raft]\nprofile = \"lann\"\n"),
            "raft.profile: must be \"lan\" or \"wan\"; did you mean \"lan\"?",
        ),
        (
            format!("{good}\n[issuance]\nagent_ttl = \"1d\"\n"),
            "issuance.agent_ttl: ",
        ),
        (format!("{good}\n[raft\n"), "TOML parse error at line"),
    ];
    for (config, problem) in cases {
        let file = setup.write(&config)?;
        for verb in ["validate", "run"] {
            let said = refused(&["server", verb, "--config", path(&file)?], &[]).await?;
            ensure!(
                said.starts_with(&format!("Error: {}: ", file.display())),
                "{verb} does not name the file: {said}"
            );
            ensure!(
                said.contains(problem),
                "{verb} does not say {problem:?}: {said}"
            );
            ensure!(!setup.data_dir().exists(), "{verb} made the data directory");
        }
    }

    // All of it at once, and the sound file is sound.
    let file = setup.write(
        &good
            .replace("data_dir", "data_dri")
            .replace("[peer]\naddress", "[peer]\nadress"),
    )?;
    let said = refused(&["server", "validate", "--config", path(&file)?], &[]).await?;
    ensure!(
        said.contains("data_dri: ") && said.contains("peer.adress: ") && said.contains("problems"),
        "{said}"
    );
    let file = setup.write(&good)?;
    let output = std::process::Command::new(bin_dir()?.join("chancery"))
        .args(["server", "validate", "--config", path(&file)?])
        .output()?;
    ensure!(output.status.success(), "{}", text(&output));
    Ok(())
}

#[tokio::test]
async fn a_configuration_file_that_is_not_there_is_named() -> anyhow::Result<()> {
    for verb in ["validate", "run"] {
        let said = refused(&["server", verb, "--config", "/nowhere/chancery.toml"], &[]).await?;
        ensure!(
            said.contains("/nowhere/chancery.toml: ")
                && said.contains("cannot be opened: No such file"),
            "{said}"
        );
    }
    Ok(())
}
