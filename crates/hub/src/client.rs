//! Requests to one hub: addresses, the token, repetition of what fails in passing, and what a refusal means.
//!
//! The token goes to the endpoint alone: it is left out of every redirection to another host.

use std::collections::HashSet;
use std::thread::sleep;
use std::time::Duration;

use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::listing::model_scope_page;
use crate::{Error, Kind, Listing, Repository, Result, Service, Settings};

/// How often a request is made before giving up, unless something came in between.
pub(crate) const TRIES: u32 = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Nothing for so long means that the connection is dead.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// No list of files is longer; the memory for an answer is bounded by it.
const LONGEST_ANSWER: u64 = 256 << 20;
const MODEL_SCOPE_PAGE: usize = 100;
const MODEL_SCOPE_REVISION: &str = "master";
const HUGGING_FACE_REVISION: &str = "main";

pub(crate) struct Client {
    pub(crate) settings: Settings,
    agent: Agent,
}

#[derive(Deserialize)]
struct Found {
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModelScopeDataset {
    data: ModelScopeId,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModelScopeId {
    id: u64,
}

impl Client {
    pub(crate) fn new(settings: Settings) -> Self {
        let mut config = Agent::config_builder();
        // No proxy leads back to this machine.
        if ["http://127.0.0.1:", "http://localhost:"].iter().any(|start| settings.endpoint.starts_with(start))
        {
            config = config.proxy(None);
        }
        let config = config
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
            .user_agent(concat!("danlu/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .build();
        Self { settings, agent: config.into() }
    }

    /// One request, from byte `from` of the file on.
    pub(crate) fn get(&self, url: &str, from: u64) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.settings.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call()
    }

    /// The branch that is meant when none is named.
    pub(crate) fn revision<'a>(&self, repository: &'a Repository) -> &'a str {
        repository.revision.as_deref().unwrap_or(match self.settings.service {
            Service::HuggingFace => HUGGING_FACE_REVISION,
            Service::ModelScope => MODEL_SCOPE_REVISION,
        })
    }

    /// Where a file is; `commit` is that of the list it stands in.
    pub(crate) fn file_url(&self, repository: &Repository, commit: &str, path: &str) -> String {
        let (endpoint, id) = (&self.settings.endpoint, &repository.id);
        let (commit, plural) = (escaped(commit), repository.kind.plural());
        match (self.settings.service, repository.kind) {
            (Service::HuggingFace, kind) => {
                let parts: Vec<String> = path.split('/').map(escaped).collect();
                let folder = if kind == Kind::Dataset { "datasets/" } else { "" };
                format!("{endpoint}/{folder}{id}/resolve/{commit}/{}", parts.join("/"))
            }
            (Service::ModelScope, kind) => {
                let source = if kind == Kind::Dataset { "Source=SDK&" } else { "" };
                let path = escaped(path);
                format!("{endpoint}/api/v1/{plural}/{id}/repo?{source}Revision={commit}&FilePath={path}")
            }
        }
    }

    /// The files of `repository`.
    pub(crate) fn listing(&self, repository: &Repository) -> Result<Listing> {
        let (endpoint, id, plural) = (&self.settings.endpoint, &repository.id, repository.kind.plural());
        let revision = self.revision(repository);
        let escaped = escaped(revision);
        match (self.settings.service, repository.kind) {
            (Service::HuggingFace, _) => {
                let url = format!("{endpoint}/api/{plural}/{id}/revision/{escaped}?blobs=true");
                self.parsed(&url, repository, Listing::of_hugging_face)
            }
            (Service::ModelScope, Kind::Model) => {
                let url =
                    format!("{endpoint}/api/v1/models/{id}/repo/files?Revision={escaped}&Recursive=True");
                self.parsed(&url, repository, |text| Listing::of_model_scope(text, revision))
            }
            (Service::ModelScope, Kind::Dataset) => {
                let url = format!("{endpoint}/api/v1/datasets/{id}");
                let number = self.parsed(&url, repository, |text| {
                    let answer: Result<ModelScopeDataset, _> = serde_json::from_str(text);
                    answer.map(|answer| answer.data.id).map_err(|error| error.to_string())
                })?;
                let mut listing = Listing { commit: revision.to_owned(), files: Vec::new() };
                let mut seen = HashSet::new();
                for page in 1.. {
                    let url = format!(
                        "{endpoint}/api/v1/datasets/{number}/repo/tree?Revision={escaped}&Root=/&Recursive=True\
                         &PageNumber={page}&PageSize={MODEL_SCOPE_PAGE}"
                    );
                    let part = self.parsed(&url, repository, model_scope_page)?;
                    let entries = part.paths.len();
                    listing.files.extend(part.files.into_iter().filter(|file| !seen.contains(&file.path)));
                    let before = seen.len();
                    seen.extend(part.paths);
                    if entries < MODEL_SCOPE_PAGE {
                        break;
                    }
                    if seen.len() == before {
                        let problem = format!("page {page} holds only what came before");
                        return Err(Error::Answer { url, problem, variable: self.settings.variables().0 });
                    }
                }
                Ok(listing.sorted())
            }
        }
    }

    fn parsed<T>(
        &self,
        url: &str,
        repository: &Repository,
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Result<T> {
        let text = self.text(url, repository)?;
        parse(&text).map_err(|problem| match looks_like_html(None, text.as_bytes()) {
            true => self.html(url, "a list of files"),
            false => Error::Answer { url: url.to_owned(), problem, variable: self.settings.variables().0 },
        })
    }

    /// The text of a small answer.
    pub(crate) fn text(&self, url: &str, repository: &Repository) -> Result<String> {
        let mut tries = 1;
        loop {
            let is_last = tries >= TRIES;
            let answer = self.get(url, 0).and_then(|mut response| {
                let is_text = response.status() == 200;
                let body = response.body_mut().with_config().limit(LONGEST_ANSWER);
                let text = if is_text { Some(body.read_to_string()?) } else { None };
                Ok((response, text))
            });
            match answer {
                Ok((_, Some(text))) => return Ok(text),
                Ok((response, None)) if is_last || !is_passing(response.status().as_u16()) => {
                    return Err(self.refusal(url, repository, &response, tries));
                }
                Err(error) if is_last || !may_pass(&error) => return Err(self.unreachable(&error)),
                _ => {}
            }
            sleep(self.pause(tries));
            tries += 1;
        }
    }

    /// The pause after so many tries.
    pub(crate) fn pause(&self, tries: u32) -> Duration {
        self.settings.first_pause * 2_u32.pow(tries.saturating_sub(1).min(TRIES))
    }

    pub(crate) fn unreachable(&self, error: &ureq::Error) -> Error {
        let reason = match error {
            ureq::Error::Io(error) => error.to_string(),
            ureq::Error::HostNotFound => "no such host, or no network".into(),
            other => other.to_string(),
        };
        let Settings { endpoint, .. } = &self.settings;
        Error::Network { endpoint: endpoint.clone(), reason, variable: self.settings.variables().0 }
    }

    pub(crate) fn html(&self, url: &str, expected: &str) -> Error {
        let variable = self.settings.variables().0;
        Error::Html { url: url.to_owned(), expected: expected.to_owned(), variable }
    }

    /// What a status other than success means.
    pub(crate) fn refusal(
        &self,
        url: &str,
        repository: &Repository,
        response: &Response<Body>,
        tries: u32,
    ) -> Error {
        let status = response.status().as_u16();
        let code = response.headers().get("x-error-code").and_then(|value| value.to_str().ok()).unwrap_or("");
        let settings = &self.settings;
        match (status, code) {
            (_, "RevisionNotFound") => {
                let revision = self.revision(repository).to_owned();
                Error::Revision { id: repository.id.clone(), revision }
            }
            (404, _) | (_, "RepoNotFound") => Error::NotFound {
                endpoint: settings.endpoint.clone(),
                kind: repository.kind.name(),
                id: repository.id.clone(),
                hint: self.hint(repository),
            },
            (401 | 403, _) => {
                let folder = match (settings.service, repository.kind) {
                    (Service::HuggingFace, Kind::Model) => "",
                    (Service::ModelScope, Kind::Model) => "models/",
                    (_, Kind::Dataset) => "datasets/",
                };
                Error::Access {
                    id: repository.id.clone(),
                    page: format!("{}/{folder}{}", settings.endpoint, repository.id),
                    variable: settings.variables().1,
                    has_token: settings.token.is_some(),
                    status,
                }
            }
            _ => Error::Server { url: url.to_owned(), status, tries },
        }
    }

    /// The likely mistake behind an id that is not there; what cannot be found out is left out.
    fn hint(&self, repository: &Repository) -> String {
        let Settings { service, endpoint, .. } = &self.settings;
        let (_, token) = self.settings.variables();
        let id = &repository.id;
        if *service == Service::ModelScope {
            return format!(
                "; check the spelling, set `{token}` if it is private, or unset `USE_MODELSCOPE_HUB` to ask Hugging Face"
            );
        }
        let other = repository.kind.other();
        let ask = |url: String| {
            let mut response = self.get(&url, 0).ok().filter(|response| response.status() == 200)?;
            response.body_mut().with_config().limit(LONGEST_ANSWER).read_to_string().ok()
        };
        if ask(format!("{endpoint}/api/{}/{id}", other.plural())).is_some() {
            return format!("; it is a {0}: `danlu download {0} {id}`", other.name());
        }
        let name = id.split('/').next_back().unwrap_or(id);
        let plural = repository.kind.plural();
        let found = ask(format!("{endpoint}/api/{plural}?search={}&limit=20", escaped(name)));
        let found: Vec<Found> = found.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let likeness = |other: &str| strsim::jaro_winkler(&id.to_lowercase(), &other.to_lowercase());
        let nearest =
            found.into_iter().max_by(|one, other| likeness(&one.id).total_cmp(&likeness(&other.id)));
        match nearest {
            Some(Found { id }) => format!("; did you mean `{id}`?"),
            None => format!(
                "; check the spelling, set `{token}` if it is private, or try ModelScope with `USE_MODELSCOPE_HUB=1`"
            ),
        }
    }
}

/// Too many requests, or a fault of the server: another try may succeed.
pub(crate) fn is_passing(status: u16) -> bool {
    status == 408 || status == 429 || (500..600).contains(&status)
}

/// Whether another try may do better: not where no name is known or the answer is too long.
fn may_pass(error: &ureq::Error) -> bool {
    matches!(
        error,
        ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::ConnectionFailed
            | ureq::Error::Protocol(_)
    )
}

/// Whether an answer is a page for people.
pub(crate) fn looks_like_html(content_type: Option<&str>, start: &[u8]) -> bool {
    let start = start.trim_ascii_start();
    let begins =
        |word: &str| start.get(..word.len()).is_some_and(|text| text.eq_ignore_ascii_case(word.as_bytes()));
    content_type.is_some_and(|kind| kind.starts_with("text/html"))
        || begins("<!doctype html")
        || begins("<html")
}

/// Percent-encoding of everything that is not plain in every part of an address.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            other => out += &format!("%{other:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_escaped() {
        let client = |service| {
            let settings = Settings { endpoint: "https://h".into(), ..Settings::of(service) };
            Client::new(settings)
        };
        let model = Repository::parse(Kind::Model, "a/b").unwrap();
        let dataset = Repository::parse(Kind::Dataset, "a/b").unwrap();
        let plain = client(Service::HuggingFace);
        assert_eq!(
            plain.file_url(&model, "c0", "sub/数 据.txt"),
            "https://h/a/b/resolve/c0/sub/%E6%95%B0%20%E6%8D%AE.txt"
        );
        assert_eq!(plain.file_url(&dataset, "c0", "x"), "https://h/datasets/a/b/resolve/c0/x");
        let other = client(Service::ModelScope);
        assert_eq!(
            other.file_url(&model, "master", "sub/x"),
            "https://h/api/v1/models/a/b/repo?Revision=master&FilePath=sub%2Fx"
        );
        assert_eq!(
            other.file_url(&dataset, "v1", "x"),
            "https://h/api/v1/datasets/a/b/repo?Source=SDK&Revision=v1&FilePath=x"
        );
    }

    #[test]
    fn pages_are_told_from_files() {
        assert!(looks_like_html(Some("text/html; charset=utf-8"), b""));
        assert!(looks_like_html(None, b"\n <!DOCTYPE HTML><html>"));
        assert!(!looks_like_html(Some("application/json"), b"{}"));
        assert!(!looks_like_html(None, b"<ht"));
    }
}
