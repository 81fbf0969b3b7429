//! Which modules an adapter belongs to, and with which rank and alpha: the patterns of PEFT's `adapter_config.json`,
//! matched as PEFT matches them. It knows names only, no weights.

use std::path::{Path, PathBuf};

use danlu_formats::{AdapterConfig, ModuleSelection};
use fancy_regex::Regex;

use crate::{Error, Result};

/// The patterns of one configuration, compiled.
pub(crate) struct AdapterPatterns {
    path: PathBuf,
    /// `None` where the file does not say.
    targets: Option<Selection>,
    excluded: Option<Selection>,
    saved: Vec<Regex>,
    layers: Option<Vec<usize>>,
    layer_numbers: Vec<Regex>,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    rank: usize,
    alpha: f64,
    use_rslora: bool,
}

enum Selection {
    AllLinear,
    Names(Vec<String>),
    Pattern(Regex),
}

impl Selection {
    fn new(selection: &ModuleSelection, compile: impl Fn(&str) -> Result<Regex>) -> Result<Self> {
        Ok(match selection {
            all if all.is_all_linear() => Self::AllLinear,
            ModuleSelection::Names(names) => Self::Names(names.clone()),
            ModuleSelection::Pattern(pattern) => Self::Pattern(compile(&format!(r"^(?:{pattern})\z"))?),
        })
    }
}

