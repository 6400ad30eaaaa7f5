//! No name in a registry leads to another path than its repository's.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| monok8s_fetch::fuzzing::name(input));
