//! The page that a quickstart leaves behind, in Chinese and English.

use danlu_eval::multiple_choice::Summary;
use danlu_report::{LineChart, Page, Series, Table, Text};

use super::folder::Folder;
use super::{FULL_MINUTES, Figures, Sample, percent};
use crate::models::count;

/// Subjects of the multiple-choice items by the names of their files, in Chinese and English.
const SUBJECTS: [(&str, &str, &str); 6] = [
    ("materials", "材料", "materials"),
    ("processes", "加工与成型工艺", "processes"),
    ("faults", "故障与对策", "faults and remedies"),
    ("parts", "标准件", "standard parts"),
    ("instruments", "量具", "measuring instruments"),
    ("units", "单位与符号", "units and symbols"),
];

/// The report.
pub fn page(figures: &Figures, folder: &Folder) -> Page {
    let mut page = Page::new(Text::new(
        "丹炉快速上手：一个小模型的一生",
        "danlu quickstart: the whole life of a small model",
    ));
    summary(&mut page, figures);
    scores(&mut page, figures);
    samples(&mut page, &figures.samples);
    curves(&mut page, figures);
    files(&mut page, folder);
    next(&mut page, folder, figures.limit);
    page
}

fn summary(page: &mut Page, figures: &Figures) {
    let Figures { facts, documents, rows, vocabulary, .. } = figures;
    let questions = figures.before.text.questions;
    let parameters = count(figures.pretrained.parameters);
    page.paragraph(&Text::new(
        format!(
            "一个 {parameters} 参数的 Llama 模型从随机权重开始：先在 {documents} 篇机械与工艺短文上预训练，再用 {rows} \
             条问答学习 {facts} 条事实，最后回答 {questions} 道换了问法的选择题。",
        ),
        format!(
            "A Llama of {parameters} parameters began with random weights, read {documents} short texts on mechanical \
             and process engineering, learned {facts} facts from {rows} questions with answers, and was then asked \
             {questions} multiple-choice questions in wordings that it had never seen.",
        ),
    ));
    page.figures(&[
        (
            percent(figures.before.text.accuracy),
            Text::new("微调前得分（随机为 25 %）", "score before (chance: 25 %)"),
        ),
        (percent(figures.after.text.accuracy), Text::new("微调后得分", "score after")),
        (duration(figures.seconds), Text::new("总用时", "time in all")),
        (vocabulary.to_string(), Text::new("词表大小", "tokens in the vocabulary")),
    ]);
    if let Some(minutes) = figures.short_minutes {
        page.paragraph(&Text::new(
            format!(
                "这次运行用了 `--minutes {minutes}`，可能太短，来不及学会回答；默认为 {FULL_MINUTES} 分钟。"
            ),
            format!(
                "This run had `--minutes {minutes}`, which may be too short to learn to answer; the default is \
                 {FULL_MINUTES} minutes."
            ),
        ));
    }
}

fn scores(page: &mut Page, figures: &Figures) {
    let (again, seed) = &figures.drawn_again;
    let table = |header: [&str; 3], text: &str, again_text: &str, letter: &str| {
        let mut table = Table::new(header);
        let mut row = |name: &str, before: Option<&Summary>, after: &Summary| {
            let before = before.map_or_else(String::new, |summary| percent(summary.accuracy));
            table.row([name.to_owned(), before, percent(after.accuracy)]);
        };
        row(text, Some(&figures.before.text), &figures.after.text);
        row(again_text, None, again);
        row(letter, Some(&figures.before.letter), &figures.after.letter);
        table
    };
    page.heading(&Text::new("得分", "Scores"));
    page.table(
        &table(
            ["选择题正确率", "微调前", "微调后"],
            "按选项文本的似然",
            &format!("同上，问法、干扰项与次序重新抽取（种子 {seed}）"),
            "按字母 A–D 的似然",
        ),
        &table(
            ["share of right answers", "before", "after"],
            "by the likelihood of the option's text",
            &format!("the same with wordings, distractors and order drawn again (seed {seed})"),
            "by the likelihood of the letter A to D",
        ),
    );
    page.paragraph(&Text::new(
        "似然按字数归一。预训练文本里没有任何一句同时含有题目的对象与答案，因此微调前只能猜；微调问答里没有这些题目的问法。\
         字母形式要求从题面读出选项与字母的对应，这么小的模型做不到，列出供对照。",
        "Likelihoods are divided by the length of the text. No sentence of the pretraining text holds a subject together \
         with the answer, so the model before has to guess; no question of the fine-tuning has the wording of a scored one. \
         The letter form asks to read off which letter stands before which option, which is too hard for a model this \
         small; it stands here for comparison.",
    ));
    page.table(
        &by_subject(figures, ["科目", "题数", "微调前", "微调后"], |subject| subject.1),
        &by_subject(figures, ["subject", "questions", "before", "after"], |subject| subject.2),
    );
}

