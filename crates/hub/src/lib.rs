//! The hub: an id such as `org/name` → a folder on this disk, from the caches that other programs filled or over the
//! network, from Hugging Face, its mirrors or ModelScope.
//!
//! It opens no model and reads no row. It asks for lists and files; for an id that the hub does not know it also asks
//! the hub's search for that name, to say which one was meant. It sends nothing else.

mod cache;
mod check;
mod client;
mod datasets;
mod download;
mod error;
mod listing;
mod repository;
mod select;
mod settings;
mod transfer;

pub use cache::Want;
pub use datasets::{DatasetPart, dataset_files};
pub use download::{Downloaded, Hub, Progress};
pub use error::{Error, Result, size};
pub use listing::{Listing, RemoteFile};
pub use repository::{Kind, Repository};
pub use select::{chosen_files, model_entry, model_files, tokenizer_files};
pub use settings::{Service, Settings};
