//! A small client that speaks the agent protocol in the stock agent's order:
//! attest, fetch the bundle, tell its version, sync, sign for workloads, renew.
//!
//! It is an example and a test instrument, not an agent: it serves no workload.

use std::net::IpAddr;

use anyhow::{Context as _, bail};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use chancery_api::spire::api::server::agent::v1 as agent_api;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::bundle::v1::GetBundleRequest;
use chancery_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use chancery_api::spire::api::server::entry::v1 as entry_api;
use chancery_api::spire::api::server::entry::v1::entry_client::EntryClient;
use chancery_api::spire::api::server::svid::v1 as svid_api;
use chancery_api::spire::api::server::svid::v1::svid_client::SvidClient;
use chancery_api::spire::api::types;
use tonic::Status;
use tonic::transport::Channel;

use crate::tls::{ClientIdentity, Trust, connect};

/// A key and a CSR for it, as an agent makes them: P-256, no names.
pub fn key_and_csr() -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = rcgen::CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let csr = params.serialize_request(&key)?;
    // Whether the key can be used again is better found out here.
    let pkcs8 = key.serialize_der();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8)
        .ok()
        .and_then(|k| k.sign(&SystemRandom::new(), b"trial").ok())
        .context("the generated key does not sign")?;
    Ok((pkcs8, csr.der().to_vec()))
}

/// An X.509-SVID with its key.
#[derive(Clone)]
pub struct Svid {
    /// `spiffe://` form.
    pub id: String,
    /// Leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// PKCS#8 DER.
    pub key: Vec<u8>,
    /// Unix seconds.
    pub expires_at: i64,
}

/// An attested agent.
#[derive(Clone)]
pub struct Agent {
    /// Whom it trusts.
    pub trust: Trust,
    /// Its own SVID.
    pub svid: Svid,
    /// Address it calls from.
    pub source: Option<IpAddr>,
}

fn id_text(id: Option<types::Spiffeid>) -> String {
    id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path))
        .unwrap_or_default()
}

/// Sends the messages of an attestation by join token; `Err` is the server's no.
pub async fn attest_call(
    channel: Channel,
    token: &str,
    csr: Vec<u8>,
) -> Result<types::X509svid, Status> {
    use agent_api::attest_agent_request::{Params, Step};
    use agent_api::attest_agent_response::Step as Answer;
    let params = Params {
        data: Some(types::AttestationData {
            r#type: "join_token".into(),
            payload: token.as_bytes().to_vec(),
        }),
        params: Some(agent_api::AgentX509svidParams { csr }),
    };
    let request = agent_api::AttestAgentRequest {
        step: Some(Step::Params(params)),
    };
    let mut answers = AgentClient::new(channel)
        .attest_agent(tokio_stream::iter([request]))
        .await?
        .into_inner();
    match answers.message().await?.and_then(|a| a.step) {
        Some(Answer::Result(result)) => result
            .svid
            .ok_or_else(|| Status::internal("result without SVID")),
        _ => Err(Status::internal("no result")),
    }
}

/// The roots of the own bundle, as a node tells them.
async fn roots(channel: Channel) -> Result<Vec<Vec<u8>>, Status> {
    let request = GetBundleRequest { output_mask: None };
    let bundle = BundleClient::new(channel).get_bundle(request).await?;
    let roots = bundle.into_inner().x509_authorities;
    Ok(roots.into_iter().map(|root| root.asn1).collect())
}

impl Agent {
    /// Attests with a join token at `address`.
    pub async fn attest(
        address: &str,
        trust: &Trust,
        token: &str,
        source: Option<IpAddr>,
    ) -> anyhow::Result<Self> {
        let (key, csr) = key_and_csr()?;
        let channel = connect(address, trust, None, source).await?;
        let svid = attest_call(channel.clone(), token, csr)
            .await
            .context("AttestAgent")?;
        // As the stock agent: on the same connection, without a certificate.
        let trust = Trust {
            trust_domain: trust.trust_domain.clone(),
            roots: roots(channel).await.context("GetBundle")?,
        };
        let svid = Svid {
            id: id_text(svid.id),
            chain: svid.cert_chain,
            key,
            expires_at: svid.expires_at,
        };
        Ok(Self {
            trust,
            svid,
            source,
        })
    }

    /// Path of its SPIFFE ID.
    pub fn path(&self) -> &str {
        let rest = self.svid.id.trim_start_matches("spiffe://");
        rest.find('/').map_or("", |at| &rest[at..])
    }

    /// Connects with its SVID.
    pub async fn connect(&self, address: &str) -> anyhow::Result<Channel> {
        let identity = ClientIdentity {
            chain: self.svid.chain.clone(),
            key: self.svid.key.clone(),
        };
        connect(address, &self.trust, Some(&identity), self.source).await
    }

    /// Trusts from now on what a node tells to trust.
    pub async fn follow_bundle(&mut self, channel: Channel) -> Result<(), Status> {
        self.trust.roots = roots(channel).await?;
        Ok(())
    }

