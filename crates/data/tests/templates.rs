//! Rows of the projects that danlu follows → exact ids → what is learned. The recorded ids are those of sentencepiece and
//! of Llama 3's own tokenizer for the texts that these projects build, the prompt and the answer apart.

use crate::common;

use common::{Folder, shared, tokenizer};
use danlu_data::{DataOptions, Dataset, Sample, Task};
use danlu_tokenizer::{ChatTemplate, Tokenizer};

/// The samples of rows by a named template, with the vocabulary in a folder of the shared data.
fn samples(
    vocabulary: &str,
    template: &str,
    rows: (&str, &str),
    change: fn(&mut DataOptions),
) -> Option<Vec<Sample>> {
    let tokenizer = Tokenizer::open(&shared(&format!("tokenizers/{vocabulary}"))?).unwrap();
    Some(cut(&tokenizer, template, rows, change))
}

fn cut(
    tokenizer: &Tokenizer,
    template: &str,
    rows: (&str, &str),
    change: fn(&mut DataOptions),
) -> Vec<Sample> {
    let folder = Folder::new();
    let mut options = DataOptions { dataset: vec![folder.write(rows.0, rows.1)], ..DataOptions::default() };
    change(&mut options);
    let template = ChatTemplate::builtin(template).unwrap();
    let tokens = tokenizer.template_tokens();
    let task = Task::Conversation { template: &template, tokens: &tokens };
    Dataset::load(&options, tokenizer, task).unwrap().samples.iter().collect()
}

/// Expects a prompt of which nothing is learned, and an answer that is learned whole.
fn assert_ids(sample: &Sample, prompt: &[u32], answer: &[u32]) {
    assert_eq!(sample.ids, [prompt, answer].concat());
    let weights: Vec<f32> = prompt.iter().map(|_| 0.0).chain(answer.iter().map(|_| 1.0)).collect();
    assert_eq!(sample.loss_weights, weights);
}

const QUESTION: (&str, &str) = ("rows.csv", "prompt,answer\n问题是什么？,答案\n");

#[test]
fn seed_000_a_sample_for_fine_tuning_has_the_recorded_ids_and_mask() {
    let Some(samples) = samples("chatglm2-3", "luban", QUESTION, |_| {}) else { return };
    assert_ids(&samples[0], &[30910, 31639, 32664, 31514, 1], &[30910, 33161, 2]);
}

#[test]
fn seed_001_alpaca_rows_in_the_llama_2_format_have_the_recorded_ids() {
    let rows = (
        "rows.json",
        r#"[{"instruction": "介绍铣削", "input": "Milling", "output": "铣刀旋转。"},
            {"instruction": "介绍铣削", "input": "Milling", "output": "Cutting."}]"#,
    );
    let Some(samples) = samples("llama2", "literary_alpaca2", rows, |_| {}) else { return };
    let prompt = [
        1, 518, 25580, 29962, 3532, 14816, 29903, 6778, 13, 3492, 526, 263, 8444, 20255, 29889, 29871, 30919,
        30392, 30287, 30502, 31616, 30909, 31931, 30313, 30210, 31931, 30880, 30267, 30919, 233, 142, 168,
        30417, 31838, 31190, 231, 187, 179, 31730, 30210, 31043, 235, 178, 137, 30267, 13, 29966, 829, 14816,
        29903, 6778, 13, 13, 31633, 234, 190, 144, 236, 150, 166, 232, 140, 141, 13, 29924, 8873, 518, 29914,
        25580, 29962,
    ];
    assert_ids(&samples[0], &prompt, &[29871, 236, 150, 166, 232, 139, 131, 233, 154, 142, 31415, 30267, 2]);
    assert_ids(&samples[1], &prompt, &[315, 329, 1259, 29889, 2]);
}

#[test]
fn seed_003_alpaca_rows_in_the_llama_3_format_begin_with_bos() {
    let row = r#"{"instruction": "介绍铣削", "input": "Milling", "output": "铣刀旋转。"}"#;
    let system = |options: &mut DataOptions| {
        options.default_system = Some("You are a helpful assistant. 你是一个乐于助人的助手。".into());
    };
    // Without BOS, these are the ids of the project's own training.
    let prompt = [
        128000, 128006, 9125, 128007, 271, 2675, 527, 264, 11190, 18328, 13, 118195, 122503, 102264, 35304,
        103129, 105390, 103129, 46034, 1811, 128009, 128006, 882, 128007, 271, 117814, 44659, 96, 21403, 232,
        198, 44, 9585, 128009, 128006, 78191, 128007, 271,
    ];
    // An array and a row a line, whatever the ending.
    for (name, rows) in [("rows.json", format!("[{row}]")), ("lines.json", format!("{row}\n{row}\n"))] {
        let Some(samples) = samples("llama3", "llama3", (name, &rows), system) else { return };
        assert_ids(&samples[0], &prompt, &[44659, 96, 109578, 117647, 47770, 1811, 128009]);
    }
}

#[test]
fn seed_004_extraction_rows_begin_the_answer_with_a_learned_bos() {
    let rows = (
        "rows.jsonl",
        "{\"instruct\": \"抽取实体：\", \"query\": \"北京在中国\", \"answer\": \"北京_地名\\n中国_地名\"}\n\
         {\"instruct\": \"抽取实体：\", \"query\": \"北京在中国\", \"answer\": \"没有\"}\n",
    );
    let Some(samples) = samples("baichuan-7b", "baichuan_qlora", rows, |_| {}) else { return };
    let prompt =
        [5132, 31143, 31106, 5, 32482, 31509, 19529, 77, 5, 3659, 15630, 5, 5, 7905, 18056, 31143, 31106, 5];
    assert_ids(&samples[0], &prompt, &[1, 24176, 31193, 31218, 31313, 5, 1572, 31193, 31218, 31313, 2]);
    assert_ids(&samples[1], &prompt, &[1, 31106, 1449, 2]);
}

