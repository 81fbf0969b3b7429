//! A client of OpenAI-compatible servers (vLLM, llama.cpp, services): answers to conversations and continued texts, and
//! log-likelihoods of texts by completions with `echo` and `logprobs`, as lm-eval's `local-completions` gets them.
//!
//! The key goes to that one address, never into a message, and no redirection is followed. It does not stream, and it
//! retries what fails in passing.

use std::collections::{BTreeSet, HashMap};
use std::io::ErrorKind;
use std::thread::sleep;
use std::time::Duration;

use danlu_model::Sampling;
use danlu_tokenizer::Message;
use serde_json::{Value, json};
use ureq::{Agent, Timeout};

use crate::parallel::{in_order, in_parallel};
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

/// A server, and how many requests it gets at a time.
pub struct Server {
    /// The server.
    pub client: Client,
    /// Requests that are made at a time.
    pub parallel: usize,
}

/// What a model is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A text, which it continues.
    Text(String),
    /// A conversation, which it answers; the server puts its own template around it.
    Chat(Vec<Message>),
}

impl Prompt {
    /// The text, or those of the messages with an empty line between them.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Chat(messages) => {
                messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n\n")
            }
        }
    }
}

/// How an answer is generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// How tokens are chosen. Only temperature, top_p and the seed are told: other fields are no part of the protocol, and many
    /// servers refuse them.
    pub sampling: Sampling,
    /// Longest answer, in tokens.
    pub max_tokens: usize,
    /// A text that ends the answer, and is no part of it.
    pub stop: Option<String>,
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

    /// The address without what follows `/v1`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The model's name.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// What the model answers to messages, each of a role and a text, with the most probable tokens; nothing where it refuses or
    /// was cut off.
    ///
    /// # Errors
    /// A server that cannot be reached, refuses, or answers something else.
    pub fn chat(&self, messages: &[(&str, &str)], max_tokens: usize) -> Result<String> {
        let messages = messages.iter().map(|(role, text)| Message::new(*role, *text)).collect();
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let (text, is_cut) =
            self.generate(&Prompt::Chat(messages), &Generation { sampling, max_tokens, stop: None })?;
        Ok(if is_cut { String::new() } else { text })
    }

    /// The answers to `prompts`, handed on one by one in their order, `parallel` requests at a time. The first error ends it, with
    /// the answers before it taken.
    ///
    /// # Errors
    /// As [`chat`](Self::chat), and those of `take`.
    pub fn answers(
        &self,
        prompts: &[Prompt],
        how: &Generation,
        parallel: usize,
        take: impl FnMut(String) -> Result<()>,
    ) -> Result<()> {
        in_order(prompts, parallel, |prompt| Ok(self.generate(prompt, how)?.0), take)
    }

    /// What the model answers or how it goes on, and whether it was cut off; nothing where it refuses.
    fn generate(&self, prompt: &Prompt, how: &Generation) -> Result<(String, bool)> {
        let mut body = json!({ "model": self.model, "temperature": 0, "max_tokens": how.max_tokens });
        let Sampling { temperature, top_p, seed, .. } = how.sampling;
        if temperature > 0.0 {
            body["temperature"] = short(temperature);
            body["top_p"] = short(top_p);
            body["seed"] = seed.into();
        }
        if let Some(stop) = &how.stop {
            body["stop"] = json!([stop]);
        }
        let (path, field) = match prompt {
            Prompt::Text(text) => {
                body["prompt"] = json!(text);
                ("completions", "choices[0].text")
            }
            Prompt::Chat(messages) => {
                body["messages"] = json!(messages);
                ("chat/completions", "choices[0].message.content")
            }
        };
        let answer = self.post(path, &body)?;
        let choice = &answer["choices"][0];
        let is_cut = choice["finish_reason"] == "length";
        let message = &choice["message"];
        match if path == "completions" { &choice["text"] } else { &message["content"] } {
            Value::String(text) => Ok((text.clone(), is_cut)),
            Value::Null if message.is_object() => Ok((String::new(), is_cut)),
            _ => Err(self.other_form(path, field, &answer)),
        }
    }

    /// Log-likelihoods (natural logarithm) of texts behind their prompts, handed on one by one in their order, `parallel` requests
    /// at a time. The first error ends it, with those before it taken.
    ///
    /// The server's tokenizer decides, as lm-eval's does: tokens of a text are those beyond as many as its prompt alone has, or where
    /// there are none, those from the one on that joins prompt and text; white space at the end of a prompt belongs to the text.
    ///
    /// # Errors
    /// As [`chat`](Self::chat); a server that gives no log-probabilities of the prompt; those of `take`.
    pub fn log_likelihoods(
        &self,
        requests: &[Continuation],
        parallel: usize,
        take: impl FnMut(f64) -> Result<()>,
    ) -> Result<()> {
        let begun = |request: &Continuation| request.prompt.trim_end().to_owned();
        let prompts: Vec<String> = requests.iter().map(begun).collect::<BTreeSet<_>>().into_iter().collect();
        let mut before = HashMap::new();
        let alone =
            |prompt: &String| if prompt.is_empty() { Ok(Vec::new()) } else { self.echo(&json!(prompt)) };
        in_parallel(&prompts, parallel, alone, |place, tokens| {
            before.insert(&prompts[place], tokens);
            Ok(())
        })?;
        let score = |request: &Continuation| {
            let whole = self.echo(&json!(format!("{}{}", request.prompt, request.text)))?;
            let before = before.get(&begun(request)).map_or(&[][..], Vec::as_slice);
            let start = match whole.len() > before.len() {
                true => before.len(),
                false => {
                    before.iter().zip(&whole).take_while(|(before, whole)| before.text == whole.text).count()
                }
            };
            let text = whole.get(start..).filter(|text| !text.is_empty());
            let text = text.ok_or_else(|| self.problem("completions", no_token_of(&request.text)))?;
            // A first token that nothing stands before has no probability.
            let of_text = if start == 0 { &text[1..] } else { text };
            let sum: Option<f64> = of_text.iter().map(|token| token.log_probability).sum();
            sum.ok_or_else(|| {
                let problem = format!("gives no log-probability of a token of `{}`", request.text);
                self.problem("completions", problem)
            })
        };
        in_order(requests, parallel, score, take)
    }

    /// Log-likelihood (natural logarithm) of `ids[first..]` behind `ids[..first]`, which are not empty.
    ///
    /// # Errors
    /// As [`log_likelihoods`](Self::log_likelihoods); a server that reads ids as other tokens than one each.
    pub fn log_likelihood_of_ids(&self, ids: &[u32], first: usize) -> Result<f64> {
        let tokens = self.echo(&json!(ids))?;
        if tokens.len() != ids.len() {
            let problem =
                format!("makes {} tokens of {} ids: expected one for each", tokens.len(), ids.len());
            return Err(self.problem("completions", problem));
        }
        let sum: Option<f64> = tokens[first..].iter().map(|token| token.log_probability).sum();
        sum.ok_or_else(|| self.problem("completions", "gives no log-probability of an id".into()))
    }

    /// The tokens of `prompt`, a text or ids.
    fn echo(&self, prompt: &Value) -> Result<Vec<Token>> {
        let body = json!({
            "model": self.model, "prompt": prompt, "echo": true, "logprobs": 1, "max_tokens": 1, "temperature": 0,
        });
        let answer = self.post("completions", &body)?;
        let told = &answer["choices"][0]["logprobs"];
        let known = told["token_logprobs"].as_array();
        let known = known
            .ok_or_else(|| self.other_form("completions", "choices[0].logprobs.token_logprobs", &answer))?;
        let generated = answer["usage"]["completion_tokens"].as_u64().unwrap_or(1) as usize;
        let asked = answer["usage"]["prompt_tokens"].as_u64().map(|count| count as usize);
        match known.len().checked_sub(generated) {
            Some(count) if count > 0 && asked.is_none_or(|asked| asked == count) => {
                let token = |(place, known): (usize, &Value)| {
                    let text = told["tokens"][place].as_str().unwrap_or_default().to_owned();
                    Token { text, log_probability: known.as_f64() }
                };
                Ok(known[..count].iter().enumerate().map(token).collect())
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
                Err(ureq::Error::Timeout(Timeout::Global)) => {
                    let problem = format!(
                        "does not answer within {} s: ask fewer at a time by `--parallel`, or for shorter answers",
                        ANSWER_TIMEOUT.as_secs()
                    );
                    return Err(self.problem(path, problem));
                }
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
        let url = format!("{}/{path}", self.url);
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
                let is_too_long = is_about_length(text);
                let what = if is_too_long { "a prompt as too long for the model's context" } else { "the request" };
                let problem = format!("refuses {what} (HTTP status {status}{told})");
                return Error::Refused { url, problem, is_too_long };
            }
            (400..500, _) if !is_passing(*status) => format!("refuses the request (HTTP status {status}{told})"),
            _ => return self.problem(
                path,
                format!("answers with HTTP status {status}{told} ({tries} tries): try again later, what is kept is not asked again"),
            ),
        };
        Error::Address { url, problem }
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

/// A token as a server tells it.
struct Token {
    /// Empty where it tells none.
    text: String,
    /// None of the first one.
    log_probability: Option<f64>,
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

/// Whether a refusal says that the prompt is too long, in the words of OpenAI, vLLM, llama.cpp, SGLang or TGI.
fn is_about_length(text: &str) -> bool {
    let text = text.to_lowercase().replace('_', " ");
    let words = ["context length", "context size", "context window", "maximum model length"];
    let more =
        ["maximum allowed length", "too long", "inputs` must have less than", "`max new tokens` must be <="];
    words.iter().chain(&more).any(|words| text.contains(words))
}

/// A number as short as it was given, not with the digits that f32 adds.
fn short(number: f32) -> Value {
    number.to_string().parse::<f64>().map_or_else(|_| json!(number), |number| json!(number))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_answer_is_none_that_cannot_be_reached() {
        // Connections wait there, and nobody takes them.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let config = Agent::config_builder().proxy(None).timeout_global(Some(Duration::from_millis(50)));
        let agent = config.build().into();
        let client = Client { agent, ..Client::new(&url, "m", None).unwrap() };
        let error = client.chat(&[("user", "x")], 1).unwrap_err().to_string();
        assert!(error.contains("/v1/chat/completions` does not answer within 600 s: ask fewer"), "{error}");
    }
}
