//! No challenge has more asked for than to pull from one repository.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| monok8s_fetch::fuzzing::challenge(input));
