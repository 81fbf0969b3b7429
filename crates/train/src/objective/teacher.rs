//! The teacher of a distillation: it reads the training samples once, before the first step, and its most probable tokens at every
//! learned position are kept in the folder `distillation` of the run.
//!
//! `top_k.bin` holds for each position, in the order of the samples, K times an id (u32) and its log-probability (f32), little-endian;
//! `teacher.json` says of which teacher, data and settings that is and how many positions are safely on disk. What was cut off goes
//! on from there, and what is of another teacher or of other data is made anew. The student is not in memory while the teacher reads,
//! nor is the teacher afterwards. The loss is in [`distillation`](super::distillation).

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use danlu_data::SampleSet;
use danlu_data::slices::{SLICE_TOKENS, StepSlices};
use danlu_formats::write_file_atomically;
use danlu_model::{Activations, Keep, Model, Precision, Resident, Rest, model_files, open, open_shape};
use danlu_tokenizer::Tokenizer;
use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::distillation::SoftSlice;
use super::step::{Step, Steps};
use crate::checkpoint::samples_fingerprint;
use crate::error::{Result, TrainError};
use crate::flops::forward_flops_per_token;
use crate::optimizer_step::model_input;
use crate::plan::forward_bytes;
use crate::recipe::Recipe;

/// The folder within that of the run.
pub const FOLDER: &str = "distillation";
const ROWS: &str = "top_k.bin";
const STATE: &str = "teacher.json";
/// What the files are like; with another number they are made anew.
const VERSION: u32 = 2;
/// Samples whose slices are made together.
const AT_ONCE: usize = 64;
/// Work that a kill may cost.
const BETWEEN_SAVES: Duration = Duration::from_secs(10);
/// Bytes of an id and its log-probability.
const PAIR: usize = 8;

/// What makes two readings the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    version: u32,
    /// Name, bytes and time of change of each file with weights of the teacher, and of its configuration.
    teacher: Vec<(String, u64, String)>,
    precision: String,
    /// Hash of every token and weight of the training samples.
    data: String,
    top_k: usize,
    /// Ids below this number are kept: both models have them.
    vocabulary: usize,
}

/// How far a reading is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    of: Identity,
    /// Positions that are on disk.
    positions: u64,
}

/// What a teacher will do, before it does it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reading {
    /// How many tokens are kept of a position.
    pub top_k: usize,
    /// Learned positions of all training samples.
    pub positions: u64,
    /// Those that an earlier run has kept.
    pub kept: u64,
    /// Why what an earlier run has kept is of no use, where that is so.
    pub anew: Option<&'static str>,
    /// Tokens that the teacher has yet to read.
    pub tokens: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Floating-point operations for a token.
    pub flops_per_token: f64,
    /// Memory while the teacher reads; 0 if all is kept.
    pub memory: usize,
}

/// A teacher whose weights are not in memory.
pub struct Teacher {
    /// What it will do.
    pub reading: Reading,
    path: PathBuf,
    folder: PathBuf,
    identity: Identity,
    precision: Precision,
    capacity: usize,
}

