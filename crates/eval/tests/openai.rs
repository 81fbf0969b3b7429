//! The client of OpenAI-compatible servers against one on the loopback interface.

use crate::common::{HEADER, log_probabilities, opened, write};
use crate::server::{Reply, Request, Server, chat, ok};

use std::sync::atomic::{AtomicUsize, Ordering};

use danlu_eval::multiple_choice::{Answer, Options, Questions, Scoring, Selection, answers, prompts};
use danlu_eval::openai::{self, Client, Continuation, Generation, Prompt};
use danlu_eval::{Error, Result};
use danlu_model::Sampling;
use danlu_tokenizer::{Message, SpecialTokens};
use serde_json::json;

fn client(server: &Server) -> Client {
    Client::new(&server.url, "tiny", Some("secret-key".into())).unwrap()
}

fn log_likelihoods(server: &Server, requests: &[Continuation], parallel: usize) -> Result<Vec<f64>> {
    let mut sums = Vec::new();
    client(server).log_likelihoods(requests, parallel, |sum| {
        sums.push(sum);
        Ok(())
    })?;
    Ok(sums)
}

fn asked(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (Result<String>, Server) {
    let server = Server::start(reply);
    (client(&server).chat(&[("user", "你好")], 16), server)
}

#[test]
fn a_chat_is_asked_with_the_key_and_tried_again() {
    let tries = AtomicUsize::new(0);
    let (answer, server) = asked(move |_| match tries.fetch_add(1, Ordering::Relaxed) {
        0 => (429, vec![("retry-after", "0".into())], String::new()),
        1 => (503, vec![("retry-after", "0".into())], "busy".into()),
        _ => chat("好"),
    });
    assert_eq!(answer.unwrap(), "好");
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[2].target, "/v1/chat/completions");
    assert_eq!(requests[2].headers["authorization"], "Bearer secret-key");
    let expected = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "你好" }],
                           "temperature": 0, "max_tokens": 16 });
    assert_eq!(requests[2].body, expected);
}

#[test]
fn refusals_say_what_to_do_and_never_the_key() {
    let redirected = || (307, vec![("location", "http://127.0.0.1:1/x".to_owned())], String::new());
    let told = |message: &str| json!({ "error": { "message": message } }).to_string();
    let cases: [(Reply, &str, bool); 8] = [
        ((401, vec![], told("bad key secret-key")), "refuses the key (HTTP status 401, `bad key …`)", true),
        ((404, vec![], told("no model")), "has no model `tiny` (HTTP status 404, `no model`)", true),
        (
            (400, vec![], "{\"message\": \"no role\"}".into()),
            "refuses the request (HTTP status 400, `no role`)",
            true,
        ),
        (
            (400, vec![], told("maximum context length is 8")),
            "as too long for the model's context (HTTP status 400, `max",
            true,
        ),
        (redirected(), "redirection to `http://127.0.0.1:1/x`, which is not followed", true),
        ((200, vec![], "<html>\n secret-key".into()), "no JSON, beginning `<html> …`", false),
        ((200, vec![], "{\"choices\": []}".into()), "answers without `choices[0].message.content`", false),
        ((500, vec![("retry-after", "0".into())], String::new()), "HTTP status 500 (5 tries)", false),
    ];
    for (reply, expected, is_input) in cases {
        let (answer, server) = asked(move |_| reply.clone());
        let error = answer.unwrap_err();
        assert_eq!(matches!(error, Error::Address { .. } | Error::Refused { .. }), is_input, "{error}");
        let told = error.to_string();
        assert!(told.contains(expected) && told.contains(&server.url), "expected `{expected}` in {told}");
        assert!(!format!("{told} {error:?}").contains("secret-key"), "{told}");
    }
}

