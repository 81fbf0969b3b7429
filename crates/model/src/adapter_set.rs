//! Several adapters of one model together: what they make of each of its tensors, row by row in f32.
//!
//! The sum of adapters is the model's weight plus the change that each of them makes of it alone; what replaces rows
//! can be in one of them only. It knows neither where the weights come from nor where they go.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use danlu_kernels::dora::SHORTEST;
use danlu_kernels::team::parallel_chunks;

use crate::adapter_folder::{AdapterFolder, BaseTensors, Change};
use crate::{Config, Error, Result};

/// Adapters that were checked against the model.
pub(crate) struct AdapterSet {
    pub(crate) folders: Vec<AdapterFolder>,
    pub(crate) base: BaseTensors,
    /// Rows of embedding and head with the adapters.
    pub(crate) vocab_size: usize,
    /// Whether the head is the embedding with the adapters.
    pub(crate) is_tied: bool,
}

/// What becomes of the values of one tensor.
pub(crate) struct TensorChange<'a> {
    width: usize,
    whole: Option<(&'a AdapterFolder, &'a str)>,
    replaced: HashMap<usize, Vec<f32>>,
    low_ranks: Vec<LowRank>,
}

struct LowRank {
    /// [R, inputs]
    a: Vec<f32>,
    /// [outputs, R], scaled
    b: Vec<f32>,
    rank: usize,
    /// [outputs]
    magnitude: Option<Vec<f32>>,
}

impl AdapterSet {
    /// # Errors
    /// As [`AdapterFolder::open`], and adapters that cannot be added to each other.
    pub(crate) fn open(folders: &[&Path], config: &Config) -> Result<Self> {
        let base = BaseTensors::new(config);
        let folders =
            folders.iter().map(|folder| AdapterFolder::open(folder, &base)).collect::<Result<Vec<_>>>()?;
        let mut set = Self { folders, vocab_size: base.vocab_size(), is_tied: base.is_tied, base };
        set.is_tied = set.base.is_tied && set.heads_agree()?;
        let names = set.base.names;
        let tables = [names.embedding, names.head].map(|name| (name, set.rows(name)));
        set.vocab_size = set.rows(names.embedding)?;
        if let [(embedding, Ok(rows)), (head, Ok(others))] = tables
            && rows != others
        {
            return Err(Error::Message(format!(
                "with the adapter, `{embedding}` has {rows} rows and `{head}` {others}; expected the adapter to hold \
                 both in whole"
            )));
        }
        Ok(set)
    }

    /// What is done to a tensor, with the adapter that does it. Where the model's head is its embedding, a table that
    /// an adapter carries without training it is the shared one, and trained rows are those of both, unless the head is
    /// trained whole.
    pub(crate) fn changes(&self, name: &str) -> Vec<(&AdapterFolder, &Change)> {
        let names = self.base.names;
        let other = match name {
            name if name == names.embedding => names.head,
            name if name == names.head => names.embedding,
            _ => "",
        };
        let mut changes = Vec::new();
        for folder in &self.folders {
            let of = |name: &str| folder.changes.get(name).into_iter().flatten();
            let is_shared = self.base.is_tied && !other.is_empty();
            if is_shared && folder.config.ensure_weight_tying {
                changes.extend(of(names.embedding).map(|change| (folder, change)));
                continue;
            }
            changes.extend(of(name).map(|change| (folder, change)));
            let has_whole = of(name).any(|change| matches!(change, Change::Whole { .. }));
            let trains_whole =
                of(name).any(|change| matches!(change, Change::Whole { is_trained: true, .. }));
            let both = |change: &&Change| match change {
                Change::Whole { is_trained, .. } => !has_whole && !is_trained,
                Change::Rows { .. } => name == names.head && !trains_whole,
                Change::LowRank { .. } => false,
            };
            if is_shared {
                changes.extend(of(other).filter(both).map(|change| (folder, change)));
            }
        }
        changes
    }

    /// Rows of a table with the adapters.
    fn rows(&self, name: &str) -> Result<usize> {
        match self.whole(name)? {
            Some((folder, stored)) => Ok(folder.shape(stored)?[0]),
            None => Ok(self.base.vocab_size()),
        }
    }

    /// The whole copy of a tensor.
    fn whole(&self, name: &str) -> Result<Option<(&AdapterFolder, &str)>> {
        let mut found: Option<(&AdapterFolder, &str)> = None;
        for (folder, change) in self.changes(name) {
            let Change::Whole { stored, .. } = change else { continue };
            match found {
                Some((other, same)) if other.bytes(same)? != folder.bytes(stored)? => {
                    return Err(Error::Message(format!(
                        "`{}` and `{}` both hold a whole `{name}`, and not the same; only one of them can be used",
                        other.path.display(),
                        folder.path.display()
                    )));
                }
                Some(_) => {}
                None => found = Some((folder, stored)),
            }
        }
        Ok(found)
    }

