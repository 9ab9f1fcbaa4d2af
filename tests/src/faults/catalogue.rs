//! Every fault by name: what it does, on what kind of cluster, and whether it is among
//! those that a run takes by itself.

use std::time::Duration;

use super::clock::{Setting, WrongClock};
use super::cluster::Shape;
use super::descriptors::NoDescriptors;
use super::disks::{FullDisk, Sync, TamperedSync};
use super::injection::Injection;
use super::lab::Drop;
use super::partitions::{Loss, Partition, apart};
use super::power::PowerLoss;
use super::processes::{Kill, Pause};
use super::random::Random;
use super::shaper::{Link, Shaped};

/// What a fault is aimed by.
pub struct Situation {
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Who leads now.
    pub leader: usize,
    /// How often this fault was injected before; faults with several forms take turns.
    pub turn: usize,
    /// The seed's.
    pub random: Random,
}

impl Situation {
    /// A node that does not lead.
    fn follower(&mut self) -> usize {
        let step = 1 + self.random.below(self.nodes - 1);
        (self.leader + step) % self.nodes
    }

    /// Everybody else.
    fn others(&self, node: usize) -> Vec<usize> {
        (0..self.nodes).filter(|n| *n != node).collect()
    }

    /// The leader in even turns, a follower in odd ones.
    fn either(&mut self) -> (usize, &'static str) {
        if self.turn.is_multiple_of(2) {
            (self.leader, "the leader")
        } else {
            (self.follower(), "a follower")
        }
    }
}

type Aim = fn(&mut Situation) -> Box<dyn Injection>;

/// A fault of the catalogue.
pub struct Fault {
    /// Its name on the command line and in the table.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// The cluster that it needs; the number of nodes is a default.
    pub shape: Shape,
    /// How long it stays, in milliseconds: least and greatest.
    pub hold_ms: (usize, usize),
    /// Whether `--nodes` may change the number of nodes.
    pub any_size: bool,
    aim: Aim,
}

impl Fault {
    /// The fault, aimed; and how long it stays.
    pub fn aim(&self, situation: &mut Situation) -> (Box<dyn Injection>, Duration) {
        let injection = (self.aim)(situation);
        let hold = situation.random.ms(self.hold_ms.0, self.hold_ms.1);
        (injection, hold)
    }
}

const USUAL: Shape = Shape {
    nodes: 3,
    stale_limit_s: None,
    small_disks: false,
    own_clocks: false,
};

const fn fault(name: &'static str, what: &'static str, hold_ms: (usize, usize), aim: Aim) -> Fault {
    Fault {
        name,
        what,
        shape: USUAL,
        hold_ms,
        any_size: true,
        aim,
    }
}

/// Seconds without a quorum after which the nodes of [`FIVE`] stop issuing.
const LIMIT_S: u64 = 4;

const CLOCKS: Shape = Shape {
    own_clocks: true,
    ..USUAL
};

const FIVE: Shape = Shape {
    nodes: 5,
    stale_limit_s: Some(LIMIT_S),
    ..USUAL
};

fn kill(victims: Vec<usize>, whom: &str) -> Box<dyn Injection> {
    let whom = format!("{whom} {victims:?}");
    Box::new(Kill { victims, whom })
}

fn power_loss(s: &mut Situation) -> Box<dyn Injection> {
    let (victims, whom) = match s.turn % 4 {
        0 => (vec![s.leader], "the leader"),
        1 => (vec![s.follower()], "a follower"),
        2 => {
            let spared = s.follower();
            (s.others(spared), "all but a follower")
        }
        _ => ((0..s.nodes).collect(), "every node"),
    };
    Box::new(PowerLoss::new(victims, whom, &s.random))
}

fn alone(situation: &Situation, node: usize, who: &str) -> Box<dyn Injection> {
    Box::new(Partition {
        drops: apart(&[vec![node], situation.others(node)]),
        away: vec![node],
        silent: vec![node],
        whom: format!("{who}, node {node}, is cut off from its peers"),
    })
}

