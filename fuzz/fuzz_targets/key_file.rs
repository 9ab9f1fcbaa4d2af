#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| chancery_fuzz::hsm::key_file(data));
