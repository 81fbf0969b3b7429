//! Ratings of models from votes on pairs of answers, as Chatbot Arena computes them: Bradley–Terry by maximum likelihood
//! with bootstrap intervals, online Elo beside it, and who won against whom.
//!
//! Points have the usual scale: 400 points are odds of 10 to 1, and the mean is 1000. Where the votes come from is told by
//! [`votes`]; a judge that casts them is in [`crate::judge`].

mod bradley_terry;
mod report;
pub mod votes;

use serde::Serialize;

use crate::resampling::{Draws, middle_95_percent};
use crate::{Error, Result};
use bradley_terry::Tally;

pub use report::Cell;
pub use votes::{Vote, Votes, Winner};

/// Points for odds of 10 to 1.
const SCALE: f64 = 400.0;
/// The mean of ratings, and where online Elo begins.
pub const CENTRE: f64 = 1000.0;
/// Online Elo moves both models by this times what the result differs from the expected one, as in the arena's notebook.
const K: f64 = 4.0;
/// Ties with an imagined average model where the likelihood has no maximum.
const PRIOR: f64 = 1.0;

/// How votes are rated.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// A model and its rating; without one, the mean of all is [`CENTRE`].
    pub anchor: Option<(String, f64)>,
    /// Rounds of the bootstrap.
    pub rounds: usize,
    /// Seed of its draws.
    pub seed: u64,
    /// Ties that each model is thought to have had with an average one; without a number, none where the likelihood has a
    /// maximum, else one.
    pub prior: Option<f64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { anchor: None, rounds: 100, seed: 42, prior: None }
    }
}

/// What votes say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ratings {
    /// Votes that count.
    pub votes: usize,
    /// Of these, ties.
    pub ties: usize,
    /// From the highest rating to the lowest.
    pub models: Vec<Rating>,
    /// Every pair that met, in the order of the models.
    pub pairs: Vec<Pair>,
    /// The model whose rating is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor: Option<String>,
    /// Rounds of the bootstrap.
    pub rounds: usize,
    /// Seed of its draws.
    pub seed: u64,
    /// Ties with an imagined average model that each model was given.
    pub prior: f64,
    /// Rounds of the bootstrap that had no maximum without such ties, and were given one for each model.
    pub rounds_with_prior: usize,
    /// Groups of models that were never compared with each other, not even through others; ratings compare only within one.
    pub groups: usize,
    /// Models that never lost, nor tied.
    pub only_wins: Vec<String>,
    /// Models that never won, nor tied.
    pub only_losses: Vec<String>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rating {
    /// 1 and the number of models of its group that are better for sure: whose interval lies above this one's.
    pub rank: usize,
    /// Its name.
    pub model: String,
    /// Points by Bradley–Terry.
    pub rating: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Online Elo, which depends on the order of the votes.
    pub elo: f64,
    /// Votes on it.
    pub votes: u32,
    /// Votes that it won.
    pub wins: u32,
    /// Votes that nobody won.
    pub ties: u32,
    /// Votes that it lost.
    pub losses: u32,
    /// Share of wins, ties being half a win.
    pub win_rate: f64,
    /// Its group, from 1.
    pub group: usize,
}

/// Two models that met.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    /// The one with the higher rating.
    pub a: String,
    /// The other one.
    pub b: String,
    /// Votes on both.
    pub votes: u32,
    /// Votes that `a` won.
    pub wins: u32,
    /// Votes that nobody won.
    pub ties: u32,
    /// Votes that `b` won.
    pub losses: u32,
    /// Share that `a` won, ties being half a win.
    pub win_rate: f64,
    /// The same without the ties; none where all were ties.
    pub win_rate_without_ties: Option<f64>,
}

