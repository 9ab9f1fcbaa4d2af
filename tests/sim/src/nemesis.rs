//! The faults of the safety phase, and their end.

use std::sync::Arc;
use std::time::Duration;

use chancery_raft_store::store::Column;
use tokio::time::sleep;

use crate::coverage::Met;
use crate::machine::{Running, Speed};
use crate::network::Weather;
use crate::random::Random;
use crate::world::World;

/// Longest time between two faults, milliseconds.
const PAUSE_MS: u64 = 500;
/// A year: what a clock may be off by at worst.
const YEAR_MS: i64 = 365 * 24 * 3_600 * 1_000;

/// Brings one fault after the other upon the cluster until `until`. At most one disk is
/// damaged for good, so that a quorum can come back.
pub async fn faults(world: &Arc<World>, mut random: Random, until: Duration, mut may_damage: bool) {
    world.network().weather(Weather::ORDINARY);
    while world.executor().now() < until && world.observer().violation().is_none() {
        sleep(Duration::from_millis(random.between(50, PAUSE_MS))).await;
        let machines: Vec<u64> = {
            let machines = world.machines();
            let known = machines.values().filter(|machine| !machine.told_removed);
            known.map(|machine| machine.id).collect()
        };
        let Some(id) = random.pick(&machines).copied() else {
            return;
        };
        let leader = world.leader();
        // What hurts most hurts the leader.
        let id = match &leader {
            Some((leader, _)) if random.chance(400) => *leader,
            _ => id,
        };
        match random.below(100) {
            0..14 => stop(world, id, false, random.between(10, 2_000)),
            14..28 => stop(world, id, true, random.between(10, 2_000)),
            28..32 => all_down(world, &machines, &mut random),
            32..42 => isolate(world, id, &machines, &mut random),
            42..50 => cut_one_way(world, id, &machines, &mut random),
            50..58 => storm(world, &mut random),
            58..66 => slow_disk(world, id, &mut random),
            66..74 => pause(world, id, random.between(100, 2_500)),
            74..81 => step_clock(world, id, &mut random),
            81..88 => transfer(world, leader),
            88..92 => fail_write(world, id, &mut random),
            92..94 if may_damage => {
                may_damage = false;
                damage(world, id, &mut random);
            }
            _ => {
                world.network().mend();
                world.network().weather(Weather::ORDINARY);
            }
        }
    }
}

/// Ends every fault, and starts what is down and not lost.
pub async fn heal(world: &Arc<World>) {
    world.network().mend();
    world.network().weather(Weather::FAIR);
    let ids: Vec<u64> = world.machines().keys().copied().collect();
    for id in ids {
        if let Some(machine) = world.machines().get_mut(&id) {
            machine.speed.set(Speed::SOUND_MS);
            machine.disk.break_writes(false);
            // It may drift on. Where no two clocks of a majority agree no time may be
            // written, and no change be decided.
            machine.clock.set_off_ms(0);
        }
        let group = world
            .machines()
            .get(&id)
            .and_then(|machine| machine.group());
        if let Some(group) = group {
            world.executor().pause(group, false);
        }
        world.start(id, false).await;
    }
}

/// Does something to a machine after a while.
fn later(world: &Arc<World>, ms: u64, then: impl FnOnce(&Arc<World>) + Send + 'static) {
    let on = Arc::clone(world);
    world.spawn(async move {
        sleep(Duration::from_millis(ms)).await;
        then(&on);
    });
}

fn start_later(world: &Arc<World>, id: u64, ms: u64) {
    let on = Arc::clone(world);
    world.spawn(async move {
        sleep(Duration::from_millis(ms)).await;
        on.start(id, false).await;
    });
}

fn stop(world: &Arc<World>, id: u64, power: bool, down_ms: u64) {
    if power {
        world.observer().met(Met::PowerCut);
        if world.cut_power(id) > 0 {
            world.observer().met(Met::UnsyncedLost);
        }
    } else {
        world.observer().met(Met::ProcessKilled);
        world.kill(id);
    }
    start_later(world, id, down_ms);
}

fn all_down(world: &Arc<World>, machines: &[u64], random: &mut Random) {
    world.observer().met(Met::AllDown);
    let power = random.chance(500);
    for id in machines {
        stop(world, *id, power, random.between(10, 600));
    }
}

