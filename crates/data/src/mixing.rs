//! Several datasets → one list of samples, by the strategies and keys of LLaMA-Factory and `datasets`. The list is a
//! function of the sizes, the probabilities and the seed.

use std::ops::Range;

use crate::error::{DataError, Result};
use crate::options::MixStrategy;
use crate::order::{epoch_order, random};

/// Each dataset is shuffled by an epoch that no run reaches: `MIXING_EPOCH - number of the dataset`.
const MIXING_EPOCH: u64 = u64::MAX - 1000;

/// Indices of samples in the order of the mixture; `datasets` are the samples of each dataset.
///
/// `interleave_under` ends when the first dataset has no more samples, `interleave_over` when the last has, and the others
/// begin again. Without probabilities the datasets take turns.
///
/// # Errors
/// Probabilities that are not one for each dataset, or by which the mixture has no end; a dataset without samples.
pub fn mix(
    datasets: &[Vec<u32>],
    strategy: MixStrategy,
    probabilities: &[f64],
    seed: u64,
) -> Result<Vec<u32>> {
    if strategy == MixStrategy::Concat || datasets.len() < 2 {
        return Ok(datasets.concat());
    }
    if !probabilities.is_empty() && probabilities.len() != datasets.len() {
        let problem = format!(
            "found {} of them for {} datasets: expected one for each dataset",
            probabilities.len(),
            datasets.len()
        );
        return Err(DataError::Option { option: "interleave_probs", problem });
    }
    if let Some(empty) = datasets.iter().position(Vec::is_empty) {
        let problem =
            format!("dataset {} has no samples left: nothing can be taken from it in turn", empty + 1);
        return Err(DataError::Option { option: "mix_strategy", problem });
    }
    let total: f64 = probabilities.iter().sum();
    let takes = |(dataset, probability): (&Vec<u32>, &f64)| dataset.len() as f64 * total / probability;
    let longest = datasets.iter().zip(probabilities).map(takes).fold(0.0, f64::max);
    if strategy == MixStrategy::InterleaveOver && longest > f64::from(u32::MAX) {
        let problem = format!(
            "found {probabilities:?}: some {longest:.1e} samples would be taken until every dataset is used up, more than \
             {}; raise the least of them, or set `mix_strategy: interleave_under`",
            u32::MAX
        );
        return Err(DataError::Option { option: "interleave_probs", problem });
    }
    let shuffled: Vec<Vec<usize>> = datasets
        .iter()
        .enumerate()
        .map(|(number, dataset)| epoch_order(dataset.len(), seed, MIXING_EPOCH - number as u64))
        .collect();
    let ends = upper_bounds(probabilities, datasets.len());
    let mut taken = vec![0_usize; datasets.len()];
    let mut mixed = Vec::new();
    for draw in 0_u64.. {
        let chosen = match probabilities {
            [] => draw as usize % datasets.len(),
            _ => {
                let point = random(seed, MIXING_EPOCH, draw) as f64 / 2_f64.powi(64);
                ends.iter().position(|&end| point < end).unwrap_or(datasets.len() - 1)
            }
        };
        let place = shuffled[chosen][taken[chosen] % datasets[chosen].len()];
        mixed.push(datasets[chosen][place]);
        taken[chosen] += 1;
        let is_exhausted = |(dataset, &taken): (&Vec<u32>, &usize)| taken >= dataset.len();
        let mut exhausted = datasets.iter().zip(&taken).map(is_exhausted);
        let ends = match strategy {
            MixStrategy::InterleaveOver => exhausted.all(|is_exhausted| is_exhausted),
            _ => exhausted.any(|is_exhausted| is_exhausted),
        };
        // Without probabilities the last round is finished, so that every dataset has the same share.
        if ends && (!probabilities.is_empty() || chosen + 1 == datasets.len()) {
            break;
        }
    }
    Ok(mixed)
}

