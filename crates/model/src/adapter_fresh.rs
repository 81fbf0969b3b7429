//! New adapters: what PEFT's configuration asks for, and the values that it starts with.
//!
//! It reads no adapter; which modules a name means is PEFT's rule, in [`crate::adapter_patterns`].

use std::path::Path;

use danlu_formats::{AdapterConfig, InitLoraWeights, TokenIndices};
use danlu_kernels::dora::{inverse_lengths, row_squares};
use danlu_kernels::random::Random;
use danlu_kernels::{Buffer, Precision};

use crate::adapter::linear_layer;
use crate::adapter_folder::{BaseTensors, PREFIX};
use crate::adapter_patterns::AdapterPatterns;
use crate::adapter_place::{LowRankPlace, Placed, Placement};
use crate::names::{self, EMBEDDING};
use crate::pissa::{iterations_of, low_rank_elements};
use crate::{Error, Model, Module, ParameterId, Result};

/// Streams of adapters differ by this key from those of the model's tensors.
const ADAPTER: u64 = 2;

impl Model {
    /// Puts a fresh adapter on a model whose weights are frozen: what `config` says, with random values from `seed`, or
    /// where there is none with shapes alone, for plans.
    ///
    /// # Errors
    /// A setting that no tensor of the model fits, that is not followed here, or that contradicts another; in a sentence
    /// that names it as recipes do.
    pub fn add_adapter(&mut self, config: &AdapterConfig, seed: Option<u64>) -> Result<()> {
        let placement = self.placement(config)?;
        self.check_start(config, &placement)?;
        let placed = self.place(&placement, seed.is_some())?;
        match (seed, pissa(config)) {
            (Some(seed), _) => self.start(config, &placement, &placed, seed),
            // Its memory is a part of the plan.
            (None, Some(_)) => {
                self.adapters.start = Some(Buffer::zeros(low_rank_elements(&self.parameters)));
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    /// Everything that `config` names. A head that is the embedding becomes one of its own where either is trained whole.
    fn placement(&mut self, config: &AdapterConfig) -> Result<Placement> {
        let patterns = AdapterPatterns::new(config, Path::new("")).map_err(as_in_recipes)?;
        // PEFT's rule: the end of a path, with or without a dot before it.
        let saved = config.modules_to_save.as_deref().unwrap_or_default();
        let is_saved = |path: &str| saved.iter().any(|name| path.ends_with(name.as_str()));
        let family = self.config.family.names();
        let unties = [family.embedding, family.head].map(path_of).into_iter().any(is_saved);
        if unties && self.config.tie_word_embeddings {
            if !self.parameters.is_empty() {
                return Err(Error::Message(crate::adapter::FROZEN.into()));
            }
            self.set_tables(self.config.vocab_size, false);
        }
        let base = BaseTensors::new(&self.config);
        let mut placement = Placement { dropout: config.lora_dropout, ..Placement::default() };
        let (mut linear, mut targeted) = (Vec::new(), Vec::new());
        for file in &base.files {
            let path = path_of(&file.name);
            let is_linear = file.shape.len() == 2 && !base.is_table(&file.name);
            linear.extend(is_linear.then_some(path));
            let is_weight = file.name.ends_with(".weight");
            if is_saved(path) {
                let [piece] = &file.pieces[..] else { return Err(no_whole_module(path)) };
                placement.whole.push((piece.tensor, format!("{PREFIX}{}", file.name)));
            } else if is_weight && patterns.targets(path, is_linear).map_err(as_in_recipes)? == Some(true) {
                let place = linear_layer(self, file).filter(|_| is_linear);
                let (layer, module) = place.ok_or_else(|| no_low_rank(path))?;
                let (rank, scale) = patterns.rank_and_scale(path).map_err(as_in_recipes)?;
                let scale = scale as f32;
                let has_magnitude = config.use_dora;
                placement.low_ranks.push(LowRankPlace { layer, module, rank, scale, has_magnitude });
                targeted.push(path);
            }
        }
        for name in saved {
            if !base.files.iter().any(|file| path_of(&file.name).ends_with(name.as_str())) {
                let all = base.files.iter().map(|file| path_of(&file.name));
                return Err(nothing("additional_target", name, all));
            }
        }
        if placement.low_ranks.is_empty() {
            let target = serde_json::to_value(&config.target_modules).unwrap_or_default();
            let target = target.as_str().map_or_else(|| target.to_string(), str::to_owned);
            return Err(nothing("lora_target", &target, linear.into_iter()));
        }
        // PEFT is silent about what has no effect beside what has.
        let idle = patterns.idle(config, &linear, &targeted).map_err(as_in_recipes)?;
        match idle {
            Some((key @ "lora_target", name)) => return Err(nothing(key, name, linear.into_iter())),
            Some((key, name)) => {
                let there = last_parts(targeted.into_iter());
                return Err(Error::Message(format!(
                    "`{key}`: no layer with an adapter is called `{name}`; there are {there}, in blocks 0 to {}",
                    self.config.num_hidden_layers - 1
                )));
            }
            None => {}
        }
        placement.rows = self.token_rows(config)?;
        Ok(placement)
    }

    /// The rows that `trainable_token_indices` names: of the embedding, or of the tables by their names; in the order of the
    /// tables, which is that of an adapter that is read.
    fn token_rows(&self, config: &AdapterConfig) -> Result<Vec<(usize, Vec<u32>, String)>> {
        let names = self.config.family.names();
        let error = |reason: String| Error::Message(format!("`trainable_token_indices`: {reason}"));
        let rows = |tensor: usize, name: &str, ids: &[usize]| {
            let mut once = ids.to_vec();
            once.sort_unstable();
            once.dedup();
            if once.is_empty() || once.len() != ids.len() {
                return Err(error("expected at least one token id, and each once".into()));
            }
            let id = |id: &usize| u32::try_from(*id).map_err(|_| self.no_row(tensor, *id));
            let own = ids.iter().map(id).collect::<Result<_>>()?;
            Ok((tensor, own, format!("{PREFIX}{}.token_adapter.trainable_tokens_delta", path_of(name))))
        };
        match &config.trainable_token_indices {
            None => Ok(Vec::new()),
            Some(TokenIndices::Embedding(ids)) => Ok(vec![rows(EMBEDDING, names.embedding, ids)?]),
            Some(TokenIndices::Modules(modules)) => {
                let of_module = |(module, ids): (&String, &Vec<usize>)| {
                    let is = |table: &str| {
                        path_of(table) == module || path_of(table).ends_with(&format!(".{module}"))
                    };
                    if is(names.embedding) {
                        rows(EMBEDDING, names.embedding, ids)
                    } else if is(names.head) && !self.config.tie_word_embeddings {
                        rows(names::head(&self.config), names.head, ids)
                    } else if is(names.head) {
                        let own = path_of(names.embedding);
                        Err(error(format!(
                            "the head of this model is its embedding; name the rows of `{own}`"
                        )))
                    } else {
                        let own = [names.embedding, names.head].map(path_of).join("` and `");
                        Err(error(format!("`{module}` has no rows of tokens; expected `{own}`")))
                    }
                };
                let mut tables: Vec<_> = modules.iter().map(of_module).collect::<Result<_>>()?;
                tables.sort_by_key(|(tensor, ..)| *tensor);
                if let Some(twice) = tables.windows(2).find(|tables| tables[0].0 == tables[1].0) {
                    let names: Vec<String> = modules.keys().map(|name| format!("`{name}`")).collect();
                    let table = path_of(&self.specs[twice[0].0].name);
                    return Err(error(format!(
                        "two of {} name the rows of `{table}`; put them under one name",
                        names.join(", ")
                    )));
                }
                Ok(tables)
            }
        }
    }

    /// The values that a fresh adapter starts with.
    fn start(
        &mut self,
        config: &AdapterConfig,
        placement: &Placement,
        placed: &Placed,
        seed: u64,
    ) -> Result<()> {
        for (index, (place, ids)) in placement.low_ranks.iter().zip(&placed.low_ranks).enumerate() {
            let [Some(a), Some(b), magnitude] = *ids else { continue };
            let mut random = Random::new(&[seed, ADAPTER, 2 * index as u64]);
            if let Some(iterations) = pissa(config) {
                self.start_pissa(place.layer, place.module, [a, b], iterations, &mut random)?;
                continue;
            }
            self.start_matrices(&config.init_lora_weights, [a, b], &mut random);
            let Some(magnitude) = magnitude else { continue };
            let mut lengths = Vec::new();
            for &member in self.config.family.span(place.module) {
                lengths.extend(self.row_lengths(place.layer, member));
            }
            self.set_parameter(magnitude, &lengths);
        }
        if pissa(config).is_some() {
            let start = &self.parameters.values().host()[..low_rank_elements(&self.parameters)];
            self.take_start_out(Buffer::from_host(start))?;
        }
        Ok(())
    }

    /// ‖W_i + scale · B_i·A‖ of each row: an adapter may start with a product that is not zero.
    fn row_lengths(&self, layer: usize, module: Module) -> Vec<f32> {
        let Some(adapter) = self.adapters.get(layer, module) else { return Vec::new() };
        let weight = self.matrix(names::block_tensor(&self.config, layer, module.part()));
        let rows = weight.outputs();
        let (mut squares, mut inverse) = (Buffer::zeros(rows), Buffer::zeros(rows));
        row_squares(weight, squares.first_mut(rows));
        let lora = adapter.matrices(&self.parameters);
        inverse_lengths(Precision::F32, weight, lora, squares.first(rows), inverse.first_mut(rows));
        inverse.host().iter().map(|inverse| 1.0 / inverse).collect()
    }

    /// Refuses ways to start that are not followed.
    fn check_start(&self, config: &AdapterConfig, placement: &Placement) -> Result<()> {
        let error = |reason: String| Err(Error::Message(format!("`init_lora_weights`: {reason}")));
        match &config.init_lora_weights {
            InitLoraWeights::Flag(_) => Ok(()),
            InitLoraWeights::Method(method) if method == GAUSSIAN => Ok(()),
            InitLoraWeights::Method(method) if method == ORTHOGONAL => {
                match placement.low_ranks.iter().find(|place| place.rank % 2 != 0) {
                    Some(odd) => error(format!("`{ORTHOGONAL}` needs an even rank, found {}", odd.rank)),
                    None => Ok(()),
                }
            }
            InitLoraWeights::Method(_) if pissa(config).is_some() => {
                if config.use_dora {
                    let reason =
                        "`pissa_init`: goes without `use_dora`, whose lengths are those of the whole weight";
                    return Err(Error::Message(reason.into()));
                }
                placement.low_ranks.iter().try_for_each(|place| self.check_pissa(place.layer, place.module))
            }
            InitLoraWeights::Method(method) => {
                error(format!("expected true, false, `{GAUSSIAN}` or `{ORTHOGONAL}`, found `{method}`"))
            }
        }
    }

    /// A and B as PEFT draws them.
    fn start_matrices(&mut self, init: &InitLoraWeights, [a, b]: [ParameterId; 2], random: &mut Random) {
        let shapes = [a, b].map(|id| self.parameters.list()[id.0].shape.clone());
        let ([rank, inputs], [outputs, _]) = (&shapes[0][..], &shapes[1][..]) else { return };
        let (rank, inputs, outputs) = (*rank, *inputs, *outputs);
        let uniform = |random: &mut Random, count: usize, width: usize| -> Vec<f32> {
            let bound = 1.0 / (width as f64).sqrt();
            (0..count).map(|_| ((2.0 * random.uniform() - 1.0) * bound) as f32).collect()
        };
        let (first, second) = match init {
            // Kaiming with a = √5, and B zero.
            InitLoraWeights::Flag(true) => (uniform(random, rank * inputs, inputs), None),
            InitLoraWeights::Flag(false) => {
                let first = uniform(random, rank * inputs, inputs);
                (first, Some(uniform(random, outputs * rank, rank)))
            }
            InitLoraWeights::Method(method) if method == ORTHOGONAL => {
                let [first, second] = orthogonal(rank, [inputs, outputs], random);
                (first, Some(second))
            }
            InitLoraWeights::Method(_) => {
                let deviation = 1.0 / rank as f32;
                ((0..rank * inputs).map(|_| random.normal() * deviation).collect(), None)
            }
        };
        self.set_parameter(a, &first);
        if let Some(second) = second {
            self.set_parameter(b, &second);
        }
    }
}

const GAUSSIAN: &str = "gaussian";
const ORTHOGONAL: &str = "orthogonal";

/// A and B whose rows and columns lie in two orthogonal halves of the space between them, so that B·A = 0.
fn orthogonal(rank: usize, [inputs, outputs]: [usize; 2], random: &mut Random) -> [Vec<f32>; 2] {
    let mut basis: Vec<Vec<f64>> = Vec::new();
    while basis.len() < rank {
        let mut row: Vec<f64> = (0..rank).map(|_| f64::from(random.normal())).collect();
        // Twice, because once leaves what rounding made.
        for other in basis.iter().chain(&basis) {
            let product: f64 = row.iter().zip(other).map(|(one, other)| one * other).sum();
            row.iter_mut().zip(other).for_each(|(one, other)| *one -= product * other);
        }
        let length = row.iter().map(|value| value * value).sum::<f64>().sqrt();
        if length > 1e-6 {
            row.iter_mut().for_each(|value| *value /= length);
            basis.push(row);
        }
    }
    let mut combined = |width: usize, odd: usize| -> Vec<Vec<f64>> {
        let half: Vec<&Vec<f64>> = basis.iter().skip(odd).step_by(2).collect();
        let row = |random: &mut Random| {
            let factors: Vec<f64> = half.iter().map(|_| f64::from(random.normal()) / 10.0).collect();
            (0..rank).map(|r| factors.iter().zip(&half).map(|(factor, row)| factor * row[r]).sum()).collect()
        };
        (0..width).map(|_| row(random)).collect()
    };
    let (first, second) = (combined(inputs, 0), combined(outputs, 1));
    let a = (0..rank).flat_map(|r| first.iter().map(move |row| row[r] as f32)).collect();
    [a, second.iter().flatten().map(|value| *value as f32).collect()]
}

/// How many iterations a start from singular values has, if it is one.
fn pissa(config: &AdapterConfig) -> Option<Option<usize>> {
    match &config.init_lora_weights {
        InitLoraWeights::Method(method) => iterations_of(method),
        InitLoraWeights::Flag(_) => None,
    }
}

/// The module of a tensor.
fn path_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(path, _)| path)
}

/// An error of PEFT's field under the key of recipes.
fn as_in_recipes(error: Error) -> Error {
    let Error::Config { field, reason, .. } = &error else { return error };
    let key = match field.as_str() {
        "target_modules" => "lora_target",
        "modules_to_save" => "additional_target",
        "r" => "lora_rank",
        other => other,
    };
    Error::Message(format!("`{key}`: {reason}"))
}

/// Nothing has this name: what there is, each last part of these paths once.
fn nothing<'a>(key: &str, name: &str, paths: impl Iterator<Item = &'a str>) -> Error {
    let there = last_parts(paths);
    Error::Message(format!("`{key}`: nothing in this model is called `{name}`; there are {there}"))
}

fn last_parts<'a>(paths: impl Iterator<Item = &'a str>) -> String {
    let mut there = Vec::new();
    for path in paths {
        let last = path.rsplit_once('.').map_or(path, |(_, last)| last);
        if !there.contains(&last) {
            there.push(last);
        }
    }
    there.join(", ")
}

fn no_low_rank(path: &str) -> Error {
    Error::Message(format!(
        "`lora_target`: `{path}` is no linear layer of a block; train it as a whole with `additional_target`"
    ))
}

fn no_whole_module(path: &str) -> Error {
    Error::Message(format!(
        "`additional_target`: `{path}` is three layers in one here and cannot be trained as a whole beside an adapter; name \
         it in `lora_target`"
    ))
}
