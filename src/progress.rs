//! How long work reports that it moves; only `cli` knows what it looks like.

/// A listener to the progress of one command. `()` is silent.
pub trait Progress: Sync {
    /// A stage of `total` steps begins (and the one before it has ended).
    fn stage(&self, name: &str, total: usize);
    /// One step of the current stage is done; `detail` names it.
    fn step(&self, detail: &str);
    /// Something the user should read now, such as the preprocessing that was applied.
    fn note(&self, text: &str);
}

impl Progress for () {
    fn stage(&self, _: &str, _: usize) {}
    fn step(&self, _: &str) {}
    fn note(&self, _: &str) {}
}
