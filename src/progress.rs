//! How long work reports that it moves; only `cli` knows what it looks like.

/// A listener to the progress of one command. `()` is silent.
pub trait Progress: Sync {
    /// A stage begins (and the one before it has ended) whose steps have a `work` of `total` in all.
    fn stage(&self, name: &str, total: u64);
    /// A part of the current stage is done; `detail` names it. Time is expected to pass as `work` does.
    fn step(&self, detail: &str, work: u64);
    /// Something the user should read now, such as the preprocessing that was applied.
    fn note(&self, text: &str);
}

impl Progress for () {
    fn stage(&self, _: &str, _: u64) {}
    fn step(&self, _: &str, _: u64) {}
    fn note(&self, _: &str) {}
}
