//! Ratings of recorded votes are those of scikit-learn, and votes are read as they are published.

use crate::common;

use std::collections::BTreeMap;

use common::write;
use danlu_eval::arena::{Options, Ratings, Votes, Winner, rate};
use serde::Deserialize;

#[derive(Deserialize)]
struct Recorded {
    votes: Vec<(String, String, String)>,
    ratings: BTreeMap<String, f64>,
    anchored: BTreeMap<String, f64>,
    elo: BTreeMap<String, f64>,
    win_rates: WinRates,
}

#[derive(Deserialize)]
struct WinRates {
    with_ties: Vec<(String, String, f64)>,
    without_ties: Vec<(String, String, f64)>,
}

fn recorded() -> Recorded {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/arena.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn read(name: &str, text: &str) -> Result<Votes, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), name, text);
    Votes::read(&path).map_err(|error| error.to_string().replace(&folder.path().display().to_string(), ""))
}

fn rated(votes: &Votes, options: &Options) -> Ratings {
    rate(votes, options, |_| ()).unwrap()
}

fn recorded_votes(recorded: &Recorded) -> Votes {
    let row = |(a, b, winner): &(String, String, String)| {
        serde_json::json!({ "model_a": a, "model_b": b, "winner": winner }).to_string() + "\n"
    };
    read("votes.jsonl", &recorded.votes.iter().map(row).collect::<String>()).unwrap()
}

#[test]
fn ratings_are_those_of_logistic_regression_and_of_plain_elo() {
    let recorded = recorded();
    let votes = recorded_votes(&recorded);
    let few = Options { rounds: 3, ..Options::default() };
    let ratings = rated(&votes, &few);
    assert_eq!((ratings.models.len(), ratings.votes, ratings.prior), (7, 480, 0.0));
    for found in &ratings.models {
        let (rating, elo) = (recorded.ratings[&found.model], recorded.elo[&found.model]);
        assert!((found.rating - rating).abs() < 1e-5, "{}: {} for {rating}", found.model, found.rating);
        assert!((found.elo - elo).abs() < 1e-9, "{}: {} for {elo}", found.model, found.elo);
    }
    let anchored = rated(&votes, &Options { anchor: Some(("alpha-7b".into(), 1114.0)), ..few });
    for found in &anchored.models {
        assert!((found.rating - recorded.anchored[&found.model]).abs() < 1e-5, "{found:?}");
    }
    for (shares, with_ties) in
        [(&recorded.win_rates.with_ties, true), (&recorded.win_rates.without_ties, false)]
    {
        let mut met = 0;
        for pair in &ratings.pairs {
            let share = if with_ties { Some(pair.win_rate) } else { pair.win_rate_without_ties };
            let expected = shares.iter().find(|(a, b, _)| (a, b) == (&pair.a, &pair.b)).map(|found| found.2);
            met += 2 * usize::from(share.is_some());
            assert!((share.unwrap_or(-1.0) - expected.unwrap_or(-1.0)).abs() < 1e-12, "{pair:?}");
        }
        assert_eq!(met, shares.len());
    }
}

#[test]
fn intervals_hold_the_rating_and_belong_to_the_seed() {
    let votes = recorded_votes(&recorded());
    let ratings = rated(&votes, &Options::default());
    for model in &ratings.models {
        assert!(model.low < model.rating && model.rating < model.high, "{model:?}");
        // Of votes as many as a model's, the standard error is near 400 / ln 10 / √(n p (1 − p)).
        let expected = 2.0 * 1.96 * 400.0 / 10_f64.ln() / (f64::from(model.votes) / 4.0).sqrt();
        let width = model.high - model.low;
        assert!((0.6..1.6).contains(&(width / expected)), "{width} for {expected}");
    }
    assert!(ratings.models.iter().map(|model| model.rank).is_sorted() && ratings.models[6].rank > 1);
    assert_eq!(rated(&votes, &Options::default()), ratings);
    let other = rated(&votes, &Options { seed: 7, ..Options::default() });
    assert!(
        other.models[0].low != ratings.models[0].low && other.models[0].rating == ratings.models[0].rating
    );
}

