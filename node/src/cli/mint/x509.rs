//! `x509 mint`. The key is made here and never leaves the machine.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chancery_api::spire::api::server::bundle::v1::GetBundleRequest;
use chancery_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use chancery_api::spire::api::server::svid::v1::MintX509svidRequest;
use chancery_api::spire::api::server::svid::v1::svid_client::SvidClient;
use chancery_identity::bundle::{pem, pem_certificate};
use chancery_identity::id::SpiffeId;
use clap::{Args, Subcommand};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use super::{Readers, cleaned, is_capped, ttl_seconds, write};
use crate::cli::error::CliError;
use crate::cli::flags::duration;
use crate::cli::host::Host;
use crate::cli::session::{ANSWER_BYTES_MAX, Common, Session, request};
use crate::cli::text;

/// What can be done with X.509-SVIDs.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// Mints an X.509-SVID with a new key
    Mint(Mint),
}

/// `x509 mint`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery x509 mint -spiffeID spiffe://example.org/web -ttl 1h -dns web.example.org\n  \
    chancery x509 mint -spiffeID spiffe://example.org/web -write /etc/web/tls")]
pub(in crate::cli) struct Mint {
    /// SPIFFE ID of the X.509-SVID
    #[arg(
        long = "spiffeID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    spiffe_id: String,
    /// Lifetime of the X.509-SVID, like 1h30m; the server's default where none is given
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "0s",
        hide_default_value = true,
        value_parser = duration
    )]
    ttl: Duration,
    /// A DNS name for the X.509-SVID; may be repeated
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// Folder for svid.pem, key.pem and bundle.pem, in place of standard output
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "",
        hide_default_value = true
    )]
    write: String,
    #[command(flatten)]
    common: Common,
}

/// What SPIRE prints as JSON, its members in this order. All of it is DER.
#[derive(Serialize)]
struct Minted {
    #[serde(serialize_with = "base64_each")]
    x509_svid: Vec<Vec<u8>>,
    #[serde(serialize_with = "base64")]
    private_key: Zeroizing<Vec<u8>>,
    #[serde(serialize_with = "base64_each")]
    root_cas: Vec<Vec<u8>>,
}

fn base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn base64_each<S: Serializer>(items: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(items.iter().map(|bytes| STANDARD.encode(bytes)))
}

impl Verb {
    pub(in crate::cli) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let Verb::Mint(verb) = self;
        Session::run(&verb.common, host, async |session| verb.mint(session).await)
    }
}

impl Mint {
    async fn mint(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        if self.spiffe_id.is_empty() {
            return Err(CliError::Flags("spiffeID must be specified"));
        }
        let id = SpiffeId::parse(&self.spiffe_id)?;
        let ttl = ttl_seconds(self.ttl)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|error| CliError::Said(format!("unable to generate key: {error}")))?;
        let csr = request_for(&id, &self.dns, &key)
            .map_err(|error| CliError::Said(format!("unable to generate CSR: {error}")))?;

        let channel = session.channel().await?;
        let mut client =
            SvidClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let call = client.mint_x509svid(request(MintX509svidRequest { csr, ttl }));
        let answer = session
            .call(call)
            .await
            .map_err(CliError::during("unable to mint SVID"))?;
        let svid = answer
            .svid
            .filter(|svid| !svid.cert_chain.is_empty())
            .ok_or(CliError::Flags("server response missing SVID chain"))?;

        let mut client = BundleClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        let call = client.get_bundle(request(GetBundleRequest::default()));
        let bundle = session
            .call(call)
            .await
            .map_err(CliError::during("unable to get bundle"))?;
        if bundle.x509_authorities.is_empty() {
            return Err(CliError::Flags("server response missing X509 Authorities"));
        }

        if is_capped(svid.expires_at, self.ttl, session.now_unix_s()) {
            let ends = text::rfc3339(svid.expires_at);
            session.err(&format!(
                "X509-SVID lifetime was capped shorter than specified ttl; expires {ends:?}\n"
            ))?;
        }
        let minted = Minted {
            x509_svid: svid.cert_chain,
            private_key: Zeroizing::new(key.serialize_der()),
            root_cas: bundle
                .x509_authorities
                .into_iter()
                .map(|authority| authority.asn1)
                .collect(),
        };
        if self.write.is_empty() {
            return session.print_struct(&minted, || minted.pretty());
        }
        minted.write(Path::new(&self.write), session)
    }
}

/// A signed request with the ID and the names, and an empty subject.
fn request_for(id: &SpiffeId, dns: &[String], key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for name in dns {
        params
            .subject_alt_names
            .push(SanType::DnsName(name.as_str().try_into()?));
    }
    params
        .subject_alt_names
        .push(SanType::URI(id.as_str().try_into()?));
    Ok(params.serialize_request(key)?.der().to_vec())
}

impl Minted {
    fn svid_pem(&self) -> String {
        self.x509_svid
            .iter()
            .map(|der| pem_certificate(der))
            .collect()
    }

    fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem("PRIVATE KEY", &self.private_key))
    }

    fn root_cas_pem(&self) -> String {
        self.root_cas
            .iter()
            .map(|der| pem_certificate(der))
            .collect()
    }

    fn pretty(&self) -> String {
        format!(
            "X509-SVID:\n{}\nPrivate key:\n{}\nRoot CAs:\n{}\n",
            self.svid_pem(),
            *self.key_pem(),
            self.root_cas_pem()
        )
    }

    fn write(&self, folder: &Path, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let path = cleaned(&folder.join("svid.pem"));
        write(&path, self.svid_pem().as_bytes(), Readers::Everyone)
            .map_err(CliError::during("unable to write SVID"))?;
        session.out(&format!("X509-SVID written to {}\n", path.display()))?;

        let path = cleaned(&folder.join("key.pem"));
        write(&path, self.key_pem().as_bytes(), Readers::Owner)
            .map_err(CliError::during("unable to write key"))?;
        session.out(&format!("Private key written to {}\n", path.display()))?;

        let path = cleaned(&folder.join("bundle.pem"));
        write(&path, self.root_cas_pem().as_bytes(), Readers::Everyone)
            .map_err(CliError::during("unable to write bundle"))?;
        session.out(&format!("Root CAs written to {}\n", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use chancery_identity::csr::Csr;

    use super::*;

    #[test]
    fn the_request_holds_the_id_and_the_names_and_proves_the_key() {
        let id = SpiffeId::parse("spiffe://example.org/web").unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let dns = ["web.example.org".to_owned(), "*.web.example.org".to_owned()];
        let csr = Csr::parse(&request_for(&id, &dns, &key).unwrap()).unwrap();
        csr.verify_signature().unwrap();
        assert!(csr.subject_is_empty());
        let names = csr.requested_names().unwrap();
        assert_eq!(names.uris, ["spiffe://example.org/web"]);
        assert_eq!(names.dns_names, dns);
        assert!(request_for(&id, &["é".to_owned()], &key).is_err());
    }

    #[test]
    fn json_is_base64_in_spire_s_order() {
        let minted = Minted {
            x509_svid: vec![vec![1], vec![2]],
            private_key: Zeroizing::new(vec![3]),
            root_cas: vec![vec![0xff]],
        };
        assert_eq!(
            crate::cli::output::struct_json(&minted).unwrap(),
            "{\"x509_svid\":[\"AQ==\",\"Ag==\"],\"private_key\":\"Aw==\",\"root_cas\":[\"/w==\"]}\n"
        );
    }
}
