//! The image catalog.
