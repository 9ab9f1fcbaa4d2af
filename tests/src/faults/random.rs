//! Random numbers from a seed: the same seed gives the same plan of faults and calls.

/// A generator (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of a seed and of a purpose below it.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut made = Self(seed ^ purpose.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        made.next();
        made
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % end).unwrap_or(0)
    }

    /// Milliseconds from `low` up to and without `high`.
    pub fn ms(&mut self, low: usize, high: usize) -> std::time::Duration {
        let ms = low + self.below(high.saturating_sub(low));
        std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }
}
