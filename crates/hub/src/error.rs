//! What can go wrong between an id and a folder; every sentence says what to do.

use std::io;
use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why files are not here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not of the form of an id.
    #[error(
        "`{text}` is no id of a hub: expected `org/name` or `org/name@revision`{}",
        meant.as_ref().map_or_else(String::new, |id| format!("; give `{id}`"))
    )]
    Id {
        /// What was given.
        text: String,
        /// The id in an address.
        meant: Option<String>,
    },

    /// The network may not be used, and the files are not here.
    #[error(
        "`{id}` is not complete in `{}` and `HF_HUB_OFFLINE` is set: get it where there is a network with \
         `danlu download {kind} {id}`, or unset that variable",
        cache.display()
    )]
    Offline {
        /// The repository.
        id: String,
        /// Model or data set.
        kind: &'static str,
        /// Where it was looked for.
        cache: PathBuf,
    },

    /// No connection.
    #[error(
        "`{endpoint}` cannot be reached ({reason}): check the network, name a mirror with `{variable}` (such as \
         `HF_ENDPOINT=https://hf-mirror.com`), try ModelScope with `USE_MODELSCOPE_HUB=1`, or give the path of a \
         folder that is here; what was already downloaded is kept"
    )]
    Network {
        /// Scheme and host.
        endpoint: String,
        /// What the connection said.
        reason: String,
        /// The variable that names a mirror.
        variable: &'static str,
    },

    /// The hub answers that it cannot answer.
    #[error(
        "`{url}` answers with HTTP status {status} ({tries} tries): try again later, what was downloaded is kept"
    )]
    Server {
        /// What was asked for.
        url: String,
        /// The answer.
        status: u16,
        /// How often it was asked.
        tries: u32,
    },

    /// The hub knows no such repository.
    #[error("{endpoint} has no {kind} `{id}`{hint}")]
    NotFound {
        /// Scheme and host.
        endpoint: String,
        /// Model or data set.
        kind: &'static str,
        /// The repository.
        id: String,
        /// The likely mistake.
        hint: String,
    },

    /// The repository has no such branch, tag or commit.
    #[error(
        "`{id}` has no revision `{revision}`: name a branch, a tag or a commit, or none for the main branch"
    )]
    Revision {
        /// The repository.
        id: String,
        /// What was asked for.
        revision: String,
    },

    /// The hub wants to know who asks.
    #[error("{}", access_sentence(.id, .page, .variable, *.has_token, *.status))]
    Access {
        /// The repository.
        id: String,
        /// Its page.
        page: String,
        /// The variable that holds the token.
        variable: &'static str,
        /// Whether a token was sent.
        has_token: bool,
        /// The answer.
        status: u16,
    },

    /// A proxy, a login page, or an address that is no hub.
    #[error(
        "`{url}` answers with an HTML page instead of {expected}: a proxy or login page stands between, or `{variable}` \
         names no hub"
    )]
    Html {
        /// What was asked for.
        url: String,
        /// What should have come.
        expected: String,
        /// The variable that names the endpoint.
        variable: &'static str,
    },

    /// An answer of another form than the hub documents.
    #[error("`{url}` answers with something else than a list of files ({problem}): check `{variable}`")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        problem: String,
        /// The variable that names the endpoint.
        variable: &'static str,
    },

    /// A file of another length than the list says.
    #[error(
        "`{file}` has {found} bytes where the hub's list says {expected}: it was removed, download it again"
    )]
    Size {
        /// The file.
        file: String,
        /// Bytes that the list says.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },

    /// A file whose content is not what the list says.
    #[error("`{file}` does not have the {hash} that the hub's list says: it was removed, download it again")]
    Checksum {
        /// The file.
        file: String,
        /// Which hash.
        hash: &'static str,
    },

    /// The disk is too small.
    #[error(
        "`{}` has {} free and {} more are needed: free some space, or choose another disk with `--to` or `HF_HOME`",
        folder.display(), size(*free), size(*needed)
    )]
    Space {
        /// Where it should go.
        folder: PathBuf,
        /// Bytes to download.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },

    /// Nothing in the repository is what was asked for.
    #[error("`{id}` {problem}; it holds {}", names(files))]
    Files {
        /// The repository.
        id: String,
        /// What is missing and what to do.
        problem: String,
        /// What it holds.
        files: Vec<String>,
    },

    /// The caller ended the download.
    #[error("stopped; the same command goes on from here")]
    Cancelled,

    /// A file on this disk.
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn access_sentence(id: &str, page: &str, variable: &str, has_token: bool, status: u16) -> String {
    let token = match has_token {
        true => format!("see that the account of `{variable}` has access"),
        false => format!("set `{variable}` to an access token of your account"),
    };
    format!(
        "`{id}` is gated, private or not there (HTTP status {status}): check the spelling, accept its licence on \
         `{page}` if it asks for that, and {token}"
    )
}

/// At most this many names are listed.
const LISTED: usize = 12;

fn names(files: &[String]) -> String {
    if files.is_empty() {
        return "no file".into();
    }
    let shown: Vec<String> = files.iter().take(LISTED).map(|name| format!("`{name}`")).collect();
    let more = files.len().saturating_sub(LISTED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", shown.join(", "))
}

/// Bytes as people say them: 14483 → `14.5 kB`.
pub fn size(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes >= 1e9 => format!("{:.2} GB", bytes / 1e9),
        bytes if bytes >= 1e6 => format!("{:.1} MB", bytes / 1e6),
        bytes if bytes >= 1e3 => format!("{:.1} kB", bytes / 1e3),
        bytes => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal() {
        let sizes = [0, 999, 14_483, 4_200_000, 4_200_000_000].map(size);
        assert_eq!(sizes, ["0 bytes", "999 bytes", "14.5 kB", "4.2 MB", "4.20 GB"]);
    }

    #[test]
    fn long_lists_are_cut() {
        let files: Vec<String> = (0..14).map(|number| number.to_string()).collect();
        assert!(names(&files).ends_with("`11` and 2 more"));
    }
}
