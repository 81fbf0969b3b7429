//! The documentation: both languages say the same, and what it names is there.

use crate::common;

use std::path::{Path, PathBuf};

use common::run;
use danlu_tokenizer::ChatTemplate;

/// Documents in English, and the same in Chinese.
const PAIRS: [(&str, &str); 8] = [
    ("README.md", "README.zh.md"),
    ("docs/en/guide.md", "docs/zh/guide.md"),
    ("docs/en/data.md", "docs/zh/data.md"),
    ("docs/en/faq.md", "docs/zh/faq.md"),
    ("docs/en/engine.md", "docs/zh/engine.md"),
    ("docs/en/catalogue.md", "docs/zh/catalogue.md"),
    ("docs/en/migrate.md", "docs/zh/migrate.md"),
    ("examples/data/README.md", "examples/data/README.zh.md"),
];
const ENGLISH_ONLY: [&str; 4] =
    ["CONTRIBUTING.md", "docs/dependencies.md", "docs/roadmap.md", "docs/benchmarks.md"];

/// The folder of the project.
fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(project().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Code blocks whole, headings by their level, the number of rows of each table.
fn skeleton(text: &str) -> Vec<String> {
    let (mut parts, mut in_code, mut rows) = (Vec::new(), false, 0);
    for line in text.lines() {
        if rows > 0 && !line.starts_with('|') {
            parts.push(format!("table of {rows} rows"));
            rows = 0;
        }
        if line.starts_with("```") || in_code {
            in_code ^= line.starts_with("```");
            parts.push(line.to_owned());
        } else if line.starts_with('#') {
            parts.push(line.split_whitespace().next().unwrap().to_owned());
        } else if line.starts_with('|') {
            rows += 1;
        }
    }
    assert!(!in_code, "a code block has no end");
    parts
}

#[test]
fn both_languages_have_the_same_headings_code_and_tables() {
    for (english, chinese) in PAIRS {
        let (one, other) = (skeleton(&read(english)), skeleton(&read(chinese)));
        let differs = one.iter().zip(&other).find(|(one, other)| one != other);
        assert!(differs.is_none(), "{english} and {chinese}: {differs:#?}");
        assert_eq!(one.len(), other.len(), "{english} and {chinese}");
    }
}

#[test]
fn links_lead_to_files() {
    let names = PAIRS.iter().flat_map(|&(english, chinese)| [english, chinese]).chain(ENGLISH_ONLY);
    for name in names {
        let folder = project().join(name).parent().map(PathBuf::from).unwrap();
        for link in read(name).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap();
            let is_there = link.starts_with("https://") || folder.join(path).exists();
            assert!(is_there, "{name}: {link}");
        }
    }
}

/// The first words in backticks of the rows of a table.
fn names_of_rows(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
}

#[test]
fn every_verb_is_in_the_readme() {
    let help = run(project(), &["--help"]).stdout;
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let lines = commands.lines().filter_map(|line| line.strip_prefix("  "));
    let verbs: Vec<&str> =
        lines.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split(' ').next()).collect();
    let readme = read("README.md");
    let told: Vec<&str> =
        names_of_rows(&readme).into_iter().filter_map(|name| name.strip_prefix("danlu ")).collect();
    assert_eq!(told, verbs);
}

#[test]
fn every_recipe_is_in_the_guide() {
    let recipes = run(project(), &["recipes", "list", "--json"]).json();
    let guide = read("docs/en/guide.md");
    let told = names_of_rows(&guide);
    for recipe in recipes["recipes"].as_array().unwrap() {
        let name = recipe["name"].as_str().unwrap();
        assert!(told.contains(&name), "{name}");
    }
}

#[test]
fn every_built_in_template_and_vocabulary_is_told() {
    for document in ["docs/en/data.md", "docs/zh/data.md"] {
        let text = read(document);
        for name in ChatTemplate::builtin_names() {
            assert!(text.contains(&format!("`{name}`")), "{document}: {name}");
        }
    }
    for (document, row) in [("README.md", "| vocabularies |"), ("README.zh.md", "| 词表 |")] {
        let text = read(document);
        let row = text.lines().find(|line| line.starts_with(row)).unwrap();
        let cells: Vec<&str> = row.split('|').collect();
        for cell in &cells[2..4] {
            assert!(
                cell.contains("`tokenizer.json`") && cell.contains("`tokenizer.model`"),
                "{document}: {cell}"
            );
        }
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = read("Cargo.toml");
    let section = manifest.split("[workspace.dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let mut dependencies: Vec<&str> = section.lines().filter_map(|line| line.split(" = ").next()).collect();
    dependencies.retain(|name| !name.is_empty() && !name.starts_with("danlu-"));
    assert!(dependencies.len() > 20);
    let document = read("docs/dependencies.md");
    let mut told = names_of_rows(&document);
    dependencies.sort_unstable();
    told.sort_unstable();
    assert_eq!(told, dependencies);
}

#[test]
fn the_reference_is_up_to_date() {
    let checked = run(project(), &["docs", "--check"]);
    assert_eq!(checked.code, 0, "{}", checked.stderr);
}

/// A file that no program names would not even be compiled.
#[test]
fn every_file_of_tests_belongs_to_a_program() {
    for room in std::fs::read_dir(project().join("crates")).unwrap() {
        let room = room.unwrap().path();
        let Ok(all) = std::fs::read_to_string(room.join("tests/all.rs")) else { continue };
        let manifest = std::fs::read_to_string(room.join("Cargo.toml")).unwrap();
        for file in std::fs::read_dir(room.join("tests")).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let is_named = all.contains(&format!("\nmod {name};\n"))
                || manifest.contains(&format!("\"tests/{name}.rs\""));
            assert!(is_named || path.is_dir(), "{}: add `mod {name};` to `all.rs`", path.display());
        }
    }
}
