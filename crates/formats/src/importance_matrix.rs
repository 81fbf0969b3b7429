//! llama.cpp's importance matrices: for each tensor the mean square of every column's inputs, by which a quantizer weighs
//! its errors.
//!
//! Both forms that `llama-imatrix` has written are read: GGUF with sums and counts, and before August 2025 a file of its
//! own (`.dat`). Written is GGUF. It neither computes nor applies them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::mapped_file::MappedFile;
use crate::{Array, Dtype, Error, Gguf, Result, TensorInfo, Value, write_gguf};

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const FORMAT: &str = "importance matrix";

/// What an importance matrix holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportanceMatrix {
    /// Where it was read from or written to.
    pub path: Option<PathBuf>,
    /// The calibration texts.
    pub datasets: Vec<String>,
    /// Pieces of text that the model has seen.
    pub chunks: Option<u32>,
    /// Tokens of a piece.
    pub chunk_size: u32,
    /// By the tensor's name in GGUF.
    pub tensors: BTreeMap<String, Importance>,
}

/// One tensor's inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importance {
    /// Of each column: Σ x².
    pub sums: Vec<f32>,
    /// How many x there were; 0 where there was no input.
    pub count: f32,
}

impl Importance {
    /// The mean of x² by column, as llama.cpp's quantizer takes it; of a tensor without input 1.
    pub fn means(&self) -> Vec<f32> {
        match self.count > 0.0 {
            true => self.sums.iter().map(|sum| sum / self.count).collect(),
            false => vec![1.0; self.sums.len()],
        }
    }
}

impl ImportanceMatrix {
    /// Reads either form, by its content.
    ///
    /// # Errors
    /// A file that cannot be read, that is neither, or that is damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = MappedFile::open(path)?;
        let read = match file.bytes().starts_with(b"GGUF") {
            true => from_gguf(&Gguf::open(path)?)?,
            false => Reader { path, bytes: file.bytes() }.read()?,
        };
        for (name, importance) in &read.tensors {
            let is_weight = |value: &f32| (0.0..=f32::MAX).contains(value);
            if !is_weight(&importance.count) || !importance.sums.iter().all(is_weight) {
                let reason = format!("the importance of `{name}` should be finite numbers from 0");
                return Err(Error::Invalid { path: path.into(), format: FORMAT, reason });
            }
        }
        Ok(Self { path: Some(path.into()), ..read })
    }

    /// Writes it as GGUF.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let text = |text: &str| Value::String(text.into());
        let metadata = [
            ("general.type".to_owned(), text("imatrix")),
            ("imatrix.datasets".to_owned(), Value::Array(Array::Strings(self.datasets.iter().collect()))),
            ("imatrix.chunk_count".to_owned(), Value::U32(self.chunks.unwrap_or(0))),
            ("imatrix.chunk_size".to_owned(), Value::U32(self.chunk_size)),
        ];
        let info = |name: &str, end: &str, columns: usize| TensorInfo {
            name: format!("{name}{end}"),
            dtype: Dtype::F32,
            shape: vec![1, columns],
        };
        let infos: Vec<TensorInfo> = (self.tensors.iter())
            .flat_map(|(name, own)| [info(name, SUMS, own.sums.len()), info(name, COUNTS, 1)])
            .collect();
        let values: Vec<&[f32]> =
            self.tensors.values().flat_map(|own| [&own.sums[..], std::slice::from_ref(&own.count)]).collect();
        write_gguf(path, &metadata, &infos, |place, sink| {
            sink.write(&values[place].iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
        })
    }
}

fn from_gguf(gguf: &Gguf) -> Result<ImportanceMatrix> {
    let invalid = |reason: String| Error::Invalid { path: gguf.path().into(), format: FORMAT, reason };
    let floats = |name: &str| -> Result<Vec<f32>> {
        let tensor = gguf.tensor(name).ok_or_else(|| invalid(format!("it has no `{name}`")))?;
        match tensor.info.dtype {
            Dtype::F32 => {
                Ok(tensor.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
            }
            other => Err(invalid(format!("`{name}` should be F32, but is {other}"))),
        }
    };
    let mut tensors = BTreeMap::new();
    for info in gguf.tensors() {
        let Some(name) = info.name.strip_suffix(SUMS) else { continue };
        let sums = floats(&info.name)?;
        let count = match floats(&format!("{name}{COUNTS}"))?[..] {
            [count] => count,
            // One for each expert of a mixture, which no model here has.
            _ => return Err(invalid(format!("`{name}{COUNTS}` should be one number"))),
        };
        tensors.insert(name.to_owned(), Importance { sums, count });
    }
    if tensors.is_empty() {
        return Err(invalid(format!("it has no tensors that end in `{SUMS}`: is it a model?")));
    }
    let whole = |key: &str| -> Result<Option<u32>> {
        Ok(gguf.get_usize(key)?.and_then(|value| u32::try_from(value).ok()))
    };
    let datasets = gguf.get_strings("imatrix.datasets")?;
    Ok(ImportanceMatrix {
        path: None,
        datasets: datasets
            .map(|list| list.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect())
            .unwrap_or_default(),
        chunks: whole("imatrix.chunk_count")?,
        chunk_size: whole("imatrix.chunk_size")?.unwrap_or(0),
        tensors,
    })
}

/// The older form: a count of entries; of each its name, how often it was called and its values; the number of the last
/// call, and the text's name.
struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn read(mut self) -> Result<ImportanceMatrix> {
        let mut tensors = BTreeMap::new();
        for _ in 0..self.length()? {
            let name = self.text()?;
            let count = self.length()? as f32;
            let columns = self.length()?;
            let bytes = self.take(columns.saturating_mul(4))?;
            let sums = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            // A count of 0 says that the values are means already.
            tensors.insert(name, Importance { sums, count: if count > 0.0 { count } else { 1.0 } });
        }
        if tensors.is_empty() {
            return Err(self.invalid("it has no entries"));
        }
        let (mut chunks, mut datasets) = (None, Vec::new());
        if !self.bytes.is_empty() {
            chunks = u32::try_from(self.length()?).ok();
            datasets.push(self.text()?);
        }
        Ok(ImportanceMatrix { path: None, datasets, chunks, chunk_size: 0, tensors })
    }

    fn invalid(&self, reason: &str) -> Error {
        let reason = format!("{reason}; expected one that `llama-imatrix` or `danlu convert` has written");
        Error::Invalid { path: self.path.into(), format: FORMAT, reason }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let taken = self.bytes.split_at_checked(length);
        let (taken, rest) = taken.ok_or_else(|| self.invalid("it ends too early, or is something else"))?;
        self.bytes = rest;
        Ok(taken)
    }

    /// An i32 from 0.
    fn length(&mut self) -> Result<usize> {
        let number = self.take(4)?.first_chunk().map(|bytes| i32::from_le_bytes(*bytes));
        let number = number.and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| self.invalid("a length in it is negative"))
    }

    fn text(&mut self) -> Result<String> {
        let length = self.length()?;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }
}
