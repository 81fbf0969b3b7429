//! The log-probabilities of all answers as the run begins: what preferences are measured from.
//!
//! They are computed once, before the first step, by the model that is trained, and kept in every checkpoint: a second model
//! is never in memory, and a run that goes on computes nothing again. An adapter that is continued belongs to the reference.

use std::path::Path;

use danlu_formats::{Dtype, SafetensorsFolder, TensorInfo, WriteOptions, write_safetensors};
use danlu_model::{Activations, Model};

use super::answers::answers;
use super::step::Steps;
use crate::error::{Result, TrainError};
use crate::optimizer_step::score;
use crate::recipe::Preference;

const FILE: &str = "reference";
/// What it is called in a checkpoint.
pub const FILE_NAME: &str = "reference.safetensors";

/// Of the samples of a set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SetReference {
    /// log p of each answer as a whole.
    pub answers: Vec<f64>,
    /// The same of each prompt with the answer of another row, of KTO.
    pub mismatched: Vec<f64>,
}

/// Of the samples to train on and to validate with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reference {
    /// To train on.
    pub training: SetReference,
    /// To validate with.
    pub validation: SetReference,
}

impl SetReference {
    /// Computes it with `model` as it is; `goes_on` hears of the tokens that are done, and may stop the work.
    ///
    /// # Errors
    /// A sample that the model does not take, or [`TrainError::Stopped`].
    pub fn compute(
        steps: &Steps,
        model: &Model,
        activations: &mut Activations,
        goes_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Self> {
        let mut found = Self::default();
        for step in steps.parts() {
            for (slices, values) in
                [(&step.slices, &mut found.answers), (&step.mismatched, &mut found.mismatched)]
            {
                for slice in &slices.slices {
                    let scores = score(model, slice, activations)?;
                    values.extend(answers(slice, &scores).iter().map(|answer| answer.log_probability));
                    if !goes_on(slice.ids.len()) {
                        return Err(TrainError::Stopped);
                    }
                }
            }
        }
        Ok(found)
    }
}

impl Reference {
    fn parts(&self) -> [(&'static str, &Vec<f64>); 4] {
        [
            ("training", &self.training.answers),
            ("training_mismatched", &self.training.mismatched),
            ("validation", &self.validation.answers),
            ("validation_mismatched", &self.validation.mismatched),
        ]
    }

    /// Writes it into a checkpoint; a run without reference has no file.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let parts = self.parts();
        if parts.iter().all(|(_, values)| values.is_empty()) {
            return Ok(());
        }
        let tensors = parts.map(|(name, values)| TensorInfo {
            name: name.into(),
            dtype: Dtype::F64,
            shape: vec![values.len()],
        });
        let options = WriteOptions { base_name: FILE.into(), max_shard_bytes: usize::MAX };
        write_safetensors(folder, &options, &tensors, |place, sink| -> danlu_formats::Result<()> {
            let bytes: Vec<u8> = parts[place].1.iter().flat_map(|value| value.to_le_bytes()).collect();
            sink.write(&bytes)
        })?;
        Ok(())
    }

    /// Reads that of a checkpoint; `samples` are the numbers of samples to train on and to validate with.
    ///
    /// # Errors
    /// A file that is missing, or is of other samples or of another objective.
    pub fn read(checkpoint: &Path, samples: [usize; 2], preference: Option<Preference>) -> Result<Self> {
        let error = |problem| TrainError::Resume { path: checkpoint.into(), problem };
        if !checkpoint.join(FILE_NAME).is_file() {
            return Err(error(format!(
                "it has no `{FILE_NAME}`, the log-probabilities that this `stage` and `pref_loss` compare with; restore what the \
                 run began with, or start a new run"
            )));
        }
        let tensors = SafetensorsFolder::open_named(checkpoint, FILE)?;
        let values = |name: &str| -> Vec<f64> {
            let bytes = tensors.tensor(name).map(|tensor| tensor.bytes).unwrap_or_default();
            bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
        };
        let set = |name: &str| SetReference {
            answers: values(name),
            mismatched: values(&format!("{name}_mismatched")),
        };
        let found = Self { training: set("training"), validation: set("validation") };
        let mismatched = if preference == Some(Preference::Judged) { samples } else { [0, 0] };
        let counts = |of: fn(&SetReference) -> usize| [of(&found.training), of(&found.validation)];
        let (answers, others) = (counts(|set| set.answers.len()), counts(|set| set.mismatched.len()));
        if answers != samples || others != mismatched {
            return Err(error(format!(
                "`{FILE_NAME}` holds the log-probabilities of {} answers to train on and {} to validate with, the data has {} \
                 and {}, or the `stage` is another one; restore them, or start a new run",
                answers[0], answers[1], samples[0], samples[1]
            )));
        }
        Ok(found)
    }
}
