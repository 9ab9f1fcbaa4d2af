//! How two nodes that have no pins yet show each other that they know the
//! shared secret.
//!
//! A proof is an HMAC-SHA-256 over the prover's role, both public keys and the
//! exporter value of one TLS connection. The secret never travels; a proof is
//! worth nothing on another connection (the exporter differs), towards another
//! node (the keys differ) or sent back to its maker (the role differs).

use aws_lc_rs::hmac::{self, HMAC_SHA256};

use super::peer_tls::PeerConnection;

/// HMAC-SHA-256 output.
pub type Proof = [u8; 32];

const CONTEXT: &[u8] = b"chancery peer proof v1";

/// Who makes a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The side that opened the connection.
    Client,
    /// The side that accepted it.
    Server,
}

impl Role {
    fn word(self) -> &'static [u8] {
        match self {
            Self::Client => b"client",
            Self::Server => b"server",
        }
    }
}

/// The proof of this side, which has `role` on `connection`.
pub fn proof(secret: &[u8], role: Role, connection: &PeerConnection) -> Proof {
    let tag = hmac::sign(&key(secret), &message(role, role, connection));
    let mut out = [0; 32];
    out.copy_from_slice(tag.as_ref());
    out
}

/// Whether `proof` is that of the other side, which has `role` on
/// `connection`. Takes the same time wherever it differs.
pub fn verify_proof(secret: &[u8], role: Role, connection: &PeerConnection, proof: &[u8]) -> bool {
    let own = match role {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
    };
    hmac::verify(&key(secret), &message(role, own, connection), proof).is_ok()
}

fn key(secret: &[u8]) -> hmac::Key {
    hmac::Key::new(HMAC_SHA256, secret)
}

/// `own` is the role of the side that computes, which decides whose key is
/// local. Every part but the role has a fixed length; the role comes with its
/// own.
fn message(prover: Role, own: Role, connection: &PeerConnection) -> Vec<u8> {
    let (client, server) = match own {
        Role::Client => (
            connection.local_spki_sha256(),
            connection.remote_spki_sha256(),
        ),
        Role::Server => (
            connection.remote_spki_sha256(),
            connection.local_spki_sha256(),
        ),
    };
    let word = prover.word();
    let mut message = Vec::with_capacity(CONTEXT.len() + 2 + word.len() + 96);
    message.extend_from_slice(CONTEXT);
    message.push(0);
    message.push(u8::try_from(word.len()).expect("roles are short words"));
    message.extend_from_slice(word);
    message.extend_from_slice(client);
    message.extend_from_slice(server);
    message.extend_from_slice(connection.exporter());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef";

    fn ends(exporter: u8) -> (PeerConnection, PeerConnection) {
        let client = PeerConnection::for_tests([2; 32], [1; 32], [exporter; 32]);
        let server = PeerConnection::for_tests([1; 32], [2; 32], [exporter; 32]);
        (client, server)
    }

    #[test]
    fn each_side_is_believed_by_the_other() {
        let (client, server) = ends(7);
        assert!(verify_proof(
            SECRET,
            Role::Client,
            &server,
            &proof(SECRET, Role::Client, &client)
        ));
        assert!(verify_proof(
            SECRET,
            Role::Server,
            &client,
            &proof(SECRET, Role::Server, &server)
        ));
    }

    #[test]
    fn a_proof_changed_in_any_part_is_refused() {
        let (client, server) = ends(7);
        let good = proof(SECRET, Role::Client, &client);
        let other = |secret: &[u8], connection: &PeerConnection| {
            verify_proof(secret, Role::Client, connection, &good)
        };
        assert!(other(SECRET, &server));
        assert!(!other(b"0123456789abcdeg", &server), "another secret");
        assert!(!other(SECRET, &ends(8).1), "another connection");
        let third = PeerConnection::for_tests([1; 32], [3; 32], [7; 32]);
        assert!(!other(SECRET, &third), "another server");
        let fourth = PeerConnection::for_tests([4; 32], [2; 32], [7; 32]);
        assert!(!other(SECRET, &fourth), "another client");
        assert!(
            !verify_proof(SECRET, Role::Server, &client, &good),
            "sent back"
        );
        assert!(!other(SECRET, &client), "computed from the wrong end");
        for bit in 0..256 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(
                !verify_proof(SECRET, Role::Client, &server, &bad),
                "bit {bit}"
            );
        }
        assert!(!verify_proof(SECRET, Role::Client, &server, &good[..31]));
        assert!(!verify_proof(SECRET, Role::Client, &server, &[]));
    }
}
