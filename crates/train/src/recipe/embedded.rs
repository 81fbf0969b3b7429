//! The recipes that travel inside the binary.

/// A recipe of the folder `recipes/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddedRecipe {
    /// File name without `.yaml`.
    pub name: &'static str,
    /// The whole file.
    pub text: &'static str,
}

impl EmbeddedRecipe {
    /// The file's first line: what the recipe does, in English.
    #[must_use]
    pub fn description(&self) -> &'static str {
        self.comment(0)
    }

    /// The file's second line: the same in Chinese.
    #[must_use]
    pub fn description_zh(&self) -> &'static str {
        self.comment(1)
    }

    fn comment(&self, line: usize) -> &'static str {
        self.text.lines().nth(line).unwrap_or_default().trim_start_matches('#').trim()
    }
}

macro_rules! recipes {
    ($($name:literal),* $(,)?) => {
        &[$(EmbeddedRecipe {
            name: $name,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/", $name, ".yaml")),
        }),*]
    };
}

/// All embedded recipes, in the order in which they are explained to a newcomer.
#[must_use]
pub fn embedded() -> &'static [EmbeddedRecipe] {
    recipes![
        "pretrain-zh-26m",
        "pretrain-jsonl",
        "pretrain-json-array",
        "sft-lora",
        "sft-full",
        "sft-csv",
        "sft-instruct-query-answer",
        "sft-messages",
        "identity-lora",
        "dpo",
        "orpo",
        "kto",
        "distillation",
        "gguf-qlora",
        "minimind-26m",
        "minimind-64m",
        "minimind-110m",
        "baby-llama2-pretrain",
        "baby-llama2-sft",
        "luban-sft",
        "llama2-chinese-pretrain",
        "llama2-chinese-full",
        "llama2-chinese-lora",
        "literary-alpaca2-embeddings",
        "literary-alpaca2-pretrain",
        "literary-alpaca2-sft",
        "llama3-pretrain",
        "llama3-sft",
        "baichuan-qlora-ner",
    ]
}