/// The shape of the teacher of a recipe, and which tokens it knows; none without a teacher.
///
/// # Errors
/// A teacher that cannot be opened, or has another vocabulary than the student.
pub fn shape(
    recipe: &Recipe,
    tokenizer: &Tokenizer,
    precision: Precision,
) -> Result<Option<(Model, Vec<bool>)>> {
    let Some(path) = path(recipe) else { return Ok(None) };
    let opened = open_shape(&path, precision, Rest::Stored)?;
    let Some(own) = &opened.tokenizer else {
        return Err(problem(format!(
            "`{}` has no tokenizer to compare with the student's; put its tokenizer.json or tokenizer.model {}",
            path.display(),
            if path.is_dir() { "into it" } else { "beside it" }
        )));
    };
    let texts = |tokenizer: &Tokenizer| -> Vec<Option<String>> {
        (0..tokenizer.vocabulary_size() as u32).map(|id| tokenizer.token_text(id)).collect()
    };
    let (here, there) = (texts(tokenizer), texts(own));
    let pairs = here.iter().zip(&there).enumerate();
    let other = pairs.filter_map(|(id, pair)| Some((id, pair.0.as_ref()?, pair.1.as_ref()?)));
    if let Some((id, here, there)) = other.into_iter().find(|(_, here, there)| here != there) {
        return Err(problem(format!(
            "`{}` has another vocabulary than the student: token {id} is `{there}` there and `{here}` here; expected a model with \
             the same vocabulary, such as a larger one of the same family",
            path.display()
        )));
    }
    let knows = there.iter().map(Option::is_some).take(opened.model.config().vocab_size).collect();
    Ok(Some((opened.model, knows)))
}

fn path(recipe: &Recipe) -> Option<PathBuf> {
    Some(recipe.model.place(recipe.distillation.teacher_model_name_or_path.as_deref()?))
}

fn problem(problem: String) -> TrainError {
    TrainError::Option { key: "teacher_model_name_or_path", problem }
}

impl Teacher {
    /// The teacher of this shape, which knows these tokens, for the samples of `steps`, whose order has this number, and a student
    /// with so many rows in its embedding.
    ///
    /// # Errors
    /// Samples that the teacher does not take.
    pub fn new(
        recipe: &Recipe,
        (shape, knows): &(Model, Vec<bool>),
        steps: &Steps,
        student_rows: usize,
    ) -> Result<Self> {
        let samples = &steps.samples;
        let (path, top_k) = (path(recipe).unwrap_or_default(), recipe.distillation.distillation_top_k);
        let name = path.display();
        let vocabulary = student_rows.min(shape.config().vocab_size);
        if top_k > vocabulary {
            let problem = format!("{top_k} is more than the vocabulary has, {vocabulary} tokens; lower it");
            return Err(TrainError::Option { key: "distillation_top_k", problem });
        }
        let (longest, context) = (steps.longest(), shape.config().context_length());
        if longest > context {
            return Err(problem(format!(
                "`{name}` has a context of {context} tokens, and the longest sample has {longest}; lower `cutoff_len` to {context}"
            )));
        }
        let unknown = |id: &u32| !knows.get(*id as usize).is_some_and(|knows| *knows);
        if let Some(id) = samples.iter().flat_map(|sample| sample.ids).find(unknown) {
            return Err(problem(format!(
                "`{name}` does not know token {id}, which is in the data; expected a model with the same vocabulary"
            )));
        }
        let all: Vec<usize> = (0..samples.len()).collect();
        let sizes = steps.sizes(&all);
        let positions: u64 = sizes.iter().map(|size| size.targets as u64).sum();
        let targets = sizes.iter().map(|size| size.targets).max().unwrap_or(0);
        let all_tokens: u64 = sizes.iter().map(|size| size.tokens as u64).sum();
        let capacity = longest.max(SLICE_TOKENS);
        let identity = Identity {
            version: VERSION,
            teacher: model_files(&path)?,
            precision: format!("{:?}", shape.precision()),
            data: format!("{:016x}", samples_fingerprint(samples)),
            top_k,
            vocabulary,
        };
        let folder = recipe.output.output_dir.join(FOLDER);
        let (kept, anew) = kept(&folder, &identity);
        let is_whole = kept == positions;
        let tokens = (all_tokens as f64 * (1.0 - kept as f64 / positions.max(1) as f64)).ceil() as u64;
        let reading = Reading {
            top_k,
            positions,
            kept,
            anew,
            tokens: if is_whole { 0 } else { tokens },
            bytes: positions * (top_k * PAIR) as u64,
            flops_per_token: forward_flops_per_token(shape, all_tokens as usize / samples.len().max(1)),
            memory: if is_whole { 0 } else { forward_bytes(shape, [capacity, targets], samples.bytes()) },
        };
        Ok(Self { reading, path, folder, identity, precision: shape.precision(), capacity })
    }

