//! The one source of chance: everything that a seed draws comes from here.

/// Numbers that follow from a seed.
#[derive(Debug)]
pub(crate) struct Rng(fastrand::Rng);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// A number below `end`; 0 if that is 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.0.u64(..end) }
    }

    /// An index below `len`, which is not 0.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.0.usize(..len)
    }

    /// A number from `min` to `max`, both included.
    pub(crate) fn between(&mut self, min: u64, max: u64) -> u64 {
        self.0.u64(min..=max.max(min))
    }

    /// The same for lengths.
    pub(crate) fn len_between(&mut self, min: usize, max: usize) -> usize {
        self.0.usize(min..=max.max(min))
    }

    /// Whether something happens that does so `percent` times in a hundred.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Whether something happens that does so `count` times in a thousand.
    pub(crate) fn per_mille(&mut self, count: u64) -> bool {
        self.below(1_000) < count
    }

    /// One of `choices`, which is not empty.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        self.0.shuffle(items);
    }
}
