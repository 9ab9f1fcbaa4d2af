//! What the tests of both ports share: a service that says who called, and
//! certificates made on the spot.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::{Service, ServiceExt};

use super::{Caller, PeerConnection};

/// Header in which the services below answer.
const SAID: &str = "x-said";

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

fn say(text: &str) -> Response<Body> {
    Response::builder()
        .header(SAID, text)
        .body(Body::empty())
        .expect("tests say header-safe words")
}

/// Says who called: kind and what identifies it.
#[derive(Clone)]
pub(crate) struct Echo;

impl Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let said = match request.extensions().get::<Caller>() {
            Some(Caller::Local(caller)) => format!("local {}", caller.uid()),
            Some(Caller::Anonymous(_)) => "anonymous".to_owned(),
            Some(Caller::Certificate(caller)) => format!(
                "certificate {} {} {}",
                caller.id(),
                caller.serial(),
                caller.not_after()
            ),
            None => match request.extensions().get::<PeerConnection>() {
                Some(peer) => format!(
                    "peer {} {}",
                    hex::encode(peer.remote_spki_sha256()),
                    hex::encode(peer.exporter())
                ),
                None => "nobody".to_owned(),
            },
        };
        Box::pin(std::future::ready(Ok(say(&said))))
    }
}

/// Says from which port the connection came; calls of `/held` wait for a
/// permit first.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) started: Arc<Semaphore>,
    pub(crate) release: Arc<Semaphore>,
}

impl Held {
    pub(crate) fn new() -> Self {
        Self {
            started: Arc::new(Semaphore::new(0)),
            release: Arc::new(Semaphore::new(0)),
        }
    }
}

impl Service<Request<Body>> for Held {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let this = self.clone();
        let address = request
            .extensions()
            .get::<Caller>()
            .and_then(Caller::address);
        let held = request.uri().path() == "/held";
        Box::pin(async move {
            if held {
                this.started.add_permits(1);
                let _released = this.release.acquire().await;
            }
            Ok(say(&format!("{address:?}")))
        })
    }
}

/// Calls `path` and returns what the service said.
pub(crate) async fn called(
    channel: &Channel,
    path: &str,
) -> Result<String, tonic::transport::Error> {
    let request = Request::builder()
        .method("POST")
        .uri(path)
        .body(Body::empty())
        .expect("a valid request");
    let response = channel.clone().oneshot(request).await?;
    let said = &response.headers()[SAID];
    Ok(said.to_str().expect("services say text").to_owned())
}

/// What [`Echo`] says to this channel.
pub(crate) async fn echoed(channel: Channel) -> Result<String, tonic::transport::Error> {
    called(&channel, "/echo").await
}

/// An authority made on the spot.
pub(crate) struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A leaf and its key.
pub(crate) struct TestLeaf {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.to_owned().try_into().expect("an ASCII URI"))
}

impl TestCa {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2090, 1, 1);
        let key = KeyPair::generate().unwrap();
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
        }
    }

    pub(crate) fn root(&self) -> Vec<u8> {
        self.issuer.der().to_vec()
    }

    /// A leaf that ends with the first second of `end_year`.
    pub(crate) fn leaf_until(&self, id: &str, serial: u64, end_year: i32) -> TestLeaf {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.subject_alt_names = vec![uri(id)];
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = rcgen::date_time_ymd(2021, 1, 1);
        params.not_after = rcgen::date_time_ymd(end_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        TestLeaf {
            certificate: certificate.der().clone(),
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        }
    }

    pub(crate) fn leaf(&self, id: &str, serial: u64) -> TestLeaf {
        self.leaf_until(id, serial, 2080)
    }
}