fn partition(s: &mut Situation) -> Box<dyn Injection> {
    match s.turn % 3 {
        0 => alone(s, s.leader, "the leader"),
        1 => {
            let follower = s.follower();
            alone(s, follower, "a follower")
        }
        _ => {
            let all: Vec<usize> = (0..s.nodes).collect();
            let groups: Vec<Vec<usize>> = all.iter().map(|n| vec![*n]).collect();
            Box::new(Partition {
                drops: apart(&groups),
                away: all.clone(),
                silent: all,
                whom: "every node is alone".into(),
            })
        }
    }
}

fn one_way(s: &mut Situation) -> Box<dyn Injection> {
    let (node, who) = s.either();
    let others = s.others(node);
    let deaf = (s.turn / 2).is_multiple_of(2);
    let drops = others.into_iter().map(|other| {
        if deaf {
            Drop {
                at: node,
                from: other,
            }
        } else {
            Drop {
                at: other,
                from: node,
            }
        }
    });
    let how = if deaf {
        "hears nobody"
    } else {
        "is heard by nobody"
    };
    Box::new(Partition {
        drops: drops.collect(),
        away: vec![node],
        silent: vec![node],
        whom: format!("{who}, node {node}, {how}"),
    })
}

fn bridge(s: &mut Situation) -> Box<dyn Injection> {
    let (a, who) = if s.turn.is_multiple_of(2) {
        (s.leader, "the leader and a follower")
    } else {
        (s.follower(), "two followers")
    };
    let c = s
        .others(a)
        .into_iter()
        .find(|n| *n != s.leader)
        .unwrap_or(a);
    let drops = vec![Drop { at: a, from: c }, Drop { at: c, from: a }];
    Box::new(Partition {
        drops,
        away: vec![a, c],
        silent: Vec::new(),
        whom: format!("{who}, nodes {a} and {c}, are cut off from each other"),
    })
}

fn delay(s: &mut Situation) -> Box<dyn Injection> {
    let link = Link {
        delay: s.random.ms(10, 60),
        jitter: Duration::from_millis(5),
        lost: 0,
        twice: 0,
    };
    Box::new(Shaped::new(link, &mut s.random))
}

fn reorder(s: &mut Situation) -> Box<dyn Injection> {
    let link = Link {
        delay: Duration::from_millis(2),
        jitter: s.random.ms(20, 80),
        lost: 10,
        twice: 30,
    };
    Box::new(Shaped::new(link, &mut s.random))
}

fn slow_sync(s: &mut Situation) -> Box<dyn Injection> {
    let (victim, who) = s.either();
    let by = s.random.ms(100, 400);
    Box::new(TamperedSync::new(victim, who, Sync::Slow(by)))
}

fn failed_sync(s: &mut Situation) -> Box<dyn Injection> {
    let (victim, who) = s.either();
    let n = 1 + s.random.below(5);
    Box::new(TamperedSync::new(victim, who, Sync::Fails(n)))
}

fn full_disk(s: &mut Situation) -> Box<dyn Injection> {
    let (victim, who) = s.either();
    let whom = format!("{who}, node {victim}");
    Box::new(FullDisk { victim, whom })
}

fn clock(s: &mut Situation, settings: &[Setting]) -> Box<dyn Injection> {
    let (victim, who) = s.either();
    let setting = settings[s.turn / 2 % settings.len()];
    Box::new(WrongClock::new(victim, who, setting))
}

fn clock_near(s: &mut Situation) -> Box<dyn Injection> {
    let settings = [
        Setting::Off(2),
        Setting::Off(-2),
        Setting::Drifts(0.5),
        Setting::Drifts(-0.5),
    ];
    clock(s, &settings)
}

fn clock_far(s: &mut Situation) -> Box<dyn Injection> {
    let settings = [3_600, -3_600, 31_536_000].map(Setting::Off);
    clock(s, &settings)
}

fn no_descriptors(s: &mut Situation) -> Box<dyn Injection> {
    let (victim, who) = s.either();
    Box::new(NoDescriptors::new(victim, who))
}

