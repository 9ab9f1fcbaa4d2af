//! Disks that lie, fail, fill up and stall, under real processes.

#[path = "disks/node.rs"]
mod node;
#[path = "disks/rolled_back.rs"]
mod rolled_back;