    /// Whether a tied head and its embedding are still the same.
    fn heads_agree(&self) -> Result<bool> {
        let names = self.base.names;
        let tables = [names.embedding, names.head];
        let low_rank = |name: &str| {
            let all = self.changes(name).into_iter();
            all.filter(|(_, change)| matches!(change, Change::LowRank { .. }))
                .map(|(folder, change)| (&folder.path, change))
                .collect::<Vec<_>>()
        };
        let [embedding, head] = tables.map(|name| self.whole(name));
        let same = match (embedding?, head?) {
            (Some((one, embedding)), Some((other, head))) => one.bytes(embedding)? == other.bytes(head)?,
            // A table that grew can only be the shared one.
            (Some((folder, stored)), None) | (None, Some((folder, stored))) => {
                folder.shape(stored)?[0] != self.base.vocab_size()
            }
            (None, None) => true,
        };
        Ok(same && low_rank(names.embedding) == low_rank(names.head))
    }

    /// Reads what is done to a tensor of rows of `width`; `None` if nothing is.
    ///
    /// # Errors
    /// A tensor of an adapter that cannot be read, and rows that two adapters replace.
    pub(crate) fn load(&self, name: &str, width: usize) -> Result<Option<TensorChange<'_>>> {
        self.load_some(name, width, |_| true)
    }

    /// The same for the changes that are `wanted`.
    pub(crate) fn load_some(
        &self,
        name: &str,
        width: usize,
        wanted: impl Fn(&Change) -> bool,
    ) -> Result<Option<TensorChange<'_>>> {
        let mut loaded = TensorChange { width, whole: None, replaced: HashMap::new(), low_ranks: Vec::new() };
        let changes: Vec<_> = self.changes(name).into_iter().filter(|(_, change)| wanted(change)).collect();
        if changes.is_empty() {
            return Ok(None);
        }
        let mut owners = BTreeMap::new();
        for (folder, change) in changes {
            match change {
                Change::Whole { .. } => loaded.whole = self.whole(name)?,
                Change::Rows { stored, ids } => {
                    let values = folder.values(stored)?;
                    for (id, row) in ids.iter().zip(values.chunks_exact(width)) {
                        if let Some(other) = owners.insert(*id, &folder.path) {
                            return Err(Error::Message(format!(
                                "`{}` and `{}` both hold row {id} of `{name}`; only one of them can be used",
                                other.display(),
                                folder.path.display()
                            )));
                        }
                        loaded.replaced.insert(*id, row.to_vec());
                    }
                }
                Change::LowRank { a, b, magnitude, is_embedding, rank, scale } => {
                    let (mut a, mut b) = (folder.values(a)?, folder.values(b)?);
                    if *is_embedding {
                        // Wᵀ (+)= B·A, so W (+)= Aᵀ·Bᵀ.
                        let columns = a.len() / rank;
                        (a, b) = (transposed(&b, width, *rank), transposed(&a, *rank, columns));
                    }
                    b.iter_mut().for_each(|value| *value *= *scale as f32);
                    let magnitude = magnitude.as_ref().map(|stored| folder.values(stored)).transpose()?;
                    loaded.low_ranks.push(LowRank { a, b, rank: *rank, magnitude });
                }
            }
        }
        Ok(Some(loaded))
    }
}

impl TensorChange<'_> {
    /// Whether the values that were there are replaced.
    pub(crate) fn replaces_all(&self) -> bool {
        self.whole.is_some()
    }

    /// Changes the values of whole rows, of which the first has number `first`.
    ///
    /// # Errors
    /// A whole copy that cannot be read.
    pub(crate) fn apply(&self, first: usize, values: &mut [f32]) -> Result<()> {
        let width = self.width;
        if let Some((folder, stored)) = self.whole {
            folder.read(stored, first * width, values)?;
        }
        parallel_chunks(values, width, |row, values| {
            let row = first + row;
            if let Some(replaced) = self.replaced.get(&row) {
                values.copy_from_slice(replaced);
            }
            self.add_low_ranks(row, values);
        });
        Ok(())
    }

    fn add_low_ranks(&self, row: usize, values: &mut [f32]) {
        // A magnitude is of the weight alone, whatever other adapters add to it.
        let magnitude = |low_rank: &&LowRank| low_rank.magnitude.is_some();
        let before = self.low_ranks.iter().any(|low_rank| magnitude(&low_rank)).then(|| values.to_vec());
        for low_rank in &self.low_ranks {
            let Some(b) = low_rank.b.get(row * low_rank.rank..(row + 1) * low_rank.rank) else { continue };
            match (&low_rank.magnitude, &before) {
                (Some(magnitude), Some(before)) => {
                    let mut adapted = before.clone();
                    low_rank.add_row(b, &mut adapted);
                    let square: f64 = adapted.iter().map(|value| f64::from(*value).powi(2)).sum();
                    let factor = magnitude[row] / (square.sqrt() as f32).max(SHORTEST);
                    let pairs = adapted.iter().zip(before);
                    values.iter_mut().zip(pairs).for_each(|(value, (adapted, before))| {
                        *value += factor * adapted - before;
                    });
                }
                _ => low_rank.add_row(b, values),
            }
        }
    }
}

impl LowRank {
    fn add_row(&self, b: &[f32], values: &mut [f32]) {
        for (factor, a) in b.iter().zip(self.a.chunks_exact(values.len())) {
            values.iter_mut().zip(a).for_each(|(value, a)| *value += factor * a);
        }
    }
}

/// [rows, columns] → [columns, rows]
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}
