//! chrF2 as sacrebleu has it: character n-grams of orders 1 to 6, β 2, whitespace left out, orders that one side lacks too.

use super::bleu::counts;
use super::python;

const ORDERS: usize = 6;
/// β², the weight of recall.
const FACTOR: f64 = 4.0;

/// Counts of one pair of texts, or of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chrf {
    orders: [Order; ORDERS],
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Order {
    hypothesis: u64,
    reference: u64,
    matches: u64,
}

impl Chrf {
    /// Counts a pair.
    pub fn add(&mut self, reference: &str, hypothesis: &str) {
        let characters =
            |text: &str| -> Vec<char> { text.chars().filter(|c| !python::is_space(*c)).collect() };
        let (reference, hypothesis) = (characters(reference), characters(hypothesis));
        for (index, sum) in self.orders.iter_mut().enumerate() {
            let (wanted, found) = (counts(&reference, index + 1), counts(&hypothesis, index + 1));
            let matches = found.iter().map(|(n_gram, count)| count.min(wanted.get(n_gram).unwrap_or(&0)));
            sum.matches += matches.sum::<u64>();
            sum.reference += wanted.values().sum::<u64>();
            if !wanted.is_empty() {
                sum.hypothesis += found.values().sum::<u64>();
            }
        }
    }

    /// The score, 0 to 100.
    #[must_use]
    pub fn score(&self) -> f64 {
        let orders: Vec<&Order> =
            self.orders.iter().filter(|order| order.hypothesis > 0 && order.reference > 0).collect();
        let mean = |total: fn(&Order) -> u64| {
            let shares = orders.iter().map(|order| order.matches as f64 / total(order) as f64);
            shares.sum::<f64>() / orders.len().max(1) as f64
        };
        let (precision, recall) = (mean(|order| order.hypothesis), mean(|order| order.reference));
        if precision + recall == 0.0 {
            return 0.0;
        }
        100.0 * (1.0 + FACTOR) * precision * recall / (FACTOR * precision + recall)
    }
}

/// The score of one pair, 0 to 100.
#[must_use]
pub fn sentence(reference: &str, hypothesis: &str) -> f64 {
    let mut chrf = Chrf::default();
    chrf.add(reference, hypothesis);
    chrf.score()
}
