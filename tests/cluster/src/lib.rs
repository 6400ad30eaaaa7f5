//! Real nodes on one machine: each has a kubelet and containerd in namespaces of its own, a disk with
//! a partition table, and a first process whose root is the slot that the boot variables chose.
//!
//! What only a machine of one's own has is played: the firmware by the model of the shipped
//! `grub.cfg`, the kernel by this machine's, with a command line and a boot identifier of the node's.
//! `reboot(2)` in the node really ends its first process, and everything with it.
//!
//! Needs root.
#![forbid(unsafe_code)]

pub mod address;
pub mod cluster;
pub mod container_image;
pub mod control_groups;
pub mod disk;
pub mod firmware;
pub mod first_process;
pub mod launch;
pub mod machine;
pub mod network;
pub mod node;
pub mod power;
pub mod product;
pub mod registry;
pub mod requirements;
pub mod runtime;
pub mod site;
