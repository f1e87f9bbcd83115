//! What is the same in every line of a probe, prepared when its first event arrives.

use faultline_plan::ProbeId;

/// A `T` per probe. Most probes of a large plan are never hit, so each is made on first use.
#[derive(Debug)]
pub(super) struct PerProbe<T> {
    by_id: Vec<Option<Box<T>>>,
}

impl<T> Default for PerProbe<T> {
    fn default() -> Self {
        Self { by_id: Vec::new() }
    }
}

impl<T> PerProbe<T> {
    pub(super) fn get(&mut self, id: ProbeId, make: impl FnOnce() -> T) -> &T {
        let index = id.0 as usize;
        if index >= self.by_id.len() {
            self.by_id.resize_with(index + 1, || None);
        }
        self.by_id[index].get_or_insert_with(|| Box::new(make()))
    }
}
