#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| monok8s_image_fuzz::frames(data));
