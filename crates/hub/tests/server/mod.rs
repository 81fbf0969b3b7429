//! A hub on the loopback interface: lists and files as Hugging Face and ModelScope give them, and whatever goes wrong.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The commit that every repository is at.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What was asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Request {
    /// The byte that the answer should begin with.
    pub fn start(&self) -> usize {
        let range = self.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
        range.and_then(|range| range.trim_end_matches('-').parse().ok()).unwrap_or(0)
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection breaks after so many bytes.
    pub cut: Option<usize>,
    /// A pause after every 16 KiB.
    pub slow: Option<Duration>,
}

impl Reply {
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type".into(), content_type.into())];
        Self { status, headers, body: body.into(), cut: None, slow: None }
    }

    pub fn json(text: impl Into<String>) -> Self {
        Self::new(200, "application/json", text.into())
    }

    pub fn status(status: u16) -> Self {
        Self::new(status, "text/plain", "no")
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn cut_at(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    /// A file, from the byte on that is asked for.
    pub fn file(request: &Request, bytes: &[u8]) -> Self {
        let start = request.start().min(bytes.len());
        let plain = Self::new(200, "application/octet-stream", &bytes[start..]);
        if start == 0 {
            return plain;
        }
        let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
        Self { status: 206, ..plain }.with("content-range", &range)
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A server that ends with the test.
pub struct Server {
    pub url: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (handler, seen): (Arc<Handler>, _) = (Arc::new(handler), log.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (handler, seen) = (handler.clone(), seen.clone());
                std::thread::spawn(move || _ = answer(stream, &*handler, &seen));
            }
        });
        Self { url, log }
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// Paths and queries that were asked for.
    pub fn targets(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.target).collect()
    }
}

fn answer(stream: TcpStream, handler: &Handler, log: &Mutex<Vec<Request>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let target = line.split_whitespace().nth(1).unwrap_or("").to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
    }
    let request = Request { target, headers };
    log.lock().unwrap().push(request.clone());
    let reply = handler(&request);
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {} x\r\nconnection: close\r\ncontent-length: {}\r\n",
        reply.status,
        reply.body.len()
    )?;
    for (name, value) in &reply.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    let end = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
    for chunk in reply.body[..end].chunks(16 << 10) {
        stream.write_all(chunk)?;
        if let Some(pause) = reply.slow {
            std::thread::sleep(pause);
        }
    }
    stream.flush()
}

/// The files of one repository.
#[derive(Clone, Default)]
pub struct Files {
    pub id: String,
    /// Whether it is a data set.
    pub is_dataset: bool,
    pub files: Vec<(String, Vec<u8>)>,
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash by which git names a content.
pub fn git_hash(bytes: &[u8]) -> String {
    let hash = Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Files {
    pub fn model(id: &str) -> Self {
        Self { id: id.into(), ..Self::default() }
    }

    pub fn dataset(id: &str) -> Self {
        Self { id: id.into(), is_dataset: true, ..Self::default() }
    }

    pub fn with(mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.into(), bytes.into()));
        self
    }

    /// All files of a folder on this disk.
    pub fn of_folder(mut self, folder: &std::path::Path) -> Self {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            self = self.with(path.file_name().unwrap().to_str().unwrap(), std::fs::read(&path).unwrap());
        }
        self
    }

    pub fn bytes(&self, path: &str) -> &[u8] {
        &self.files.iter().find(|(name, _)| name == path).unwrap().1
    }

    /// Weights are kept in LFS, small texts are not.
    fn is_lfs(path: &str) -> bool {
        path.ends_with(".safetensors") || path.ends_with(".bin") || path.ends_with(".gguf")
    }

    /// The list as Hugging Face gives it.
    pub fn hugging_face_list(&self) -> String {
        let siblings = self.files.iter().map(|(path, bytes)| {
            let (hash, size) = (sha256(bytes), bytes.len());
            let lfs = match Self::is_lfs(path) {
                true => format!(r#", "lfs": {{"sha256": "{hash}", "size": {size}, "pointerSize": 130}}"#),
                false => String::new(),
            };
            format!(r#"{{"rfilename": "{path}", "size": {size}, "blobId": "{}"{lfs}}}"#, git_hash(bytes))
        });
        let siblings: Vec<String> = siblings.collect();
        format!(r#"{{"id": "{}", "sha": "{COMMIT}", "siblings": [{}]}}"#, self.id, siblings.join(", "))
    }

    /// Answers as Hugging Face does.
    pub fn hugging_face(&self, request: &Request) -> Reply {
        let (plural, folder) = if self.is_dataset { ("datasets", "datasets/") } else { ("models", "") };
        let id = &self.id;
        if request.target.starts_with(&format!("/api/{plural}/{id}/revision/")) {
            return Reply::json(self.hugging_face_list());
        }
        let path = request.target.strip_prefix(&format!("/{folder}{id}/resolve/{COMMIT}/"));
        let found = path.and_then(|path| self.files.iter().find(|(name, _)| name == path));
        match found {
            Some((_, bytes)) => Reply::file(request, bytes),
            None => Reply::status(404),
        }
    }

    /// Answers as ModelScope does.
    pub fn model_scope(&self, request: &Request) -> Reply {
        let plural = if self.is_dataset { "datasets" } else { "models" };
        let start = format!("/api/v1/{plural}/{}", self.id);
        let target = &request.target;
        if self.is_dataset && *target == start {
            return Reply::json(r#"{"Code": 200, "Data": {"Id": 77, "Type": 1}}"#);
        }
        let page = |page: usize| {
            let page: usize = page - 1;
            let files = self.files.iter().skip(page * 100).take(100).map(|(path, bytes)| {
                let (hash, size) = (sha256(bytes), bytes.len());
                format!(r#"{{"Path": "{path}", "Type": "blob", "Size": {size}, "Sha256": "{hash}"}}"#)
            });
            let files: Vec<String> = files.collect();
            Reply::json(format!(r#"{{"Code": 200, "Data": {{"Files": [{}]}}}}"#, files.join(", ")))
        };
        if target.starts_with(&format!("{start}/repo/files?")) {
            return page(1);
        }
        if target.starts_with("/api/v1/datasets/77/repo/tree?") {
            let number = target.split("PageNumber=").nth(1).and_then(|text| text.split('&').next()).unwrap();
            return page(number.parse().unwrap());
        }
        let path =
            target.strip_prefix(&format!("{start}/repo?")).and_then(|query| query.split("FilePath=").nth(1));
        let path = path.map(|path| path.replace("%2F", "/"));
        match path.and_then(|path| self.files.iter().find(|(name, _)| *name == path)) {
            Some((_, bytes)) => Reply::file(request, bytes),
            None => Reply::new(404, "application/json", r#"{"Code": 404, "Message": "not found"}"#),
        }
    }
}
