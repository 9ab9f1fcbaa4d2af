//! Whole command lines: what is sent, what is printed where, and whether it succeeds.

mod agent;
mod authority;
mod backup;
mod bundle;
mod entry;
mod federation;
mod hsm;
mod line;
mod logger;
mod migrate;
mod mint;
mod server;
mod terminal;

use chancery_api::spire::api::types::{Selector, Spiffeid, Status};

use super::testing::run;

const COUNT: &str = "/spire.api.server.entry.v1.Entry/CountEntries";

fn id(path: &str) -> Option<Spiffeid> {
    Some(Spiffeid {
        trust_domain: "example.org".into(),
        path: path.into(),
    })
}

fn selector(kind: &str, value: &str) -> Selector {
    Selector {
        r#type: kind.into(),
        value: value.into(),
    }
}

fn status(code: i32, message: &str) -> Option<Status> {
    Some(Status {
        code,
        message: message.into(),
    })
}

/// What `line` says on standard error when it is refused without a server.
fn refused(line: &str) -> String {
    let line = format!("{line} -socketPath /nonexistent/api.sock");
    let outcome = run(&line.split_whitespace().collect::<Vec<_>>(), "");
    assert_eq!((outcome.code, outcome.out.as_str()), (1, ""), "{line}");
    outcome.err
}

/// A certificate of an authority, DER and PEM.
fn authority() -> (Vec<u8>, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    let der = certificate.der().to_vec();
    let pem = chancery_identity::bundle::pem_certificate(&der);
    (der, pem)
}