#[test]
fn addresses_are_taken_as_people_have_them() {
    let server = Server::start(|_| chat("x"));
    for end in ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/v1/completions"] {
        let client = Client::new(&format!("{}{end}", server.url), "m", None).unwrap();
        client.chat(&[("user", "x")], 1).unwrap();
    }
    let requests = server.requests();
    assert!(requests.iter().all(|request| request.target == "/v1/chat/completions"));
    assert!(requests.iter().all(|request| !request.headers.contains_key("authorization")));
    for bad in ["localhost:8000", "", "ftp://x"] {
        assert!(matches!(Client::new(bad, "m", None), Err(Error::Address { .. })), "{bad}");
    }
    let error = Client::new("http://me:secret@host/v1", "m", None).err().unwrap().to_string();
    assert!(!error.contains("secret"), "{error}");
    // Nobody listens there, and that is told at once.
    let begin = std::time::Instant::now();
    let error = Client::new("http://127.0.0.1:1", "m", None).unwrap().chat(&[], 1).unwrap_err().to_string();
    assert!(error.contains("cannot be reached") && begin.elapsed().as_secs() < 2, "{error}");
}

/// Log-probability −k/8 for the k-th token of a text, whose tokens are its characters, but that ` 是` is one.
fn echo(request: &Request) -> Reply {
    let text = request.body["prompt"].as_str().unwrap().replace(" 是", "是");
    let count = text.chars().count();
    let mut tokens = vec![json!(null)];
    tokens.extend((1..count + 1).map(|token| json!(-(token as f64) / 8.0)));
    ok(&json!({ "choices": [{ "text": text, "logprobs": { "token_logprobs": tokens } }],
                "usage": { "prompt_tokens": count, "completion_tokens": 1 } }))
}

#[test]
fn log_likelihoods_are_those_of_the_tokens_behind_the_prompt() {
    let server = Server::start(echo);
    let continuation = |prompt: &str, text: &str| Continuation { prompt: prompt.into(), text: text.into() };
    let requests = [
        continuation("甲乙", "丙"),
        continuation("甲乙", "丙丁"),
        // The space at the end goes to the text, with which it makes one token.
        continuation("甲 ", "是"),
        continuation("", "甲乙"),
    ];
    let sums = log_likelihoods(&server, &requests, 3).unwrap();
    assert_eq!(sums, [-2.0 / 8.0, -5.0 / 8.0, -1.0 / 8.0, -1.0 / 8.0]);
    let requests = server.requests();
    assert_eq!(requests.len(), 6, "each prompt is counted once");
    let body = &requests[0].body;
    assert_eq!((&body["echo"], &body["logprobs"], &body["max_tokens"]), (&json!(true), &json!(1), &json!(1)));
}

#[test]
fn a_token_that_joins_prompt_and_text_is_scored_as_lm_eval_does() {
    let server = Server::start(|request| {
        let tokens: &[&str] = match request.body["prompt"].as_str().unwrap() {
            "甲：" => &["甲", "："],
            "甲：是" => &["甲", "：是"],
            text => panic!("{text}"),
        };
        let known = [json!(null), json!(-0.25), json!(-9.0)];
        ok(&json!({ "choices": [{ "logprobs": { "tokens": tokens, "token_logprobs": known } }],
                    "usage": { "prompt_tokens": 2, "completion_tokens": 1 } }))
    });
    let request = Continuation { prompt: "甲：".into(), text: "是".into() };
    let sums = log_likelihoods(&server, &[request], 1).unwrap();
    assert_eq!(sums, [-0.25]);
}

