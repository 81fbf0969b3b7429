//! Activations as integers: in each 32 a scale, and two signed digits for each value, scale · (128 · high + low).
//!
//! One digit alone, as llama.cpp has it, moves log-probabilities by tenths; with two they move less than by rounding to
//! bf16.

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::OnceLock;

use crate::cpu::{Level, level};
use crate::team::{SharedSlice, parallel_for};
use crate::value::Value;

/// Values with one scale.
pub(crate) const PART: usize = 32;
/// The largest number of two digits.
const LARGEST: f32 = (127 * 128) as f32;

thread_local! {
    static SPARE: RefCell<Vec<Digits>> = const { RefCell::new(Vec::new()) };
}

/// Rows of rounded activations, whose memory the next ones of the thread use again.
pub(crate) struct Rounded(Digits);

/// What they are made of.
#[derive(Default)]
pub(crate) struct Digits {
    /// [rows, inputs / 32, 64 bytes]: all high digits of 32 values and then all low ones, or where products are made of
    /// words of 16 bits, 32 such words.
    pub(crate) digits: Vec<u8>,
    /// [rows, inputs / 32]
    pub(crate) scales: Vec<f32>,
    /// [rows, inputs / 32]: the sum of 32 rounded values.
    pub(crate) sums: Vec<f32>,
    /// [rows, inputs / 16]: the sum of 16.
    pub(crate) half_sums: Vec<f32>,
    /// Whether digits are bytes, for products of bytes in fours.
    pub(crate) in_bytes: bool,
    pub(crate) rows: usize,
    pub(crate) parts: usize,
}

/// Whether this processor multiplies bytes in fours.
fn has_byte_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        static HAS: OnceLock<bool> = OnceLock::new();
        *HAS.get_or_init(|| level() == Level::Avx512Bf16 && std::is_x86_feature_detected!("avx512vnni"))
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

impl Rounded {
    /// x [rows, inputs] rounded; memory of earlier ones of this thread is used again.
    pub(crate) fn of<T: Value>(x: &[T], inputs: usize) -> Self {
        Self::digits_of(x, inputs, has_byte_products())
    }

    pub(super) fn digits_of<T: Value>(x: &[T], inputs: usize, in_bytes: bool) -> Self {
        let mut rounded = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        let (rows, parts) = (x.len() / inputs, inputs / PART);
        (rounded.rows, rounded.parts, rounded.in_bytes) = (rows, parts, in_bytes);
        rounded.digits.resize(rows * parts * 64, 0);
        rounded.scales.resize(rows * parts, 0.0);
        rounded.sums.resize(rows * parts, 0.0);
        rounded.half_sums.resize(rows * parts * 2, 0.0);
        let digits = SharedSlice::new(&mut rounded.digits);
        let scales = SharedSlice::new(&mut rounded.scales);
        let sums = SharedSlice::new(&mut rounded.sums);
        let half_sums = SharedSlice::new(&mut rounded.half_sums);
        const ROWS: usize = 8;
        parallel_for(rows.div_ceil(ROWS), |task| {
            for row in task * ROWS..rows.min((task + 1) * ROWS) {
                let at = row * parts;
                // SAFETY: each row is one task's alone.
                let (digits, scales, sums, half_sums) = unsafe {
                    (
                        digits.range(at * 64, parts * 64),
                        scales.range(at, parts),
                        sums.range(at, parts),
                        half_sums.range(at * 2, parts * 2),
                    )
                };
                round_row::<T>(&x[row * inputs..][..inputs], in_bytes, digits, scales, sums, half_sums);
            }
        });
        Self(rounded)
    }
}

impl Deref for Rounded {
    type Target = Digits;

    fn deref(&self) -> &Digits {
        &self.0
    }
}

impl Drop for Rounded {
    /// Leaves its memory to the next.
    fn drop(&mut self) {
        // While a thread ends there is none to leave it to.
        _ = SPARE.try_with(|spare| {
            if let Ok(mut spare) = spare.try_borrow_mut()
                && spare.len() < 2
            {
                spare.push(std::mem::take(&mut self.0));
            }
        });
    }
}

by_cpu_level! {
    fn round_row<[T: Value]>(
        x: &[T],
        in_bytes: bool,
        digits: &mut [u8],
        scales: &mut [f32],
        sums: &mut [f32],
        half_sums: &mut [f32],
    ) {
        let (values, _) = x.as_chunks::<PART>();
        let (digits, _) = digits.as_chunks_mut::<64>();
        let (half_sums, _) = half_sums.as_chunks_mut::<2>();
        for (part, values) in values.iter().enumerate() {
            let values = values.map(Value::to_f32);
            let (mut most, mut poison) = ([0.0f32; 16], [0.0f32; 16]);
            for i in 0..PART {
                poison[i % 16] += values[i] * 0.0;
                most[i % 16] = if values[i].abs() > most[i % 16] { values[i].abs() } else { most[i % 16] };
            }
            let largest = most.iter().fold(0.0f32, |largest, &value| if value > largest { value } else { largest });
            // What is no number stays none.
            let scale = largest / LARGEST + poison.iter().sum::<f32>();
            let inverse = if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
            // Adding and taking away 1.5 · 2^23 rounds to an integer, ties to even.
            const ROUND: f32 = 12_582_912.0;
            let words = values.map(|value| ((value * inverse + ROUND).to_bits() as i32 - ROUND.to_bits() as i32) as i16);
            let mut halves = [0i32; 2];
            for i in 0..16 {
                halves[0] += i32::from(words[i]);
                halves[1] += i32::from(words[16 + i]);
            }
            scales[part] = scale;
            half_sums[part] = halves.map(|half| half as f32 * scale);
            sums[part] = (halves[0] + halves[1]) as f32 * scale;
            let digits = &mut digits[part];
            if in_bytes {
                for i in 0..PART {
                    let high = (words[i] + 64) >> 7;
                    digits[i] = high as u8;
                    digits[PART + i] = (words[i] - (high << 7)) as u8;
                }
            } else {
                for i in 0..PART {
                    [digits[2 * i], digits[2 * i + 1]] = words[i].to_ne_bytes();
                }
            }
        }
    }
}
