//! Chat formats by name: those of LLaMA-Factory's `template` key and of the projects that danlu follows, each as the
//! Jinja source that the trained model carries.
//!
//! Where the field's tools disagree, a format is what the model's makers render. Two things hold for all: the text
//! begins with BOS where the format has one (`alpaca`, `vicuna`, `default` and `empty` begin with it too), and every answer ends
//! with an end token, which is learned (Baichuan's and ChatGLM's makers put none between turns, and `empty` has none
//! in LLaMA-Factory: a model would not learn to stop).

use std::sync::LazyLock;

/// A format of one text for each role. In the texts, `{content}` is the message, `{bos}` and `{eos}` are the
/// vocabulary's tokens, `{round}` counts the questions from 1.
struct Format {
    /// Names that mean it.
    names: &'static [&'static str],
    /// What every text begins with.
    prefix: &'static str,
    /// The system message.
    system: &'static str,
    /// The system message where a conversation has none; empty for none.
    default_system: &'static str,
    /// Whether the system message stands inside the first question.
    system_in_question: bool,
    /// A question.
    user: &'static str,
    /// The generation prompt, which every answer follows.
    header: &'static str,
    /// An answer.
    assistant: &'static str,
    /// The result of a tool; empty where the format has none.
    tool: &'static str,
}

/// ChatML, which others vary.
const CHATML: Format = Format {
    names: &[],
    prefix: "",
    system: "<|im_start|>system\n{content}<|im_end|>\n",
    default_system: "",
    system_in_question: false,
    user: "<|im_start|>user\n{content}<|im_end|>\n",
    header: "<|im_start|>assistant\n",
    assistant: "{content}<|im_end|>\n",
    tool: "<|im_start|>tool\n{content}<|im_end|>\n",
};

/// Nothing but the texts, with BOS before them and EOS behind each answer.
const EMPTY: Format = Format {
    names: &["empty"],
    prefix: "{bos}",
    system: "{content}",
    default_system: "",
    system_in_question: false,
    user: "{content}",
    header: "",
    assistant: "{content}{eos}",
    tool: "",
};

const LLAMA2_ZH: Format = Format {
    names: &["llama2_zh"],
    prefix: "",
    system: "<<SYS>>\n{content}\n<</SYS>>\n\n",
    default_system: "You are a helpful assistant. 你是一个乐于助人的助手。",
    system_in_question: true,
    user: "{bos}[INST] {content} [/INST]",
    header: "",
    assistant: " {content}{eos}",
    tool: "",
};

/// The prompt of Stanford Alpaca, less its last line break.
const BELOW_IS: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the request.";

