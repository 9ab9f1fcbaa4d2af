//! Commands about keys in their tokens.

use prost::Message;

/// See [`super::Command::AdoptKeys`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AdoptKeys {
    /// Ids that the cluster had in those epochs. All or none: one that is not known is refused.
    #[prost(string, repeated, tag = "1")]
    pub cluster_ids: Vec<String>,
}

impl AdoptKeys {
    /// Level at which every member knows the command.
    pub const FEATURE_LEVEL: u32 = 3;
}
