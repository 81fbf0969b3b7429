//! Downloads from a hub on the loopback interface: what comes, where it goes, and what goes wrong on the way.
#![allow(clippy::unwrap_used)]

mod server;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use danlu_hub::{
    DatasetPart, Downloaded, Error, Hub, Kind, Repository, Service, Settings, Want, chosen_files, model_files,
};
use server::{COMMIT, Files, Reply, Request, Server};

/// More than one buffer of the reader.
const LONG: usize = 1_500_000;

fn settings(server: &str, cache: &Path) -> Settings {
    Settings {
        service: Service::HuggingFace,
        endpoint: server.to_owned(),
        token: Some("secret".into()),
        cache: cache.to_owned(),
        offline: false,
        first_pause: Duration::from_millis(5),
    }
}

fn repository() -> Repository {
    Repository::parse(Kind::Model, "org/tiny.model").unwrap()
}

/// Bytes that look like weights.
fn weights() -> Vec<u8> {
    (0..LONG as u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn tiny() -> Files {
    Files::model("org/tiny.model")
        .with("config.json", r#"{"model_type": "llama"}"#)
        .with("tokenizer.json", "{}")
        .with("README.md", "# tiny")
        .with("pytorch_model.bin", "the same once more")
        .with("model.safetensors", weights())
}

fn fetch(hub: &Hub, to: Option<&Path>) -> Result<Downloaded, Error> {
    let repository = repository();
    let listing = hub.listing(&repository)?;
    let files = model_files(&repository, &listing.files)?;
    hub.download(&repository, &listing, &files, to, &mut |_| ControlFlow::Continue(()))
}

/// A hub at which `handler` answers first.
fn server_with(handler: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) -> Server {
    let files = tiny();
    Server::start(move |request| handler(request).unwrap_or_else(|| files.hugging_face(request)))
}

fn is_weights(request: &Request) -> bool {
    request.target.ends_with("/model.safetensors")
}

#[test]
fn a_model_goes_into_the_standard_cache_and_is_found_without_network() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path();
    let server = server_with(|_| None);
    let hub = Hub::new(settings(&server.url, cache));
    assert_eq!(hub.find(&repository(), Want::Model), None);
    let downloaded = fetch(&hub, None).unwrap();
    let root = cache.join("models--org--tiny.model");
    let snapshot = root.join("snapshots").join(COMMIT);
    assert_eq!(downloaded.folder, snapshot);
    assert_eq!(downloaded.files, ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(downloaded.transferred, downloaded.bytes);
    assert_eq!(std::fs::read(snapshot.join("model.safetensors")).unwrap(), weights());
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let blob = server::sha256(&weights());
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(snapshot.join("model.safetensors")).unwrap(),
        Path::new("../../blobs").join(&blob)
    );
    assert!(root.join("blobs").join(&blob).is_file());
    let asked = server.targets();
    assert_eq!(asked.len(), 4, "{asked:?}");

    let again = fetch(&hub, None).unwrap();
    assert_eq!((again.transferred, again.folder), (0, snapshot.clone()));
    assert_eq!(server.targets().len(), 5, "only the list is asked for again");

    let offline = Hub::new(Settings { offline: true, ..settings("http://127.0.0.1:1", cache) });
    assert_eq!(offline.find(&repository(), Want::Model), Some(snapshot.clone()));
    let at = |revision: &str| Repository::parse(Kind::Model, &format!("org/tiny.model@{revision}")).unwrap();
    assert_eq!(offline.find(&at(COMMIT), Want::Model), Some(snapshot));
    assert_eq!(offline.find(&at("other"), Want::Model), None);
    let message = fetch(&offline, None).unwrap_err().to_string();
    assert!(message.contains("`HF_HUB_OFFLINE` is set"), "{message}");
}

#[test]
fn half_a_snapshot_is_not_taken_for_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("models--org--tiny.model");
    let snapshot = root.join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(root.join("refs")).unwrap();
    std::fs::write(root.join("refs/main"), format!("{COMMIT}\n")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(snapshot.join(name), text).unwrap();
    let hub = Hub::new(settings("http://127.0.0.1:1", folder.path()));
    let found = |want| hub.find(&repository(), want).is_some();
    write("config.json", "{}");
    assert!(!found(Want::Model) && !found(Want::Tokenizer) && found(Want::Any));
    write("vocab.json", "{}");
    assert!(!found(Want::Tokenizer), "it is not read");
    write("tokenizer.json", "{}");
    assert!(found(Want::Tokenizer));
    write(
        "model.safetensors.index.json",
        r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#,
    );
    write("m-1.safetensors", "");
    assert!(!found(Want::Model));
    write("m-2.safetensors", "");
    assert!(found(Want::Model));
    // One index may be whole beside another that is not, whichever comes first, and a file may be the whole model.
    let second = r#"{"weight_map": {"a": "n-1.bin", "b": "n-2.bin"}}"#;
    for name in ["a.bin.index.json", "pytorch_model.bin.index.json"] {
        write(name, second);
        assert!(found(Want::Model));
    }
    std::fs::remove_file(snapshot.join("m-2.safetensors")).unwrap();
    write("n-1.bin", "");
    assert!(!found(Want::Model));
    write("n-2.bin", "");
    assert!(found(Want::Model));
    std::fs::remove_file(snapshot.join("n-2.bin")).unwrap();
    write("model.safetensors", "");
    assert!(found(Want::Model));
    // A reference that points elsewhere is none.
    std::fs::write(root.join("refs/main"), "../../..").unwrap();
    assert!(!found(Want::Any));
}

#[test]
fn the_token_stays_at_its_host() {
    let folder = tempfile::tempdir().unwrap();
    let other = Server::start(|request| Reply::file(request, &weights()));
    let elsewhere = other.url.replace("127.0.0.1", "localhost");
    let server = server_with(move |request| {
        is_weights(request).then(|| Reply::status(302).with("location", &format!("{elsewhere}/lfs/1")))
    });
    fetch(&Hub::new(settings(&server.url, folder.path())), None).unwrap();
    let token = |request: &Request| request.headers.get("authorization").cloned();
    assert!(server.requests().iter().all(|request| token(request).as_deref() == Some("Bearer secret")));
    let requests = other.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(token(&requests[0]), None);
}

#[test]
fn a_cut_connection_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    let server = server_with(move |request| {
        let cuts = [700_000, 0, 300_000];
        let cut = is_weights(request).then(|| cuts.get(count.fetch_add(1, Ordering::SeqCst)))??;
        Some(Reply::file(request, &weights()).cut_at(*cut))
    });
    let downloaded = fetch(&Hub::new(settings(&server.url, folder.path())), None).unwrap();
    assert_eq!(std::fs::read(downloaded.folder.join("model.safetensors")).unwrap(), weights());
    let starts: Vec<usize> =
        server.requests().iter().filter(|request| is_weights(request)).map(Request::start).collect();
    assert_eq!(starts, [0, 700_000, 700_000, 1_000_000]);
}

#[test]
fn what_an_earlier_run_left_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let hash = server::sha256(&weights());
    let blobs = folder.path().join("models--org--tiny.model/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(format!("{hash}.incomplete")), &weights()[..1_000_000]).unwrap();
    let server = server_with(|_| None);
    let hub = Hub::new(settings(&server.url, folder.path()));
    let downloaded = fetch(&hub, None).unwrap();
    assert_eq!(downloaded.bytes - downloaded.transferred, 1_000_000);
    let request = server.requests().into_iter().find(is_weights).unwrap();
    assert_eq!(request.start(), 1_000_000);
    assert_eq!(std::fs::read(downloaded.folder.join("model.safetensors")).unwrap(), weights());
}

#[test]
fn a_server_without_ranges_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    let server = server_with(move |request| {
        if !is_weights(request) {
            return None;
        }
        let whole = Reply::new(200, "application/octet-stream", weights());
        Some(if count.fetch_add(1, Ordering::SeqCst) == 0 { whole.cut_at(900_000) } else { whole })
    });
    let downloaded = fetch(&Hub::new(settings(&server.url, folder.path())), None).unwrap();
    assert_eq!(std::fs::read(downloaded.folder.join("model.safetensors")).unwrap(), weights());
}