const FORMATS: [Format; 21] = [
    EMPTY,
    LLAMA2_ZH,
    // Literary-Alpaca2's fine-tuning.
    Format {
        names: &["literary_alpaca2"],
        default_system: "You are a helpful assistant. 你是一个乐于助人的助手。你拥有非常丰富的知识。",
        ..LLAMA2_ZH
    },
    Format {
        names: &["smollm2"],
        default_system: "You are a helpful AI assistant named SmolLM, trained by Hugging Face.",
        ..CHATML
    },
    Format { names: &["cpm4"], prefix: "{bos}", ..CHATML },
    Format {
        names: &["intern2"],
        prefix: "{bos}",
        default_system: "You are an AI assistant whose name is InternLM (书生·浦语).\n\
                         - InternLM (书生·浦语) is a conversational language model that is developed by Shanghai AI \
                         Laboratory (上海人工智能实验室). It is designed to be helpful, honest, and harmless.\n\
                         - InternLM (书生·浦语) can understand and communicate fluently in the language chosen by \
                         the user such as English and 中文.",
        ..CHATML
    },
    Format {
        names: &["default"],
        system: "System: {content}{eos}\n",
        user: "Human: {content}{eos}\n",
        header: "Assistant:",
        assistant: "{content}{eos}\n",
        ..EMPTY
    },
    Format {
        names: &["alpaca"],
        system: "{content}\n\n",
        default_system: BELOW_IS,
        user: "### Instruction:\n{content}\n\n",
        header: "### Response:\n",
        assistant: "{content}{eos}\n\n",
        ..EMPTY
    },
    Format {
        names: &["vicuna"],
        system: "{content} ",
        default_system: "A chat between a curious user and an artificial intelligence assistant. The assistant gives \
                         helpful, detailed, and polite answers to the user's questions.",
        user: "USER: {content} ",
        header: "ASSISTANT:",
        assistant: " {content}{eos}",
        ..EMPTY
    },
    Format {
        names: &["belle"],
        user: "Human: {content}\n\n",
        header: "Belle: ",
        assistant: "{content}{eos}\n\n",
        ..EMPTY
    },
    Format {
        names: &["baichuan"],
        prefix: "",
        user: "<reserved_102>{content}",
        header: "<reserved_103>",
        ..EMPTY
    },
    Format {
        names: &["baichuan2"],
        prefix: "",
        user: "<reserved_106>{content}",
        header: "<reserved_107>",
        ..EMPTY
    },
    // baichuan-Qlora-Tuning: the answer's BOS is learned, it begins the answer.
    Format {
        names: &["baichuan_qlora"],
        prefix: "",
        system: "{content}\n",
        user: "Human: \n{content}\n\n",
        header: "Assistant: \n",
        assistant: "{bos}{content}{eos}",
        ..EMPTY
    },
    Format {
        names: &["baichuan_qlora_llama"],
        prefix: "",
        system: "{content}\n\n",
        default_system: BELOW_IS,
        user: "### Instruction:\n{content}\n\n",
        header: "### Response: ",
        assistant: "{bos}{content}{eos}",
        ..EMPTY
    },
    Format {
        names: &["chatglm2"],
        prefix: "[gMASK]sop",
        user: "[Round {round}]\n\n问：{content}\n\n",
        header: "答：",
        assistant: "{content}{eos}\n\n",
        ..EMPTY
    },
    Format {
        names: &["chatglm3"],
        prefix: "[gMASK]sop",
        system: "<|system|>\n{content}",
        user: "<|user|>\n{content}",
        header: "<|assistant|>",
        assistant: "\n{content}{eos}",
        tool: "<|observation|>\n{content}",
        ..EMPTY
    },
    Format {
        names: &["deepseek"],
        system: "{content}\n\n",
        user: "User: {content}\n\n",
        header: "Assistant:",
        assistant: " {content}{eos}",
        ..EMPTY
    },
    Format { names: &["deepseek3"], user: "<｜User｜>{content}", header: "<｜Assistant｜>", ..EMPTY },
    Format {
        names: &["mistral"],
        system: "{content}\n\n",
        system_in_question: true,
        user: "[INST] {content}[/INST]",
        assistant: " {content}{eos}",
        ..EMPTY
    },
    Format {
        names: &["ministral"],
        system: "{content}\n\n",
        system_in_question: true,
        user: "[INST]{content}[/INST]",
        ..EMPTY
    },
    Format {
        names: &["zephyr"],
        prefix: "",
        system: "<|system|>\n{content}{eos}\n",
        default_system: "You are Zephyr, a helpful assistant.",
        user: "<|user|>\n{content}{eos}\n",
        header: "<|assistant|>\n",
        assistant: "{content}{eos}\n",
        ..EMPTY
    },
];

/// Formats that are written in Jinja. None has a system text of its own.
const SOURCES: [(&[&str], &str); 5] = [
    (
        &["chatml", "yi", "smollm"],
        "{% for message in messages %}\
         {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}\
         {% endfor %}\
         {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    ),
    (
        &["llama2"],
        "{% if messages and messages[0]['role'] == 'system' %}\
         {% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}{% set turns = messages[1:] %}\
         {% else %}{% set system = '' %}{% set turns = messages %}{% endif %}\
         {% for message in turns %}\
         {% if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') %}\
         {{ raise_exception('llama2: after an optional system message, user and assistant must take turns') }}\
         {% endif %}\
         {% if message['role'] == 'user' %}\
         {{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}\
         {% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}\
         {% endfor %}",
    ),
    (
        &["llama3"],
        "{{ '<|begin_of_text|>' }}\
         {% for message in messages %}\
         {{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] + '<|eot_id|>' }}\
         {% endfor %}\
         {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    ),
    // Llama2-Chinese, which LLaMA-Factory calls by its model.
    (
        &["human_assistant", "atom"],
        "{% set names = {'system': 'System', 'user': 'Human', 'assistant': 'Assistant'} %}\
         {% for message in messages %}\
         {% if message['role'] not in names %}\
         {{ raise_exception('human_assistant: the role must be system, user or assistant, not ' + message['role']) }}\
         {% endif %}\
         {{ '<s>' + names[message['role']] + ': ' + message['content'] + '\\n</s>' }}\
         {% endfor %}\
         {% if add_generation_prompt %}{{ '<s>Assistant: ' }}{% endif %}",
    ),
    // Nothing but BOS between a question and its answer.
    (
        &["baby_llama2", "luban"],
        "{% for message in messages %}\
         {% if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') %}\
         {{ raise_exception('baby_llama2: user and assistant must take turns, and there is no system message') }}\
         {% endif %}\
         {{ message['content'] + (bos_token if message['role'] == 'user' else eos_token) }}\
         {% endfor %}",
    ),
];

/// The Qwen formats, with tools: name, system text where there is none, whether answers carry their thoughts.
const QWEN: [(&str, &str, bool); 3] = [
    ("qwen", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", false),
    ("qwen3", "", true),
    ("qwen3_nothink", "", false),
];

static NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let written = SOURCES.iter().flat_map(|(names, _)| *names);
    let qwen = QWEN.iter().map(|(name, ..)| name);
    written.chain(qwen).chain(FORMATS.iter().flat_map(|format| format.names)).copied().collect()
});

/// The names, without an order that means anything.
pub(crate) fn names() -> &'static [&'static str] {
    &NAMES
}