fn leader_and_one(s: &mut Situation) -> Box<dyn Injection> {
    let pair = vec![s.leader, s.follower()];
    let rest = (0..s.nodes).filter(|n| !pair.contains(n)).collect();
    Box::new(Partition {
        drops: apart(&[pair.clone(), rest]),
        away: pair.clone(),
        silent: pair.clone(),
        whom: format!("the leader and a follower, nodes {pair:?}, are cut off together"),
    })
}

/// The catalogue, in the order of a run. Kills come late: a node that starts again serves
/// agents only after they had time to learn an authority as young as the cluster.
pub const FAULTS: &[Fault] = &[
    fault(
        "pause",
        "SIGSTOP of the leader or of a follower, in turns, for 0.5 to 4 s",
        (500, 4_000),
        |s| {
            let (victim, who) = s.either();
            let whom = format!("{who}, node {victim}");
            Box::new(Pause { victim, whom })
        },
    ),
    fault(
        "partition",
        "the leader alone, a follower alone, every node alone, in turns",
        (2_000, 4_000),
        partition,
    ),
    fault(
        "leader-cut-off",
        "the leader is cut off from its peers, not from its clients",
        (2_500, 4_500),
        |s| alone(s, s.leader, "the leader"),
    ),
    fault(
        "one-way",
        "packets are lost in one direction: to or from the leader, to or from a follower",
        (2_500, 4_500),
        one_way,
    ),
    fault(
        "bridge",
        "two of the nodes are cut off from each other, a third one reaches both",
        (2_000, 4_000),
        bridge,
    ),
    fault(
        "loss",
        "5 to 25 % of the packets between peers are lost",
        (2_500, 4_500),
        |s| {
            let percent = u32::try_from(5 + s.random.below(21)).unwrap_or(5);
            Box::new(Loss {
                probability: f64::from(percent) / 100.0,
            })
        },
    ),
    fault(
        "delay",
        "packets between peers take 10 to 65 ms",
        (2_500, 4_500),
        delay,
    ),
    fault(
        "reorder",
        "packets between peers overtake each other, come twice, are lost",
        (2_500, 4_500),
        reorder,
    ),
    fault(
        "kill-one",
        "SIGKILL of the leader or of a follower, in turns",
        (500, 2_000),
        |s| {
            let (node, who) = s.either();
            kill(vec![node], who)
        },
    ),
    fault("kill-leader", "SIGKILL of the leader", (500, 2_000), |s| {
        kill(vec![s.leader], "the leader")
    }),
    fault(
        "kill-all",
        "SIGKILL of every node at the same moment",
        (200, 800),
        |s| kill((0..s.nodes).collect(), "every node"),
    ),
    fault(
        "power-loss",
        "the leader, a follower, a majority or all are killed, and their disks forget what was not synced",
        (200, 800),
        power_loss,
    ),
    fault(
        "sync-slow",
        "each sync of the leader or of a follower takes 0.1 to 0.4 s longer",
        (2_500, 4_500),
        slow_sync,
    ),
    fault(
        "sync-fails",
        "a sync of the leader or of a follower fails with EIO",
        (2_500, 4_500),
        failed_sync,
    ),
    fault(
        "descriptors",
        "the leader or a follower can open no more files",
        (2_500, 4_500),
        no_descriptors,
    ),
    Fault {
        shape: CLOCKS,
        ..fault(
            "clock",
            "the wall clock of the leader or of a follower is off by seconds, or drifts",
            (2_500, 4_500),
            clock_near,
        )
    },
    Fault {
        shape: CLOCKS,
        ..fault(
            "clock-far",
            "the wall clock of the leader or of a follower is off by an hour or a year",
            (4_000, 5_500),
            clock_far,
        )
    },
    Fault {
        shape: Shape {
            small_disks: true,
            ..USUAL
        },
        ..fault(
            "disk-full",
            "the disk of the leader or of a follower is full",
            (2_500, 4_500),
            full_disk,
        )
    },
    Fault {
        shape: FIVE,
        any_size: false,
        ..fault(
            "two-cut-off",
            "of five, the leader and a follower are cut off together for longer than they may issue",
            (7_000, 8_000),
            leader_and_one,
        )
    },
];

/// A fault by name.
pub fn find(name: &str) -> Option<&'static Fault> {
    FAULTS.iter().find(|f| f.name == name)
}