#[test]
fn wrong_sizes_and_contents_are_refused_and_removed() {
    let cases: [(Vec<u8>, &str); 3] = [
        (weights()[..1000].to_vec(), "`model.safetensors` has 1000 bytes where the hub's list says 1500000"),
        ([weights(), vec![0]].concat(), "has 1500001 bytes where"),
        (vec![0; LONG], "`model.safetensors` does not have the SHA-256"),
    ];
    for (content, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let server = server_with(move |request| {
            is_weights(request).then(|| Reply::new(200, "application/octet-stream", content.clone()))
        });
        let hub = Hub::new(settings(&server.url, folder.path()));
        let message = fetch(&hub, None).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        let root = folder.path().join("models--org--tiny.model");
        let left: Vec<_> = std::fs::read_dir(root.join("blobs")).unwrap().collect();
        assert_eq!(left.len(), 2, "only the two small files are kept");
        assert!(!root.join("refs").exists());
    }
}

#[test]
fn hf_mirror_43_an_html_page_is_no_file() {
    let page = || Reply::new(200, "text/html; charset=utf-8", "<!DOCTYPE html><title>Sign in</title>");
    let folder = tempfile::tempdir().unwrap();
    let server = server_with(move |request| is_weights(request).then(page));
    let message = fetch(&Hub::new(settings(&server.url, folder.path())), None).unwrap_err().to_string();
    assert!(
        message.contains(
            "answers with an HTML page instead of the file `model.safetensors`: a proxy or login page"
        ),
        "{message}"
    );
    let server = Server::start(move |_| page());
    let message = fetch(&Hub::new(settings(&server.url, folder.path())), None).unwrap_err().to_string();
    assert!(message.contains("an HTML page instead of a list of files"), "{message}");
    assert!(message.contains("`HF_ENDPOINT` names no hub"), "{message}");
    let server = Server::start(|_| Reply::json(r#"{"error": "odd"}"#));
    let message = fetch(&Hub::new(settings(&server.url, folder.path())), None).unwrap_err().to_string();
    assert!(message.contains("something else than a list of files (missing field `sha`"), "{message}");
}

#[test]
fn refusals_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let message = |handler: fn(&Request) -> Option<Reply>, token: bool| {
        let server = server_with(handler);
        let mut settings = settings(&server.url, folder.path());
        settings.token = settings.token.filter(|_| token);
        fetch(&Hub::new(settings), None).unwrap_err().to_string().replace(&server.url, "HUB")
    };
    assert_eq!(
        message(|_| Some(Reply::status(401).with("x-error-code", "GatedRepo")), false),
        "`org/tiny.model` is gated, private or not there (HTTP status 401): check the spelling, accept its licence on \
         `HUB/org/tiny.model` if it asks for that, and set `HF_TOKEN` to an access token of your account"
    );
    assert!(
        message(|request| is_weights(request).then(|| Reply::status(403)), true)
            .ends_with("and see that the account of `HF_TOKEN` has access")
    );
    assert_eq!(
        message(|_| Some(Reply::status(404).with("x-error-code", "RevisionNotFound")), true),
        "`org/tiny.model` has no revision `main`: name a branch, a tag or a commit, or none for the main branch"
    );
    assert_eq!(
        message(
            |request| Some(match request.target.contains("/api/models?search=tiny.model&") {
                true => Reply::json(r#"[{"id": "other/x"}, {"id": "Org/Tiny-Model"}]"#),
                false => Reply::status(404),
            }),
            true
        ),
        "HUB has no model `org/tiny.model`; did you mean `Org/Tiny-Model`?"
    );
    assert_eq!(
        message(
            |request| Some(match request.target == "/api/datasets/org/tiny.model" {
                true => Reply::json("{}"),
                false => Reply::status(401).with("x-error-code", "RepoNotFound"),
            }),
            true
        ),
        "HUB has no model `org/tiny.model`; it is a dataset: `danlu download dataset org/tiny.model`"
    );
    assert_eq!(
        message(|_| Some(Reply::status(404)), true),
        "HUB has no model `org/tiny.model`; check the spelling, set `HF_TOKEN` if it is private, or try ModelScope with \
         `USE_MODELSCOPE_HUB=1`"
    );
}

#[test]
fn passing_faults_are_tried_again_and_lasting_ones_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    let server = server_with(move |request| {
        let fault = [500, 429, 503, 200].get(count.fetch_add(1, Ordering::SeqCst) % 4)?;
        (*fault != 200 && !request.target.ends_with(".md")).then(|| Reply::status(*fault))
    });
    fetch(&Hub::new(settings(&server.url, folder.path())), None).unwrap();
    let server = server_with(|request| is_weights(request).then(|| Reply::status(500)));
    let other = tempfile::tempdir().unwrap();
    let message = fetch(&Hub::new(settings(&server.url, other.path())), None).unwrap_err().to_string();
    assert!(
        message.ends_with("with HTTP status 500 (5 tries): try again later, what was downloaded is kept"),
        "{message}"
    );
    assert_eq!(server.requests().iter().filter(|request| is_weights(request)).count(), 5);
}

#[test]
fn no_network_names_the_mirror_and_keeps_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let message =
        fetch(&Hub::new(settings("http://127.0.0.1:9", folder.path())), None).unwrap_err().to_string();
    assert!(message.starts_with("`http://127.0.0.1:9` cannot be reached ("), "{message}");
    assert!(message.contains("`HF_ENDPOINT=https://hf-mirror.com`"), "{message}");
}

