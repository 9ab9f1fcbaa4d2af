//! Disks that lie, fail, fill up and stall, under real processes.

#[path = "disks/damaged.rs"]
mod damaged;
#[path = "disks/errors.rs"]
mod errors;
#[path = "disks/full.rs"]
mod full;
#[path = "disks/node.rs"]
mod node;
#[path = "disks/rolled_back.rs"]
mod rolled_back;
#[path = "disks/stalled.rs"]
mod stalled;
