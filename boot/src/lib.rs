//! One machine's slots and boot loader: find them, inspect them, switch for one trial boot, mark them good or bad.
//!
//! A machine boots one of two root partitions, the slots `A` and `B`. This crate answers what the machine is
//! running ([`Host::identify`]), opens the slot that is not running and nothing else ([`Host::open_target`]), looks
//! inside a slot without mounting it ([`inspect`]), tells the boot loader what to start next ([`BootLoader`]) and
//! asks for the reboot ([`Reboot`]). It knows nothing of Kubernetes: its errors carry a [`Reason`] of its own.
//!
//! Everything here is synchronous and may block on a disk, except the reboot; call it from a blocking thread.

pub mod blockdev;
pub mod clock;
pub mod cmdline;
pub mod device_number;
pub mod host;
pub mod inspect;
mod kernel;
pub mod loader;
pub mod mounts;
pub mod persist;
pub mod reason;
pub mod reboot;
pub mod roots;
mod running_root;
pub mod slot;
pub mod table;
pub mod target;

pub use host::Host;
pub use loader::{BootLoader, BootState};
pub use reason::Reason;
pub use reboot::Reboot;
pub use roots::Roots;
pub use slot::{Machine, Slot, SlotAddress, SlotError, SlotName};
pub use target::Target;
