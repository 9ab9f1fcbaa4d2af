#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| chancery_fuzz::hsm::pin_record(data));