fn isolate(world: &Arc<World>, id: u64, machines: &[u64], random: &mut Random) {
    world.observer().met(Met::Partitioned);
    for other in machines {
        // Sometimes a bridge: one of the others still reaches it.
        if *other == id || random.chance(150) {
            continue;
        }
        world.network().cut(id, *other);
        world.network().cut(*other, id);
    }
    later(world, random.between(200, 3_000), |world| {
        world.network().mend()
    });
}

fn cut_one_way(world: &Arc<World>, id: u64, machines: &[u64], random: &mut Random) {
    world.observer().met(Met::CutOneWay);
    let outward = random.chance(500);
    for other in machines {
        if *other == id || random.chance(300) {
            continue;
        }
        if outward {
            world.network().cut(id, *other);
        } else {
            world.network().cut(*other, id);
        }
    }
    later(world, random.between(200, 3_000), |world| {
        world.network().mend()
    });
}

fn storm(world: &Arc<World>, random: &mut Random) {
    world.network().weather(Weather {
        delay_ms: random.between(1, 60),
        late_permille: random.below(60),
        lost_permille: random.below(200),
        twice_permille: random.below(150),
        torn_permille: random.below(500),
    });
}

fn slow_disk(world: &Arc<World>, id: u64, random: &mut Random) {
    world.observer().met(Met::DiskSlow);
    let ms_max = *random.pick(&[10, 40, 150, 1_500]).unwrap_or(&10);
    if let Some(machine) = world.machines().get(&id) {
        machine.speed.set(ms_max);
    }
    later(world, random.between(200, 4_000), move |world| {
        if let Some(machine) = world.machines().get(&id) {
            machine.speed.set(Speed::SOUND_MS);
        }
    });
}

fn pause(world: &Arc<World>, id: u64, ms: u64) {
    let group = world
        .machines()
        .get(&id)
        .and_then(|machine| machine.group());
    let Some(group) = group else { return };
    world.observer().met(Met::NodePaused);
    world.executor().pause(group, true);
    later(world, ms, move |world| world.executor().pause(group, false));
}

fn step_clock(world: &Arc<World>, id: u64, random: &mut Random) {
    world.observer().met(Met::ClockStepped);
    let off = *random
        .pick(&[0, 3_000, -3_000, 7_200_000, -7_200_000, YEAR_MS, -YEAR_MS])
        .unwrap_or(&0);
    if let Some(machine) = world.machines().get(&id) {
        machine.clock.set_off_ms(off);
    }
}

fn transfer(world: &Arc<World>, leader: Option<(u64, Running)>) {
    let Some((_, running)) = leader else { return };
    world.observer().met(Met::LeaderTransfer);
    let group = running.group;
    world.executor().spawn(group, async move {
        running.consensus.step_down().await;
    });
}

/// The next write fails: the process must end, and may start again.
fn fail_write(world: &Arc<World>, id: u64, random: &mut Random) {
    if let Some(machine) = world.machines().get_mut(&id) {
        machine.disk.break_writes(true);
        machine.may_end = true;
    }
    world.observer().met(Met::WriteFailed);
    let (sound, down) = (random.between(100, 1_000), random.between(10, 1_000));
    let on = Arc::clone(world);
    world.spawn(async move {
        sleep(Duration::from_millis(sound)).await;
        // Whether it noticed or not: somebody changes the disk's cable.
        on.kill(id);
        if let Some(machine) = on.machines().get_mut(&id) {
            machine.disk.break_writes(false);
            machine.may_end = machine.lost;
        }
        sleep(Duration::from_millis(down)).await;
        on.start(id, false).await;
    });
}

/// The disk is damaged for good: the node must not come back from it.
fn damage(world: &Arc<World>, id: u64, random: &mut Random) {
    world.kill(id);
    let column = *random
        .pick(&[Column::Raft, Column::Log, Column::StateA])
        .unwrap_or(&Column::Log);
    if let Some(machine) = world.machines().get_mut(&id) {
        machine.disk.damage(column);
        machine.may_end = true;
    }
    let on = Arc::clone(world);
    world.spawn(async move {
        sleep(Duration::from_millis(100)).await;
        on.start(id, false).await;
        if on.running(id).is_none() {
            on.observer().met(Met::StoreDamaged);
            if let Some(machine) = on.machines().get_mut(&id) {
                machine.lost = true;
            }
        }
    });
}