    /// Reads what is not kept yet; `goes_on` hears of the tokens that are done, and may stop the work.
    ///
    /// # Errors
    /// A teacher that cannot be opened or says what is no number, a disk that is full, or [`TrainError::TeacherStopped`].
    pub fn read(&self, steps: &Steps, goes_on: &mut dyn FnMut(usize) -> bool) -> Result<TopTokens> {
        if self.reading.kept < self.reading.positions {
            self.read_rest(steps, goes_on)?;
        }
        TopTokens::open(
            &self.folder.join(ROWS),
            &steps.samples,
            self.identity.top_k,
            self.identity.vocabulary,
        )
    }

    fn read_rest(&self, steps: &Steps, goes_on: &mut dyn FnMut(usize) -> bool) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        let kept = self.reading.kept;
        if kept == 0 {
            self.save(0)?;
        }
        let row_bytes = (self.identity.top_k * PAIR) as u64;
        let mut file =
            fs::OpenOptions::new().create(true).truncate(false).write(true).open(self.folder.join(ROWS))?;
        file.set_len(kept * row_bytes)?;
        let model = open(&self.path, self.precision, Rest::Stored)?.model;
        let mut activations = Activations::new(&model, self.capacity, Keep::Nothing);
        let (mut position, mut saved) = (0, Instant::now());
        let indices: Vec<usize> = (0..steps.samples.len()).collect();
        for indices in indices.chunks(AT_ONCE) {
            let count: usize = indices.iter().map(|&index| steps.samples.size(index).targets).sum();
            if position + count as u64 <= kept {
                position += count as u64;
                continue;
            }
            for slice in &steps.step(indices).slices.slices {
                let start = position;
                position += slice.targets.len() as u64;
                if position <= kept {
                    continue;
                }
                file.seek(SeekFrom::Start(start * row_bytes))?;
                file.write_all(&self.rows(&model, slice, &mut activations)?)?;
                let stops = !goes_on(slice.ids.len());
                if stops || saved.elapsed() > BETWEEN_SAVES {
                    file.sync_data()?;
                    self.save(position)?;
                    saved = Instant::now();
                }
                if stops && position < self.reading.positions {
                    return Err(TrainError::TeacherStopped);
                }
            }
        }
        file.sync_data()?;
        self.save(position)
    }

    /// What `model` finds most probable at the targets of a slice, as it is written.
    fn rows(
        &self,
        model: &Model,
        slice: &danlu_data::Slice,
        activations: &mut Activations,
    ) -> Result<Vec<u8>> {
        let (tokens, targets) = model_input(slice);
        model.forward(&tokens, activations, &mut Resident)?;
        let mut ids = vec![0; targets.len() * self.identity.top_k];
        let mut log_probabilities = vec![0.0; ids.len()];
        let among = self.identity.vocabulary;
        model.most_probable(&tokens, &targets, among, activations, &mut ids, &mut log_probabilities);
        if log_probabilities.iter().any(|value| !value.is_finite()) {
            return Err(problem(format!(
                "`{}` gives probabilities that are no numbers; check it with `danlu eval ppl`",
                self.path.display()
            )));
        }
        let pairs = ids.iter().zip(&log_probabilities);
        Ok(pairs.flat_map(|(id, value)| [id.to_le_bytes(), value.to_le_bytes()].concat()).collect())
    }

    fn save(&self, positions: u64) -> Result<()> {
        let state = State { of: self.identity.clone(), positions };
        let text = serde_json::to_vec_pretty(&state).map_err(io::Error::from)?;
        Ok(write_file_atomically(self.folder.join(STATE), &text)?)
    }
}

