//! Corpora and dataset files → records → samples with loss weights → slices.
//!
//! One way: [`records`] reads files, [`dataset_format`] says what the columns of a row mean, [`sample`] turns a
//! row into token ids with a loss weight for each, [`dataset`] does so for whole datasets and reports what was
//! skipped, dropped and cut, [`order`] says which samples an optimizer step takes, [`slices`] packs them without
//! padding, and [`inspect`] shows what is trained.
//! It knows tokenizers and chat templates; it knows nothing of weights, and prints nothing.

pub mod corpus_tokens;
pub mod dataset;
pub mod dataset_format;
pub mod dataset_info;
pub mod error;
pub mod inspect;
pub mod options;
pub mod order;
pub mod placeholders;
pub mod records;
pub mod report;
mod rows;
pub mod sample;
pub mod slices;

pub use corpus_tokens::{CorpusTokens, encode_corpus};
pub use dataset::{Dataset, Split, Task, texts};
pub use dataset_format::Purpose;
pub use error::{DataError, Result, RowProblem};
pub use options::{ColumnNames, Columns, DataOptions, OnBadRow, Overlong};
pub use order::{StepOrder, epoch_order};
pub use records::{Content, Record, Records, Source};
pub use report::DatasetReport;
pub use sample::Sample;
pub use slices::{Slice, StepSlices, Target, step_slices};
