//! The files of a repository, as the hub lists them: names, sizes, checksums. Names that would leave the folder are
//! refused.

use serde::Deserialize;

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Path within the repository, with `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal digits, where the hub tells it.
    pub sha256: Option<String>,
    /// The name of its content in the cache: the SHA-256, or git's SHA-1 of small files; empty where the hub has none.
    pub blob: String,
}

/// A repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The commit; of ModelScope the revision.
    pub commit: String,
    /// All files, in the order of their names.
    pub files: Vec<RemoteFile>,
}

#[derive(Deserialize)]
struct HuggingFaceAnswer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(default)]
    blob_id: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModelScopeAnswer {
    data: Option<ModelScopeFiles>,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModelScopeFiles {
    #[serde(default)]
    files: Vec<ModelScopeFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModelScopeFile {
    path: String,
    #[serde(rename = "Type", default)]
    kind: String,
    size: Option<u64>,
    #[serde(default)]
    sha256: Option<String>,
}

impl Listing {
    /// The answer of `/api/models/ID/revision/REV?blobs=true` of Hugging Face.
    pub(crate) fn of_hugging_face(text: &str) -> Result<Self, String> {
        let answer: HuggingFaceAnswer = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if !is_digest(&answer.sha) {
            return Err(format!("the commit `{}` is no hash", answer.sha));
        }
        let files = answer.siblings.into_iter().map(|sibling| {
            let (size, sha256) = match sibling.lfs {
                Some(lfs) => (Some(lfs.size), Some(lfs.sha256)),
                None => (sibling.size, None),
            };
            let size = size.ok_or_else(|| format!("`{}` has no size", sibling.rfilename))?;
            let blob = sha256.clone().unwrap_or(sibling.blob_id);
            // It is the name of the file in the cache.
            if blob.is_empty() {
                return Err(format!("`{}` has neither `blobId` nor SHA-256", sibling.rfilename));
            }
            checked(RemoteFile { path: sibling.rfilename, size, sha256, blob })
        });
        Ok(Self { commit: answer.sha, files: files.collect::<Result<_, _>>()? }.sorted())
    }

    /// ModelScope's list, without folders.
    pub(crate) fn of_model_scope(text: &str, revision: &str) -> Result<Self, String> {
        let ModelScopePage { files, .. } = model_scope_page(text)?;
        Ok(Self { commit: revision.to_owned(), files }.sorted())
    }

    pub(crate) fn sorted(mut self) -> Self {
        self.files.sort_by(|one, other| one.path.cmp(&other.path));
        self
    }
}

/// One page of ModelScope's list.
pub(crate) struct ModelScopePage {
    /// The files.
    pub(crate) files: Vec<RemoteFile>,
    /// Paths of files and folders.
    pub(crate) paths: Vec<String>,
}

/// Reads one page of ModelScope's list.
pub(crate) fn model_scope_page(text: &str) -> Result<ModelScopePage, String> {
    let answer: ModelScopeAnswer = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let Some(data) = answer.data else {
        return Err(answer.message.unwrap_or_else(|| "no `Data`".into()));
    };
    let paths = data.files.iter().map(|file| file.path.clone()).collect();
    let files = data.files.into_iter().filter(|file| file.kind != "tree").map(|file| {
        let sha256 = file.sha256.filter(|digits| !digits.is_empty());
        let size = file.size.ok_or_else(|| format!("`{}` has no size", file.path))?;
        checked(RemoteFile { path: file.path, size, sha256, blob: String::new() })
    });
    Ok(ModelScopePage { files: files.collect::<Result<_, _>>()?, paths })
}

fn is_digest(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Refuses what could be written elsewhere than into the folder of the repository.
fn checked(file: RemoteFile) -> Result<RemoteFile, String> {
    let is_inside =
        |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':', '\0']);
    if !file.path.split('/').all(is_inside) {
        return Err(format!("`{}` is no path within the repository", file.path));
    }
    let digests = [file.sha256.as_deref(), Some(file.blob.as_str()).filter(|blob| !blob.is_empty())];
    if let Some(wrong) = digests.into_iter().flatten().find(|digest| !is_digest(digest)) {
        return Err(format!("`{}`: `{wrong}` is no hash", file.path));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hugging_face_lists_sizes_and_hashes() {
        let text = r#"{"sha": "abc", "siblings": [
            {"rfilename": "model.safetensors", "size": 9, "blobId": "11", "lfs": {"sha256": "aa", "size": 9, "pointerSize": 1}},
            {"rfilename": "config.json", "size": 2, "blobId": "22"}]}"#;
        let listing = Listing::of_hugging_face(text).unwrap();
        let file = |path: &str, size, sha256: Option<&str>, blob: &str| RemoteFile {
            path: path.into(),
            size,
            sha256: sha256.map(str::to_owned),
            blob: blob.into(),
        };
        assert_eq!(listing.commit, "abc");
        assert_eq!(
            listing.files,
            [file("config.json", 2, None, "22"), file("model.safetensors", 9, Some("aa"), "aa")]
        );
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in ["../x", "/etc/passwd", "a//b", "a/../../b", "C:x", r"a\\..\\b", ""] {
            let text = format!(
                r#"{{"sha": "ab", "siblings": [{{"rfilename": "{name}", "size": 1, "blobId": "1"}}]}}"#
            );
            assert!(Listing::of_hugging_face(&text).is_err(), "{name}");
        }
        let blob = r#"{"sha": "ab", "siblings": [{"rfilename": "a", "size": 1, "blobId": "../b"}]}"#;
        assert!(Listing::of_hugging_face(blob).is_err());
        assert!(Listing::of_hugging_face(r#"{"sha": "../ab"}"#).is_err());
    }

    #[test]
    fn files_without_size_or_hash_are_refused() {
        for entry in [r#""size": 1"#, r#""size": 1, "lfs": {"sha256": "", "size": 1}"#] {
            let text = format!(r#"{{"sha": "ab", "siblings": [{{"rfilename": "a", {entry}}}]}}"#);
            assert_eq!(Listing::of_hugging_face(&text).unwrap_err(), "`a` has neither `blobId` nor SHA-256");
        }
        let text = r#"{"Data": {"Files": [{"Path": "sub", "Type": "tree"}, {"Path": "a", "Type": "blob"}]}}"#;
        assert_eq!(Listing::of_model_scope(text, "master").unwrap_err(), "`a` has no size");
    }

    #[test]
    fn model_scope_lists_files_and_folders() {
        let text = r#"{"Code": 200, "Data": {"Files": [
            {"Path": "sub", "Type": "tree", "Size": 0, "Sha256": ""},
            {"Path": "sub/a.json", "Type": "blob", "Size": 3, "Sha256": "ff"}]}, "Message": ""}"#;
        let listing = Listing::of_model_scope(text, "master").unwrap();
        assert_eq!(listing.files.len(), 1);
        assert_eq!(listing.files[0].sha256.as_deref(), Some("ff"));
        let error = Listing::of_model_scope(r#"{"Code": 10010205, "Message": "no such model"}"#, "master");
        assert_eq!(error.unwrap_err(), "no such model");
    }
}
