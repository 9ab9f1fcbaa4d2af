//! Whether the nodes hold the same state.
//!
//! The same log must give the same state everywhere. Nodes tell each other digests of theirs
//! at log indexes; who has another one than a majority of the voters is wrong, and must not
//! serve what it holds. Where no majority can say who is wrong, nobody of those that differ
//! serves.

use std::collections::BTreeMap;

use chancery_raft_store::Checkpoint;

/// What the digests say of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Agreement {
    /// Nothing is known against it.
    #[default]
    None,
    /// Its state is another one than that of this node, at this log index.
    Differs {
        /// The other node.
        node: u64,
        /// Log index at which both told a digest.
        index: u64,
    },
    /// Its state is another one than that which a majority of the voters share.
    Wrong {
        /// Log index at which they told their digests.
        index: u64,
    },
}

/// Judges the node `me` by what it and others hold.
pub fn judge(
    me: u64,
    own: &[Checkpoint],
    others: &BTreeMap<u64, Vec<Checkpoint>>,
    voters: &[u64],
) -> Agreement {
    let mut differs = Agreement::None;
    for mine in own.iter().rev() {
        let at_index = |told: &[Checkpoint]| {
            told.iter()
                .find(|c| c.index == mine.index)
                .map(|c| c.digest.clone())
        };
        let mut holders: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
        holders.insert(mine.digest.clone(), vec![me]);
        for (node, told) in others {
            if let Some(digest) = at_index(told) {
                holders.entry(digest).or_default().push(*node);
            }
        }
        let is_majority = |nodes: &[u64]| {
            let votes = nodes.iter().filter(|id| voters.contains(id)).count();
            votes * 2 > voters.len()
        };
        if holders
            .get(&mine.digest)
            .is_some_and(|nodes| is_majority(nodes))
        {
            continue;
        }
        for nodes in holders
            .iter()
            .filter(|(d, _)| **d != mine.digest)
            .map(|(_, n)| n)
        {
            if is_majority(nodes) {
                return Agreement::Wrong { index: mine.index };
            }
            if differs == Agreement::None {
                differs = Agreement::Differs {
                    node: nodes[0],
                    index: mine.index,
                };
            }
        }
    }
    differs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(digests: &[(u64, u8)]) -> Vec<Checkpoint> {
        digests
            .iter()
            .map(|(index, byte)| Checkpoint {
                index: *index,
                digest: vec![*byte; 32],
            })
            .collect()
    }

    fn others(nodes: &[(u64, &[(u64, u8)])]) -> BTreeMap<u64, Vec<Checkpoint>> {
        nodes
            .iter()
            .map(|(id, digests)| (*id, told(digests)))
            .collect()
    }

    #[test]
    fn nodes_that_are_not_equally_far_are_compared_where_both_were() {
        let own = told(&[(64, 1), (128, 2), (130, 3)]);
        let same = others(&[(2, &[(64, 1), (70, 9)]), (3, &[(128, 2), (192, 9)])]);
        assert_eq!(judge(1, &own, &same, &[1, 2, 3]), Agreement::None);
    }

    #[test]
    fn the_one_against_a_majority_is_wrong() {
        let own = told(&[(64, 1), (128, 2)]);
        let both = others(&[(2, &[(128, 7)]), (3, &[(128, 7)])]);
        assert_eq!(
            judge(1, &own, &both, &[1, 2, 3]),
            Agreement::Wrong { index: 128 }
        );
        assert_eq!(
            judge(1, &own, &both, &[2, 3, 4]),
            Agreement::Wrong { index: 128 },
            "a learner, too"
        );
    }

    #[test]
    fn the_majority_goes_on_when_one_is_wrong() {
        let own = told(&[(128, 2)]);
        let one = others(&[(2, &[(128, 2)]), (3, &[(128, 7)])]);
        assert_eq!(judge(1, &own, &one, &[1, 2, 3]), Agreement::None);
    }

    #[test]
    fn without_a_majority_nobody_knows_who_is_wrong() {
        let own = told(&[(128, 2)]);
        let differs = Agreement::Differs {
            node: 3,
            index: 128,
        };
        let one = others(&[(3, &[(128, 7)])]);
        assert_eq!(judge(1, &own, &one, &[1, 2, 3]), differs);
        let each = others(&[(2, &[(128, 8)]), (3, &[(128, 7)])]);
        assert!(matches!(
            judge(1, &own, &each, &[1, 2, 3]),
            Agreement::Differs { .. }
        ));
        let learners = others(&[(3, &[(128, 7)]), (4, &[(128, 7)])]);
        assert_eq!(judge(1, &own, &learners, &[1, 2, 5]), differs);
        let learner = judge(6, &own, &learners, &[1, 2, 5]);
        assert_eq!(learner, differs, "nor who learns");
    }
}
