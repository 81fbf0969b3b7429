//! After the second step the computing threads allocate nothing.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use danlu_data::{Sample, Source, step_slices};
use danlu_formats::{AdapterConfig, ModuleSelection, TokenIndices};
use danlu_model::{Activations, AttentionBias, Config, Gradients, Keep, Model, Precision};
use danlu_train::objective::Objective;
use danlu_train::objective::step::Step;
use danlu_train::optimizer::Optimizer;
use danlu_train::optimizer_step::take_step;
use danlu_train::recipe::TrainingOptions;

static BY_WORKERS: AtomicUsize = AtomicUsize::new(0);
static LARGE_BY_CALLER: AtomicUsize = AtomicUsize::new(0);
/// The caller lists the tokens and scores of a slice; what a kernel needs is larger.
const LARGE: usize = 16 << 10;

thread_local! {
    static IS_CALLER: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !IS_CALLER.get() {
            BY_WORKERS.fetch_add(1, Ordering::Relaxed);
        } else if layout.size() >= LARGE {
            LARGE_BY_CALLER.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const THREADS: usize = 2;

/// What is trained, and what the forward adds at random.
#[derive(Clone, Copy, Debug)]
enum Method {
    Full,
    /// Adapters with lengths of rows and dropout, rows of tokens, and noise on embeddings.
    Adapters,
}

#[test]
fn computing_threads_allocate_nothing_after_the_second_step() {
    IS_CALLER.set(true);
    danlu_kernels::team::set_threads(THREADS);
    let config = Config {
        vocab_size: 300,
        hidden_size: 64,
        intermediate_size: 160,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        max_position_embeddings: 512,
        rms_norm_eps: 1e-5,
        ..Config::default()
    };
    let with_every_option = Config {
        attention_bias: AttentionBias::All,
        mlp_bias: true,
        query_key_norm: true,
        normalized_head: true,
        ..config.clone()
    };
    for precision in [Precision::F32, Precision::Bf16] {
        for (config, method) in
            [(&config, Method::Full), (&with_every_option, Method::Full), (&config, Method::Adapters)]
        {
            // Which thread gets which task is chance, and a thread makes its memory at its first task of a kind. So each
            // takes a step alone before: what it has then is enough for any share of one.
            let all_are_here = Barrier::new(THREADS);
            danlu_kernels::team::parallel_for(THREADS, |_| {
                all_are_here.wait();
                Training::new(config, precision, method).step(1);
            });
            let mut training = Training::new(config, precision, method);
            for step in 1..=5 {
                let before = [&BY_WORKERS, &LARGE_BY_CALLER].map(|count| count.load(Ordering::Relaxed));
                training.step(step);
                let after = [&BY_WORKERS, &LARGE_BY_CALLER].map(|count| count.load(Ordering::Relaxed));
                assert!(
                    step <= 2 || before == after,
                    "{precision:?} {method:?} step {step}: {before:?} became {after:?}"
                );
            }
        }
    }
}

/// A small model in training.
struct Training {
    model: Model,
    optimizer: Optimizer,
    gradients: Gradients,
    activations: Activations,
    slices: Step,
}

impl Training {
    fn new(config: &Config, precision: Precision, method: Method) -> Self {
        let model = match method {
            Method::Full => Model::zeros(config.clone(), precision).initialize(1),
            Method::Adapters => {
                let mut model = Model::random(config.clone(), precision, None, 1);
                let ids = |count: usize| (0..count).collect();
                let rows = [("embed_tokens".to_owned(), ids(40)), ("lm_head".to_owned(), ids(40))];
                let adapter = AdapterConfig {
                    r: 4,
                    lora_dropout: 0.1,
                    use_dora: true,
                    target_modules: Some(ModuleSelection::Pattern("all-linear".into())),
                    trainable_token_indices: Some(TokenIndices::Modules(rows.into())),
                    ..AdapterConfig::default()
                };
                model.add_adapter(&adapter, Some(1)).unwrap();
                model.set_noise(1, 5.0);
                model
            }
        };
        let options = TrainingOptions { learning_rate: 1e-3, ..TrainingOptions::default() };
        let optimizer = Optimizer::new(&model, &options);
        let sample = |length: usize| Sample {
            ids: (0..length as u32).map(|id| id % 300).collect(),
            loss_weights: vec![1.0; length],
            source: Source { path: Path::new("test").into(), line: 1 },
        };
        Self {
            gradients: optimizer.gradients(&model),
            optimizer,
            activations: Activations::new(&model, 512, Keep::ForBackward),
            slices: Step::of(step_slices([300, 5, 200, 1].map(sample))),
            model,
        }
    }

    fn step(&mut self, step: u64) {
        let Self { model, optimizer, gradients, activations, slices } = self;
        optimizer.begin(1e-3, step);
        let judge = &|_| None;
        take_step(model, &Objective::default(), slices, activations, gradients, optimizer, judge).unwrap();
    }
}
