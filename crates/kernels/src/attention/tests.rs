//! Attention against a plain twin and finite differences.

use half::bf16;

use super::*;
use crate::check::{before_a_wall, close, finite_difference, normals};

const HEADS: Heads = Heads { query_heads: 4, key_value_heads: 2, head_dim: 6 };

fn packed(lengths: &[usize]) -> Vec<Sequence> {
    let mut start = 0;
    lengths
        .iter()
        .map(|length| {
            let rows = start..start + length;
            start += length;
            Sequence { queries: rows.clone(), keys: rows }
        })
        .collect()
}

fn twin(heads: Heads, distance: Distance, sequences: &[Sequence], inputs: &[&[f64]]) -> Vec<f64> {
    let Heads { query_heads, key_value_heads, head_dim } = heads;
    let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
    let mut output = vec![0.0; q.len()];
    for sequence in sequences {
        for (index, query) in sequence.queries.clone().enumerate() {
            for head in 0..query_heads {
                let at = (query * query_heads + head) * head_dim;
                let seen = sequence.past() + index + 1;
                let keys = sequence.keys.start + distance.first(seen)..sequence.keys.start + seen;
                let slope = f64::from(distance.slope(head));
                let key_at =
                    |key: usize| (key * key_value_heads + head / (query_heads / key_value_heads)) * head_dim;
                let score = |key: usize| -> f64 {
                    let dot: f64 = (0..head_dim).map(|e| q[at + e] * k[key_at(key) + e]).sum();
                    (dot / (head_dim as f64).sqrt() - slope * (keys.end - 1 - key) as f64).exp()
                };
                let scores: Vec<f64> = keys.clone().map(score).collect();
                let sum: f64 = scores.iter().sum();
                for (key, score) in keys.zip(scores) {
                    for e in 0..head_dim {
                        output[at + e] += score / sum * v[key_at(key) + e];
                    }
                }
            }
        }
    }
    output
}

/// Without distances, with a window, with slopes, with both.
const DISTANCES: [Distance; 4] = [
    Distance { window: None, slopes: &[] },
    Distance { window: Some(3), slopes: &[] },
    Distance { window: None, slopes: &[0.5, 0.25, 0.125, 0.0625] },
    Distance { window: Some(20), slopes: &[0.5, 0.25, 0.125, 0.0625] },
];

fn run(
    precision: Precision,
    distance: Distance,
    sequences: &[Sequence],
    q: &[f32],
    k: &[f32],
    v: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let tokens = q.len() / (HEADS.query_heads * HEADS.head_dim);
    let (mut output, mut kept) = (vec![0.0; q.len()], vec![0.0; tokens * HEADS.query_heads]);
    attention(
        precision,
        HEADS,
        distance,
        sequences,
        View(q),
        View(k),
        View(v),
        ViewMut(&mut output),
        ViewMut(&mut kept),
    );
    (output, kept)
}

#[test]
fn packed_sequences_see_only_themselves() {
    for lengths in [vec![1], vec![5, 1, 9], vec![70, 3, 130], vec![2, 3, 5, 1, 4, 6, 2, 9]] {
        let sequences = packed(&lengths);
        let tokens: usize = lengths.iter().sum();
        let (q, k, v) = (normals(1, tokens * 24), normals(2, tokens * 12), normals(3, tokens * 12));
        for distance in DISTANCES {
            for (precision, bound) in [(Precision::F32, 1e-5), (Precision::Bf16, 1e-2)] {
                let (output, _) = run(precision, distance, &sequences, &q, &k, &v);
                let twin = |inputs: &[&[f64]]| twin(HEADS, distance, &sequences, inputs);
                close(&output, twin, &[&q, &k, &v], bound);
            }
        }
    }
}

#[test]
fn operands_that_rest_as_bf16_give_what_their_values_give() {
    let lengths = [5, 1, 70];
    let sequences = packed(&lengths);
    let tokens: usize = lengths.iter().sum();
    let rounded = [(1, tokens * 24), (2, tokens * 12), (3, tokens * 12), (4, tokens * 24)]
        .map(|(seed, count)| normals(seed, count).into_iter().map(Value::from_f32).collect::<Vec<bf16>>());
    let values =
        rounded.each_ref().map(|values| values.iter().map(|value| value.to_f32()).collect::<Vec<f32>>());
    let [narrow, wide] = [all_of(&sequences, &rounded), all_of(&sequences, &values)];
    for (narrow, wide) in narrow.iter().zip(&wide) {
        let largest = wide.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        for (narrow, wide) in narrow.iter().zip(wide) {
            assert!((narrow - wide).abs() <= 1e-2 * largest, "{narrow} against {wide}");
        }
    }
}

