//! A sample's loss is its own, whatever lies beside it.

use std::path::Path;

use danlu_data::{Packing, Sample, SampleSet, Slice, Source, step_slices};
use danlu_kernels::cross_entropy::Score;
use danlu_model::{Activations, Config, Keep, Model, PackedTokens, Precision, Resident, Target};

fn model() -> Model {
    let config = Config {
        vocab_size: 300,
        hidden_size: 48,
        intermediate_size: 96,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 12,
        max_position_embeddings: 256,
        // Wide, so that the model has opinions.
        initializer_range: 0.3,
        ..Config::default()
    };
    Model::zeros(config, Precision::F32).initialize(11)
}

/// Samples of 2 to 200 tokens that begin alike, as chats do: what leaks would show.
fn samples() -> SampleSet {
    let sample = |number: u32| {
        let length = 2 + number * 67 % 199;
        let ids: Vec<u32> = (0..length)
            .map(|place| if place < 5 { place } else { (place * 31 + number * 17) % 300 })
            .collect();
        let loss_weights = (0..length).map(|place| if place * 3 > length { 1.0 } else { 0.0 }).collect();
        Sample { ids, loss_weights, source: Source { path: Path::new("rows").into(), line: number.into() } }
    };
    (0..40).map(sample).collect()
}

/// Mean loss of each sequence of a slice.
fn losses(model: &Model, activations: &mut Activations, slice: &Slice) -> Vec<f64> {
    let sequences = slice.sequence_starts.windows(2).map(|bounds| &slice.ids[bounds[0]..bounds[1]]);
    let tokens = PackedTokens::new(sequences);
    let targets: Vec<Target> = slice
        .targets
        .iter()
        .map(|target| Target { position: target.position as u32, id: target.id })
        .collect();
    model.forward(&tokens, activations, &mut Resident).unwrap();
    let scores: Vec<Score> = model.score(&tokens, &targets, activations);
    let of_sequence = |bounds: &[usize]| {
        let of: Vec<f64> = slice
            .targets
            .iter()
            .zip(&scores)
            .filter(|(target, _)| (bounds[0]..bounds[1]).contains(&target.position))
            .map(|(_, score)| -f64::from(score.log_probability))
            .collect();
        of.iter().sum::<f64>() / of.len() as f64
    };
    slice.sequence_starts.windows(2).map(of_sequence).collect()
}

/// functionary#265, trl#1230, trl#805, LF PR#4224, LF PR#7318: no leak, and positions begin anew.
#[test]
fn functionary_265_packed_and_unpacked_losses_agree() {
    let (model, samples) = (model(), samples());
    let mut activations = Activations::new(&model, 1024, Keep::ForBackward);
    let alone: Vec<f64> = samples
        .iter()
        .map(|sample| losses(&model, &mut activations, &step_slices([sample]).slices[0])[0])
        .collect();
    let packing = Packing::best_fit(&samples.lengths(), 256, 5);
    assert!(packing.blocks() < 25);
    let mut seen = 0;
    for block in 0..packing.blocks() {
        let members = packing.block(block);
        let step = step_slices(members.iter().map(|&index| samples.get(index as usize)));
        let packed: Vec<f64> =
            step.slices.iter().flat_map(|slice| losses(&model, &mut activations, slice)).collect();
        assert_eq!(packed.len(), members.len());
        for (&index, loss) in members.iter().zip(packed) {
            let alone = alone[index as usize];
            assert!((loss - alone).abs() < 1e-5, "sample {index}: {loss} packed, {alone} alone");
            seen += 1;
        }
    }
    assert_eq!(seen, samples.len());
}
