//! No text makes the requirement's parser panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    monok8s_api_fuzz::requirement(text);
});