impl AdapterPatterns {
    /// # Errors
    /// A regular expression that is none, named with its field; a rank of zero.
    pub(crate) fn new(config: &AdapterConfig, folder: &Path) -> Result<Self> {
        let path = folder.join("adapter_config.json");
        let error =
            |field: &str, reason: String| Error::Config { path: path.clone(), field: field.into(), reason };
        let compile = |field: &'static str| {
            let error = &error;
            move |pattern: &str| {
                Regex::new(pattern)
                    .map_err(|cause| error(field, format!("`{pattern}` is no regular expression: {cause}")))
            }
        };
        let selection = |field, selection: &Option<ModuleSelection>| {
            selection.as_ref().map(|selection| Selection::new(selection, compile(field))).transpose()
        };
        let whole_name = |pattern: &String| format!(r"^(.*\.)?({pattern})$");
        let ranks = config
            .rank_pattern
            .iter()
            .map(|(pattern, rank)| Ok((compile("rank_pattern")(&whole_name(pattern))?, *rank)));
        let alphas = config
            .alpha_pattern
            .iter()
            .map(|(pattern, alpha)| Ok((compile("alpha_pattern")(&whole_name(pattern))?, *alpha)));
        let saved = config.modules_to_save.iter().flatten();
        let saved = saved.map(|name| compile("modules_to_save")(&format!(r"^(|.*\.){name}($|\..*)")));
        let numbers: Vec<String> = match config.layers_pattern.as_deref().unwrap_or_default() {
            [] => vec![r"^.*?\.[^.]*\.(\d+)\.".into()],
            names => names.iter().map(|name| format!(r"^(?:|.*?\.){name}\.(\d+)\.")).collect(),
        };
        let patterns = Self {
            targets: selection("target_modules", &config.target_modules)?,
            excluded: selection("exclude_modules", &config.exclude_modules)?,
            saved: saved.collect::<Result<_>>()?,
            layers: config.layers_to_transform.clone().filter(|layers| !layers.is_empty()),
            layer_numbers: numbers
                .iter()
                .map(|text| compile("layers_pattern")(text))
                .collect::<Result<_>>()?,
            ranks: ranks.collect::<Result<_>>()?,
            alphas: alphas.collect::<Result<_>>()?,
            rank: config.r,
            alpha: config.lora_alpha,
            use_rslora: config.use_rslora,
            path: path.clone(),
        };
        let zero = config.rank_pattern.values().any(|rank| *rank == 0).then_some("rank_pattern");
        match zero.or((config.r == 0).then_some("r")) {
            Some(field) => Err(error(field, "expected a rank of at least 1, found 0".into())),
            None => Ok(patterns),
        }
    }

    /// Whether the module `path` has low-rank matrices; `None` where the configuration leaves it to PEFT's own table.
    ///
    /// # Errors
    /// A regular expression that takes too long.
    pub(crate) fn targets(&self, path: &str, is_linear: bool) -> Result<Option<bool>> {
        let Some(targets) = &self.targets else { return Ok(None) };
        if self.is_excluded(path)? || self.is_saved(path)? {
            return Ok(Some(false));
        }
        let names = match targets {
            Selection::AllLinear => return Ok(Some(is_linear)),
            Selection::Pattern(pattern) => return Ok(Some(self.matches(pattern, path)?)),
            Selection::Names(names) => names,
        };
        if names.iter().any(|name| name == path) {
            return Ok(Some(true));
        }
        if !names.iter().any(|name| is_end(path, name)) {
            return Ok(Some(false));
        }
        let Some(layers) = &self.layers else { return Ok(Some(true)) };
        let number = |pattern: &Regex| pattern.captures(path).ok()??.get(1)?.as_str().parse::<usize>().ok();
        let number = self.layer_numbers.iter().find_map(number);
        Ok(Some(number.is_some_and(|number| layers.contains(&number))))
    }

    /// Whether the module `path` is among `modules_to_save`.
    pub(crate) fn is_saved(&self, path: &str) -> Result<bool> {
        for pattern in &self.saved {
            if self.matches(pattern, path)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The rank of the module `path`, and the scale of its product.
    pub(crate) fn rank_and_scale(&self, path: &str) -> Result<(usize, f64)> {
        let rank = self.first(&self.ranks, path)?.unwrap_or(self.rank);
        let alpha = self.first(&self.alphas, path)?.unwrap_or(self.alpha);
        let divisor = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        Ok((rank, alpha / divisor))
    }

    /// The first name of `config` that none of `linear`, or pattern that none of `targeted`, the paths of modules, is; with
    /// its key in recipes.
    pub(crate) fn idle<'c>(
        &self,
        config: &'c AdapterConfig,
        linear: &[&str],
        targeted: &[&str],
    ) -> Result<Option<(&'static str, &'c str)>> {
        if let Some(ModuleSelection::Names(names)) = &config.target_modules {
            let is = |path: &str, name: &str| path == name || is_end(path, name);
            let idle = names.iter().find(|name| !linear.iter().any(|path| is(path, name)));
            if let Some(name) = idle {
                return Ok(Some(("lora_target", name)));
            }
        }
        let ranks = config.rank_pattern.keys().zip(self.ranks.iter().map(|(pattern, _)| pattern));
        let alphas = config.alpha_pattern.keys().zip(self.alphas.iter().map(|(pattern, _)| pattern));
        let ranks = ranks.map(|pair| ("rank_pattern", pair));
        for (key, (name, pattern)) in ranks.chain(alphas.map(|pair| ("alpha_pattern", pair))) {
            let mut is_idle = true;
            for path in targeted {
                is_idle &= !self.matches(pattern, path)?;
            }
            if is_idle {
                return Ok(Some((key, name)));
            }
        }
        Ok(None)
    }

    fn first<T: Copy>(&self, values: &[(Regex, T)], path: &str) -> Result<Option<T>> {
        for (pattern, value) in values {
            if self.matches(pattern, path)? {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }

    fn is_excluded(&self, path: &str) -> Result<bool> {
        match &self.excluded {
            None | Some(Selection::AllLinear) => Ok(false),
            Some(Selection::Names(names)) => Ok(names.iter().any(|name| name == path || is_end(path, name))),
            Some(Selection::Pattern(pattern)) => self.matches(pattern, path),
        }
    }

    fn matches(&self, pattern: &Regex, path: &str) -> Result<bool> {
        pattern.is_match(path).map_err(|cause| {
            let reason = format!("`{}` cannot be matched with `{path}`: {cause}", pattern.as_str());
            Error::Json { path: self.path.clone(), reason }
        })
    }
}

/// Whether `name` is `path` from one of its dots on.
fn is_end(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(text: &str) -> Result<AdapterPatterns> {
        AdapterPatterns::new(&serde_json::from_str(text).unwrap(), Path::new("adapter"))
    }

    fn is_target(text: &str, path: &str) -> bool {
        patterns(text).unwrap().targets(path, !path.ends_with("embed_tokens")).unwrap().unwrap()
    }

    #[test]
    fn modules_are_matched_as_peft_matches_them() {
        let query = "model.layers.1.self_attn.q_proj";
        for (text, path, expected) in [
            (r#"{"target_modules": ["q_proj"]}"#, query, true),
            (r#"{"target_modules": ["self_attn.q_proj"]}"#, query, true),
            (r#"{"target_modules": ["_proj"]}"#, query, false),
            (r#"{"target_modules": "q_proj"}"#, query, false),
            (r#"{"target_modules": ".*(?<!k)_proj"}"#, query, true),
            (r#"{"target_modules": "all-linear"}"#, query, true),
            (r#"{"target_modules": "ALL-LINEAR"}"#, "model.embed_tokens", false),
            (r#"{"target_modules": "all-linear", "exclude_modules": ["q_proj"]}"#, query, false),
            (r#"{"target_modules": ["q_proj"], "exclude_modules": "model\\.layers\\.1\\..*"}"#, query, false),
            (r#"{"target_modules": ["q_proj"], "layers_to_transform": 1}"#, query, true),
            (r#"{"target_modules": ["q_proj"], "layers_to_transform": [0, 2]}"#, query, false),
            (
                r#"{"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}"#,
                query,
                true,
            ),
            (
                r#"{"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h"]}"#,
                query,
                false,
            ),
            (r#"{"target_modules": "all-linear", "modules_to_save": ["lm_head"]}"#, "lm_head", false),
        ] {
            assert_eq!(is_target(text, path), expected, "{text} {path}");
        }
        assert!(patterns("{}").unwrap().targets(query, true).unwrap().is_none());
    }

    #[test]
    fn ranks_and_scales_follow_the_patterns() {
        let text = r#"{"r": 8, "lora_alpha": 16, "rank_pattern": {"q_proj": 4, "layers.1.mlp.up_proj": 2},
                       "alpha_pattern": {"^model.*up_proj": 6}}"#;
        let patterns = patterns(text).unwrap();
        let of = |path| patterns.rank_and_scale(path).unwrap();
        assert_eq!(of("model.layers.0.self_attn.q_proj"), (4, 4.0));
        assert_eq!(of("model.layers.0.self_attn.k_proj"), (8, 2.0));
        assert_eq!(of("model.layers.0.mlp.up_proj"), (8, 0.75));
        assert_eq!(of("model.layers.1.mlp.up_proj"), (2, 3.0));
    }

    #[test]
    fn what_is_no_pattern_is_refused_by_its_field() {
        for (text, part) in [
            (
                r#"{"target_modules": "*_proj"}"#,
                "`target_modules`: `^(?:*_proj)\\z` is no regular expression",
            ),
            (r#"{"alpha_pattern": {"(": 1}}"#, "`alpha_pattern`: "),
            (r#"{"r": 0}"#, "`r`: expected a rank of at least 1, found 0"),
        ] {
            let error = patterns(text).err().unwrap().to_string();
            assert!(error.starts_with("`adapter/adapter_config.json`: ") && error.contains(part), "{error}");
        }
    }
}
