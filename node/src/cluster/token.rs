//! Node tokens: what a node that is on no list is started with.
//!
//! A token carries the cluster, the members' addresses and keys, and a secret. The joining
//! node sends the secret only to a peer that has one of those keys, so a token that was
//! read by somebody else gives no way to stand in for the cluster; the cluster stores the
//! secret's digest alone, and takes a token once.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chancery_raft_store::identity_record::Pin;
use prost::Message;
use zeroize::Zeroizing;

/// In front of every token, so that one is recognised where it should not be.
const PREFIX: &str = "chancery-node-1-";
/// Bytes of the secret.
pub const SECRET_BYTES: usize = 32;
/// Longest token that is read.
pub const TEXT_BYTES_MAX: usize = 16 << 10;

/// What a token holds. Has no `Debug`: it is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeToken {
    /// Cluster to join.
    pub cluster_id: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Whoever presents it may join, once.
    pub secret: Zeroizing<Vec<u8>>,
    /// Members when it was made.
    pub members: Vec<Pin>,
}

#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(string, tag = "1")]
    cluster_id: String,
    #[prost(string, tag = "2")]
    trust_domain: String,
    #[prost(bytes = "vec", tag = "3")]
    secret: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    members: Vec<Pin>,
}

/// Not a node token, or a damaged one. Says nothing of its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Another kind of text.
    #[error("it does not begin with {PREFIX:?}: is it a join token for agents, or a cut one?")]
    Prefix,
    /// Letters are missing or changed.
    #[error("it is damaged: copy it whole, or make another with `chancery cluster token`")]
    Damaged,
}

impl NodeToken {
    /// The text form, one word.
    pub fn encode(&self) -> Zeroizing<String> {
        let payload = Payload {
            cluster_id: self.cluster_id.clone(),
            trust_domain: self.trust_domain.clone(),
            secret: self.secret.to_vec(),
            members: self.members.clone(),
        };
        let mut bytes = Zeroizing::new(payload.encode_to_vec());
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        Zeroizing::new(format!(
            "{PREFIX}{}",
            URL_SAFE_NO_PAD.encode(bytes.as_slice())
        ))
    }

    /// Reads the text form; white space around it is no part of it.
    ///
    /// # Errors
    /// [`TokenError`]; also for more than [`TEXT_BYTES_MAX`] bytes.
    pub fn decode(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let rest = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        if text.len() > TEXT_BYTES_MAX {
            return Err(TokenError::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(rest)
            .map_err(|_| TokenError::Damaged)?;
        let bytes = Zeroizing::new(bytes);
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(TokenError::Damaged)?;
        if crc32fast::hash(body).to_be_bytes() != *crc {
            return Err(TokenError::Damaged);
        }
        let payload = Payload::decode(body).map_err(|_| TokenError::Damaged)?;
        let pinned = payload.members.iter().all(|m| m.spki_sha256.len() == 32);
        if payload.secret.len() != SECRET_BYTES || payload.members.is_empty() || !pinned {
            return Err(TokenError::Damaged);
        }
        Ok(Self {
            cluster_id: payload.cluster_id,
            trust_domain: payload.trust_domain,
            secret: Zeroizing::new(payload.secret),
            members: payload.members,
        })
    }

    /// What the cluster stores of it.
    pub fn sha256(secret: &[u8]) -> Vec<u8> {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret);
        digest.as_ref().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> NodeToken {
        NodeToken {
            cluster_id: "c".into(),
            trust_domain: "example.org".into(),
            secret: Zeroizing::new(vec![7; SECRET_BYTES]),
            members: vec![Pin {
                node_id: 1,
                peer_address: "a:1".into(),
                spki_sha256: vec![4; 32],
            }],
        }
    }

    #[test]
    fn a_token_is_read_back_with_white_space_around_it() {
        let text = format!("\n {}\n", *token().encode());
        assert!(NodeToken::decode(&text) == Ok(token()));
    }

    #[test]
    fn every_changed_or_missing_letter_is_noticed() {
        let text = token().encode().to_string();
        for at in 0..text.len() {
            let other = if text.as_bytes()[at] == b'x' {
                "y"
            } else {
                "x"
            };
            let mut bad = text.clone();
            bad.replace_range(at..=at, other);
            assert!(NodeToken::decode(&bad).is_err(), "letter {at}");
            assert!(NodeToken::decode(&text[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(
            NodeToken::decode("0b7cf5c1-7b67").err(),
            Some(TokenError::Prefix)
        );
    }
}
