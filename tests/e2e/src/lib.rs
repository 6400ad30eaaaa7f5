//! What the end-to-end tests share: the tree's own files as they are installed and documented, what
//! `kubectl` prints, and requests made with somebody's token.
#![forbid(unsafe_code)]

pub mod cases;
pub mod hold;
pub mod install;
pub mod objects;
pub mod pages;
pub mod record;
pub mod request;
pub mod served;
pub mod table;
