//! LongBench: questions about long texts in English, Chinese and code, asked and scored as its own scripts do it.
//!
//! One way: [`read_rows`] reads a data set, [`Asking`] makes token ids of a row and generates the answer, [`open_predictions`] keeps
//! answers line by line, so that a run that ends early goes on where it was, and [`Results`] scores what is kept. Nothing is downloaded.

mod asking;
mod predictions;
mod results;
mod rows;
pub mod scores;
mod tasks;

pub use asking::{Answer, Asking, Instruction, Prompt};
pub use predictions::{Prediction, open_predictions, read_predictions};
pub use results::{Results, TaskScore};
pub use rows::{Row, data_file, read_rows};
pub use tasks::{Group, Metric, TASKS, Task};
