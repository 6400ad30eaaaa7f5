//! No manifest or index leads out of its repository.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| monok8s_fetch::fuzzing::manifest(input));
