//! Columns → the text of a document: one column or several, lists of lines, paths into objects, encyclopedia articles.

use serde_json::Value;

use super::fields::{Fields, Result, get, missing, present, required, text, wrong_type};
use crate::options::Columns;

/// How the columns of a row make a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentLayout {
    /// Texts of these columns, joined by newlines; a name such as `段落.内容` is a path into objects and lists.
    Columns(Vec<String>),
    /// Title, summary and sections of an encyclopedia article, as in the 5.6 million of Baidu Baike.
    Article,
}

/// Sets of columns that are known, and the texts to take where a row has all of the first list.
const KNOWN: [(&[&str], &[&str]); 7] = [
    (&["text"], &["text"]),
    // MNBVC
    (&["段落"], &["段落.内容"]),
    // questions of community sites, CLUE's webtext2019zh and baike2018qa
    (&["title", "desc", "answer"], &["title", "desc", "answer"]),
    // WuDao, news2016zh
    (&["title", "content"], &["title", "desc", "content"]),
    (&["content"], &["content"]),
    // the filtered Chinese Wikipedia
    (&["completion"], &["completion"]),
    (&["raw_content"], &["raw_content"]),
];

impl DocumentLayout {
    /// The columns that are named, or else known ones that the row has; `text` where there are none.
    pub(super) fn detect(fields: Option<&Fields>, columns: &Columns) -> Self {
        let named = match (&columns.text, &columns.prompt) {
            (Some(names), _) => Some(names.names().to_vec()),
            // `dataset_info.json` calls the text of a corpus `prompt`.
            (None, Some(prompt)) => Some(vec![prompt.clone()]),
            (None, None) => None,
        };
        named.map(Self::Columns).unwrap_or_else(|| {
            fields.and_then(Self::known).unwrap_or_else(|| Self::Columns(vec!["text".to_owned()]))
        })
    }

    /// The layout of a row whose columns are known ones.
    pub(super) fn known(fields: &Fields) -> Option<Self> {
        let has = |name: &&str| fields.contains_key(*name);
        if ["title", "summary", "sections"].iter().all(has) {
            return Some(Self::Article);
        }
        let (_, texts) = KNOWN.iter().find(|(needed, _)| needed.iter().all(has))?;
        // A prompt beside it makes a completion the answer of a conversation.
        let is_answer = texts == &["completion"] && has(&"prompt");
        (!is_answer).then(|| Self::Columns(texts.iter().map(|name| (*name).to_owned()).collect()))
    }

    pub(super) fn read(&self, fields: &Fields) -> Result<String> {
        match self {
            Self::Columns(columns) => joined(fields, columns),
            Self::Article => article(fields),
        }
    }
}

fn joined(fields: &Fields, columns: &[String]) -> Result<String> {
    let mut lines = Vec::new();
    let mut is_there = false;
    for name in columns {
        let mut texts = Vec::new();
        if let Some(value) = get(fields, name) {
            is_there = true;
            push_lines(value, &[], name, &mut texts)?;
        } else if let Some((column, path)) = name.split_once('.')
            && let Some(value) = fields.get(column)
        {
            is_there = true;
            push_lines(value, &path.split('.').collect::<Vec<_>>(), column, &mut texts)?;
        }
        // An empty title is no line of its own.
        if texts.iter().any(|text| !text.is_empty()) {
            lines.append(&mut texts);
        }
    }
    if !is_there {
        return Err(missing(fields, columns.first().map_or("text", String::as_str)));
    }
    match lines.as_mut_slice() {
        [only] => Ok(std::mem::take(only)),
        lines => Ok(lines.join("\n")),
    }
}

/// Appends the texts at `path` below a value, each item of a list for itself.
fn push_lines(value: &Value, path: &[&str], field: &str, lines: &mut Vec<String>) -> Result<()> {
    match (value, path) {
        (Value::Null, _) => Ok(()),
        (Value::Array(items), _) => (items.iter().enumerate())
            .try_for_each(|(index, item)| push_lines(item, path, &format!("{field}[{index}]"), lines)),
        (Value::Object(object), [part, rest @ ..]) => {
            let value = object.get(*part).ok_or_else(|| missing(object, part))?;
            push_lines(value, rest, &format!("{field}.{part}"), lines)
        }
        (_, [_, ..]) => Err(wrong_type(field, "an object", value)),
        (value, []) => {
            lines.push(text(value, field)?);
            Ok(())
        }
    }
}

/// `title：summary` unless the summary is null, then `title：content。` of each section.
fn article(fields: &Fields) -> Result<String> {
    let title = text(required(fields, "title")?, "title")?;
    let mut article = match present(fields, "summary") {
        Some(summary) => format!("{title}：{}", text(summary, "summary")?),
        None => String::new(),
    };
    let sections = match present(fields, "sections") {
        Some(Value::Array(sections)) => sections.as_slice(),
        Some(other) => return Err(wrong_type("sections", "a list of sections", other)),
        None => &[],
    };
    for (index, section) in sections.iter().enumerate() {
        let field = format!("sections[{index}]");
        let section = section.as_object().ok_or_else(|| wrong_type(&field, "an object", section))?;
        let part = |name: &str| match present(section, name) {
            Some(value) => text(value, &format!("{field}.{name}")),
            None => Ok(String::new()),
        };
        let (title, content) = (part("title")?, part("content")?);
        if !content.is_empty() {
            article.push_str(&format!("{title}：{content}。"));
        }
    }
    Ok(article)
}
