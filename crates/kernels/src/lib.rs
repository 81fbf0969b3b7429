//! The arithmetic of the Llama family: every operation with its backward.
//!
//! Operations take [`View`]s of [`Buffer`]s, run on the [`team`] of threads, and give the same bits for any
//! number of threads: each output element belongs to one task whose summation order depends on shapes only.
//! This room knows no models and no files.
//!
//! Shapes in the documentation: T tokens, D hidden, H query heads, K key/value heads, E head dimension,
//! F intermediate, V vocabulary, R rank. All matrices are row-major; a weight is [outputs, inputs].

#[macro_use]
mod by_cpu_level;

pub mod attention;
pub mod bandwidth;
pub mod bias;
pub mod blocks;
mod buffer;
pub mod ceiling;
#[cfg(test)]
mod check;
pub mod cpu;
pub mod cross_entropy;
pub mod dora;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod exp;
pub mod heap;
pub mod int8;
pub mod linear;
pub mod matmul;
pub mod optimizer;
pub mod random;
pub mod reduce;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;
pub mod team;
pub mod timing;
pub mod unit_rows;
mod value;

pub use blocks::grouped::Grouped;
pub use buffer::{Buffer, Element, View, ViewMut};
pub use half::bf16;
pub use linear::{Precision, Weight};
pub use value::Value;
