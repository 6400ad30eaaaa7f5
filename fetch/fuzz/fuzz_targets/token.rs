//! No token server's answer makes the parser panic or gives a token without measure.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| monok8s_fetch::fuzzing::token(input));
