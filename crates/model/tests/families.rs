//! The families beside plain Llama, and the rope scalings, against recordings of transformers (`tools/golden/`).

use crate::common;

use std::ops::ControlFlow;
use std::path::Path;

use common::families::*;
use common::*;
use danlu_model::{
    Activations, AttentionBias, BatchGenerator, Config, Family, Generator, Gradients, Keep, PackedTokens,
    Precision, Resident, Rest, RopeLayout, Target, generate_all, open, save_folder,
};
use serde_json::{Value, json};

const RECORDED: [&str; 6] = ["llama-bias", "mistral", "mistral-window", "qwen2", "qwen3", "baichuan-alibi"];

#[test]
fn logits_of_every_family_equal_those_of_transformers() {
    for name in RECORDED {
        for rest in [Rest::Frozen, Rest::Trained] {
            check_logits(&open_f32(&family(name), rest), &read_json(&family(name).join("golden.json")));
        }
    }
}

#[test]
fn gradients_of_biases_and_of_norms_of_heads_equal_those_of_pytorch() {
    // Vectors: 5 norms, of 2 blocks 7 biases or 3 or 2 norms of heads; and q and k of the first block.
    for (name, count) in
        [("llama-bias", 5 + 14 + 2), ("qwen2", 5 + 6 + 2), ("qwen3", 5 + 4 + 2), ("mistral-window", 5 + 2)]
    {
        let mut model = open_f32(&family(name), Rest::Trained);
        check_gradients_at(&mut model, &family(name).join("gradients"), count);
    }
}

