//! Where files come from and where they are kept: the environment variables of `huggingface_hub` and ModelScope.

use std::path::{Path, PathBuf};
use std::time::Duration;

const HUGGING_FACE: &str = "https://huggingface.co";
const MODEL_SCOPE: &str = "https://www.modelscope.cn";
/// The pause before the first repetition of a request; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Which hub answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Hugging Face or a mirror of it.
    HuggingFace,
    /// ModelScope.
    ModelScope,
}

/// Which hub, as whom, and the folders of files.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose addresses are asked.
    pub service: Service,
    /// Scheme and host, without a slash at the end.
    pub endpoint: String,
    /// Sent to that host, and to no other.
    pub token: Option<String>,
    /// Where snapshots (Hugging Face) or plain folders (ModelScope) are kept.
    pub cache: PathBuf,
    /// Use only what is on this disk.
    pub offline: bool,
    /// The pause before the first repetition of a request.
    pub first_pause: Duration,
}

impl Settings {
    /// From the environment: `USE_MODELSCOPE_HUB` chooses the service; `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_CACHE`,
    /// `HF_HOME` or `MODELSCOPE_DOMAIN`, `MODELSCOPE_API_TOKEN`, `MODELSCOPE_CACHE` set it up; `HF_HUB_OFFLINE`.
    pub fn from_environment() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let home = std::env::home_dir().unwrap_or_default();
        let is_model_scope = variable("USE_MODELSCOPE_HUB").is_some_and(|value| is_true(&value));
        let service = if is_model_scope { Service::ModelScope } else { Service::HuggingFace };
        Self::of_service(service, &home, variable)
    }

    /// As [`from_environment`](Self::from_environment), for the given service.
    pub fn of(service: Service) -> Self {
        let home = std::env::home_dir().unwrap_or_default();
        Self::of_service(service, &home, |name| std::env::var(name).ok())
    }

    fn of_service(service: Service, home: &Path, variable: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&str]| {
            let values = names.iter().filter_map(|name| variable(name));
            values.map(|value| value.trim().to_owned()).find(|value| !value.is_empty())
        };
        let folder = |names: &[&str]| first(names).map(|text| without_tilde(&text, home));
        let offline = first(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]).is_some_and(|value| is_true(&value));
        let (endpoint, token, cache) = match service {
            Service::HuggingFace => {
                let base = folder(&["XDG_CACHE_HOME"]).unwrap_or_else(|| home.join(".cache"));
                let hf_home = folder(&["HF_HOME"]).unwrap_or_else(|| base.join("huggingface"));
                let file = folder(&["HF_TOKEN_PATH"]).unwrap_or_else(|| hf_home.join("token"));
                let in_file = || fs_err::read_to_string(file).ok().map(|text| text.trim().to_owned());
                let token = first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]).or_else(in_file);
                let cache = folder(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]);
                let endpoint = first(&["HF_ENDPOINT"]).unwrap_or_else(|| HUGGING_FACE.into());
                (endpoint, token, cache.unwrap_or_else(|| hf_home.join("hub")))
            }
            Service::ModelScope => {
                let endpoint = first(&["MODELSCOPE_DOMAIN"]).unwrap_or_else(|| MODEL_SCOPE.into());
                let cache = folder(&["MODELSCOPE_CACHE"]);
                let cache = cache.unwrap_or_else(|| home.join(".cache/modelscope/hub"));
                (endpoint, first(&["MODELSCOPE_API_TOKEN"]), cache)
            }
        };
        let endpoint = match endpoint.contains("://") {
            true => endpoint,
            false => format!("https://{endpoint}"),
        };
        Self {
            service,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.filter(|token| !token.is_empty()),
            cache,
            offline,
            first_pause: FIRST_PAUSE,
        }
    }

    /// The variable that names another endpoint, and the one that holds the token.
    pub(crate) fn variables(&self) -> (&'static str, &'static str) {
        match self.service {
            Service::HuggingFace => ("HF_ENDPOINT", "HF_TOKEN"),
            Service::ModelScope => ("MODELSCOPE_DOMAIN", "MODELSCOPE_API_TOKEN"),
        }
    }
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.trim().to_ascii_lowercase().as_str())
}

fn without_tilde(text: &str, home: &Path) -> PathBuf {
    match text.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(service: Service, variables: &[(&str, &str)]) -> Settings {
        let find =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into());
        Settings::of_service(service, Path::new("/home/me"), find)
    }

    #[test]
    fn folders_follow_the_order_of_huggingface_hub() {
        let cache = |variables: &[_]| settings(Service::HuggingFace, variables).cache;
        assert_eq!(cache(&[]), Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        let home = ("HF_HOME", "~/hf");
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x"), home]), Path::new("/home/me/hf/hub"));
        assert_eq!(cache(&[("HF_HUB_CACHE", "/c"), home]), Path::new("/c"));
        let model_scope = |variables: &[_]| settings(Service::ModelScope, variables).cache;
        assert_eq!(model_scope(&[home]), Path::new("/home/me/.cache/modelscope/hub"));
        assert_eq!(model_scope(&[("MODELSCOPE_CACHE", "/m")]), Path::new("/m"));
    }

    #[test]
    fn mirrors_tokens_and_offline_are_read() {
        let plain = settings(Service::HuggingFace, &[("HF_TOKEN", " "), ("HF_HUB_OFFLINE", "0")]);
        assert_eq!((plain.endpoint.as_str(), plain.token, plain.offline), (HUGGING_FACE, None, false));
        let set = [("HF_ENDPOINT", "https://hf-mirror.com/"), ("HF_TOKEN", "t\n"), ("HF_HUB_OFFLINE", "ON")];
        let mirror = settings(Service::HuggingFace, &set);
        assert_eq!(
            (mirror.endpoint.as_str(), mirror.token.as_deref(), mirror.offline),
            ("https://hf-mirror.com", Some("t"), true)
        );
        let other =
            settings(Service::ModelScope, &[("MODELSCOPE_DOMAIN", "www.modelscope.ai"), ("HF_TOKEN", "t")]);
        assert_eq!((other.endpoint.as_str(), other.token), ("https://www.modelscope.ai", None));
    }

    #[test]
    fn the_token_may_stand_in_its_file() {
        let home = tempfile::tempdir().unwrap();
        fs_err::write(home.path().join("token"), "secret\n").unwrap();
        let token = settings(Service::HuggingFace, &[("HF_HOME", home.path().to_str().unwrap())]).token;
        assert_eq!(token.as_deref(), Some("secret"));
    }
}