#[test]
fn too_small_a_disk_is_told_before_anything_comes() {
    let folder = tempfile::tempdir().unwrap();
    let huge = tiny().hugging_face_list().replace("1500000", "900000000000000000");
    let server =
        server_with(move |request| request.target.contains("/revision/").then(|| Reply::json(huge.clone())));
    let message = fetch(&Hub::new(settings(&server.url, folder.path())), None).unwrap_err().to_string();
    assert!(message.contains(" free and 900000000.00 GB more are needed: free some space"), "{message}");
    assert_eq!(server.targets().len(), 1);
}

#[test]
fn a_folder_gets_plain_files_and_keeps_those_that_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("here/tiny");
    let server = server_with(|_| None);
    let hub = Hub::new(settings(&server.url, folder.path()));
    let downloaded = fetch(&hub, Some(&to)).unwrap();
    assert_eq!(downloaded.folder, to);
    let names = |folder: &Path| {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&to), ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(names(folder.path()), ["here"]);
    assert_eq!(fetch(&hub, Some(&to)).unwrap().transferred, 0, "files are compared by their hash");
    let mut changed = weights();
    changed[5] ^= 1;
    std::fs::write(to.join("model.safetensors"), changed).unwrap();
    std::fs::write(to.join("tokenizer.json"), "[]").unwrap();
    assert_eq!(fetch(&hub, Some(&to)).unwrap().transferred, LONG as u64 + 2);
    assert_eq!(std::fs::read(to.join("model.safetensors")).unwrap(), weights());
    assert_eq!(std::fs::read(to.join("tokenizer.json")).unwrap(), b"{}");
    assert_eq!(names(&to), ["config.json", "model.safetensors", "tokenizer.json"]);
}

