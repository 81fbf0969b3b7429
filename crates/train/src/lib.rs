//! Training: a recipe is prepared (model, data, schedule), planned, and run.
//!
//! One way: [`recipe`] is what the user wrote, [`prepare`] opens what it names, [`plan`](mod@plan) says what will
//! happen, [`trainer`] does it with an [`objective`] and an [`optimizer`], [`checkpoint`] keeps it and [`run_folder`]
//! tells about it. It prints nothing: callers watch through [`Observer`].

pub mod checkpoint;
pub mod error;
pub mod flops;
pub mod machine;
pub mod objective;
pub mod optimizer;
pub mod plan;
pub mod prepare;
pub mod recipe;
pub mod reference;
pub mod run_folder;
pub mod schedule;
pub mod trainer;

pub use error::{Result, TrainError};
pub use plan::Plan;
pub use prepare::{Load, Prepared, prepare, prepare_watched};
pub use recipe::Recipe;
pub use trainer::{Observer, Outcome, Progress, train};
