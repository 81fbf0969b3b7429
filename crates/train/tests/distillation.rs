//! Distillation against recordings of torch (`tools/golden/distillation.py`), and a reading of the teacher that is cut off.

use std::path::{Path, PathBuf};

use danlu_data::{Sample, SampleSet, Source};
use danlu_formats::SafetensorsFolder;
use danlu_kernels::Buffer;
use danlu_kernels::elementwise::copy;
use danlu_model::{Activations, Keep, ParameterId, Precision, Rest, open, open_shape};
use danlu_train::objective::step::Steps;
use danlu_train::objective::teacher::Teacher;
use danlu_train::objective::{Objective, teacher};
use danlu_train::optimizer::Optimizer;
use danlu_train::optimizer_step::take_step;
use danlu_train::recipe::TrainingOptions;
use danlu_train::{Recipe, TrainError};
use serde_json::Value;

const PARAMETER: &str = "model.layers.0.self_attn.q_proj.weight";
const VOCABULARY: usize = 97;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn model_folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/golden").join(name)
}

fn cases() -> Value {
    serde_json::from_slice(&std::fs::read(golden().join("distillation.json")).unwrap()).unwrap()
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

fn recipe(case: &Value, output: &Path) -> Recipe {
    let options = case["options"].as_object().unwrap().iter();
    let options: String = options.map(|(key, value)| format!("{key}: {value}\n")).collect();
    let teacher = model_folder("mha-tied");
    let text = format!(
        "model_name_or_path: m\ndataset: d\nteacher_model_name_or_path: {}\noutput_dir: {}\n{options}",
        teacher.display(),
        output.display()
    );
    Recipe::parse("golden", &text, &[] as &[&str]).unwrap().recipe
}

fn steps(samples: SampleSet) -> Steps {
    Steps { samples, preference: None, cutoff_len: 64, reference: Default::default() }
}

fn teacher(recipe: &Recipe, steps: &Steps) -> Teacher {
    let shape = open_shape(&model_folder("mha-tied"), Precision::F32, Rest::Stored).unwrap().model;
    Teacher::new(recipe, &(shape, vec![true; VOCABULARY]), steps, VOCABULARY).unwrap()
}

#[test]
fn twenty_steps_of_every_share_and_temperature_follow_torch() {
    let gradient_file = SafetensorsFolder::open_named(golden(), "distillation").unwrap();
    for (name, case) in cases().as_object().unwrap() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = recipe(case, folder.path());
        let steps = steps(case["rows"].as_array().unwrap().iter().map(sample).collect());
        let mut top_tokens = teacher(&recipe, &steps).read(&steps, &mut |_| true).unwrap();
        let mut model = open(&model_folder("gqa-untied"), Precision::F32, Rest::Trained).unwrap().model;
        let mut activations = Activations::new(&model, 256, Keep::ForBackward);
        let objective = Objective::of(&recipe);
        let setting = |key: &str| case["settings"][key].as_f64().unwrap();
        let options =
            TrainingOptions { adam_beta2: Some(setting("adam_beta2")), ..TrainingOptions::default() };
        let mut optimizer = Optimizer::new(&model, &options);
        let mut gradients = optimizer.gradients(&model);
        let batch = case["batch_size"].as_u64().unwrap() as usize;
        for (number, expected) in case["steps"].as_array().unwrap().iter().enumerate() {
            let start = number * batch % steps.samples.len();
            let indices: Vec<usize> = (start..start + batch).collect();
            let mut step = steps.step(&indices);
            top_tokens.add_to(&mut step, &indices).unwrap();
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
            let [(_, kl), (_, ce)] = result.parts.mean(step.units).named();
            let found = [("loss", result.loss), ("kl", kl), ("ce", ce), ("grad_norm", result.grad_norm)];
            for (what, value) in found {
                let expected = expected[what].as_f64().unwrap();
                let far = (value - expected).abs() > 1e-3 * expected.abs().max(1.0);
                assert!(!far, "{name} step {number} {what}: {value}, {expected}");
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
fn a_reading_that_was_cut_off_goes_on_to_the_same_bytes() {
    let cases = cases();
    let case = &cases["half"];
    // More slices than one, and more than what is made together.
    let rows = case["rows"].as_array().unwrap();
    let long = |index: usize| {
        let one = sample(&rows[index % rows.len()]);
        Sample { ids: one.ids.repeat(4), loss_weights: one.loss_weights.repeat(4), ..one }
    };
    let steps = steps((0..150).map(long).collect());
    let folder = tempfile::tempdir().unwrap();
    let [whole, cut] = ["whole", "cut"].map(|name| folder.path().join(name));
    let bytes = |output: &Path| std::fs::read(output.join(teacher::FOLDER).join("top_k.bin")).unwrap();
    teacher(&recipe(case, &whole), &steps).read(&steps, &mut |_| true).unwrap();

    let cut_recipe = recipe(case, &cut);
    let mut kept = Vec::new();
    loop {
        let reader = teacher(&cut_recipe, &steps);
        kept.push(reader.reading.kept);
        // One slice in each attempt; what a kill left behind the last save is cut off.
        match reader.read(&steps, &mut |_| false) {
            Err(TrainError::TeacherStopped) => {}
            done => {
                done.unwrap();
                break;
            }
        }
        let path = cut.join(teacher::FOLDER).join("top_k.bin");
        let torn = [std::fs::read(&path).unwrap(), vec![7; 100]].concat();
        std::fs::write(&path, torn).unwrap();
    }
    assert!(kept.len() > 3 && kept.is_sorted_by(|a, b| a < b), "{kept:?}");
    assert!(bytes(&whole) == bytes(&cut));
    // All is there: nobody is asked, nothing is counted.
    let reading = teacher(&cut_recipe, &steps).reading;
    assert_eq!((reading.kept, reading.tokens, reading.memory), (reading.positions, 0, 0));
    teacher(&cut_recipe, &steps).read(&steps, &mut |_| panic!("the teacher reads again")).unwrap();

    // Other samples, another number of tokens: anew.
    let fewer = steps_of_first(&steps, 100);
    assert_eq!(teacher(&cut_recipe, &fewer).reading.kept, 0);
    let mut other = cut_recipe.clone();
    other.distillation.distillation_top_k = 9;
    assert_eq!(teacher(&other, &steps).reading.kept, 0);
    // A file that lost its end is made anew, one that holds nonsense is told.
    let path = cut.join(teacher::FOLDER).join("top_k.bin");
    let mut damaged = bytes(&cut);
    damaged[3] = 0xff;
    std::fs::write(&path, &damaged).unwrap();
    let mut tokens = teacher(&cut_recipe, &steps).read(&steps, &mut |_| true).unwrap();
    let error = tokens.add_to(&mut steps.step(&[0]), &[0]).unwrap_err().to_string();
    assert!(error.contains("top_k.bin` is damaged; remove its folder"), "{error}");
    std::fs::write(&path, &damaged[..100]).unwrap();
    assert_eq!(teacher(&cut_recipe, &steps).reading.kept, 0);
}

fn steps_of_first(steps: &Steps, count: u32) -> Steps {
    Steps { samples: steps.samples.subset(&(0..count).collect::<Vec<_>>()), ..steps.clone() }
}