#[test]
fn a_file_of_the_same_name_stays_until_its_successor_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("mine");
    std::fs::create_dir(&to).unwrap();
    let mine = [("config.json", "mine"), ("model.safetensors", "these too")];
    for (name, text) in mine {
        std::fs::write(to.join(name), text).unwrap();
    }
    let huge = tiny().hugging_face_list().replace("1500000", "900000000000000000");
    let servers = [
        server_with(|request| request.target.contains("/resolve/").then(|| Reply::status(404))),
        server_with(|request| {
            let begins = request.start() == 0;
            is_weights(request).then(|| {
                if begins { Reply::file(request, &weights()).cut_at(1000) } else { Reply::status(404) }
            })
        }),
        server_with(move |request| request.target.contains("/revision/").then(|| Reply::json(huge.clone()))),
    ];
    for (server, kept) in servers.iter().zip([&mine[..], &mine[1..], &mine[1..]]) {
        fetch(&Hub::new(settings(&server.url, folder.path())), Some(&to)).unwrap_err();
        for (name, text) in kept {
            assert_eq!(std::fs::read_to_string(to.join(name)).unwrap(), *text, "{name}");
        }
    }
}

#[test]
fn what_another_commit_left_of_a_small_file_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("config.json.incomplete");
    std::fs::write(&part, r#"{"model_type": "qwen"#).unwrap();
    let server = server_with(|_| None);
    let hub = Hub::new(settings(&server.url, folder.path()));
    let downloaded = fetch(&hub, Some(folder.path())).unwrap();
    assert_eq!(
        std::fs::read_to_string(downloaded.folder.join("config.json")).unwrap(),
        r#"{"model_type": "llama"}"#
    );

    // Where the hub tells no hash, nothing is continued.
    let files = Files::model("org/tiny.model").with("config.json", "{}").with("model.bin", "new weights");
    let server = Server::start(move |request| {
        let reply = files.model_scope(request);
        let Ok(text) = String::from_utf8(reply.body.clone()) else { return reply };
        let parts = text.split(r#""Sha256": ""#).map(|part| match part.split_once('"') {
            Some((hash, rest)) if hash.len() == 64 => format!(r#""Sha256": ""{rest}"#),
            _ => part.to_owned(),
        });
        Reply { body: parts.collect::<String>().into_bytes(), ..reply }
    });
    let to = folder.path().join("other");
    std::fs::create_dir(&to).unwrap();
    std::fs::write(to.join("model.bin.incomplete"), "old").unwrap();
    std::fs::write(to.join("config.json"), "[]").unwrap();
    let hub = Hub::new(Settings { service: Service::ModelScope, ..settings(&server.url, folder.path()) });
    fetch(&hub, Some(&to)).unwrap();
    assert_eq!(std::fs::read_to_string(to.join("model.bin")).unwrap(), "new weights");
    assert_eq!(std::fs::read_to_string(to.join("config.json")).unwrap(), "{}");
}

