//! No text makes the catalog's parser or resolution panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    monok8s_api_fuzz::catalog(text);
});
