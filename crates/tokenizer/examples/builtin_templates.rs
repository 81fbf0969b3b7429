//! Prints the built-in chat templates as a JSON object: name → Jinja source, for `tools/golden/chat_templates.py`.

use danlu_tokenizer::ChatTemplate;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut templates = serde_json::Map::new();
    for name in ChatTemplate::builtin_names() {
        templates.insert((*name).into(), ChatTemplate::builtin(name)?.source().into());
    }
    println!("{}", serde_json::Value::Object(templates));
    Ok(())
}
