//! The two hooks that keep optimizers out of the model: when a parameter is needed, and when its gradient is complete.

use crate::ParameterId;

/// Told by the backward when a parameter's gradient of this step is complete: exactly once per step and parameter,
/// a tied matrix last. Clipping, fused updates and the check for missing gradients are sinks.
pub trait GradientSink {
    /// The gradient of `parameter` will not change again in this step.
    fn ready(&mut self, parameter: ParameterId);
}

/// Asked before a block's weights are used and told afterwards, in both directions, so that weights can live elsewhere.
pub trait ParameterSource {
    /// The weights of block `layer` are about to be used.
    fn need(&mut self, layer: usize);
    /// They are no longer used.
    fn done(&mut self, layer: usize);
}

/// All weights stay in memory.
pub struct Resident;

impl ParameterSource for Resident {
    fn need(&mut self, _: usize) {}
    fn done(&mut self, _: usize) {}
}