#[test]
fn a_generator_continues_as_the_forward_says() {
    let prompt = &SOME_IDS[..5];
    for name in RECORDED {
        let model = open_f32(&family(name), Rest::Frozen);
        let mut ids = prompt.to_vec();
        for _ in 0..8 {
            let last = log_probabilities(&model, &ids).pop().unwrap();
            let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
            ids.push(best as u32);
        }
        let mut generator = Generator::new(&model, 64);
        let options = greedy(8, Vec::new());
        let found = generator.generate(prompt, &options, |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(found.ids, ids[prompt.len()..], "{name}");
    }
}

#[test]
fn sequences_generated_at_once_are_as_they_are_alone() {
    for name in RECORDED {
        let model = open_f32(&family(name), Rest::Frozen);
        let prompts: Vec<Vec<u32>> = (1..SOME_IDS.len()).map(|length| SOME_IDS[..length].to_vec()).collect();
        let options = greedy(9, vec![7, 11]);
        // Fewer slots than prompts: those that end make room.
        for at_once in [1, 3, 20] {
            let mut found = vec![None; prompts.len()];
            generate_all(&model, &prompts, &options, at_once, |step| {
                step.finished.into_iter().for_each(|(index, generated)| found[index] = Some(generated));
                ControlFlow::Continue(())
            })
            .unwrap();
            for (prompt, found) in prompts.iter().zip(found) {
                let mut generator = Generator::new(&model, 64);
                let alone = generator.generate(prompt, &options, |_| ControlFlow::Continue(())).unwrap();
                assert_eq!(found, Some(alone), "{name}, {at_once} at once");
            }
        }
    }
}

#[test]
fn long_prompts_join_sequences_that_grow() {
    let model = open_f32(&family("llama-bias"), Rest::Frozen);
    let length = model.config().context_length();
    let prompt = |length: usize| -> Vec<u32> { (0..length as u32).map(|place| place * 7 % 31).collect() };
    let prompts = [prompt(2), prompt(length), prompt(length - 3), prompt(5)];
    let options = greedy(6, Vec::new());
    let mut lengths = [0; 4];
    let mut tokens = 0;
    generate_all(&model, &prompts, &options, 4, |step| {
        tokens += step.tokens;
        for (index, generated) in step.finished {
            lengths[index] = generated.ids.len();
            assert_eq!(generated.finish_reason.name(), "length");
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    // A sequence that fills the context gets the one token that needs no place in it.
    assert_eq!((lengths, tokens), ([6, 1, 4, 6], 17));
    let mut batch = BatchGenerator::new(&model, 1, 8);
    let error = batch.add(&prompt(9), &options).unwrap_err().to_string();
    assert!(error.contains("9 tokens") && error.contains('8'), "{error}");
    let slot = batch.add(&prompt(3), &options).unwrap();
    assert!(batch.add(&prompt(3), &options).is_err() && !batch.has_room());
    batch.step().unwrap();
    let broken_off = batch.cancel(slot).unwrap();
    assert_eq!((broken_off.ids.len(), broken_off.finish_reason.name()), (1, "cancelled"));
    assert!(batch.is_idle() && batch.step().unwrap().is_empty());
}

#[test]
fn sequences_that_follow_a_prefix_are_as_they_are_alone() {
    let predicted = |first: usize, ids: &[u32]| -> Vec<Target> {
        let next = |(place, &id): (usize, &u32)| Target { position: (first + place) as u32, id };
        ids[1..].iter().enumerate().map(next).collect()
    };
    for name in RECORDED {
        let model = open_f32(&family(name), Rest::Frozen);
        let mut activations = Activations::new(&model, 40, Keep::Nothing);
        // Prefixes of different lengths, in two turns; the second is followed twice.
        for prefixes in [[&SOME_IDS[..7], &SOME_IDS[4..8]], [&SOME_IDS[2..4], &SOME_IDS[1..9]]] {
            let followers = [(1, &SOME_IDS[..5]), (0, &SOME_IDS[3..12]), (1, &SOME_IDS[6..9])];
            let kept = PackedTokens::new(prefixes);
            model.forward_prefixes(&kept, &mut activations).unwrap();
            let following = PackedTokens::following(&kept, followers);
            model.forward(&following, &mut activations, &mut Resident).unwrap();
            let mut targets = Vec::new();
            let mut first = 0;
            for (_, ids) in followers {
                targets.extend(predicted(first, ids));
                first += ids.len();
            }
            let found = model.score(&following, &targets, &mut activations);
            let mut found = found.iter();
            for (prefix, ids) in followers {
                let whole = [prefixes[prefix], ids].concat();
                let tokens = PackedTokens::new([&whole[..]]);
                model.forward(&tokens, &mut activations, &mut Resident).unwrap();
                let targets = predicted(prefixes[prefix].len(), ids);
                for alone in model.score(&tokens, &targets, &mut activations) {
                    let found = found.next().unwrap().log_probability;
                    assert!(
                        (found - alone.log_probability).abs() < 1e-5,
                        "{name}: {found} against {alone:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn bf16_stays_near_f32_in_every_family() {
    for name in RECORDED {
        let exact = open_f32(&family(name), Rest::Frozen);
        for rest in [Rest::Frozen, Rest::Trained] {
            let rounded = open(&family(name), Precision::Bf16, rest).unwrap().model;
            let distance = distance(&rounded, &exact);
            assert!(distance < 0.05, "{name}: {distance}");
        }
    }
}

#[test]
fn what_is_computed_again_has_the_same_bits_in_every_family_and_bf16_stays_near() {
    let mut exact = Vec::new();
    for (name, precision) in
        RECORDED.iter().flat_map(|name| [Precision::F32, Precision::Bf16].map(|p| (name, p)))
    {
        let mut model = open(&family(name), precision, Rest::Trained).unwrap().model;
        let tokens = PackedTokens::new([&SOME_IDS[..7], &SOME_IDS[3..]]);
        let targets: Vec<Target> = (0..6).map(|position| Target { position, id: position + 4 }).collect();
        let mut run = |keep| {
            let mut activations = Activations::new(&model, tokens.len(), keep);
            model.forward(&tokens, &mut activations, &mut Resident).unwrap();
            let mut gradients = Gradients::whole(&model);
            let mut seen = Seen::new(&model);
            let (weights, resident) = ([-0.5; 6], &mut Resident);
            model.backward(
                &tokens,
                &targets,
                &weights,
                None,
                &mut activations,
                &mut gradients,
                &mut seen,
                resident,
            );
            seen.gradients.host().to_vec()
        };
        let kept = run(Keep::ForBackward);
        assert!(kept.iter().any(|gradient| *gradient != 0.0));
        assert_eq!(kept, run(Keep::WithoutFeedForward), "{name}");
        assert_eq!(kept, run(Keep::ResidualOnly), "{name}");
        match precision {
            Precision::F32 => exact = kept,
            Precision::Bf16 => assert_close(&kept, &exact, 0.05, name),
        }
    }
}

fn with_rope(variant: &str) -> (tempfile::TempDir, Value) {
    let folder = tempfile::tempdir().unwrap();
    let source = family("llama-rope");
    std::fs::copy(source.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let config = source.join(format!("config-{variant}.json"));
    std::fs::copy(config, folder.path().join("config.json")).unwrap();
    (folder, read_json(&source.join("golden.json"))[variant].clone())
}

const ROPES: [&str; 6] = ["linear", "dynamic", "llama3", "yarn", "yarn-mscale", "yarn-factor"];

#[test]
fn every_rope_scaling_gives_the_logits_of_transformers() {
    for variant in ROPES {
        let (folder, golden) = with_rope(variant);
        let model = open_f32(folder.path(), Rest::Frozen);
        check_logits(&model, &golden);
        // It survives being saved.
        let again = tempfile::tempdir().unwrap();
        save_folder(&model, None, again.path(), 5_000_000_000).unwrap();
        let saved = open_f32(again.path(), Rest::Frozen);
        assert_eq!(saved.config(), model.config(), "{variant}");
        check_logits(&saved, &golden);
    }
}

#[test]
fn dynamic_scaling_takes_the_frequencies_of_each_packed_sequence() {
    let (folder, golden) = with_rope("dynamic");
    let mut model = open_f32(folder.path(), Rest::Trained);
    assert_eq!((model.config().max_position_embeddings, model.config().context_length()), (16, 64));
    let sequences = golden["sequences"].as_array().unwrap();
    let all: Vec<Vec<u32>> = [3, 0, 2].map(|index: usize| ids(&sequences[index]["ids"])).to_vec();
    let targets: Vec<Target> = (0..66).step_by(5).map(|position| Target { position, id: 7 }).collect();
    let weights = vec![1.0; targets.len()];
    let packed = PackedTokens::new(all.iter().map(Vec::as_slice));
    let (loss, together) = gradients(&mut model, &packed, &targets, &weights);
    let (mut sum, mut alone_loss) = (vec![0.0; together.len()], 0.0);
    let mut start = 0;
    for ids in &all {
        let own: Vec<Target> = targets
            .iter()
            .filter(|target| (start..start + ids.len() as u32).contains(&target.position))
            .map(|target| Target { position: target.position - start, id: target.id })
            .collect();
        let share = own.len() as f32 / targets.len() as f32;
        let tokens = PackedTokens::new([ids.as_slice()]);
        let (loss, alone) = gradients(&mut model, &tokens, &own, &vec![1.0; own.len()]);
        alone_loss += loss * share;
        sum.iter_mut().zip(alone.host()).for_each(|(sum, gradient)| *sum += gradient * share);
        start += ids.len() as u32;
    }
    assert!((loss - alone_loss).abs() < 1e-5 * loss, "{loss} against {alone_loss}");
    assert_close(together.host(), &sum, 1e-5, "gradients");
}

#[test]
fn a_generator_takes_the_frequencies_of_a_long_prompt() {
    let (folder, golden) = with_rope("dynamic");
    let model = open_f32(folder.path(), Rest::Frozen);
    let mut generator = Generator::new(&model, 64);
    // From long to short and back: what is cached for one length is not used for another.
    for index in [3, 0, 2, 3, 2] {
        let sequence = &golden["sequences"][index];
        let mut options = greedy(1, Vec::new());
        options.top_log_probabilities = 31;
        let found =
            generator.generate(&ids(&sequence["ids"]), &options, |_| ControlFlow::Continue(())).unwrap();
        let mut log_probabilities = vec![0.0; 31];
        for token in &found.top_log_probabilities[0] {
            log_probabilities[token.id as usize] = token.log_probability;
        }
        let last = sequence["logits"].as_array().unwrap().last().unwrap();
        assert_close(&log_probabilities, &log_softmax(&numbers(last)), 1e-4, "after the prompt");
    }
    // What is cached of a long prompt is no beginning of a shorter one.
    let long = ids(&golden["sequences"][3]["ids"]);
    for length in [40, 17, 9, 20] {
        let options = greedy(5, Vec::new());
        let generate = |generator: &mut Generator| {
            generator.generate(&long[..length], &options, |_| ControlFlow::Continue(())).unwrap().ids
        };
        assert_eq!(generate(&mut generator), generate(&mut Generator::new(&model, 64)), "{length} tokens");
    }
}

#[test]
fn a_saved_folder_is_of_the_family_that_was_read() {
    for (name, architecture) in
        [("llama-bias", "Llama"), ("mistral", "Mistral"), ("qwen2", "Qwen2"), ("qwen3", "Qwen3")]
    {
        let model = open_f32(&family(name), Rest::Frozen);
        let folder = tempfile::tempdir().unwrap();
        save_folder(&model, None, folder.path(), 5_000_000_000).unwrap();
        let (read, written) =
            (read_json(&family(name).join("config.json")), read_json(&folder.path().join("config.json")));
        for field in
            ["auto_map", "a_field_of_somebody", "model_type", "architectures", "transformers_version"]
        {
            assert_eq!(written[field], read[field], "{name}: {field}");
        }
        assert_eq!(written["architectures"], json!([format!("{architecture}ForCausalLM")]));
        assert!(written.get("dtype").is_none() && written["torch_dtype"] == "float32");
        let saved = open_f32(folder.path(), Rest::Trained);
        assert_eq!(saved.config(), model.config());
        check_logits(&saved, &read_json(&family(name).join("golden.json")));
    }
}

#[test]
fn minimind_is_a_llama_or_shaped_as_qwen3_by_its_tensors() {
    let tied = |folder: &Path, name: &Path| {
        let mut config = config_of(name);
        for field in ["model_type", "architectures", "rope_parameters"] {
            config.as_object_mut().unwrap().remove(field);
        }
        config["model_type"] = "minimind".into();
        config["inference_rope_scaling"] = false.into();
        config["rope_scaling"] = json!({ "type": "yarn", "factor": 16.0 });
        config["num_experts"] = 4.into();
        config["use_moe"] = false.into();
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        std::fs::copy(name.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    };
    for (source, normed) in [(golden("gqa-tied"), false), (family("qwen3"), true)] {
        let folder = tempfile::tempdir().unwrap();
        tied(folder.path(), &source);
        let model = open_f32(folder.path(), Rest::Frozen);
        assert_eq!((model.config().family, model.config().query_key_norm), (Family::MiniMind, normed));
        assert_same(&model, &open_f32(&source, Rest::Frozen));
        let again = tempfile::tempdir().unwrap();
        save_folder(&model, None, again.path(), 5_000_000_000).unwrap();
        assert_same(&open_f32(again.path(), Rest::Frozen), &model);
        assert_eq!(config_of(again.path())["num_experts"], 4);
    }
}

#[test]
fn minimind_v_75_missing_and_left_over_tensors_are_named_as_the_family_calls_them() {
    let (_, config, mut tensors) = baichuan();
    let folder = tempfile::tempdir().unwrap();
    let taken = tensors.remove("model.layers.1.self_attn.W_pack.weight").unwrap();
    tensors.insert("model.layers.1.self_attn.q_proj.weight".into(), taken);
    write_model(folder.path(), &config, &tensors);
    let error = |folder: &Path| open(folder, Precision::F32, Rest::Frozen).err().unwrap().to_string();
    let missing = error(folder.path());
    assert!(
        missing.contains("lacks a tensor") && missing.contains("`model.layers.1.self_attn.W_pack.weight`")
    );
    // A Qwen3 without its norms of heads, and a Llama with them.
    let mut config = config_of(&family("qwen3"));
    let again = tempfile::tempdir().unwrap();
    std::fs::copy(family("qwen3").join("model.safetensors"), again.path().join("model.safetensors")).unwrap();
    config["model_type"] = "llama".into();
    std::fs::write(again.path().join("config.json"), config.to_string()).unwrap();
    let leftover = error(again.path());
    assert!(
        leftover.contains("holds 4 tensors") && leftover.contains("self_attn.q_norm.weight`"),
        "{leftover}"
    );
}

#[test]
fn what_cannot_be_computed_is_refused_by_field_and_value() {
    let refusal = |name: &str, changes: Value| {
        let mut config = config_of(&family(name));
        for (field, value) in changes.as_object().unwrap() {
            config[field] = value.clone();
        }
        read_config(&config).unwrap_err()
    };
    for (name, changes, expected) in [
        ("qwen2", json!({ "num_experts": 60 }), "`num_experts`: expected a dense model, found 60 experts"),
        ("llama-bias", json!({ "hidden_act": "gelu" }), "`hidden_act`: expected `silu`, found \"gelu\""),
        (
            "llama-bias",
            json!({ "partial_rotary_factor": 0.5 }),
            "`partial_rotary_factor`: expected 1, found 0.5: only whole heads are rotated",
        ),
        (
            "llama-bias",
            json!({ "rope_scaling": { "rope_type": "longrope", "factor": 4.0 } }),
            "`rope_scaling.rope_type`: expected `default`, `linear`, `dynamic`, `llama3` or `yarn`, found \"longrope\"",
        ),
        (
            "llama-bias",
            json!({ "rope_scaling": { "rope_type": "linear" } }),
            "`rope_scaling.factor`: missing; expected a number",
        ),
        (
            "llama-bias",
            json!({ "rope_scaling": { "rope_type": "linear", "factor": 0.5 } }),
            "`rope_scaling.factor`: expected a number of 1 or more, found 0.5",
        ),
        (
            "qwen2",
            json!({ "use_sliding_window": true, "sliding_window": 32 }),
            "`sliding_window`: expected null, or at least `max_position_embeddings` (64), found 32",
        ),
        (
            "qwen3",
            json!({ "layer_types": ["full_attention", "sliding_attention"] }),
            "`layer_types`: expected `full_attention` for every layer, found \"sliding_attention\"",
        ),
        (
            "qwen3",
            json!({ "model_type": "unheard_of" }),
            "`model_type`: expected `llama`, `mistral`, `qwen2`",
        ),
        (
            "qwen3",
            json!({ "model_type": "gemma" }),
            "`model_type`: `gemma` is not read (Gemma, Phi, Cohere, OLMo)",
        ),
        ("qwen3", json!({ "model_type": "minimind", "use_moe": true }), "`use_moe`: expected false"),
    ] {
        let found = refusal(name, changes);
        assert!(found.contains(expected), "{found}");
    }
    // A window that no sequence is longer than changes nothing.
    let mut config = config_of(&family("mistral"));
    config["sliding_window"] = 64.into();
    assert_eq!(config_from(&config).family, Family::Mistral);
}

#[test]
fn options_that_a_family_has_no_fields_for_are_refused_before_they_are_lost() {
    let shape = Config::preset("smollm2-135m").unwrap();
    for (config, fits) in [
        (shape.clone(), true),
        (Config { query_key_norm: true, ..shape.clone() }, false),
        (Config { rope_layout: RopeLayout::Interleaved, ..shape.clone() }, false),
        (Config { attention_bias: AttentionBias::QueryKeyValue, ..shape.clone() }, false),
        (
            Config { attention_bias: AttentionBias::QueryKeyValue, family: Family::Qwen2, ..shape.clone() },
            true,
        ),
        (Config { attention_bias: AttentionBias::All, ..shape }, true),
    ] {
        let checked = config.check(Path::new("here"));
        assert_eq!(checked.is_ok(), fits, "{config:?}");
    }
}
