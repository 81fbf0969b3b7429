//! The two hooks that keep optimizers out of the model: when a parameter is needed, and when its gradient is complete.

use danlu_kernels::View;

use crate::{ParameterId, Parameters};

/// Told by a backward when it will not add to a parameter's gradient again: exactly once per backward and parameter,
/// a tied matrix last. Clipping, fused updates and the check for missing gradients are sinks.
pub trait GradientSink {
    /// This backward is done with the gradient of parameter `id`, and with its values, which the sink may change if it
    /// is the step's last.
    fn ready(&mut self, id: ParameterId, parameters: &mut Parameters, gradient: View<f32>);

    /// Whether the step ends with this backward, so that sums over its slices are complete. Some gradients are then
    /// turned into those of the stored weights, which must happen once.
    fn is_last_backward(&self) -> bool {
        true
    }
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
