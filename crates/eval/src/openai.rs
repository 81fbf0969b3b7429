//! A client of OpenAI-compatible servers (danlu, vLLM, llama.cpp, services): answers of a chat, and log-likelihoods of texts by
//! completions with `echo` and `logprobs`, as lm-eval's `local-completions` gets them.
//!
//! The key goes to that one address, never into a message, and no redirection is followed. It does not stream, and it
//! retries what fails in passing.

use std::collections::{BTreeSet, HashMap};
use std::io::ErrorKind;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};
use ureq::Agent;

use crate::parallel::in_parallel;
use crate::{Error, Result};

/// How often a request is made before giving up.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// A server may ask for a longer pause, up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A model may think for so long before its answer comes, as a whole.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
const LONGEST_ANSWER: u64 = 64 << 20;
/// Characters of an answer that a message shows.
const SHOWN: usize = 200;

/// One model of one server.
pub struct Client {
    /// Up to and with `/v1`.
    url: String,
    model: String,
    key: Option<String>,
    agent: Agent,
}

/// A text and how it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuation {
    /// What is given.
    pub prompt: String,
    /// What is scored.
    pub text: String,
}

impl Client {
    /// `url` is that of the server (`http://localhost:8000`), with or without `/v1` and what follows it.
    ///
    /// # Errors
    /// An address that is none of http, or that holds a user's name.
    pub fn new(url: &str, model: &str, key: Option<String>) -> Result<Self> {
        let problem = |problem: String| Error::Address { url: url.to_owned(), problem };
        if url.contains(['@', '?', '#']) {
            let url = "…".to_owned();
            let problem =
                "expected an address without a user's name and without `?` or `#`: name the variable that holds a key".into();
            return Err(Error::Address { url, problem });
        }
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        let rest =
            rest.ok_or_else(|| problem("expected an address such as `http://localhost:8000/v1`".into()))?;
        let host = rest.split('/').next().unwrap_or_default();
        let mut base = url.trim_end_matches('/');
        for end in ["/chat/completions", "/completions"] {
            base = base.strip_suffix(end).unwrap_or(base);
        }
        let base = if rest.trim_end_matches('/') == host { format!("{base}/v1") } else { base.to_owned() };
        let mut config = Agent::config_builder();
        // No proxy leads back to this machine.
        if ["127.0.0.1", "localhost", "[::1]"].contains(&host.rsplit_once(':').map_or(host, |parts| parts.0))
        {
            config = config.proxy(None);
        }
        let config = config
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(ANSWER_TIMEOUT))
            .user_agent(concat!("danlu/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { url: base, model: model.to_owned(), key, agent: config.into() })
    }

    /// What the model answers to messages, each of a role and a text, with the most probable tokens; nothing where it refuses or
    /// was cut off.
    ///
    /// # Errors
    /// A server that cannot be reached, refuses, or answers something else.
    pub fn chat(&self, messages: &[(&str, &str)], max_tokens: usize) -> Result<String> {
        let messages: Vec<Value> =
            messages.iter().map(|(role, text)| json!({ "role": role, "content": text })).collect();
        let body =
            json!({ "model": self.model, "messages": messages, "temperature": 0, "max_tokens": max_tokens });
        let answer = self.post("chat/completions", &body)?;
        let choice = &answer["choices"][0];
        match &choice["message"]["content"] {
            _ if choice["finish_reason"] == "length" => Ok(String::new()),
            Value::String(text) => Ok(text.clone()),
            Value::Null if choice["message"].is_object() => Ok(String::new()),
            _ => Err(self.other_form("chat/completions", "choices[0].message.content", &answer)),
        }
    }

    /// Log-likelihoods (natural logarithm) of texts behind their prompts, in the same order, `parallel` requests at a time.
    /// `progress` is told how many of the texts are scored.
    ///
    /// The server's tokenizer decides, as lm-eval's does: tokens of a text are those beyond as many as its prompt alone has, and
    /// white space at the end of a prompt belongs to the text.
    ///
    /// # Errors
    /// As [`chat`](Self::chat); a server that gives no log-probabilities of the prompt.
    pub fn log_likelihoods(
        &self,
        requests: &[Continuation],
        parallel: usize,
        mut progress: impl FnMut(usize),
    ) -> Result<Vec<f64>> {
        let begun = |request: &Continuation| request.prompt.trim_end().to_owned();
        let prompts: Vec<String> = requests.iter().map(begun).collect::<BTreeSet<_>>().into_iter().collect();
        let mut lengths = HashMap::new();
        let count = |prompt: &String| match prompt.is_empty() {
            true => Ok(0),
            false => Ok(self.echo(prompt)?.len()),
        };
        in_parallel(&prompts, parallel, count, |prompt, length| {
            lengths.insert(prompt.clone(), length);
            Ok(())
        })?;
        let mut sums = Vec::with_capacity(requests.len());
        let score = |request: &Continuation| {
            let tokens = self.echo(&format!("{}{}", request.prompt, request.text))?;
            let length = lengths.get(&begun(request)).copied().unwrap_or(0);
            let text = tokens.get(length..).filter(|text| !text.is_empty());
            let text = text.ok_or_else(|| self.problem("completions", no_token_of(&request.text)))?;
            // A first token that nothing stands before has no probability.
            let of_text = if length == 0 { &text[1..] } else { text };
            let sum: Option<f64> = of_text.iter().copied().sum();
            sum.ok_or_else(|| {
                let problem = format!("gives no log-probability of a token of `{}`", request.text);
                self.problem("completions", problem)
            })
        };
        in_parallel(requests, parallel, score, |_, sum| {
            sums.push(sum);
            progress(sums.len());
            Ok(())
        })?;
        Ok(sums)
    }

    /// Log-probabilities of the tokens of `text`, of the first one without a number.
    fn echo(&self, text: &str) -> Result<Vec<Option<f64>>> {
        let body = json!({
            "model": self.model, "prompt": text, "echo": true, "logprobs": 1, "max_tokens": 1, "temperature": 0,
        });
        let answer = self.post("completions", &body)?;
        let tokens = answer["choices"][0]["logprobs"]["token_logprobs"].as_array();
        let tokens = tokens
            .ok_or_else(|| self.other_form("completions", "choices[0].logprobs.token_logprobs", &answer))?;
        let generated = answer["usage"]["completion_tokens"].as_u64().unwrap_or(1) as usize;
        let asked = answer["usage"]["prompt_tokens"].as_u64().map(|count| count as usize);
        match tokens.len().checked_sub(generated) {
            Some(count) if count > 0 && asked.is_none_or(|asked| asked == count) => {
                Ok(tokens[..count].iter().map(Value::as_f64).collect())
            }
            _ => Err(self.problem(
                "completions",
                "gives no log-probabilities of the prompt: expected a server that knows `echo` with `logprobs`, such as vLLM".into(),
            )),
        }
    }

    /// The JSON that the server answers with.
    fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let body = body.to_string();
        let mut tries = 1;
        loop {
            let pause = match self.ask(path, &body) {
                Ok(Answer { status: 200, text, .. }) => {
                    return serde_json::from_str(&text).map_err(|_| {
                        let problem = format!(
                            "answers with something that is no JSON, beginning `{}`: expected an OpenAI-compatible server",
                            self.shown(&text)
                        );
                        self.problem(path, problem)
                    });
                }
                Ok(answer) => match tries < TRIES && is_passing(answer.status) {
                    true => answer.pause,
                    false => return Err(self.refusal(path, &answer, tries)),
                },
                Err(error) if tries < TRIES && may_pass(&error) => None,
                Err(error) => {
                    let problem =
                        format!("cannot be reached ({}): is the server running there", reason(&error));
                    return Err(self.problem(path, problem));
                }
            };
            sleep(pause.unwrap_or(FIRST_PAUSE * 2_u32.pow(tries - 1)).min(LONGEST_PAUSE));
            tries += 1;
        }
    }