/// Where in 0..1 the stretch of each dataset ends.
fn upper_bounds(probabilities: &[f64], datasets: usize) -> Vec<f64> {
    let total: f64 = probabilities.iter().sum();
    let mut end = 0.0;
    let share = |index: usize| probabilities.get(index).map_or(0.0, |probability| probability / total);
    (0..datasets)
        .map(|index| {
            end += share(index);
            end
        })
        .collect()
}

/// The indices in `ranges` of which `is_taken`, range by range.
pub(crate) fn members(ranges: &[Range<usize>], is_taken: impl Fn(usize) -> bool) -> Vec<Vec<u32>> {
    let of = |range: &Range<usize>| {
        range.clone().filter(|&index| is_taken(index)).map(|index| index as u32).collect()
    };
    ranges.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(sizes: &[u32]) -> Vec<Vec<u32>> {
        let mut start = 0;
        let range = |&size: &u32| {
            start += size;
            (start - size..start).collect()
        };
        sizes.iter().map(range).collect()
    }

    fn counts(mixed: &[u32], datasets: &[Vec<u32>]) -> Vec<usize> {
        let count = |dataset: &Vec<u32>| mixed.iter().filter(|index| dataset.contains(index)).count();
        datasets.iter().map(count).collect()
    }

    #[test]
    fn datasets_take_turns_until_the_first_or_the_last_ends() {
        let datasets = sizes(&[3, 10]);
        let all = mix(&datasets, MixStrategy::Concat, &[], 1).unwrap();
        assert_eq!(all, (0..13).collect::<Vec<_>>());
        let under = mix(&datasets, MixStrategy::InterleaveUnder, &[], 1).unwrap();
        assert_eq!(counts(&under, &datasets), [3, 3]);
        assert!(under.chunks(2).all(|pair| pair[0] < 3 && pair[1] >= 3), "{under:?}");
        let over = mix(&datasets, MixStrategy::InterleaveOver, &[], 1).unwrap();
        assert_eq!(counts(&over, &datasets), [10, 10]);
        let mut rows = over.clone();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), 13, "every row is taken at least once");
    }

    #[test]
    fn probabilities_are_shares_of_the_samples() {
        let datasets = sizes(&[4000, 4000]);
        let under = mix(&datasets, MixStrategy::InterleaveUnder, &[3.0, 1.0], 5).unwrap();
        let [first, second] = counts(&under, &datasets)[..] else { panic!() };
        assert_eq!(first, 4000);
        assert!((1200..1470).contains(&second), "{second}");
        assert_eq!(mix(&datasets, MixStrategy::InterleaveUnder, &[3.0, 1.0], 5).unwrap(), under);
        assert_ne!(mix(&datasets, MixStrategy::InterleaveUnder, &[3.0, 1.0], 6).unwrap(), under);
        let over = mix(&datasets, MixStrategy::InterleaveOver, &[3.0, 1.0], 5).unwrap();
        let [first, second] = counts(&over, &datasets)[..] else { panic!() };
        assert_eq!(second, 4000);
        assert!((11_000..13_000).contains(&first), "{first}");
    }

    #[test]
    fn wrong_probabilities_say_what_is_expected() {
        let message = |probabilities: &[f64], datasets: &[u32]| {
            mix(&sizes(datasets), MixStrategy::InterleaveUnder, probabilities, 1).unwrap_err().to_string()
        };
        assert_eq!(
            message(&[1.0], &[2, 2]),
            "`interleave_probs`: found 1 of them for 2 datasets: expected one for each dataset"
        );
        assert!(message(&[], &[2, 0]).starts_with("`mix_strategy`: dataset 2 has no samples left"));
        let over =
            mix(&sizes(&[2, 2]), MixStrategy::InterleaveOver, &[1.0, 1e-300], 1).unwrap_err().to_string();
        assert!(over.contains("samples would be taken until every dataset is used up"), "{over}");
    }
}
