//! Corpora and dataset files → records → samples with loss weights → slices.
//!
//! One way: [`records`] reads files, [`dataset_format`] says what the columns of a row mean, [`sample`] turns a
//! row into token ids with a loss weight for each, [`dataset`] does so for whole datasets and reports what was
//! skipped, dropped and cut, [`sample_store`] holds many of them in little memory, [`mixing`] joins datasets, [`packing`]
//! fills budgets of tokens, [`order`] says which samples an optimizer step takes, [`slices`] puts them side by side without
//! padding, [`inspect`] shows what is trained, and [`inspection`] what is in a dataset and what looks wrong in it.
//! Before all that, [`cleaning`] and [`deduplication`] make files that are worth training on out of raw ones.
//! It knows tokenizers and chat templates; it knows nothing of weights, and prints nothing.

mod cache;
pub mod cleaning;
pub mod contamination;
pub mod conversion;
pub mod corpus_tokens;
pub mod data_files;
pub mod dataset;
pub mod dataset_format;
pub mod dataset_info;
pub mod deduplication;
pub mod documents;
pub mod error;
mod exact_numbers;
pub mod inspect;
pub mod inspection;
mod loader;
pub mod mixing;
pub mod options;
pub mod order;
pub mod packing;
pub mod placeholders;
mod questions;
pub mod record_writer;
pub mod records;
pub mod report;
mod rows;
pub mod sample;
pub mod sample_store;
pub mod slices;
pub mod token_files;

pub use corpus_tokens::{CorpusTokens, EncodedCorpus, encode_corpus};
pub use data_files::{DataFile, data_files, sha256_of};
pub use dataset::{Dataset, Split, Task, Watch, texts};
pub use dataset_format::Purpose;
pub use deduplication::Deduplication;
pub use documents::{Document, Documents};
pub use error::{DataError, Result, RowProblem};
pub use inspection::{Detail, Example, Finding, Found, Inspect, Inspection, LengthBin};
pub use options::{
    ColumnNames, Columns, DataOptions, MixStrategy, OnBadRow, Overlong, TokenFileUnit, ValSplit,
};
pub use order::{StepOrder, epoch_order};
pub use packing::{Packing, PackingReport};
pub use questions::{Question, questions};
pub use record_writer::{RecordWriter, refuse_output_in};
pub use records::{Content, RawRecord, ReadOptions, Record, Records, Source, TextUnit};
pub use report::DatasetReport;
pub use sample::Sample;
pub use sample_store::SampleSet;
pub use slices::{Slice, SliceSize, StepSlices, Target, grouped_slices, slice_sizes, step_slices};
