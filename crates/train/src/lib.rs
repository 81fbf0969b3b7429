//! Training: the recipe, learning rate schedules and the run folder.

pub mod recipe;
pub mod reference;
pub mod run_folder;
pub mod schedule;
