//! `--url`: a model behind an OpenAI-compatible server in place of one that is opened here.
//!
//! What it decides is said by the servers' protocol: no logits, no vocabulary, no context length, and of sampling only temperature,
//! top_p and seed.

use anyhow::Result;
use danlu_eval::Error;
use danlu_eval::openai::{Client, Server};
use danlu_model::Sampling;
use serde_json::{Map, Value};

use crate::failure::wrong_input;

/// A model behind a server.
#[derive(Debug, Clone, clap::Args)]
#[command(
    mut_arg("api_key_env", |arg| arg.requires("url")),
    mut_arg("parallel", |arg| arg.requires("url")),
)]
pub struct ServerArgs {
    /// Ask the model of the OpenAI-compatible server at this address, in place of one that is opened here (and without what decides
    /// how that one computes, such as --adapter)
    ///
    /// zh: 不在本机打开模型，而是向此地址的 OpenAI 兼容服务提问（不能再用 --adapter 等决定本机如何计算的选项）
    #[arg(
        long,
        value_name = "URL",
        requires = "model_name",
        conflicts_with_all = ["model", "adapter", "quantization_bit", "precision"]
    )]
    url: Option<String>,
    /// Name of the model on that server
    ///
    /// zh: 该服务上的模型名称
    #[arg(long, value_name = "NAME", requires = "url")]
    model_name: Option<String>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// How a server is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct ConnectionArgs {
    /// Environment variable that holds the server's key, such as OPENAI_API_KEY (default: no key is sent)
    ///
    /// zh: 存放服务密钥的环境变量，如 OPENAI_API_KEY（默认：不发送密钥）
    #[arg(long, value_name = "NAME")]
    api_key_env: Option<String>,
    /// Requests that the server gets at a time
    ///
    /// zh: 同时发给服务的请求数
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,
}

impl ServerArgs {
    /// The server, if one is to be asked.
    ///
    /// # Errors
    /// As [`ConnectionArgs::open`].
    pub fn open(&self) -> Result<Option<Server>> {
        let (Some(url), Some(model)) = (&self.url, &self.model_name) else { return Ok(None) };
        self.connection.open(url, model).map(Some)
    }
}

impl ConnectionArgs {
    /// The model of that name on the server at `url`, which is not asked yet.
    ///
    /// # Errors
    /// An address that cannot be one, a variable without a key, or with one that no header can hold.
    pub fn open(&self, url: &str, model: &str) -> Result<Server> {
        let key = self.api_key_env.as_ref().map(|name| {
            let key = std::env::var(name).ok().map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
            let key = key.ok_or_else(|| {
                wrong_input(format!(
                    "the environment variable `{name}` is not set: expected the server's key"
                ))
            })?;
            match key.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
                true => Ok(key),
                false => Err(wrong_input(format!(
                    "the environment variable `{name}` holds what is no key: expected ASCII characters on one line, as an HTTP \
                     header takes them"
                ))),
            }
        });
        let client = Client::new(url, model, key.transpose()?)?;
        Ok(Server { client, parallel: usize::from(self.parallel) })
    }
}

/// What tells whose answers they are. Not the key.
pub fn settings(server: &Server) -> Map<String, Value> {
    Map::from_iter([
        ("url".into(), server.client.url().into()),
        ("model".into(), server.client.model().into()),
        ("danlu".into(), env!("CARGO_PKG_VERSION").into()),
    ])
}

/// The part of it that servers are told.
pub fn told_to_server(sampling: Sampling) -> Sampling {
    Sampling { top_k: 0, repetition_penalty: 1.0, ..sampling }
}

/// An error of asking, with what makes a prompt shorter where it is too long.
pub fn with_advice(error: Error, advice: &str) -> anyhow::Error {
    match error {
        Error::Refused { is_too_long: true, .. } => wrong_input(format!("{error}: {advice}")),
        error => error.into(),
    }
}