fn by_subject(
    figures: &Figures,
    header: [&str; 4],
    name: fn(&(&'static str, &'static str, &'static str)) -> &'static str,
) -> Table {
    let mut table = Table::new(header);
    for (before, after) in figures.before.text.subjects.iter().zip(&figures.after.text.subjects) {
        let known = SUBJECTS.iter().find(|subject| subject.0 == before.subject);
        table.row([
            known.map_or(before.subject.as_str(), name).to_owned(),
            before.questions.to_string(),
            percent(before.accuracy),
            percent(after.accuracy),
        ]);
    }
    table
}

fn samples(page: &mut Page, samples: &[Sample]) {
    page.heading(&Text::new("微调前后", "Before and after"));
    page.paragraph(&Text::new(
        "预训练模型只会续写，微调后的模型会回答。均取概率最高的词元；问题的问法不在训练数据中。",
        "The pretrained model can only continue a text, the fine-tuned one answers. Both take the most probable token at \
         each step; the questions have wordings that are not in the training data.",
    ));
    let table = |header: [&str; 3], right_is: &str| {
        let mut table = Table::new(header);
        for sample in samples {
            let prompt = match &sample.right {
                Some(right) => format!("{}\n{right_is}{right}", sample.prompt),
                None => sample.prompt.clone(),
            };
            table.row([prompt, sample.before.clone(), sample.after.clone()]);
        }
        table
    };
    page.table(
        &table(["提示", "预训练模型的续写", "微调模型的回答"], "正确答案："),
        &table(["prompt", "pretrained model, continuing", "fine-tuned model, answering"], "right answer: "),
    );
}

fn curves(page: &mut Page, figures: &Figures) {
    page.heading(&Text::new("损失曲线", "Loss curves"));
    for (run, zh, en) in
        [(&figures.pretrained, "预训练", "pretraining"), (&figures.fine_tuned, "微调", "fine-tuning")]
    {
        let chart = |title: &str, [train, validation, x_label, y_label]: [&str; 4]| LineChart {
            title: title.into(),
            x_label: x_label.into(),
            y_label: y_label.into(),
            series: vec![
                Series { name: train.into(), points: run.training_loss.clone(), smooth: true },
                Series { name: validation.into(), points: run.validation_loss.clone(), smooth: false },
            ],
        };
        page.chart(
            &chart(zh, ["训练", "验证", "步", "每词元损失"]),
            &chart(en, ["train", "validation", "step", "loss per token"]),
        );
    }
}

fn files(page: &mut Page, folder: &Folder) {
    page.heading(&Text::new("文件", "Files"));
    let files = [
        ("data/corpus/corpus.jsonl", "预训练文本", "text for pretraining"),
        ("data/sft.jsonl", "微调问答", "questions and answers for fine-tuning"),
        ("data/mcq", "选择题，C-Eval 的格式", "multiple-choice questions in C-Eval's layout"),
        (
            "data/mcq-again",
            "同样的事实，问法、干扰项与次序重新抽取",
            "the same facts with wordings, distractors and order drawn again",
        ),
        ("tokenizer", "词表", "the vocabulary"),
        ("pretrain.yaml", "预训练的配方", "recipe of the pretraining"),
        ("pretrained", "预训练模型与日志", "the pretrained model, with its logs"),
        ("sft.yaml", "微调的配方", "recipe of the fine-tuning"),
        (
            "model",
            "微调后的模型（Hugging Face 文件夹）与日志",
            "the fine-tuned model (a Hugging Face folder), with its logs",
        ),
    ];
    let table = |header: [&str; 2], text: fn(&(&str, &'static str, &'static str)) -> &'static str| {
        let mut table = Table::new(header);
        for file in &files {
            table.row([folder.text(file.0), text(file).to_owned()]);
        }
        table
    };
    page.table(&table(["路径", "内容"], |file| file.1), &table(["path", "content"], |file| file.2));
}

fn next(page: &mut Page, folder: &Folder, limit: Option<usize>) {
    page.heading(&Text::new("接下来", "What to run next"));
    let (model, questions) = (folder.text("model"), folder.text("data/mcq"));
    let limit = limit.map_or_else(String::new, |limit| format!(" --limit {limit}"));
    for (zh, en, command) in [
        ("与模型对话", "talk with the model", format!("danlu chat --model {model}")),
        (
            "续写，不用对话模板",
            "let the pretrained model continue a text",
            format!(
                "danlu generate --model {} --raw --prompt 用挤出机挤塑生产塑料制品是",
                folder.text("pretrained")
            ),
        ),
        (
            "重新计算得分",
            "score it again",
            format!("danlu eval mcq --model {model} --data {questions}{limit}"),
        ),
        (
            "查看模型学习的样本",
            "see the samples as the model learns them",
            format!("danlu data inspect {}", folder.text("sft.yaml")),
        ),
        (
            "改动配方后再次微调",
            "change the recipe and fine-tune again",
            format!("danlu train {} learning_rate=5e-4 overwrite_output_dir=true", folder.text("sft.yaml")),
        ),
        (
            "用自己的数据训练：从现成的配方开始",
            "train on your own data: begin with a ready recipe",
            "danlu recipes list".into(),
        ),
    ] {
        page.paragraph(&Text::new(zh, en)).preformatted(&command);
    }
}

/// 75 seconds → `1:15`.
fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}
