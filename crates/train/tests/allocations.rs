//! After the second step the computing threads allocate nothing.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use danlu_data::{Sample, Source, step_slices};
use danlu_model::{Activations, AttentionBias, Config, Keep, Model, Precision};
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

#[test]
fn computing_threads_allocate_nothing_after_the_second_step() {
    IS_CALLER.set(true);
    danlu_kernels::team::set_threads(2);
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
    let precisions = [Precision::F32, Precision::Bf16];
    for (precision, config) in precisions.into_iter().flat_map(|p| [(p, &config), (p, &with_every_option)]) {
        let mut model = Model::zeros(config.clone(), precision).initialize(1);
        let options = TrainingOptions { learning_rate: 1e-3, ..TrainingOptions::default() };
        let mut optimizer = Optimizer::new(&model, &options);
        let mut gradients = optimizer.gradients(&model);
        let mut activations = Activations::new(&model, 512, Keep::ForBackward);
        let sample = |length: usize| Sample {
            ids: (0..length as u32).map(|id| id % 300).collect(),
            loss_weights: vec![1.0; length],
            source: Source { path: Path::new("test").into(), line: 1 },
        };
        let slices = Step::of(step_slices([300, 5, 200, 1].map(sample)));
        for step in 1..=5 {
            let before = [&BY_WORKERS, &LARGE_BY_CALLER].map(|count| count.load(Ordering::Relaxed));
            optimizer.begin(1e-3, step);
            take_step(
                &mut model,
                &Objective::default(),
                &slices,
                &mut activations,
                &mut gradients,
                &mut optimizer,
                &|_| None,
            )
            .unwrap();
            let after = [&BY_WORKERS, &LARGE_BY_CALLER].map(|count| count.load(Ordering::Relaxed));
            assert!(step <= 2 || before == after, "{precision:?} step {step}: {before:?} became {after:?}");
        }
    }
}
