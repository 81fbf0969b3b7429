//! The one error type of this crate.

/// Why a chart or a page could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file could not be written; the message carries its path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The picture could not be drawn or encoded.
    #[error("the chart could not be drawn as PNG: {0}")]
    Png(String),
}