/// Output and gradients of q, k and v, in bf16, of operands that stand before a wall.
fn all_of<T: Value>(sequences: &[Sequence], operands: &[Vec<T>; 4]) -> [Vec<f32>; 4] {
    let [q, k, v, dy] = operands.each_ref().map(|values| -> &[T] { before_a_wall(values) });
    let zeros = |like: &[T]| vec![T::from_f32(0.0); like.len()];
    let tokens = q.len() / 24;
    let (mut output, mut kept) = (zeros(q), vec![0.0; tokens * HEADS.query_heads]);
    let (mut dq, mut dk, mut dv) = (zeros(q), zeros(k), zeros(v));
    let (precision, distance) = (Precision::Bf16, Distance::default());
    let (out, log_sum_exp) = (ViewMut(&mut output), ViewMut(&mut kept));
    attention(precision, HEADS, distance, sequences, View(q), View(k), View(v), out, log_sum_exp);
    attention_backward(
        precision,
        HEADS,
        distance,
        sequences,
        [View(q), View(k), View(v)],
        View(&output),
        View(&kept),
        View(dy),
        [ViewMut(&mut dq), ViewMut(&mut dk), ViewMut(&mut dv)],
        ViewMut(&mut vec![0.0; tokens * HEADS.backward_scratch()]),
    );
    [output, dq, dk, dv].map(|values| values.iter().map(|value| value.to_f32()).collect())
}

#[test]
fn a_query_after_cached_keys_sees_them_all() {
    // A few queries are never rounded; more of them are tiles that begin anywhere among the panels of keys.
    let cases =
        [(3, 80, Precision::Bf16, 1e-5), (61, 136, Precision::F32, 1e-5), (61, 136, Precision::Bf16, 1e-2)];
    for (queries, keys, precision, bound) in cases {
        let sequences = [Sequence { queries: 0..queries, keys: 0..keys }];
        let (q, k, v) = (normals(1, queries * 24), normals(2, keys * 12), normals(3, keys * 12));
        for distance in DISTANCES {
            let (output, _) = run(precision, distance, &sequences, &q, &k, &v);
            close(&output, |inputs| twin(HEADS, distance, &sequences, inputs), &[&q, &k, &v], bound);
        }
    }
}

#[test]
fn gradients_equal_finite_differences_across_tiles_and_for_tasks_of_one_head_or_a_group() {
    let (long, many) = (vec![5, 1, 70], vec![5, 1, 7, 2, 3, 2, 1, 4]);
    for (lengths, distances) in [(long, &DISTANCES[3..]), (many, &DISTANCES[..])] {
        for &distance in distances {
            check_gradients(distance, &packed(&lengths), lengths.iter().sum());
        }
    }
}

fn check_gradients(distance: Distance, sequences: &[Sequence], tokens: usize) {
    let (q, k, v) = (normals(1, tokens * 24), normals(2, tokens * 12), normals(3, tokens * 12));
    let dy = normals(4, q.len());
    let gradients = |precision| {
        let (output, kept) = run(precision, distance, sequences, &q, &k, &v);
        let (mut dq, mut dk, mut dv) = (vec![9.0; q.len()], vec![9.0; k.len()], vec![9.0; v.len()]);
        let mut scratch = vec![9.0; tokens * HEADS.backward_scratch()];
        attention_backward(
            precision,
            HEADS,
            distance,
            sequences,
            [View(&q), View(&k), View(&v)],
            View(&output),
            View(&kept),
            View(&dy),
            [ViewMut(&mut dq), ViewMut(&mut dk), ViewMut(&mut dv)],
            ViewMut(&mut scratch),
        );
        [dq, dk, dv]
    };
    let twin = |inputs: &[&[f64]]| twin(HEADS, distance, sequences, inputs);
    let [dq, dk, dv] = gradients(Precision::F32);
    finite_difference(twin, &[&q, &k, &v], &dy, &[&dq, &dk, &dv], 1e-4);
    for (rounded, exact) in gradients(Precision::Bf16).iter().zip([&dq, &dk, &dv]) {
        let norm =
            |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
        let error = norm(&mut rounded.iter().zip(exact).map(|(a, b)| a - b));
        assert!(error < 1e-2 * norm(&mut exact.iter().copied()), "{error}");
    }
}
