//! Where the time of a step goes: seconds of each kind of operation, by the clock of the thread that calls it.
//!
//! Off unless [`measured`] asks, at the price of one look at the thread's own memory for each operation; no result
//! changes. An operation inside another counts as the outer one. It knows nothing of what a model does with it.

use std::cell::Cell;
use std::time::Instant;

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Products of linear layers.
    LinearForward,
    /// Products for the gradients of their inputs.
    LinearInputGradient,
    /// Products for the gradients of their weights.
    LinearWeightGradient,
    /// Gradients of low-rank adapters; their forward belongs to the layer's.
    Adapter,
    /// Attention.
    AttentionForward,
    /// The gradients of attention.
    AttentionBackward,
    /// RMS norms, forward and backward.
    Norm,
    /// Rotary positions, forward and backward.
    Rope,
    /// SwiGLU, forward and backward.
    Swiglu,
    /// Token embedding, forward and backward.
    Embedding,
    /// Head and log-softmax, forward and backward.
    Head,
    /// Copies, sums, clears and roundings of whole buffers.
    Copy,
    /// Gradient norm and update.
    Optimizer,
}

impl Operation {
    /// Every kind, in the order of a step.
    pub const ALL: [Self; 13] = [
        Self::LinearForward,
        Self::LinearInputGradient,
        Self::LinearWeightGradient,
        Self::Adapter,
        Self::AttentionForward,
        Self::AttentionBackward,
        Self::Norm,
        Self::Rope,
        Self::Swiglu,
        Self::Embedding,
        Self::Head,
        Self::Copy,
        Self::Optimizer,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::LinearForward => "linear forward",
            Self::LinearInputGradient => "linear gradient of input",
            Self::LinearWeightGradient => "linear gradient of weight",
            Self::Adapter => "gradients of adapters",
            Self::AttentionForward => "attention forward",
            Self::AttentionBackward => "attention backward",
            Self::Norm => "norms",
            Self::Rope => "rope",
            Self::Swiglu => "swiglu",
            Self::Embedding => "embedding",
            Self::Head => "head and loss",
            Self::Copy => "copies",
            Self::Optimizer => "optimizer",
        }
    }

    /// Counts from now on; to be held through a whole operation: `let _timer = Operation::Rope.start();`.
    pub(crate) fn start(self) -> Timer {
        if STATE.get() != State::Waiting {
            return Timer(None);
        }
        STATE.set(State::InOperation);
        Timer(Some((self, Instant::now())))
    }
}

/// Seconds of each kind of operation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times([f64; Operation::ALL.len()]);

impl Times {
    /// The kinds with their seconds, in the order of a step.
    pub fn iter(&self) -> impl Iterator<Item = (Operation, f64)> + '_ {
        Operation::ALL.into_iter().zip(self.0)
    }

    /// Adds the seconds of `other`.
    pub fn add(&mut self, other: &Self) {
        for (sum, seconds) in self.0.iter_mut().zip(other.0) {
            *sum += seconds;
        }
    }

    /// Seconds of all kinds.
    pub fn total(&self) -> f64 {
        self.0.iter().sum()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Off,
    Waiting,
    InOperation,
}

thread_local! {
    static STATE: Cell<State> = const { Cell::new(State::Off) };
    static TIMES: Cell<Times> = const { Cell::new(Times([0.0; Operation::ALL.len()])) };
}

/// Runs `work` and says where its time went, as far as it was spent in operations that this thread called.
pub fn measured<R>(work: impl FnOnce() -> R) -> (R, Times) {
    TIMES.set(Times::default());
    STATE.set(State::Waiting);
    let result = work();
    STATE.set(State::Off);
    (result, TIMES.get())
}

/// Counts the time until it is dropped.
pub(crate) struct Timer(Option<(Operation, Instant)>);

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some((operation, start)) = self.0 {
            let mut times = TIMES.get();
            times.0[operation as usize] += start.elapsed().as_secs_f64();
            TIMES.set(times);
            STATE.set(State::Waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(5);

    #[test]
    fn the_outer_operation_gets_the_time() {
        let ((), times) = measured(|| {
            let _head = Operation::Head.start();
            let _product = Operation::LinearForward.start();
            std::thread::sleep(MOMENT);
        });
        let of = |operation: Operation| times.0[operation as usize];
        assert!(of(Operation::Head) >= MOMENT.as_secs_f64() && of(Operation::LinearForward) == 0.0);
        assert_eq!(times.total(), of(Operation::Head));
    }

    #[test]
    fn nothing_is_counted_unless_asked() {
        let operate = || {
            let _timer = Operation::Copy.start();
            std::thread::sleep(MOMENT);
        };
        operate();
        assert_eq!(measured(|| ()).1, Times::default());
        let ((), times) = measured(operate);
        operate();
        assert!(times.total() >= MOMENT.as_secs_f64());
        assert!(Operation::ALL.iter().enumerate().all(|(index, &operation)| operation as usize == index));
    }
}