impl Identity {
    /// Why what was kept under this identity is of no use under another.
    fn difference(&self, now: &Self) -> Option<&'static str> {
        let kinds = [
            ("another version of danlu wrote it", self.version == now.version),
            ("the files of the teacher have changed", self.teacher == now.teacher),
            ("the precision is another", self.precision == now.precision),
            ("the training samples are others", self.data == now.data),
            ("`distillation_top_k` is another", self.top_k == now.top_k),
            ("the vocabulary is another", self.vocabulary == now.vocabulary),
        ];
        kinds.into_iter().find(|(_, is_same)| !is_same).map(|(why, _)| why)
    }
}

/// How many positions of this reading are in `folder`, and why none can be used where some are there.
fn kept(folder: &Path, identity: &Identity) -> (u64, Option<&'static str>) {
    let Ok(text) = fs::read(folder.join(STATE)) else { return (0, None) };
    let Ok(state) = serde_json::from_slice::<State>(&text) else {
        return (0, Some("`teacher.json` is damaged"));
    };
    if let Some(why) = state.of.difference(identity) {
        return (0, Some(why));
    }
    let bytes = fs::metadata(folder.join(ROWS)).map_or(0, |metadata| metadata.len());
    let is_there = bytes / (identity.top_k * PAIR) as u64 >= state.positions;
    if is_there { (state.positions, None) } else { (0, Some("`top_k.bin` is shorter than it was")) }
}

/// The teacher's most probable tokens of every training sample, on disk.
#[derive(Debug)]
pub struct TopTokens {
    file: fs::File,
    top_k: usize,
    vocabulary: usize,
    /// The first position of each sample, and the end of the last.
    starts: Vec<u64>,
}

impl TopTokens {
    fn open(path: &Path, samples: &SampleSet, top_k: usize, vocabulary: usize) -> Result<Self> {
        let mut starts = vec![0];
        let mut position = 0;
        starts.extend((0..samples.len()).map(|index| {
            position += samples.size(index).targets as u64;
            position
        }));
        Ok(Self { file: fs::File::open(path)?, top_k, vocabulary, starts })
    }

    /// Puts beside each slice of a step of these samples what the teacher says of it.
    ///
    /// # Errors
    /// A file that cannot be read, or is damaged.
    pub fn add_to(&mut self, step: &mut Step, indices: &[usize]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for &index in indices {
            let [start, end] = [self.starts[index], self.starts[index + 1]];
            let row_bytes = (self.top_k * PAIR) as u64;
            self.file.seek(SeekFrom::Start(start * row_bytes))?;
            let length = (end - start) * row_bytes;
            if (&mut self.file).take(length).read_to_end(&mut bytes)? as u64 != length {
                return Err(self.damaged());
            }
        }
        step.soft = self.slices(&step.slices, &bytes);
        let is_known = |id: &u32| (*id as usize) < self.vocabulary;
        if step.soft.iter().flat_map(|slice| &slice.ids).all(is_known) { Ok(()) } else { Err(self.damaged()) }
    }

    fn slices(&self, slices: &StepSlices, bytes: &[u8]) -> Vec<SoftSlice> {
        let mut pairs = bytes.as_chunks::<PAIR>().0.iter();
        let of_slice = |slice: &danlu_data::Slice| {
            let pairs = pairs.by_ref().take(slice.targets.len() * self.top_k);
            let pairs = pairs.map(|[a, b, c, d, value @ ..]| {
                (u32::from_le_bytes([*a, *b, *c, *d]), f32::from_le_bytes(*value))
            });
            let (ids, log_probabilities) = pairs.unzip();
            SoftSlice { ids, log_probabilities }
        };
        slices.slices.iter().map(of_slice).collect()
    }

    fn damaged(&self) -> io::Error {
        let path = self.file.path();
        let problem =
            format!("`{}` is damaged; remove its folder, and the teacher reads again", path.display());
        io::Error::new(io::ErrorKind::InvalidData, problem)
    }
}