    fn ask(&self, path: &str, body: &str) -> Result<Answer, ureq::Error> {
        let mut request =
            self.agent.post(format!("{}/{path}", self.url)).header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request.send(body)?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let pause = header("retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let location = header("location").map(str::to_owned);
        let status = response.status().as_u16();
        let text =
            response.body_mut().with_config().limit(LONGEST_ANSWER).lossy_utf8(true).read_to_string()?;
        Ok(Answer { status, text, pause, location })
    }

    /// What a status other than success means.
    fn refusal(&self, path: &str, answer: &Answer, tries: u32) -> Error {
        let Answer { status, text, location, .. } = answer;
        let told: Option<Value> = serde_json::from_str(text).ok();
        let message = told.as_ref().and_then(|told| {
            let error = &told["error"];
            error["message"].as_str().or(error.as_str()).or(told["message"].as_str())
        });
        let told = match message.unwrap_or(text).trim() {
            "" => String::new(),
            message => format!(", `{}`", self.shown(message)),
        };
        let problem = match (status, &self.key) {
            (401 | 403, None) => {
                format!("wants a key (HTTP status {status}{told}): name the variable that holds it with `--api-key-env`")
            }
            (401 | 403, Some(_)) => {
                format!("refuses the key (HTTP status {status}{told}): check the variable that `--api-key-env` names")
            }
            (300..400, _) => format!(
                "answers with a redirection to `{}`, which is not followed: give the address itself",
                self.shown(location.as_deref().unwrap_or(""))
            ),
            (404, _) => format!(
                "is not there, or has no model `{}` (HTTP status 404{told}): check the address and the model's name",
                self.model
            ),
            (400 | 413 | 422, _) => {
                let problem = format!("refuses the request (HTTP status {status}{told})");
                return Error::Refused { url: format!("{}/{path}", self.url), problem };
            }
            (400..500, _) if !is_passing(*status) => format!("refuses the request (HTTP status {status}{told})"),
            _ => return self.problem(
                path,
                format!("answers with HTTP status {status}{told} ({tries} tries): try again later, what is done is kept"),
            ),
        };
        Error::Address { url: format!("{}/{path}", self.url), problem }
    }

    fn other_form(&self, path: &str, field: &str, answer: &Value) -> Error {
        let answer = answer.to_string();
        self.problem(path, format!("answers without `{field}`: `{}`", self.shown(&answer)))
    }

    fn problem(&self, path: &str, problem: String) -> Error {
        Error::Server { url: format!("{}/{path}", self.url), problem }
    }

    /// The beginning of what a server said, on one line and without the key.
    fn shown(&self, text: &str) -> String {
        let text = self.key.as_ref().map_or_else(|| text.to_owned(), |key| text.replace(key.as_str(), "…"));
        let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut shown: String = line.chars().take(SHOWN).collect();
        if shown.len() < line.len() {
            shown.push('…');
        }
        shown
    }
}

struct Answer {
    status: u16,
    text: String,
    /// What the server asks to wait.
    pause: Option<Duration>,
    location: Option<String>,
}

/// Too many requests, or a fault of the server: another try may succeed.
fn is_passing(status: u16) -> bool {
    status == 408 || status == 429 || (500..600).contains(&status)
}

/// Whether another try may do better: not where nobody listens.
fn may_pass(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Io(error) => error.kind() != ErrorKind::ConnectionRefused,
        ureq::Error::Protocol(_) => true,
        _ => false,
    }
}

fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Timeout(which) => format!("no answer in time: {which}"),
        ureq::Error::HostNotFound => "no such host, or no network".into(),
        other => other.to_string(),
    }
}

fn no_token_of(text: &str) -> String {
    format!("makes no token of its own of `{text}` behind its prompt: expected a text that adds at least one")
}