/// Rates `votes`. `progress` is told the rounds that are done.
///
/// # Errors
/// An anchor that has no vote; a prior that is no number of votes.
pub fn rate(votes: &Votes, options: &Options, mut progress: impl FnMut(usize)) -> Result<Ratings> {
    let count = votes.models.len();
    let anchor = options.anchor.as_ref().map(|(name, rating)| {
        let place = votes.models.iter().position(|model| model == name);
        place.map(|place| (place, *rating)).ok_or_else(|| unknown_anchor(name, &votes.models))
    });
    let anchor = anchor.transpose()?;
    if let Some(prior) = options.prior
        && !(prior >= 0.0 && prior.is_finite())
    {
        return Err(Error::Option {
            option: "prior",
            problem: format!("expected a number of votes, 0 or more, found {prior}"),
        });
    }
    let tally = Tally::new(count, votes.votes.iter().copied());
    let groups = tally.groups();
    let has_maximum = tally.has_maximum(&groups);
    let prior = match options.prior {
        Some(prior) if prior > 0.0 || has_maximum => prior,
        _ if has_maximum => 0.0,
        _ => PRIOR,
    };
    let in_points = |strengths: &[f64]| points(strengths, &groups, anchor);
    let strengths = tally.strengths(&groups, prior, &vec![0.0; count]);
    let ratings = in_points(&strengths);

    let mut drawn: Vec<Vec<f64>> = vec![Vec::with_capacity(options.rounds); count];
    let mut draws = Draws::new(options.seed);
    let mut rounds_with_prior = 0;
    for round in 0..options.rounds {
        let sample = (0..votes.votes.len()).map(|_| votes.votes[draws.below(votes.votes.len())]);
        let sample = Tally::new(count, sample);
        let lacks_prior = prior == 0.0 && !sample.has_maximum(&groups);
        rounds_with_prior += usize::from(lacks_prior);
        let prior = if lacks_prior { PRIOR } else { prior };
        let found = in_points(&sample.strengths(&groups, prior, &strengths));
        for (model, rating) in found.into_iter().enumerate() {
            if sample.votes_on(model) > 0 {
                drawn[model].push(rating);
            }
        }
        progress(round + 1);
    }
    let elo = online_elo(votes, anchor);
    let mut models: Vec<(usize, Rating)> = Vec::with_capacity(count);
    for (model, values) in drawn.into_iter().enumerate() {
        let (low, high) = middle_95_percent(values).unwrap_or((ratings[model], ratings[model]));
        let others = || (0..count).map(|other| (tally.wins(model, other), tally.wins(other, model)));
        let (wins, losses) = (others().map(|pair| pair.0).sum(), others().map(|pair| pair.1).sum());
        let ties = (0..count).map(|other| tally.ties(model, other)).sum();
        let rating = Rating {
            rank: 0,
            model: votes.models[model].clone(),
            rating: ratings[model],
            low,
            high,
            elo: elo[model],
            votes: tally.votes_on(model),
            wins,
            ties,
            losses,
            win_rate: share(wins, ties, losses),
            group: groups[model] + 1,
        };
        models.push((model, rating));
    }
    models
        .sort_by(|one, other| one.1.group.cmp(&other.1.group).then(other.1.rating.total_cmp(&one.1.rating)));
    let order: Vec<usize> = models.iter().map(|(model, _)| *model).collect();
    let mut models: Vec<Rating> = models.into_iter().map(|(_, rating)| rating).collect();
    for place in 0..count {
        let Rating { high, group, .. } = models[place];
        models[place].rank =
            1 + models.iter().filter(|other| other.group == group && other.low > high).count();
    }
    let names = |is_so: fn(&Rating) -> bool| {
        let found = models.iter().filter(|rating| is_so(rating));
        found.map(|rating| rating.model.clone()).collect()
    };
    Ok(Ratings {
        votes: votes.votes.len(),
        ties: votes.votes.iter().filter(|vote| vote.winner == Winner::Tie).count(),
        only_wins: names(|rating| rating.wins == rating.votes),
        only_losses: names(|rating| rating.losses == rating.votes),
        pairs: pairs(&tally, &order, &votes.models),
        models,
        anchor: options.anchor.as_ref().map(|(name, _)| name.clone()),
        rounds: options.rounds,
        seed: options.seed,
        prior,
        rounds_with_prior,
        groups: groups.iter().max().map_or(0, |last| last + 1),
    })
}

/// Strengths as points; the anchor moves its own group.
fn points(strengths: &[f64], groups: &[usize], anchor: Option<(usize, f64)>) -> Vec<f64> {
    let scale = SCALE / std::f64::consts::LN_10;
    let moved = |group: usize| match anchor {
        Some((model, rating)) if groups[model] == group => rating - scale * strengths[model],
        _ => CENTRE,
    };
    strengths.iter().zip(groups).map(|(strength, group)| moved(*group) + scale * strength).collect()
}

/// Elo as chess players have it, vote after vote; with an anchor, all are moved so that it has its rating.
fn online_elo(votes: &Votes, anchor: Option<(usize, f64)>) -> Vec<f64> {
    let mut ratings = vec![CENTRE; votes.models.len()];
    for Vote { a, b, winner } in &votes.votes {
        let expected = 1.0 / (1.0 + 10_f64.powf((ratings[*b] - ratings[*a]) / SCALE));
        let score = match winner {
            Winner::A => 1.0,
            Winner::B => 0.0,
            Winner::Tie => 0.5,
        };
        ratings[*a] += K * (score - expected);
        ratings[*b] -= K * (score - expected);
    }
    let moved = anchor.map_or(0.0, |(model, rating)| rating - ratings[model]);
    ratings.iter().map(|rating| rating + moved).collect()
}

fn pairs(tally: &Tally, order: &[usize], names: &[String]) -> Vec<Pair> {
    let places =
        order.iter().enumerate().flat_map(|(place, a)| order[place + 1..].iter().map(move |b| (*a, *b)));
    let met = places.filter(|(a, b)| tally.votes(*a, *b) > 0);
    let pair = |(a, b): (usize, usize)| {
        let (wins, ties, losses) = (tally.wins(a, b), tally.ties(a, b), tally.wins(b, a));
        Pair {
            a: names[a].clone(),
            b: names[b].clone(),
            votes: tally.votes(a, b),
            wins,
            ties,
            losses,
            win_rate: share(wins, ties, losses),
            win_rate_without_ties: (wins + losses > 0).then(|| share(wins, 0, losses)),
        }
    };
    met.map(pair).collect()
}

/// The share of wins, ties being half a win.
fn share(wins: u32, ties: u32, losses: u32) -> f64 {
    (f64::from(wins) + f64::from(ties) / 2.0) / f64::from(wins + ties + losses)
}

fn unknown_anchor(name: &str, models: &[String]) -> Error {
    let likeness = |model: &&String| (strsim::jaro_winkler(name, model) * 1e6) as u64;
    let nearest = models.iter().max_by_key(likeness);
    let hint = nearest.map_or_else(String::new, |model| format!("; did you mean `{model}`?"));
    Error::Option { option: "anchor", problem: format!("no vote is on a model `{name}`{hint}") }
}