    /// Tells its version.
    pub async fn post_status(&self, channel: Channel) -> Result<(), Status> {
        let request = agent_api::PostStatusRequest {
            agent_version: "example".into(),
            ..Default::default()
        };
        AgentClient::new(channel)
            .post_status(request)
            .await
            .map(drop)
    }

    /// Fetches its authorized entries, in either form of the sync protocol.
    pub async fn sync(&self, channel: Channel) -> Result<Vec<types::Entry>, Status> {
        let (requests, outgoing) = tokio::sync::mpsc::channel(4);
        let mut client = EntryClient::new(channel);
        let first = entry_api::SyncAuthorizedEntriesRequest::default();
        requests
            .send(first)
            .await
            .map_err(|_| Status::internal("stream closed"))?;
        let stream = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let mut answers = client.sync_authorized_entries(stream).await?.into_inner();
        let mut revisions = Vec::new();
        loop {
            let page = answers
                .message()
                .await?
                .ok_or_else(|| Status::data_loss("the sync ended early"))?;
            if page.entry_revisions.is_empty() && revisions.is_empty() {
                return Ok(page.entries);
            }
            revisions.extend(page.entry_revisions);
            if !page.more {
                break;
            }
        }
        let mut entries = Vec::new();
        for ids in revisions.chunks(500) {
            let ids = ids.iter().map(|r| r.id.clone()).collect();
            let request = entry_api::SyncAuthorizedEntriesRequest {
                ids,
                ..Default::default()
            };
            requests
                .send(request)
                .await
                .map_err(|_| Status::data_loss("the sync ended early"))?;
            loop {
                let page = answers
                    .message()
                    .await?
                    .ok_or_else(|| Status::data_loss("the sync ended early"))?;
                entries.extend(page.entries);
                if !page.more {
                    break;
                }
            }
        }
        Ok(entries)
    }

    /// Has an X.509-SVID signed for each entry; positional.
    pub async fn sign(
        &self,
        channel: Channel,
        entry_ids: &[String],
    ) -> Result<Vec<Result<Svid, types::Status>>, Status> {
        let mut keys = Vec::new();
        let mut params = Vec::new();
        for entry_id in entry_ids {
            let (key, csr) = key_and_csr().map_err(|e| Status::internal(e.to_string()))?;
            keys.push(key);
            params.push(svid_api::NewX509svidParams {
                entry_id: entry_id.clone(),
                csr,
            });
        }
        let request = svid_api::BatchNewX509svidRequest { params };
        let results = SvidClient::new(channel)
            .batch_new_x509svid(request)
            .await?
            .into_inner()
            .results;
        let both = results.into_iter().zip(keys);
        Ok(both
            .map(|(result, key)| match result.svid {
                Some(svid) => Ok(Svid {
                    id: id_text(svid.id),
                    chain: svid.cert_chain,
                    key,
                    expires_at: svid.expires_at,
                }),
                None => Err(result.status.unwrap_or_default()),
            })
            .collect())
    }

    /// Has a JWT-SVID signed.
    pub async fn jwt(
        &self,
        channel: Channel,
        entry_id: &str,
        audience: &str,
    ) -> Result<String, Status> {
        let request = svid_api::NewJwtsvidRequest {
            entry_id: entry_id.into(),
            audience: vec![audience.into()],
        };
        let svid = SvidClient::new(channel)
            .new_jwtsvid(request)
            .await?
            .into_inner()
            .svid;
        svid.map(|s| s.token)
            .ok_or_else(|| Status::internal("no JWT-SVID"))
    }

    /// Renews its own SVID with a new key; the agent as it is afterwards.
    pub async fn renew(&self, channel: Channel) -> Result<Self, Status> {
        let (key, csr) = key_and_csr().map_err(|e| Status::internal(e.to_string()))?;
        let request = agent_api::RenewAgentRequest {
            params: Some(agent_api::AgentX509svidParams { csr }),
        };
        let svid = AgentClient::new(channel)
            .renew_agent(request)
            .await?
            .into_inner()
            .svid;
        let svid = svid.ok_or_else(|| Status::internal("no SVID"))?;
        let svid = Svid {
            id: id_text(svid.id),
            chain: svid.cert_chain,
            key,
            expires_at: svid.expires_at,
        };
        Ok(Self {
            svid,
            ..self.clone()
        })
    }

    /// Everything a stock agent does in one round at `address`; the SVIDs of its entries.
    pub async fn round(&self, address: &str) -> anyhow::Result<Vec<Svid>> {
        let channel = self.connect(address).await?;
        self.post_status(channel.clone())
            .await
            .context("PostStatus")?;
        let entries = self
            .sync(channel.clone())
            .await
            .context("SyncAuthorizedEntries")?;
        let ids: Vec<String> = entries.into_iter().map(|e| e.id).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut svids = Vec::new();
        for result in self.sign(channel, &ids).await.context("BatchNewX509SVID")? {
            match result {
                Ok(svid) => svids.push(svid),
                Err(status) => bail!(
                    "an entry was not signed: {} {}",
                    status.code,
                    status.message
                ),
            }
        }
        Ok(svids)
    }
}

/// PEM of certificates or keys.
pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}
