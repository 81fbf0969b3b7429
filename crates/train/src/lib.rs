//! Training: a recipe is prepared (model, data, schedule), planned, and run.
//!
//! One way: [`recipe`] is what the user wrote, [`prepare`] opens what it names, [`plan`](mod@plan) says what will
//! happen, [`trainer`] does it with an [`objective`] and an [`optimizer`], [`rollback`] goes back where that is asked for,
//! [`checkpoint`] keeps it and [`run_folder`] tells about it. It prints nothing: callers watch through [`Observer`].

pub mod best;
pub mod checkpoint;
pub mod error;
pub mod flops;
pub mod guard;
pub mod machine;
pub mod objective;
pub mod observer;
pub mod optimizer;
pub mod optimizer_step;
pub mod plan;
pub mod prepare;
pub mod recipe;
pub mod rollback;
pub mod run_folder;
pub mod run_record;
pub mod samples;
pub mod schedule;
mod since_log;
pub mod tensorboard;
pub mod trainer;
mod validation;

pub use error::{Result, TrainError};
pub use observer::{Observer, Progress};
pub use plan::Plan;
pub use prepare::{Load, Prepared, prepare, prepare_watched};
pub use recipe::Recipe;
pub use rollback::train;
pub use trainer::Outcome;
