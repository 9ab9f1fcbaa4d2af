//! What `hsm check` and `hsm bench` print about a SoftHSM token, as an operator reads it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, ensure};
use chancery_hsm::{
    KeyId, KeyRef, KeySpec, KeyType, Pkcs11Config, Pkcs11Signer, Signer as _, TokenSelector,
};
use chancery_tests::cluster::{bin_dir, softhsm_module, text};

const PIN: &str = "canary-4711";
/// Other lengths than 16 bytes are no id of a key of Chancery's.
const ID: &str = "000102030405060708090a0b0c0d0e0f";
/// Tells a child, whose module reads `SOFTHSM2_CONF` when it is loaded, to make a key.
const MAKE_KEY: &str = "CHANCERY_TEST_MAKE_KEY";

/// A configuration and the tokens of its module.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let desk = Self { dir };
        fs::create_dir(desk.path("tokens"))?;
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            desk.path("tokens").display()
        );
        fs::write(desk.path("softhsm2.conf"), conf)?;
        desk.pin(PIN, 0o600)?;
        desk.configure(&format!(
            "backend = \"pkcs11\"\n[keys.pkcs11]\nmodule = \"{}\"\ntoken_label = \"ca\"\npin_file = \"{}\"\n",
            softhsm_module()?.display(),
            desk.path("pin").display()
        ))?;
        Ok(desk)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, keys: &str) -> anyhow::Result<()> {
        let data = self.path("data");
        let config = format!(
            "trust_domain = \"example.org\"\ndata_dir = \"{}\"\n[api]\naddress = \"127.0.0.1:8081\"\n[keys]\n{keys}",
            data.display()
        );
        Ok(fs::write(self.path("chancery.toml"), config)?)
    }

    fn pin(&self, pin: &str, mode: u32) -> anyhow::Result<()> {
        fs::write(self.path("pin"), pin)?;
        Ok(fs::set_permissions(
            self.path("pin"),
            Permissions::from_mode(mode),
        )?)
    }

    fn run(&self, command: &mut Command) -> anyhow::Result<Output> {
        let command = command.env("SOFTHSM2_CONF", self.path("softhsm2.conf"));
        command.output().with_context(|| format!("{command:?}"))
    }

    fn softhsm(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let output = self.run(Command::new("softhsm2-util").args(arguments))?;
        ensure!(output.status.success(), "{}", text(&output));
        Ok(())
    }

    fn token(&self) -> anyhow::Result<()> {
        let init = ["--init-token", "--free", "--label", "ca", "--pin", PIN];
        self.softhsm(&[init.as_slice(), &["--so-pin", "so-12345678"]].concat())
    }

    fn hsm(&self, verb: &str, arguments: &[&str]) -> anyhow::Result<Said> {
        let mut command = Command::new(bin_dir()?.join("chancery"));
        command.args(["hsm", verb, "-config"]);
        command.arg(self.path("chancery.toml")).args(arguments);
        let output = self.run(&mut command)?;
        Ok(Said {
            good: output.status.success(),
            out: String::from_utf8(output.stdout)?,
            err: String::from_utf8(output.stderr)?,
        })
    }

    fn check(&self) -> anyhow::Result<Said> {
        self.hsm("check", &[])
    }

    fn bench(&self) -> anyhow::Result<Said> {
        self.hsm("bench", &["-sessions", "1,2", "-seconds", "1"])
    }

    /// Both verbs refuse, in the same words and without the beginning of a report.
    fn refused(&self, wanted: &str) -> anyhow::Result<()> {
        for said in [self.check()?, self.bench()?] {
            ensure!(!said.good && said.out.is_empty(), "{said:?}");
            ensure!(said.err.contains(wanted), "{wanted}: {said:?}");
            ensure!(said.err.lines().count() == 1, "{said:?}");
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Said {
    good: bool,
    out: String,
    err: String,
}

impl Said {
    /// What stands behind a name of `hsm check`.
    fn line(&self, name: &str) -> anyhow::Result<&str> {
        let line = self.out.lines().find(|line| line.starts_with(name));
        let line = line.with_context(|| format!("no {name}: {self:?}"))?;
        Ok(line[name.len()..].trim_start())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn make_key(dir: &Path) -> anyhow::Result<()> {
    let token = TokenSelector::Label("ca".into());
    let config = Pkcs11Config::new(softhsm_module()?, token, dir.join("pin"));
    let signer = Pkcs11Signer::open(config).await?;
    let key = KeyRef {
        id: KeyId::new([7; KeyId::BYTES]),
        label: "chancery/example/x509/1".into(),
    };
    let key_type = KeyType::EcP256;
    signer.generate(&KeySpec { key, key_type }).await?;
    Ok(())
}

#[test]
fn a_fit_token_is_reported_line_by_line_and_measured() -> anyhow::Result<()> {
    if let Some(dir) = std::env::var_os(MAKE_KEY) {
        return make_key(Path::new(&dir));
    }
    let desk = Desk::new()?;
    desk.token()?;
    let empty = desk.check()?;
    ensure!(empty.good && empty.err.is_empty(), "{empty:?}");
    ensure!(empty.line("token")?.starts_with("\"ca\" (serial "));
    ensure!(empty.line("PIN")?.starts_with("taken, "), "{empty:?}");
    ensure!(empty.line("ec-p256")? == "can be made and used (issuance.ca_key_type)");
    ensure!(empty.line("keys")? == "0 of Chancery's", "{empty:?}");
    ensure!(empty.line("signature")? == "none made: no key of Chancery's is there yet");

    let mut child = Command::new(std::env::current_exe()?);
    let name = "a_fit_token_is_reported_line_by_line_and_measured";
    child.args(["--exact", name]).env(MAKE_KEY, desk.dir.path());
    let made = desk.run(&mut child)?;
    ensure!(made.status.success(), "{}", text(&made));
    let full = desk.check()?;
    ensure!(full.good && full.err.is_empty(), "{full:?}");
    ensure!(full.line("keys")? == "1 of Chancery's", "{full:?}");
    ensure!(full.out.contains("chancery/example/x509/1"), "{full:?}");
    ensure!(full.line("signature")?.starts_with("made and verified in "));

    let measured = desk.bench()?;
    ensure!(measured.good && measured.err.is_empty(), "{measured:?}");
    let lines: Vec<_> = measured.out.lines().collect();
    ensure!(lines.len() == 3 && lines[0].starts_with("key type   sessions  signatures/s"));
    for (line, sessions) in lines[1..].iter().zip(["1", "2"]) {
        let columns: Vec<_> = line.split_whitespace().collect();
        ensure!(columns.len() == 6 && columns[..2] == ["ec-p256", sessions]);
        ensure!(columns[2].parse::<u64>()? > 0, "{line}");
    }
    ensure!(desk.check()?.line("keys")? == "1 of Chancery's");
    Ok(())
}

#[test]
fn a_key_that_was_imported_is_named_with_what_is_wrong() -> anyhow::Result<()> {
    let desk = Desk::new()?;
    desk.token()?;
    let key = desk.path("key.pem");
    fs::write(&key, rcgen::KeyPair::generate()?.serialize_pem())?;
    let key = key.to_str().context("a path")?;
    let label = "chancery/example/x509/1";
    let import = ["--import", key, "--token", "ca", "--label", label];
    desk.softhsm(&[import.as_slice(), &["--id", ID, "--pin", PIN]].concat())?;
    let said = desk.check()?;
    ensure!(!said.good, "{said:?}");
    ensure!(said.line("keys")? == "1 of Chancery's", "{said:?}");
    let refused = said.out.lines().find(|line| line.contains(label));
    let refused = refused.context("the key is not named")?.trim_start();
    ensure!(refused.starts_with("no: "), "{refused}");
    ensure!(said.line("signature")? == "none made: no key above can be used");
    ensure!(
        said.err
            == "Error: the token is not fit for this configuration; faults shown above as \"no\": 1\n",
        "{said:?}"
    );
    Ok(())
}

#[test]
fn what_stands_before_a_login_is_said_in_one_line() -> anyhow::Result<()> {
    let desk = Desk::new()?;
    desk.refused("no token with label \"ca\"; the module shows no initialised token: correct [keys.pkcs11], or")?;
    desk.token()?;
    desk.pin(PIN, 0o644)?;
    desk.refused("mode 0644 lets others than its owner at it; chmod 0600 it")?;
    desk.pin("", 0o600)?;
    desk.refused("pin: empty")?;
    fs::remove_file(desk.path("pin"))?;
    desk.refused("pin: not found; write the secret into it, mode 0600")?;
    desk.pin(PIN, 0o600)?;
    desk.token()?;
    desk.refused("several tokens with label \"ca\": found \"ca\" (serial ")?;
    desk.refused("choose one by its serial")?;
    desk.configure("backend = \"memory\"\n")?;
    desk.refused("there is no token: keys.backend is \"memory\", set it to \"pkcs11\"")
}
