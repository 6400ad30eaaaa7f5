//! Effects: adapters to the machine, to the network and to the API server, and the trait between them and the executor.

pub mod calls;
pub mod checkpoint;
pub mod credentials;
pub mod effects;
pub mod events;
pub mod install;
pub mod lock;
pub mod machine;
pub mod metrics;
pub mod objects;
pub mod osnode;
pub mod reporter;
pub mod source;
pub mod this_node;