#[test]
fn a_stop_is_followed_while_nothing_comes() {
    let folder = tempfile::tempdir().unwrap();
    let server = server_with(|request| is_weights(request).then(|| Reply::status(500)));
    let patient = Settings { first_pause: Duration::from_secs(60), ..settings(&server.url, folder.path()) };
    let hub = Hub::new(patient);
    let repository = repository();
    let listing = hub.listing(&repository).unwrap();
    let files = chosen_files(&repository, &listing.files, &["*.safetensors".into()], &[]).unwrap();
    let begin = Instant::now();
    let stop = |hub: &Hub, to: Option<&Path>| {
        let mut was_waiting = false;
        let stopped = hub.download(&repository, &listing, &files, to, &mut |progress| {
            was_waiting |= progress.is_waiting;
            ControlFlow::Break(())
        });
        assert!(matches!(stopped, Err(Error::Cancelled)));
        was_waiting
    };
    assert!(!stop(&hub, None), "in the pause before another try");
    std::fs::write(folder.path().join("model.safetensors"), weights()).unwrap();
    assert!(!stop(&hub, Some(folder.path())), "while a file is compared");
    let blobs = folder.path().join("models--org--tiny.model/blobs");
    let part = std::fs::File::open(blobs.join(format!("{}.incomplete", server::sha256(&weights())))).unwrap();
    part.lock().unwrap();
    assert!(stop(&hub, None), "while another process has the file");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_download_that_is_stopped_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let server = server_with(|_| None);
    let hub = Hub::new(settings(&server.url, folder.path()));
    let repository = repository();
    let listing = hub.listing(&repository).unwrap();
    let files = chosen_files(&repository, &listing.files, &["*.safetensors".into()], &[]).unwrap();
    let run = |limit: u64| {
        hub.download(&repository, &listing, &files, None, &mut |progress| {
            if progress.done > limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    };
    assert!(matches!(run(300_000), Err(Error::Cancelled)));
    let rest = run(u64::MAX).unwrap();
    assert!(rest.transferred < LONG as u64 - 300_000 && rest.bytes == LONG as u64);
}

#[test]
fn two_downloads_of_the_same_file_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let server = server_with(|request| {
        let slow = Some(Duration::from_millis(2));
        is_weights(request).then(|| Reply { slow, ..Reply::file(request, &weights()) })
    });
    let (url, cache) = (server.url.clone(), folder.path().to_owned());
    let threads = [(); 2].map(|()| {
        let hub = Hub::new(settings(&url, &cache));
        std::thread::spawn(move || fetch(&hub, None))
    });
    for thread in threads {
        let downloaded = thread.join().unwrap().unwrap();
        assert_eq!(std::fs::read(downloaded.folder.join("model.safetensors")).unwrap(), weights());
    }
    assert_eq!(server.requests().iter().filter(|request| is_weights(request)).count(), 1);
}

#[test]
fn model_scope_has_its_own_addresses_and_folders() {
    let folder = tempfile::tempdir().unwrap();
    let files = tiny();
    let server = Server::start(move |request| files.model_scope(request));
    let settings = Settings { service: Service::ModelScope, ..settings(&server.url, folder.path()) };
    let hub = Hub::new(settings.clone());
    let downloaded = fetch(&hub, None).unwrap();
    assert_eq!(downloaded.folder, folder.path().join("models/org/tiny___model"));
    assert_eq!(std::fs::read(downloaded.folder.join("model.safetensors")).unwrap(), weights());
    assert_eq!(fetch(&hub, None).unwrap().transferred, 0);
    let offline = Hub::new(Settings { offline: true, ..settings });
    assert_eq!(offline.find(&repository(), Want::Model), Some(downloaded.folder));
}

#[test]
fn a_folder_of_model_scope_is_of_one_revision() {
    let folder = tempfile::tempdir().unwrap();
    let files = tiny();
    let server = Server::start(move |request| {
        let is_broken = request.target.contains("Revision=broken&FilePath=model.safetensors");
        if is_broken { Reply::status(404) } else { files.model_scope(request) }
    });
    let hub = Hub::new(Settings { service: Service::ModelScope, ..settings(&server.url, folder.path()) });
    let at = |revision: &str| Repository::parse(Kind::Model, &format!("org/tiny.model@{revision}")).unwrap();
    let is_found = |repository: &Repository| hub.find(repository, Want::Model).is_some();
    let fetch_at = |revision: &str| {
        let repository = at(revision);
        let listing = hub.listing(&repository).unwrap();
        let files = model_files(&repository, &listing.files).unwrap();
        hub.download(&repository, &listing, &files, None, &mut |_| ControlFlow::Continue(()))
    };
    // What another program left says nothing of its revision.
    let plain = folder.path().join("models/org/tiny___model");
    std::fs::create_dir_all(&plain).unwrap();
    std::fs::write(plain.join("model.safetensors"), "").unwrap();
    assert!(is_found(&repository()) && !is_found(&at("v2")) && !is_found(&at("master")));
    fetch_at("v2").unwrap();
    assert!(is_found(&at("v2")) && !is_found(&repository()) && !is_found(&at("master")));
    fetch_at("master").unwrap();
    assert!(is_found(&repository()) && is_found(&at("master")) && !is_found(&at("v2")));
    std::fs::write(plain.join("model.safetensors"), "of another revision").unwrap();
    fetch_at("broken").unwrap_err();
    assert!(!is_found(&repository()) && !is_found(&at("master")) && !is_found(&at("broken")));
}

#[test]
fn half_a_folder_of_model_scope_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let hub =
        Hub::new(Settings { service: Service::ModelScope, ..settings("http://127.0.0.1:1", folder.path()) });
    let repository = Repository::parse(Kind::Dataset, "org/rows").unwrap();
    let rows = folder.path().join("datasets/org/rows/data");
    std::fs::create_dir_all(&rows).unwrap();
    std::fs::write(rows.join("a.jsonl"), "{}").unwrap();
    assert!(hub.find(&repository, Want::Any).is_some());
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("nowhere", rows.join("dangling.jsonl")).unwrap();
        let (_, files) = hub.local_dataset_files(&repository, &DatasetPart::default()).unwrap();
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["data/a.jsonl"]);
    }
    std::fs::write(rows.join("b.jsonl.incomplete"), "").unwrap();
    assert_eq!(hub.find(&repository, Want::Any), None);
}

