//! `danlu recipes`: the recipes inside the binary, to look at and to start from.

use std::path::PathBuf;

use anyhow::Result;
use danlu_formats::write_file_atomically;
use danlu_train::recipe::{EmbeddedRecipe, Recipe, embedded};
use serde_json::json;

use crate::failure::wrong_input;
use crate::printer::Printer;

/// What to do with recipes.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Names, and what each does
    ///
    /// zh: 名称与用途
    List,
    /// Print a recipe
    ///
    /// zh: 打印配方
    Show {
        /// Name of the recipe
        ///
        /// zh: 配方名称
        name: String,
    },
    /// Write a recipe into a file, to change it
    ///
    /// zh: 把配方写成文件以便修改
    Copy {
        /// Name of the recipe
        ///
        /// zh: 配方名称
        name: String,
        /// File or folder to write to (default: NAME.yaml)
        ///
        /// zh: 目标文件或文件夹（默认：NAME.yaml）
        destination: Option<PathBuf>,
    },
}

/// Runs `danlu recipes`.
///
/// # Errors
/// An unknown name, or a file that cannot be written.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    match args {
        Args::List => list(printer),
        Args::Show { name } => {
            let recipe = find(&name)?;
            printer.text(recipe.text)?;
            Ok(printer.json(&json!({ "name": recipe.name, "text": recipe.text }))?)
        }
        Args::Copy { name, destination } => copy(find(&name)?, destination, printer),
    }
}

fn list(printer: &Printer) -> Result<()> {
    let rows: Vec<Vec<String>> = embedded()
        .iter()
        .map(|recipe| {
            vec![recipe.name.into(), format!("{}\n{}", recipe.description(), recipe.description_zh())]
        })
        .collect();
    printer.table(&["recipe", "what it does"], &rows)?;
    printer.note("danlu train NAME key=value … runs one, danlu recipes show NAME explains it");
    let recipes: Vec<_> = embedded()
        .iter()
        .map(|recipe| {
            json!({ "name": recipe.name, "description": recipe.description(), "description_zh": recipe.description_zh() })
        })
        .collect();
    Ok(printer.json(&json!({ "recipes": recipes }))?)
}

fn copy(recipe: EmbeddedRecipe, destination: Option<PathBuf>, printer: &Printer) -> Result<()> {
    let file_name = format!("{}.yaml", recipe.name);
    let path = match destination {
        Some(path) if path.is_dir() => path.join(file_name),
        Some(path) => path,
        None => file_name.into(),
    };
    if path.exists() {
        return Err(wrong_input(format!(
            "`{}` exists already: choose another name or remove it",
            path.display()
        )));
    }
    write_file_atomically(&path, recipe.text.as_bytes())?;
    printer.line(path.display())?;
    Ok(printer.json(&json!({ "name": recipe.name, "path": path }))?)
}

fn find(name: &str) -> Result<EmbeddedRecipe> {
    match embedded().iter().find(|recipe| recipe.name == name) {
        Some(recipe) => Ok(*recipe),
        // The loader's error names the nearest recipe.
        None => Err(Recipe::load(name, &[] as &[&str]).err().map_or_else(
            || {
                wrong_input(format!(
                    "`{name}` is a file, not the name of a recipe; `danlu recipes list` shows all"
                ))
            },
            Into::into,
        )),
    }
}
