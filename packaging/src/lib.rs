//! The container image of node-agent, controller and ctl as an OCI archive, without a container runtime.
//!
//! What is in it: the three programs, the shared libraries that they name and those name in turn, the CA certificates,
//! a user without rights. No shell, no package manager. The same programs and libraries give the same bytes.
//!
//! The way from the one to the other is a file each: [`programs`] builds, [`libraries`] finds what they are linked
//! with, [`debian`] says which packages that came from, [`rootfs`] lays it out, [`layer`] packs it, [`image`]
//! describes it, [`archive`] writes it down, [`sbom`] lists what is inside.
#![forbid(unsafe_code)]

pub mod archive;
pub mod build;
pub mod debian;
pub mod digest;
pub mod image;
pub mod layer;
pub mod libraries;
pub mod platform;
pub mod programs;
pub mod rootfs;
pub mod sbom;
