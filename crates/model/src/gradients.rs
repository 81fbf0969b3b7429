//! Memory of gradients: all of them side by side, or a small one whose places are used again.
//!
//! The backward asks for a parameter's place when it first adds to it and gives it back when the sink has seen the
//! complete gradient. Whether places last is decided here and nowhere else.

use std::ops::Range;

use danlu_kernels::elementwise::clear;
use danlu_kernels::unit_rows::unit_rows_backward;
use danlu_kernels::{Buffer, View, ViewMut};

use crate::names::{self, Extra, Part, TensorId, block_tensor};
use crate::{GradientSink, Model, Module, ParameterId};

/// The parts of a block's backward in order: the norm, the layers and the norms of heads whose gradients each
/// completes.
pub(crate) const STAGES: [(Option<Part>, &[Module], &[Extra]); 4] = [
    (None, &[Module::Down], &[]),
    (Some(Part::PostNorm), &[Module::Gate, Module::Up], &[]),
    (None, &[Module::Output], &[]),
    (
        Some(Part::InputNorm),
        &[Module::Query, Module::Key, Module::Value],
        &[Extra::QueryNorm, Extra::KeyNorm],
    ),
];

/// Gradients of a model's trained parameters, f32.
pub struct Gradients {
    memory: Buffer<f32>,
    /// Elements of each parameter.
    sizes: Vec<usize>,
    /// Where each gradient is, if it is in memory.
    places: Vec<Option<Range<usize>>>,
    lasting: bool,
}

impl Gradients {
    /// All gradients of a step, laid out as [`crate::Parameters`]; they last until [`clear`](Self::clear).
    pub fn whole(model: &Model) -> Self {
        let list = model.parameters().list();
        Self {
            memory: Buffer::zeros(model.parameters().len()),
            sizes: list.iter().map(|parameter| parameter.range.len()).collect(),
            places: list.iter().map(|parameter| Some(parameter.range.clone())).collect(),
            lasting: true,
        }
    }

    /// Room for what is incomplete at a time, [`Model::passing_gradient_elements`]: a gradient is gone once the sink
    /// has seen it, so that a step can have one backward only.
    pub fn passing(model: &Model) -> Self {
        let list = model.parameters().list();
        Self {
            memory: Buffer::zeros(model.passing_gradient_elements()),
            sizes: list.iter().map(|parameter| parameter.range.len()).collect(),
            places: vec![None; list.len()],
            lasting: false,
        }
    }

    /// Zeros everywhere, for the next step.
    pub fn clear(&mut self) {
        if self.lasting {
            clear(self.memory.first_mut(self.memory.len()));
        }
    }

    /// The gradient of a parameter; empty if it is not in memory.
    pub fn view(&self, id: ParameterId) -> View<'_, f32> {
        self.memory.view(self.places[id.0].clone().unwrap_or_default())
    }

    /// The gradient of a parameter, to add to.
    pub(crate) fn add_to(&mut self, id: ParameterId) -> ViewMut<'_, f32> {
        let place = self.place(id);
        self.memory.view_mut(place)
    }

    /// The gradients of two parameters that follow each other.
    pub(crate) fn add_to_both(&mut self, ids: [ParameterId; 2]) -> (ViewMut<'_, f32>, ViewMut<'_, f32>) {
        let [first, second] = ids.map(|id| self.place(id));
        debug_assert_eq!(first.end, second.start);
        self.memory.view_mut(first.start..second.end).split_at(first.len())
    }

    fn place(&mut self, id: ParameterId) -> Range<usize> {
        if let Some(place) = &self.places[id.0] {
            return place.clone();
        }
        let start = self.places.iter().flatten().map(|place| place.end).max().unwrap_or(0);
        let place = start..start + self.sizes[id.0];
        self.places[id.0] = Some(place.clone());
        clear(self.memory.view_mut(place.clone()));
        place
    }

    fn release(&mut self, id: ParameterId) {
        if !self.lasting {
            self.places[id.0] = None;
        }
    }
}

impl Model {
    /// Elements of the gradients that are incomplete at the same time at most: a tied table waits for the embedding's
    /// backward, everything else is complete at the end of its stage.
    pub fn passing_gradient_elements(&self) -> usize {
        let size = |id: Option<ParameterId>| id.map_or(0, |id| self.parameters.list()[id.0].range.len());
        let tensor = |tensor: TensorId| size(self.trained_table(tensor));
        let config = &self.config;
        let stages = (0..config.num_hidden_layers).flat_map(|layer| {
            let elements = move |stage| self.trained_in_stage(layer, stage).map(|id| size(Some(id))).sum();
            (0..STAGES.len()).map(elements)
        });
        let largest_stage = stages.max().unwrap_or(0);
        let (head, norm) = (tensor(names::head(config)), tensor(names::final_norm(config)));
        if config.tie_word_embeddings {
            head + norm.max(largest_stage)
        } else {
            (head + norm).max(largest_stage).max(tensor(names::EMBEDDING))
        }
    }

    /// What is trained of a stage of a block's backward.
    pub(crate) fn trained_in_stage(
        &self,
        layer: usize,
        stage: usize,
    ) -> impl Iterator<Item = ParameterId> + use<'_> {
        let (norm, modules, extras) = STAGES[stage];
        let norm = norm.and_then(|part| self.trained(block_tensor(&self.config, layer, part)));
        let modules = modules.iter().flat_map(move |&module| self.trained_in(layer, module)).flatten();
        let extras = extras.iter().filter_map(move |&extra| self.trained_extra(layer, extra));
        norm.into_iter().chain(modules).chain(extras)
    }

    /// Tells the sink that a gradient is complete, and lets its place be used again. What a head used with rows of
    /// length one got becomes the gradient of its weight when the step has no further backward.
    pub(crate) fn complete(
        &mut self,
        id: ParameterId,
        gradients: &mut Gradients,
        sink: &mut impl GradientSink,
    ) {
        let place = gradients.place(id);
        if self.trained_unit_head() == Some(id) && sink.is_last_backward() {
            let gradient = gradients.memory.view_mut(place.clone());
            unit_rows_backward(self.parameters.view(id), self.config.hidden_size, gradient);
            self.unit_head.forget();
        }
        if sink.is_last_backward() {
            self.adapters.forget_lengths(Some(id));
        }
        sink.ready(id, &mut self.parameters, gradients.memory.view(place));
        gradients.release(id);
        self.renew_token_rows(Some(id));
    }

    /// [`complete`](Self::complete) for a stage of a block, whose weights are not used again in this backward.
    pub(crate) fn complete_stage(
        &mut self,
        layer: usize,
        stage: usize,
        gradients: &mut Gradients,
        sink: &mut impl GradientSink,
    ) {
        let trained: Vec<ParameterId> = self.trained_in_stage(layer, stage).collect();
        for id in trained {
            self.complete(id, gradients, sink);
        }
    }
}
