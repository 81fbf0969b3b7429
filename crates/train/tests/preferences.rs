//! Preference tuning against recordings of trl (`tools/golden/preferences.py`), and what its losses are at their edges.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use danlu_data::{Sample, SampleSet, Source};
use danlu_formats::SafetensorsFolder;
use danlu_kernels::Buffer;
use danlu_kernels::elementwise::copy;
use danlu_model::{Activations, Keep, Model, ParameterId, Precision, Rest, open};
use danlu_train::objective::answers::Answer;
use danlu_train::objective::reference::SetReference;
use danlu_train::objective::step::Steps;
use danlu_train::objective::{Objective, PairTerm, cpo, dpo, orpo, simpo};
use danlu_train::optimizer::Optimizer;
use danlu_train::optimizer_step::take_step;
use danlu_train::recipe::TrainingOptions;
use danlu_train::{Recipe, TrainError};
use serde_json::Value;

const PARAMETER: &str = "model.layers.0.self_attn.q_proj.weight";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn sample(row: &Value) -> Sample {
    let numbers = |key: &str| -> Vec<f64> {
        row[key].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    };
    Sample {
        ids: numbers("ids").into_iter().map(|id| id as u32).collect(),
        loss_weights: numbers("loss_weights").into_iter().map(|weight| weight as f32).collect(),
        source: Source { path: Path::new("golden").into(), line: 1 },
    }
}

fn recipe(options: &Value) -> Recipe {
    let options = options.as_object().unwrap().iter();
    let text: String = options.map(|(key, value)| format!("{key}: {value}\n")).collect();
    let text = format!("model_name_or_path: m\ndataset: d\noutput_dir: o\n{text}");
    Recipe::parse("golden", &text, &[] as &[&str]).unwrap().recipe
}

/// Steps over the rows of a case, with the reference of the model as it is.
fn steps(case: &Value, model: &Model, activations: &mut Activations) -> (Objective, Steps) {
    let rows = case["rows"].as_array().unwrap();
    let samples: SampleSet = rows.iter().flat_map(|row| row.as_array().unwrap()).map(sample).collect();
    let objective = Objective::of(&recipe(&case["options"]));
    let preference = objective.preference;
    let steps = Steps { samples, preference, cutoff_len: 64, reference: Arc::new(SetReference::default()) };
    let reference = SetReference::compute(&steps, model, activations, &mut |_| true).unwrap();
    (objective, Steps { reference: Arc::new(reference), ..steps })
}

#[test]
fn twenty_steps_of_every_loss_follow_trl() {
    let cases: Value =
        serde_json::from_slice(&std::fs::read(golden().join("preferences.json")).unwrap()).unwrap();
    let gradient_file = SafetensorsFolder::open_named(golden(), "preferences").unwrap();
    for (name, case) in cases.as_object().unwrap() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/golden/gqa-untied");
        let mut model = open(&folder, Precision::F32, Rest::Trained).unwrap().model;
        let mut activations = Activations::new(&model, 256, Keep::ForBackward);
        let (objective, steps) = steps(case, &model, &mut activations);
        let setting = |key: &str| case["settings"][key].as_f64().unwrap();
        let options =
            TrainingOptions { adam_beta2: Some(setting("adam_beta2")), ..TrainingOptions::default() };
        let mut optimizer = Optimizer::new(&model, &options);
        let mut gradients = optimizer.gradients(&model);
        let group = objective.preference.unwrap().group();
        let batch = case["batch_size"].as_u64().unwrap() as usize * group;
        for (number, expected) in case["steps"].as_array().unwrap().iter().enumerate() {
            let start = number * batch % steps.samples.len();
            let step = steps.step(&(start..start + batch).collect::<Vec<_>>());
            optimizer.begin(setting("learning_rate"), number as u64 + 1);
            let result = take_step(
                &mut model,
                &objective,
                &step,
                &mut activations,
                &mut gradients,
                &mut optimizer,
                &|_| None,
            )
            .unwrap();
            let mut found: Vec<(&str, f64)> = vec![("loss", result.loss), ("grad_norm", result.grad_norm)];
            found.extend(result.rewards.named().map(|([name, _], value)| (name, value)));
            for (what, expected) in expected.as_object().unwrap() {
                let expected = expected.as_f64().unwrap();
                let value = found.iter().find(|(name, _)| name == what).unwrap_or_else(|| {
                    panic!("{name}: `{what}` is not logged");
                });
                let bound = 1e-3 * expected.abs().max(1.0);
                let value = value.1;
                assert!((value - expected).abs() < bound, "{name} step {number} {what}: {value}, {expected}");
            }
            if number == 0 {
                let names = model.parameters().list().iter();
                let id = ParameterId(names.clone().position(|each| each.name == PARAMETER).unwrap());
                let expected = gradient_file.tensor(name).unwrap().bytes.as_chunks().0.iter();
                let expected: Vec<f32> = expected.map(|bytes| f32::from_le_bytes(*bytes)).collect();
                let largest = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
                let mut gradient = Buffer::zeros(expected.len());
                copy(gradients.view(id), gradient.first_mut(expected.len()));
                for (found, expected) in gradient.host().iter().zip(expected) {
                    let far = (found - expected).abs() > 1e-4 * largest;
                    assert!(!far, "{name}: gradient {found}, {expected}");
                }
            }
        }
    }
}

