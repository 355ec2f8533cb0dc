//! Numbers that look random and are the same in every run.

/// A sequence that its first number determines (G. Marsaglia, "Xorshift RNGs", 2003). The first must not be 0.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next number, below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}
