//! One update of one parameter, by each optimizer, over flat memory.
//!
//! Every file holds one rule: its formula, its state, its constants. Which parameter follows which rule, learning rates
//! and clipping are decided elsewhere; `gradient_scale` is the factor that clipping puts on the gradient.

pub mod adafactor;
pub mod adamw;
pub mod adamw_8bit;
pub mod lion;
pub mod muon;
pub mod sgd;

/// Elements of one task.
const CHUNK: usize = 1 << 14;
