//! Chat templates as users name them, and what they make of data.

use crate::common;

use common::{run, shared, with_model};

const ROW: &str = r#"[{"instruction": "车床？", "output": "机床。", "history": [["铣？", "切削"]]}]"#;

#[test]
fn templates_are_used_by_the_names_of_llama_factory() {
    let folder = with_model();
    std::fs::write(folder.path().join("rows.json"), ROW).unwrap();
    let inspect = |more: &[&str]| {
        let fixed = ["data", "inspect", "rows.json", "--model", "model", "cutoff_len=256"];
        run(folder.path(), &[&fixed[..], more].concat())
    };
    let text = |more: &[&str]| {
        let object = inspect(&[&["--json"], more].concat()).json();
        object["samples"][0]["text"].as_str().unwrap().split_once('\n').unwrap().1.to_owned()
    };
    assert_eq!(
        text(&["template=qwen3_nothink"]),
        "<|im_start|>user\n铣？<|im_end|>\n<|im_start|>assistant\n⟦切削<|im_end|>⟧\n\
         <|im_start|>user\n车床？<|im_end|>\n<|im_start|>assistant\n⟦机床。<|im_end|>⟧\n\n"
    );
    assert!(text(&["template=qwen3"]).contains("assistant\n⟦<think>\n\n</think>\n\n机床。<|im_end|>⟧"));
    let unasked = text(&["template=qwen3", "enable_thinking=false"]);
    assert!(unasked.contains("assistant\n<think>\n\n</think>\n\n⟦机床。<|im_end|>⟧"), "{unasked}");
    assert!(text(&["template=alpaca"]).contains("### Instruction:\n车床？\n\n### Response:\n⟦机床。"));
    inspect(&["template=alpacca"])
        .is_refused("`alpacca` is neither a built-in chat template (chatml, yi, smollm, llama2");
}

#[test]
fn lf_2884_a_template_that_does_not_fit_the_tokenizer_is_told() {
    let folder = with_model();
    std::fs::write(folder.path().join("rows.json"), ROW).unwrap();
    let ran = run(folder.path(), &["data", "stats", "rows.json", "--model", "model", "template=llama3"]);
    assert!(ran.stdout.contains("the model would not learn to stop"), "{}{}", ran.stdout, ran.stderr);
    let plan = [
        "plan",
        "sft-lora",
        "model_name_or_path=model",
        "dataset=rows.json",
        "val_size=0",
        "template=llama3",
    ];
    let planned = run(folder.path(), &[&plan[..], &["cutoff_len=256"]].concat());
    assert!(planned.stdout.contains("would not learn to stop"), "{}{}", planned.stdout, planned.stderr);
}

#[test]
fn unsloth_2095_data_without_anything_to_learn_is_refused_before_training() {
    let folder = with_model();
    let write = |text: &str| std::fs::write(folder.path().join("rows.json"), text).unwrap();
    let train = |more: &[&str]| {
        let fixed = ["train", "sft-lora", "model_name_or_path=model", "dataset=rows.json", "val_size=0"];
        run(folder.path(), &[&fixed[..], &["output_dir=out", "max_steps=1", "cutoff_len=64"], more].concat())
    };
    // All labels are -100 elsewhere: the prompt fills the context, no message is the assistant's, every weight is 0.
    write(&format!(r#"[{{"instruction": "{}", "output": "机床。"}}]"#, "铣".repeat(200)));
    train(&["overlong=truncate"])
        .is_refused("no sample is left of 1 rows: 1 whose prompt alone is longer than `cutoff_len`");
    write(r#"[{"messages": [{"role": "user", "content": "铣？"}]}]"#);
    train(&[]).is_refused("rows.json:1: ");
    write(
        r#"[{"messages": [{"role": "user", "content": "铣"}, {"role": "assistant", "content": "切", "loss_weight": 0}]}]"#,
    );
    train(&[]).is_refused("has the `loss_weight` 0");
    std::fs::write(
        folder.path().join("mute.jinja"),
        "{% for m in messages %}{{ m.content if m.role == 'user' }}{% endfor %}",
    )
    .unwrap();
    write(ROW);
    train(&["template=mute.jinja"]).is_refused("it writes no answer that could be learned");
    assert!(!folder.path().join("out").exists());
}

#[test]
fn a_template_with_generation_tags_says_itself_what_is_learned() {
    let folder = with_model();
    std::fs::write(folder.path().join("rows.json"), ROW).unwrap();
    let template = "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }}\
                    <|im_end|>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '\\n' }}{% endfor %}";
    std::fs::write(folder.path().join("own.jinja"), template).unwrap();
    let arguments = ["data", "inspect", "rows.json", "--json", "--model", "model", "template=own.jinja"];
    let object = run(folder.path(), &arguments).json();
    let text = object["samples"][0]["text"].as_str().unwrap().split_once('\n').unwrap().1;
    assert_eq!(
        text,
        "user: 铣？\nassistant: ⟦切削<|im_end|>⟧\nuser: 车床？\nassistant: ⟦机床。<|im_end|>⟧\n\n"
    );
}

#[test]
fn the_real_templates_cut_conversations_of_several_turns() {
    let Some(data) = shared() else { return };
    let folder = with_model();
    std::fs::write(folder.path().join("rows.json"), ROW).unwrap();
    for name in ["Qwen-Qwen3-0.6B", "Qwen-Qwen2.5-7B-Instruct", "HuggingFaceTB-SmolLM3-3B"] {
        let template = format!("template={}", data.join(format!("chat-templates/{name}.jinja")).display());
        let arguments = ["data", "inspect", "rows.json", "--json", "--tokenizer", "model", &template];
        let object = run(folder.path(), &arguments).json();
        let text = object["samples"][0]["text"].as_str().unwrap();
        assert!(text.contains("⟦切削<|im_end|>⟧") && text.contains("机床。<|im_end|>⟧"), "{name}: {text}");
        assert_eq!(text.matches('⟦').count(), 2, "{name}: {text}");
    }
}
