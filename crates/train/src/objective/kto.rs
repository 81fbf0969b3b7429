//! Kahneman-Tversky optimization (Ethayarajh et al. 2024, arXiv:2402.01306): answers that are wanted or not, without pairs.
//!
//! With r = log p − log p of the reference: loss = λ (1 − σ(β (r − z))) of a wanted answer, λ (1 − σ(β (z − r))) of an unwanted
//! one. z, the divergence of the model from its reference, has no gradient: the mean of r over the prompts of the step, each
//! with the answer to the prompt before it in the data, and at least 0. The reward of an answer is β r.

use danlu_data::{Sample, SampleSet};

use super::answers::Answer;
use super::rewards::Rewards;
use super::sigmoid;
use crate::recipe::{Preference, PreferenceOptions, Recipe};

/// Loss and ∂loss / ∂log p of an answer.
pub fn term(
    options: &PreferenceOptions,
    answer: &Answer,
    reference: f64,
    divergence: f64,
    rewards: &mut Rewards,
) -> (f64, f64) {
    let PreferenceOptions { pref_beta: beta, kto_chosen_weight, kto_rejected_weight, .. } = *options;
    let ratio = answer.log_probability - reference;
    let is_wanted = answer.weight > 0.0;
    let (weight, sign) = if is_wanted { (kto_chosen_weight, 1.0) } else { (kto_rejected_weight, -1.0) };
    let utility = sigmoid(sign * beta * (ratio - divergence));
    let (mut loss, mut slope) = (weight * (1.0 - utility), -sign * beta * weight * utility * (1.0 - utility));
    if is_wanted {
        loss -= options.pref_ftx() * answer.mean();
        slope -= options.pref_ftx() / answer.tokens();
    }
    rewards.add_judged(is_wanted, beta * ratio, answer.log_probability);
    (loss, slope)
}

/// What to say of wanted and unwanted answers whose weights together differ by more than a quarter from the range that the
/// authors advise: of wanted ones 1 to 4/3 times those of the unwanted.
pub fn imbalance(recipe: &Recipe, samples: &SampleSet) -> Option<String> {
    if recipe.preference() != Some(Preference::Judged) {
        return None;
    }
    let is_wanted = |sample: &Sample| sample.loss_weights.iter().any(|&weight| weight > 0.0);
    let wanted = samples.iter().filter(is_wanted).count();
    let unwanted = samples.len() - wanted;
    let PreferenceOptions { kto_chosen_weight: chosen, kto_rejected_weight: rejected, .. } =
        recipe.preference;
    let ratio = wanted as f64 * chosen / (unwanted as f64 * rejected);
    let advice = match (wanted, unwanted) {
        (_, 0) | (0, _) => "KTO needs both".to_owned(),
        _ if (0.8..=1.67).contains(&ratio) => return None,
        _ if wanted < unwanted => {
            format!("set `kto_chosen_weight: {:.2}`", unwanted as f64 * rejected / wanted as f64)
        }
        _ => format!("set `kto_rejected_weight: {:.2}`", wanted as f64 * chosen / unwanted as f64),
    };
    Some(format!(
        "{wanted} wanted answers of weight {chosen} and {unwanted} unwanted ones of weight {rejected} are out of balance; {advice}"
    ))
}

/// Whether two samples answer the same prompt.
pub fn is_same_prompt(sample: &Sample, other: &Sample) -> bool {
    sample.ids[..prompt_length(sample)] == other.ids[..prompt_length(other)]
}

/// Ids before the answer.
fn prompt_length(sample: &Sample) -> usize {
    sample.loss_weights.iter().position(|&weight| weight != 0.0).unwrap_or(sample.ids.len())
}

/// The prompt of a sample with the answer of another, cut to `cutoff_len`.
pub fn mismatched(sample: &Sample, other: &Sample, cutoff_len: usize) -> Sample {
    let (prompt, start) = (prompt_length(sample), prompt_length(other));
    let length = cutoff_len.max(prompt + 1);
    let joined = |first: &[u32], second: &[u32]| [first, second].concat().into_iter().take(length).collect();
    let weights = vec![0.0; prompt].into_iter().chain(other.loss_weights[start..].iter().copied());
    Sample {
        ids: joined(&sample.ids[..prompt], &other.ids[start..]),
        loss_weights: weights.take(length).collect(),
        source: sample.source.clone(),
    }
}
