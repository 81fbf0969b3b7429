//! Ids of a hub in place of paths, and `danlu download`, against a hub on the loopback interface.

use crate::common;
#[path = "../../hub/tests/server/mod.rs"]
mod server;

use std::io::BufRead;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Ran, danlu, run, with_model};
use server::{COMMIT, Files, Reply, Server};

const ROWS: &str = r#"[{"instruction": "什么是车削？", "output": "在车床上加工回转表面。"},
    {"instruction": "铣刀有几个刀刃？", "output": "多个。"}]"#;

/// Runs the program with the network that `server` is.
fn online(folder: &Path, server: &Server, arguments: &[&str]) -> Ran {
    let variables = [
        ("HF_ENDPOINT", server.url.as_str()),
        ("MODELSCOPE_DOMAIN", &server.url),
        ("MODELSCOPE_CACHE", "ms"),
    ];
    with_variables(folder, arguments, &[&variables[..], &[("HF_HUB_OFFLINE", "0")]].concat())
}

fn with_variables(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
    let output = danlu(folder).args(arguments).envs(variables.iter().copied()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The folder `model`, also as `org/tiny` of a hub.
fn with_hub() -> (tempfile::TempDir, Server) {
    let folder = with_model();
    let files = Files::model("org/tiny").of_folder(&folder.path().join("model"));
    (folder, Server::start(move |request| files.hugging_face(request)))
}

fn generate<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let plain =
        ["generate", "--model", model, "--prompt", "车削", "--max-new-tokens", "4", "--temperature", "0"];
    [&plain[..], &["--json"], more].concat()
}

#[test]
fn an_id_opens_like_a_path_and_needs_no_network_the_second_time() {
    let (folder, server) = with_hub();
    let path = folder.path();
    let expected = run(path, &generate("model", &[])).json();
    assert_eq!(online(path, &server, &generate("org/tiny", &[])).json(), expected);
    let asked = server.targets().len();
    assert_eq!(online(path, &server, &generate("org/tiny", &[])).json(), expected);
    assert_eq!(server.targets().len(), asked, "what is here is not asked for");
    assert_eq!(run(path, &generate(&format!("org/tiny@{COMMIT}"), &[])).json(), expected);
    assert_eq!(run(path, &["info", "org/tiny", "--json"]).json()["kind"], "model");
    let encode =
        |tokenizer| run(path, &["tokenizer", "encode", "--tokenizer", tokenizer, "--text", "铣刀", "--json"]);
    assert_eq!(encode("org/tiny").json(), encode("model").json());
    assert_eq!(run(path, &generate("model", &["--tokenizer", "org/tiny"])).json(), expected);
    std::fs::write(path.join("rows.json"), ROWS).unwrap();
    let shape =
        ["--hidden", "16", "--layers", "1", "--heads", "2", "--kv-heads", "1", "--intermediate", "24"];
    let bench = ["bench", "sft", "--data", "rows.json", "--tokenizer", "org/tiny", "--json"];
    assert_eq!(run(path, &[&bench[..], &shape].concat()).json()["rows"], 2);
    assert_eq!(run(path, &["convert", "org/tiny", "tiny.gguf"]).code, 0);
    assert_eq!(run(path, &generate("tiny.gguf", &[])).json()["ids"], expected["ids"]);

    // A path of that name wins, and a folder of the owner's name makes it a path.
    std::fs::create_dir_all(path.join("org/tiny")).unwrap();
    run(path, &generate("org/tiny", &[])).is_refused("`org/tiny`");
    std::fs::remove_dir(path.join("org/tiny")).unwrap();
    run(path, &generate("org/tiny", &[])).is_refused("`org/tiny` does not exist");
}

#[test]
fn the_base_of_an_adapter_is_found_where_it_was_downloaded() {
    let (folder, server) = with_hub();
    let path = folder.path();
    std::fs::write(path.join("rows.json"), ROWS).unwrap();
    let keys =
        ["sft-lora", "dataset=rows.json", "model_name_or_path=org/tiny", "cutoff_len=64", "val_size=0"];
    let keys = [&keys[..], &["eval_strategy=no", "max_steps=1", "output_dir=run"]].concat();
    let with = |verb| [&[verb], &keys[..]].concat();
    run(path, &with("plan")).is_refused(
        "`org/tiny` is no file or folder here; if it is the id of a hub, get it with `danlu download model org/tiny` first",
    );
    let trained = online(path, &server, &with("train"));
    assert_eq!(trained.code, 0, "{}", trained.stderr);
    let config = std::fs::read_to_string(path.join("run/adapter_config.json")).unwrap();
    assert!(config.contains(r#""base_model_name_or_path": "org/tiny""#), "{config}");
    assert_eq!(run(path, &generate("run", &[])).code, 0);
    let plan = run(path, &[with("plan"), vec!["output_dir=other"]].concat());
    assert_eq!(plan.code, 0, "{}", plan.stderr);
    std::fs::remove_dir_all(path.join(".huggingface")).unwrap();
    run(path, &generate("run", &[]))
        .is_refused("get it with `danlu download model org/tiny`, or give that model");
}

#[test]
fn a_killed_download_goes_on() {
    let weights: Vec<u8> = (0..2_000_000_u32).map(|number| (number % 251) as u8).collect();
    let files = Files::model("org/big").with("config.json", "{}").with("model.safetensors", weights.clone());
    let server = Server::start(move |request| {
        let reply = files.hugging_face(request);
        let is_first = request.target.ends_with(".safetensors") && request.start() == 0;
        if is_first { Reply { slow: Some(Duration::from_millis(20)), ..reply } } else { reply }
    });
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("big/model.safetensors.incomplete");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_danlu"))
        .args(["download", "model", "org/big", "--to", "big"])
        .current_dir(folder.path())
        .env("HF_ENDPOINT", &server.url)
        .env("HF_HOME", folder.path().join(".huggingface"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while std::fs::metadata(&part).map_or(0, |metadata| metadata.len()) < 200_000 {
        assert!(begin.elapsed() < Duration::from_secs(60), "nothing comes");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!folder.path().join("big/model.safetensors").exists());
    let begun = std::fs::metadata(&part).unwrap().len();
    let result =
        online(folder.path(), &server, &["download", "model", "org/big", "--to", "big", "--json"]).json();
    assert_eq!(std::fs::read(folder.path().join("big/model.safetensors")).unwrap(), weights);
    assert!(!part.exists());
    assert_eq!(server.requests().last().unwrap().start() as u64, begun);
    assert_eq!((&result["folder"], &result["bytes"]), (&"big".into(), &2_000_002.into()));
    assert_eq!(result["transferred"], 2_000_000 - begun);
    assert_eq!(result["files"].as_array().unwrap().len(), 2);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_download_that_waits() {
    let files = Files::model("org/big").with("config.json", "{}").with("model.safetensors", "weights");
    let server = Server::start(move |request| files.hugging_face(request));
    let folder = tempfile::tempdir().unwrap();
    let part = std::fs::File::create(folder.path().join("model.safetensors.incomplete")).unwrap();
    part.lock().unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_danlu"))
        .args(["download", "model", "org/big", "--to", "."])
        .current_dir(folder.path())
        .env("HF_ENDPOINT", &server.url)
        .env("HF_HOME", folder.path().join(".huggingface"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
    let note = lines.find(|line| line.as_ref().unwrap().contains("another process downloads")).unwrap();
    assert!(note.unwrap().ends_with("`model.safetensors`: waiting for it"));
    let interrupt = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupt.unwrap().success());
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(part);
}

#[test]
fn globs_choose_files_and_the_folder_is_printed() {
    let files = Files::model("org/many")
        .with("a-q4_0.gguf", "four")
        .with("a-q8_0.gguf", "eight")
        .with("sub/b.txt", "b");
    let server = Server::start(move |request| files.hugging_face(request));
    let folder = tempfile::tempdir().unwrap();
    let download =
        |more: &[&str]| online(folder.path(), &server, &[&["download", "model", "org/many"], more].concat());
    download(&[]).is_refused(
        "`org/many` has 2 GGUF files: choose one, as in `danlu download model org/many --include",
    );
    let chosen = download(&["--include", "*q8*", "--include", "sub/*"]);
    let place = Path::new(chosen.stdout.trim());
    assert_eq!(std::fs::read_to_string(place.join("a-q8_0.gguf")).unwrap(), "eight");
    assert_eq!(std::fs::read_to_string(place.join("sub/b.txt")).unwrap(), "b");
    assert!(!place.join("a-q4_0.gguf").exists());
    let excluded = download(&[
        "--include",
        "*.gguf",
        "--exclude",
        "*q8*",
        "--to",
        "here",
        "--revision",
        COMMIT,
        "--json",
    ]);
    assert_eq!(excluded.json()["files"], serde_json::json!(["a-q4_0.gguf"]));
    download(&["--include", "*.bin"])
        .is_refused("has no file that matches `--include` and `--exclude`; it holds");
}

#[test]
fn mistakes_are_one_sentence_each() {
    let server = Server::start(|request| match request.target.as_str() {
        "/api/datasets/org/rows" => Reply::json("{}"),
        target if target.contains("gated") => Reply::status(403).with("x-error-code", "GatedRepo"),
        target if target.contains("page") => Reply::new(200, "text/html", "<html>please sign in</html>"),
        _ => Reply::status(404),
    });
    let folder = tempfile::tempdir().unwrap();
    let download = |id: &str| online(folder.path(), &server, &["download", "model", id]);
    download("tiny").is_refused("`tiny` is no id of a hub: expected `org/name` or `org/name@revision`");
    download("https://hub.example/org/rows/tree/main").is_refused("; give `org/rows`");
    download("org/rows").is_refused("it is a dataset: `danlu download dataset org/rows`");
    download("org/none").is_refused("has no model `org/none`; check the spelling");
    download("org/gated").is_refused("accept its licence on");
    online(folder.path(), &server, &generate("org/none", &[]))
        .is_refused("`org/none` is no file or folder here: http://127.0.0.1:");
    run(folder.path(), &generate("org/none", &[])).is_refused("`HF_HUB_OFFLINE` is set");
    let failed = |ran: Ran, part: &str| {
        assert_eq!((ran.code, ran.stderr.matches("error: ").count()), (1, 1), "{}", ran.stderr);
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    };
    failed(download("org/page"), "answers with an HTML page instead of a list of files");
    let nowhere = [("HF_HUB_OFFLINE", "0"), ("HF_ENDPOINT", "http://127.0.0.1:9")];
    failed(
        with_variables(folder.path(), &["download", "dataset", "org/rows"], &nowhere),
        "cannot be reached",
    );
}

#[test]
fn data_sets_of_a_hub_are_rows_like_others() {
    let folder = with_model();
    let path = folder.path();
    let rows = Files::dataset("org/rows")
        .with("README.md", "# rows")
        .with("rows_zh.json", ROWS)
        .with("test.json", "[]");
    let table = path.join("table.parquet");
    let mut writer = danlu_data::RecordWriter::create(&table).unwrap();
    for row in serde_json::from_str::<Vec<serde_json::Value>>(ROWS).unwrap() {
        writer.write(row.as_object().unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let tables =
        Files::dataset("org/tables").with("data/train-00000-of-00001.parquet", std::fs::read(table).unwrap());
    let archive = Files::dataset("org/archive").with("train-0.tar", "?");
    let script = Files::dataset("org/script").with("script.py", "print(1)");
    let other = Files::dataset("Org/only")
        .with("train.jsonl", ROWS.replace(['\n', '[', ']'], "").replace("}, ", "}\n").replace("},", "}\n"));
    let server = Server::start(move |request| {
        let target = &request.target;
        match () {
            () if target.starts_with("/api/v1/") => other.model_scope(request),
            () if target.contains("org/tables") => tables.hugging_face(request),
            () if target.contains("org/archive") => archive.hugging_face(request),
            () if target.contains("org/script") => script.hugging_face(request),
            () => rows.hugging_face(request),
        }
    });
    std::fs::create_dir_all(path.join("data")).unwrap();
    let info = r#"{"far": {"hf_hub_url": "org/rows"}, "tables": {"hf_hub_url": "org/tables"}, "archive": {"hf_hub_url": "org/archive"},
        "script": {"hf_hub_url": "org/script"}, "none": {"hf_hub_url": "org/rows", "split": "validation"},
        "only": {"ms_hub_url": "Org/only"}}"#;
    std::fs::write(path.join("data/dataset_info.json"), info).unwrap();
    let recipe = |dataset: &str| {
        format!(
            "stage: sft\nmodel_name_or_path: model\ndataset: {dataset}\ncutoff_len: 64\noutput_dir: run\n"
        )
    };
    let inspect = |dataset: &str, offline: &str| {
        std::fs::write(path.join("recipe.yaml"), recipe(dataset)).unwrap();
        let variables = [("HF_HUB_OFFLINE", offline), ("HF_ENDPOINT", &server.url)];
        let variables =
            [&variables[..], &[("MODELSCOPE_DOMAIN", &server.url), ("MODELSCOPE_CACHE", "ms")]].concat();
        with_variables(path, &["data", "inspect", "recipe.yaml", "--json"], &variables)
    };
    inspect("far", "1").is_refused("dataset `far` of `dataset_info.json`: `org/rows` is not complete in");
    let samples = |ran: Ran| ran.json()["training_samples"].clone();
    assert_eq!(samples(inspect("far", "0")), 2);
    assert_eq!(samples(inspect("far", "1")), 2);
    assert_eq!(samples(inspect("only", "0")), 2);
    assert_eq!(samples(inspect("only", "1")), 2);
    assert!(path.join("ms/datasets/Org/only/train.jsonl").is_file());
    assert_eq!(samples(inspect("tables", "0")), 2);
    inspect("archive", "0").is_refused("`org/archive` is stored as .tar, which is not read yet");
    inspect("script", "0").is_refused("is made by a Python script, which is not run");
    inspect("none", "0").is_refused("`org/rows` has no split `validation`; it holds");
    // Nothing but rows and the card was fetched.
    assert!(server.targets().iter().all(|target| !target.ends_with("test.json")));
}

#[test]
fn model_scope_is_chosen_by_its_variable() {
    let folder = with_model();
    let files = Files::model("org/tiny").of_folder(&folder.path().join("model"));
    let server = Server::start(move |request| files.model_scope(request));
    let variables = [
        ("USE_MODELSCOPE_HUB", "1"),
        ("MODELSCOPE_DOMAIN", &server.url),
        ("MODELSCOPE_CACHE", "ms"),
        ("HF_HUB_OFFLINE", "0"),
    ];
    let expected = run(folder.path(), &generate("model", &[])).json();
    assert_eq!(with_variables(folder.path(), &generate("org/tiny", &[]), &variables).json(), expected);
    assert!(folder.path().join("ms/models/org/tiny/config.json").is_file());
    let asked = server.targets().len();
    assert_eq!(with_variables(folder.path(), &generate("org/tiny", &[]), &variables).json(), expected);
    assert_eq!(server.targets().len(), asked);
}