#[test]
fn the_pass_for_the_reference_can_be_stopped() {
    let cases: Value =
        serde_json::from_slice(&std::fs::read(golden().join("preferences.json")).unwrap()).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/golden/gqa-untied");
    let model = open(&folder, Precision::F32, Rest::Frozen).unwrap().model;
    let mut activations = Activations::new(&model, 256, Keep::Nothing);
    let (_, steps) = steps(&cases["kto"], &model, &mut activations);
    let mut tokens = 0;
    let mut goes_on = |done| {
        tokens += done;
        false
    };
    let stopped = SetReference::compute(&steps, &model, &mut activations, &mut goes_on).unwrap_err();
    assert!(matches!(stopped, TrainError::Stopped) && tokens > 0);
}

fn pair(chosen: f64, rejected: f64) -> [Answer; 2] {
    let answer = |log_probability, weight, tokens| Answer { log_probability, weight, targets: 0..tokens };
    [answer(chosen, 1.0, 5), answer(rejected, -1.0, 3)]
}

type Term<'a> = &'a dyn Fn(&[Answer; 2]) -> PairTerm;

#[test]
fn slopes_are_the_derivatives_of_the_losses() {
    let reference = [-7.0, -6.5];
    let terms: [(&str, Term); 6] = [
        ("sigmoid", &|pair| dpo::sigmoid(0.3, 0.1, pair, reference)),
        ("ipo", &|pair| dpo::ipo(0.3, pair, reference)),
        ("hinge", &|pair| dpo::hinge(0.3, pair, reference)),
        ("orpo", &|pair| orpo::term(0.3, pair)),
        ("simpo", &|pair| simpo::term(2.0, 0.5, 0.1, pair)),
        ("cpo", &|pair| cpo::term(0.3, 0.1, pair)),
    ];
    for (name, term) in terms {
        for (chosen, rejected) in [(-6.0, -7.0), (-9.0, -4.0), (-0.01, -30.0)] {
            let by = |step: [f64; 2]| term(&pair(chosen + step[0], rejected + step[1])).loss;
            let slopes = term(&pair(chosen, rejected)).slopes;
            let step = 1e-6;
            let expected = [
                (by([step, 0.0]) - by([-step, 0.0])) / (2.0 * step),
                (by([0.0, step]) - by([0.0, -step])) / (2.0 * step),
            ];
            for (slope, expected) in slopes.into_iter().zip(expected) {
                assert!(
                    (slope - expected).abs() < 1e-6 * expected.abs().max(1.0),
                    "{name}: {slope}, {expected}"
                );
            }
        }
    }
}

#[test]
fn losses_stay_finite_for_answers_that_are_certain_or_impossible() {
    for (chosen, rejected) in [(0.0, 0.0), (0.0, -1e6), (-1e6, 0.0), (-1e6, -1e6)] {
        let pair = pair(chosen, rejected);
        for term in [
            dpo::sigmoid(5.0, 0.1, &pair, [-1.0, -1.0]),
            dpo::ipo(0.1, &pair, [-1.0, -1.0]),
            dpo::hinge(0.1, &pair, [-1.0, -1.0]),
            orpo::term(0.1, &pair),
            simpo::term(2.5, 0.5, 0.0, &pair),
            cpo::term(0.1, 0.0, &pair),
        ] {
            let all = [term.loss, term.slopes[0], term.slopes[1], term.rewards[0], term.rewards[1]];
            assert!(all.iter().all(|value| value.is_finite()), "{chosen}, {rejected}: {term:?}");
        }
    }
}
