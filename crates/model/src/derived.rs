//! What follows from trained parameters and is used many times between their changes.
//!
//! It is made when it is first needed after they changed, and its memory is used again. Who changes parameters says so.

use std::sync::{Mutex, OnceLock, PoisonError};

pub(crate) struct Derived<T> {
    current: OnceLock<T>,
    /// The one before the parameters changed.
    spare: Mutex<Option<T>>,
}

impl<T> Default for Derived<T> {
    fn default() -> Self {
        Self { current: OnceLock::new(), spare: Mutex::new(None) }
    }
}

impl<T> Derived<T> {
    /// The current one, made by `make` of one that is out of date, or of nothing.
    pub(crate) fn get(&self, make: impl FnOnce(Option<T>) -> T) -> &T {
        self.current.get_or_init(|| make(self.spare.lock().unwrap_or_else(PoisonError::into_inner).take()))
    }

    /// The parameters change.
    pub(crate) fn forget(&mut self) {
        if let Some(current) = self.current.take() {
            *self.spare.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(current);
        }
    }

    /// Whether it is made and current.
    #[cfg(test)]
    pub(crate) fn is_current(&self) -> bool {
        self.current.get().is_some()
    }
}