/// The first row of the project's own `eval.txt`, as its collator builds it, without the padding to 192.
#[test]
fn seed_004_ner_jsonl_collate() {
    let Some(rows) = shared("datasets/msra/eval.txt") else { return };
    let rows = std::fs::read_to_string(rows).unwrap();
    let first = |options: &mut DataOptions| (options.max_samples, options.cutoff_len) = (Some(1), 192);
    let Some(samples) = samples("baichuan-7b", "baichuan_qlora", ("eval.txt", &rows), first) else { return };
    let prompt = [
        5132, 31143, 31106, 5, 31203, 2272, 5792, 19529, 7254, 14830, 72, 31203, 1942, 20055, 31271, 31267,
        7515, 1681, 31313, 76, 31218, 31313, 76, 3931, 31313, 72, 1732, 4293, 4021, 72, 17965, 31155, 19529,
        31193, 19529, 8109, 31155, 72, 3223, 19529, 31270, 31204, 5, 31221, 32160, 73, 22220, 4021, 72, 8950,
        31155, 1449, 31155, 73, 5, 31271, 31267, 77, 31347, 4449, 31224, 35044, 31173, 31810, 34918, 33034,
        20732, 11199, 72, 32092, 31690, 17540, 9161, 72, 2327, 1224, 10067, 3659, 31833, 31620, 3026, 31184,
        31449, 5760, 73, 5, 5, 7905, 18056, 31143, 31106, 5,
    ];
    // `日_地名\n京_地名\n北京_地名` between the marks that the model is to write.
    let answer =
        [1, 23416, 31193, 31218, 31313, 5, 31810, 31193, 31218, 31313, 5, 3659, 31193, 31218, 31313, 2];
    assert_ids(&samples[0], &prompt, &answer);
    let tokenizer = Tokenizer::open(&shared("tokenizers/baichuan-7b").unwrap()).unwrap();
    // Sentencepiece writes a space where a text begins, so also behind the mark.
    let shown = danlu_data::inspect::render(&samples[0], &tokenizer, false, false).unwrap();
    let text = shown.split_once('\n').unwrap().1;
    assert_eq!(
        text.trim_end_matches('\n').trim_start(),
        "Human: \n你现在是一个实体识别模型，你需要提取文本里面的人名、地名、机构名，如果存在结果，返回'实体_实体类型'，不同实体间用\n\
         分隔。如果没有结果，回答'没有'。\n文本：因有关日寇在京掠夺文物详情，藏界较为重视，也是我们收藏北京史料中的要件之一。\n\n\
         Assistant: \n⟦<s> 日_地名\n京_地名\n北京_地名</s>⟧"
    );
}

#[test]
fn seed_004_the_llama_prompt_of_extraction_has_the_recorded_ids() {
    let rows = ("rows.jsonl", "{\"instruct\": \"抽取实体：\", \"query\": \"北京\", \"answer\": \"没有\"}\n");
    let Some(samples) = samples("llama2", "baichuan_qlora_llama", rows, |_| {}) else { return };
    let prompt = [
        13866, 338, 385, 15278, 393, 16612, 263, 3414, 29889, 14350, 263, 2933, 393, 7128, 2486, 1614, 2167,
        278, 2009, 29889, 13, 13, 2277, 29937, 2799, 4080, 29901, 13, 233, 141, 192, 30683, 31195, 30988,
        30383, 13, 30662, 30675, 13, 13, 2277, 29937, 13291, 29901, 29871,
    ];
    assert_ids(&samples[0], &prompt, &[1, 29871, 31423, 30417, 2]);
}

#[test]
fn field_2_11_every_named_template_trains_an_end_token() {
    let tokenizer = tokenizer();
    let rows = ("rows.json", r#"[{"instruction": "问", "output": "答", "history": [["一", "二"]]}]"#);
    for name in ChatTemplate::builtin_names() {
        let sample = &cut(&tokenizer, name, rows, |_| {})[0];
        let last = sample.loss_weights.iter().rposition(|&weight| weight > 0.0).unwrap();
        // The vocabulary of this test knows no `<|eot_id|>`.
        let knows_end = *name != "llama3";
        assert_eq!(tokenizer.end_of_turn_ids().contains(&sample.ids[last]), knows_end, "{name}");
        let ends = sample.ids.iter().zip(&sample.loss_weights);
        let learned_ends =
            ends.filter(|(id, weight)| **weight > 0.0 && tokenizer.end_of_turn_ids().contains(id));
        assert_eq!(learned_ends.count(), if knows_end { 2 } else { 0 }, "{name}");
    }
}

#[test]
fn field_2_12_no_named_template_writes_two_bos() {
    let tokenizer = tokenizer();
    let bos = tokenizer.bos_id().unwrap();
    let rows = ("rows.json", r#"[{"instruction": "问", "output": "答", "history": [["一", "二"]]}]"#);
    for name in ChatTemplate::builtin_names() {
        let sample = &cut(&tokenizer, name, rows, |_| {})[0];
        assert!(sample.ids.windows(2).all(|pair| pair != [bos, bos]), "{name}");
    }
}