#[test]
fn a_stopped_data_set_of_model_scope_is_not_taken_for_whole() {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::dataset("org/rows").with("a.jsonl", "1").with("b.jsonl", "22").with("c.jsonl", "333");
    let server = Server::start(move |request| {
        let is_broken = request.target.ends_with("b.jsonl");
        if is_broken { Reply::status(404) } else { files.model_scope(request) }
    });
    let hub = Hub::new(Settings { service: Service::ModelScope, ..settings(&server.url, folder.path()) });
    let repository = Repository::parse(Kind::Dataset, "org/rows").unwrap();
    let listing = hub.listing(&repository).unwrap();
    let go_on = &mut |_: &danlu_hub::Progress<'_>| ControlFlow::Continue(());
    hub.download(&repository, &listing, &listing.files, None, go_on).unwrap_err();
    let place = folder.path().join("datasets/org/rows");
    assert!(place.join("a.jsonl").is_file());
    // As if it had been killed between two files.
    _ = std::fs::remove_file(place.join("b.jsonl.incomplete"));
    assert_eq!(hub.find(&repository, Want::Any), None);
}

#[test]
fn pages_that_bring_nothing_new_end_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(move |request| {
        if !request.target.contains("/repo/tree?") {
            return Reply::json(r#"{"Data": {"Id": 77}}"#);
        }
        let files: Vec<String> =
            (0..100).map(|number| format!(r#"{{"Path": "{number}", "Size": 1}}"#)).collect();
        Reply::json(format!(r#"{{"Data": {{"Files": [{}]}}}}"#, files.join(",")))
    });
    let hub = Hub::new(Settings { service: Service::ModelScope, ..settings(&server.url, folder.path()) });
    let repository = Repository::parse(Kind::Dataset, "org/rows").unwrap();
    let message = hub.listing(&repository).unwrap_err().to_string();
    assert!(message.contains("(page 2 holds only what came before)"), "{message}");
    assert_eq!(server.targets().len(), 3);
}

#[test]
fn a_list_that_is_cut_is_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    let list = tiny().hugging_face_list();
    let server = server_with(move |request| {
        let is_list = request.target.contains("/revision/");
        let is_early = is_list && count.fetch_add(1, Ordering::SeqCst) < 3;
        is_early.then(|| Reply::json(list.clone()).cut_at(40))
    });
    fetch(&Hub::new(settings(&server.url, folder.path())), None).unwrap();
    let message = |server: &Server| {
        fetch(&Hub::new(settings(&server.url, folder.path())), None).unwrap_err().to_string()
    };
    let cut = Server::start(|_| Reply::json(r#"{"sha": "#).cut_at(3));
    assert!(message(&cut).contains("cannot be reached ("));
    assert_eq!(cut.targets().len(), 5);
}

#[test]
fn model_scope_lists_data_sets_page_by_page() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Files::dataset("org/rows");
    for number in 0..205 {
        files = files.with(&format!("part/{number:03}.jsonl"), format!("{number}"));
    }
    let server = Server::start(move |request| files.model_scope(request));
    let hub = Hub::new(Settings { service: Service::ModelScope, ..settings(&server.url, folder.path()) });
    let repository = Repository::parse(Kind::Dataset, "org/rows").unwrap();
    let listing = hub.listing(&repository).unwrap();
    assert_eq!(listing.files.len(), 205);
    let files = chosen_files(&repository, &listing.files, &["*/2*.jsonl".into()], &["*203*".into()]).unwrap();
    let downloaded =
        hub.download(&repository, &listing, &files, None, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(downloaded.folder, folder.path().join("datasets/org/rows"));
    assert_eq!(downloaded.files.len(), 4);
    assert_eq!(std::fs::read_to_string(downloaded.folder.join("part/204.jsonl")).unwrap(), "204");
}
