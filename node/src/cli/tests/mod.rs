//! Whole command lines: what is sent, what is printed where, and whether it succeeds.

mod agent;
mod entry;
mod line;
mod migrate;
mod server;

use chancery_api::spire::api::types::{Selector, Spiffeid};

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
