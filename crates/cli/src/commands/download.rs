//! `danlu download`: a model or data set of a hub onto this disk.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use danlu_hub::{Hub, Kind, Repository, Settings, chosen_files, model_files};
use serde_json::json;

use crate::hub::download;
use crate::printer::Printer;

/// What to download.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What it is: hubs keep models and data sets apart
    ///
    /// zh: 类型：模型与数据集在网站上分开存放
    #[arg(value_enum, value_name = "model|dataset")]
    kind: What,
    /// Its id, such as Qwen/Qwen2.5-0.5B-Instruct; with @REVISION at a branch, tag or commit
    ///
    /// zh: 名称，例如 Qwen/Qwen2.5-0.5B-Instruct；可加 @版本（分支、标签或提交）
    #[arg(value_name = "ID")]
    id: String,
    /// Folder for the files (default: the cache that Python's programs use too)
    ///
    /// zh: 存放文件的文件夹（默认：与 Python 程序共用的缓存）
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Branch, tag or commit (default: the main branch)
    ///
    /// zh: 分支、标签或提交（默认：主分支）
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// Only files that match, such as *q4_k_m.gguf; may be given again (default: of a model what danlu reads)
    ///
    /// zh: 只下载匹配的文件，例如 *q4_k_m.gguf；可重复给出（默认：模型只下载 danlu 要读的文件）
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// No files that match; may be given again
    ///
    /// zh: 不下载匹配的文件；可重复给出
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
}

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Weights, configuration and tokenizer
    Model,
    /// Rows
    Dataset,
}

/// Runs `danlu download`.
///
/// # Errors
/// A repository that is not there or not for everyone, too little space, a network that stays away.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    let kind = match args.kind {
        What::Model => Kind::Model,
        What::Dataset => Kind::Dataset,
    };
    let repository = Repository::parse(kind, &args.id)?.at(args.revision)?;
    let hub = Hub::new(Settings::from_environment());
    let listing = hub.listing(&repository)?;
    let files = match kind {
        Kind::Model if args.include.is_empty() => {
            let files = model_files(&repository, &listing.files)?;
            chosen_files(&repository, &files, &[], &args.exclude)?
        }
        _ => chosen_files(&repository, &listing.files, &args.include, &args.exclude)?,
    };
    let downloaded = download(&hub, &repository, &listing, &files, args.to.as_deref(), printer)?;
    printer.line(downloaded.folder.display())?;
    Ok(printer.json(&json!({
        "id": repository.id,
        "kind": kind.name(),
        "commit": downloaded.commit,
        "folder": downloaded.folder,
        "files": downloaded.files,
        "bytes": downloaded.bytes,
        "transferred": downloaded.transferred,
    }))?)
}
