#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| chancery_fuzz::raft_store::high_water(data));