/// The Jinja source of the format of this name.
pub(crate) fn source(name: &str) -> Option<String> {
    if let Some((_, source)) = SOURCES.iter().find(|(names, _)| names.contains(&name)) {
        return Some((*source).to_owned());
    }
    if let Some((_, system, thinks)) = QWEN.iter().find(|(known, ..)| *known == name) {
        let qwen = include_str!("templates/qwen.jinja");
        return Some(format!(
            "{{%- set default_system = '{system}' %}}\n{{%- set thinks = {thinks} %}}\n{qwen}"
        ));
    }
    FORMATS.iter().find(|format| format.names.contains(&name)).map(Format::source)
}

impl Format {
    fn source(&self) -> String {
        let system = "(messages[0]['content'] if has_system else '')";
        let system = match self.default_system {
            "" => system.to_owned(),
            default => format!("{system} or {}", quoted(default)),
        };
        let mut source = format!(
            "{{% set has_system = messages and messages[0]['role'] == 'system' %}}\
             {{% set system = {system} %}}\
             {{% if system %}}{{% set system = {} %}}{{% endif %}}\
             {{% set counted = namespace(round=0) %}}",
            expression(self.system, "system")
        );
        source += &written(self.prefix, "");
        if !self.system_in_question {
            source += "{{ system }}";
        }
        source += "{% for message in (messages[1:] if has_system else messages) %}\
                   {% if message['role'] == 'user' %}\
                   {% set counted.round = counted.round + 1 %}";
        let question = match self.system_in_question {
            true => "(system if loop.first else '') + message['content']",
            false => "message['content']",
        };
        source += &written(self.user, question);
        source += "{% elif message['role'] == 'assistant' %}";
        source += &written(&(self.header.to_owned() + self.assistant), "message['content']");
        if !self.tool.is_empty() {
            source += "{% elif message['role'] == 'tool' %}";
            source += &written(self.tool, "message['content']");
        }
        let roles = if self.tool.is_empty() { "user or assistant" } else { "user, assistant or tool" };
        let name = self.names[0];
        source += &format!(
            "{{% else %}}\
             {{{{ raise_exception('{name}: after an optional system message, the role must be {roles}, not ' + \
             message['role']) }}}}\
             {{% endif %}}{{% endfor %}}"
        );
        if !self.header.is_empty() {
            source += &format!("{{% if add_generation_prompt %}}{}{{% endif %}}", written(self.header, ""));
        }
        source
    }
}

/// The statement that writes a text; nothing for an empty one.
fn written(text: &str, content: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{{{{ {} }}}}", expression(text, content)) }
}

/// A text with its placeholders as a Jinja expression; `content` is what stands for `{content}`.
fn expression(text: &str, content: &str) -> String {
    let mut terms = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        let end = rest[start..].find('}').map_or(rest.len(), |end| start + end + 1);
        if start > 0 {
            terms.push(quoted(&rest[..start]));
        }
        terms.push(match &rest[start..end] {
            "{content}" => content.to_owned(),
            "{bos}" => "bos_token".to_owned(),
            "{eos}" => "eos_token".to_owned(),
            "{round}" => "counted.round | string".to_owned(),
            other => quoted(other),
        });
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        terms.push(quoted(rest));
    }
    terms.join(" + ")
}

/// A string as Jinja writes it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n"))
}