#[test]
fn a_model_by_url_and_here_gives_the_same_log_likelihoods() {
    let here = opened(512, true);
    let served = opened(512, true);
    let server = Server::start(move |request| {
        let tokenizer = served.tokenizer().unwrap();
        let text = request.body["prompt"].as_str().unwrap();
        let ids = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
        let ids: Vec<u32> = tokenizer.bos_id().into_iter().chain(ids).collect();
        let known = log_probabilities(&served.model, &ids, 1);
        let known = known.into_iter().map(|value| json!(value));
        let tokens: Vec<_> = std::iter::once(json!(null)).chain(known).chain([json!(-0.5)]).collect();
        ok(&json!({ "choices": [{ "text": text, "logprobs": { "token_logprobs": tokens } }],
                    "usage": { "prompt_tokens": ids.len(), "completion_tokens": 1 } }))
    });
    let folder = tempfile::tempdir().unwrap();
    let rows = "0,铝的密度是多少？,1,2,3,4,A\n1,钢的熔点是多少？,NA,1.5,钢,铝,C\n";
    let file = write(folder.path(), "law.csv", &format!("{HEADER}{rows}"));
    let questions = Questions::read(&file, &Selection::default()).unwrap();
    let server_and_client = openai::Server { client: client(&server), parallel: 2 };
    for scoring in [Scoring::LmEval, Scoring::Text] {
        let options = Options { scoring, ..Options::default() };
        let expected = answers(&here, &questions, &options, |_, _| ()).unwrap();
        let found = answers(&server_and_client, &questions, &options, |_, _| ()).unwrap();
        let scores = |answer: &Answer| answer.scores.unwrap();
        assert_ne!(scores(&found[0]), scores(&found[1]));
        for (found, expected) in found.iter().zip(&expected) {
            let far = scores(found).iter().zip(scores(expected)).any(|(a, b)| (a - b).abs() > 1e-5);
            assert!(!far, "{found:?} {expected:?}");
            assert_eq!((found.chosen, found.most_likely), (expected.chosen, expected.most_likely));
        }
        let text = |(prompt, _): (String, Option<usize>)| prompt;
        let here = prompts(&here, &questions, &options).unwrap().into_iter().map(text);
        assert!(here.eq(prompts(&server_and_client, &questions, &options).unwrap().into_iter().map(text)));
    }
    assert_eq!(server.requests().len(), 2 * 10, "a length and four options for each question");
}

#[test]
fn answers_come_in_order_and_end_before_the_first_error() {
    let server = Server::start(|request| {
        let asked =
            request.body["prompt"].as_str().or(request.body["messages"][0]["content"].as_str()).unwrap();
        match asked {
            "2" => (400, vec![], "no".into()),
            text if request.target == "/v1/completions" => {
                ok(&json!({ "choices": [{ "text": format!("<{text}>") }] }))
            }
            text => chat(text),
        }
    });
    let prompts = ["0", "1", "2", "3"].map(|text| match text {
        "1" => Prompt::Text(text.into()),
        _ => Prompt::Chat(vec![Message::new("user", text)]),
    });
    let sampling = Sampling { temperature: 0.7, top_p: 0.9, seed: 3, ..Sampling::default() };
    let how = Generation { sampling, max_tokens: 5, stop: Some("\n".into()) };
    let mut taken = Vec::new();
    let take = |text: String| {
        taken.push(text);
        Ok(())
    };
    let error = client(&server).answers(&prompts, &how, 4, take).unwrap_err();
    assert_eq!(
        (taken, error.to_string().contains("HTTP status 400, `no`")),
        (vec!["0".into(), "<1>".into()], true)
    );
    let expected = json!({ "model": "tiny", "prompt": "1", "temperature": 0.7, "top_p": 0.9, "seed": 3, "max_tokens": 5,
                           "stop": ["\n"] });
    let requests = server.requests();
    assert!(requests.iter().any(|request| request.body == expected), "{requests:?}");
}

#[test]
fn a_server_without_echo_is_told() {
    for logprobs in
        [json!(null), json!({ "token_logprobs": [-0.5] }), json!({ "token_logprobs": [-0.5, -0.1] })]
    {
        let server = Server::start(move |_| {
            ok(&json!({ "choices": [{ "text": "x", "logprobs": logprobs }],
                        "usage": { "prompt_tokens": 4, "completion_tokens": 1 } }))
        });
        let requests = [Continuation { prompt: "p".into(), text: "t".into() }];
        let error = log_likelihoods(&server, &requests, 1).unwrap_err().to_string();
        assert!(
            error.contains("token_logprobs") || error.contains("no log-probabilities of the prompt"),
            "{error}"
        );
    }
}