#[test]
fn a_model_that_only_wins_gets_a_finite_rating_and_is_named() {
    let votes = read(
        "votes.csv",
        "model_a,model_b,winner\none,two,model_a\none,three,A\ntwo,three,tie\nthree,two,model_a\n",
    );
    let ratings = rated(&votes.unwrap(), &Options::default());
    assert_eq!((ratings.prior, ratings.only_wins.as_slice()), (1.0, &["one".to_owned()][..]));
    assert!(ratings.models[0].model == "one" && ratings.models[0].rating < 1500.0, "{:?}", ratings.models);
    assert!(ratings.models.iter().all(|model| model.low.is_finite() && model.high.is_finite()));
}

#[test]
fn groups_that_never_met_are_rated_apart() {
    let rows = "a,b,winner\none,two,model_a\none,two,model_b\none,two,model_b\nthree,four,tie\n";
    let votes = read("votes.csv", rows).unwrap();
    let ratings = rated(&votes, &Options { anchor: Some(("one".into(), 1200.0)), ..Options::default() });
    assert_eq!(ratings.groups, 2);
    let of = |name: &str| ratings.models.iter().find(|model| model.model == name).unwrap();
    let apart = 400.0 * 2_f64.log10();
    assert!((of("one").rating - 1200.0).abs() < 1e-9 && (of("two").rating - 1200.0 - apart).abs() < 1e-9);
    assert!((of("three").rating - 1000.0).abs() < 1e-9 && of("three").group != of("one").group);
    assert!(of("three").rank == 1 && of("two").rank == 1);
}

#[test]
fn votes_are_read_as_they_are_published() {
    let rows = r#"[
        {"question_id": "b", "model_a": "x", "model_b": "y", "winner": "tie (bothbad)", "tstamp": 2.5, "anony": true},
        {"question_id": "a", "model_a": "y", "model_b": "x", "winner": "model_a", "tstamp": 1.5, "anony": true},
        {"question_id": "c", "model_a": "y", "model_b": "x", "winner": "model_b", "tstamp": 0.5, "anony": false},
        {"question_id": "a", "model_a": "y", "model_b": "x", "winner": "model_a", "tstamp": 1.5, "anony": true}]"#;
    let votes = read("clean_battle.json", rows).unwrap();
    assert_eq!((votes.repeated, votes.not_anonymous), (1, 1));
    let winners: Vec<Winner> = votes.votes.iter().map(|vote| vote.winner).collect();
    assert_eq!(winners, [Winner::A, Winner::Tie], "in the order of time");
    // Rows without an id may say the same twice, and a winner may be named.
    let votes = read("votes.jsonl", &"{\"a\": \"x\", \"b\": \"y\", \"winner\": \"y\"}\n".repeat(2)).unwrap();
    assert_eq!((votes.votes.len(), votes.votes[0].winner, votes.repeated), (2, Winner::B, 0));
}

#[test]
fn what_is_no_vote_is_refused_with_its_line() {
    let good = "{\"model_a\": \"x\", \"model_b\": \"y\", \"winner\": \"tie\"}\n";
    for (row, expected) in [
        ("{\"model_a\": \"x\", \"model_b\": \"y\", \"winner\": \"both\"}", "2: `winner` is `both`: expected"),
        ("{\"model_a\": \"x\", \"model_b\": \"y\"}", "2: `winner` is `null`: expected `model_a`"),
        ("{\"model_a\": \"x\", \"winner\": \"tie\"}", "2: has no `model_b`: expected"),
        ("{\"model_a\": 1, \"model_b\": \"y\", \"winner\": \"tie\"}", "2: has no `model_a`: expected"),
        ("{\"model_a\": \"x\", \"model_b\": \"x\", \"winner\": \"tie\"}", "2: compares `x` with itself"),
        ("[1]", "2: found a list"),
    ] {
        let error = read("votes.jsonl", &format!("{good}{row}\n")).unwrap_err();
        assert!(error.contains(expected), "{row}: {error}");
    }
    assert!(read("votes.jsonl", "").unwrap_err().contains("holds no vote that counts"));
    let votes = read("votes.jsonl", good).unwrap();
    let anchor = Options { anchor: Some(("z".into(), 1000.0)), ..Options::default() };
    let error = rate(&votes, &anchor, |_| ()).unwrap_err().to_string();
    assert!(error.contains("no vote is on a model `z`; did you mean"), "{error}");
    assert!(rate(&votes, &Options { prior: Some(-1.0), ..Options::default() }, |_| ()).is_err());
}
