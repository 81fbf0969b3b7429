//! Tiles of a row by 16 outputs in plain Rust: the twin of the fast ones, and what runs where there is none.

use super::rounded::PART;
use super::{LANES, MOST_ROWS, Tile};

/// The sums of the next row; one.
pub(super) fn tile(tile: Tile, left: usize, sums: &mut [[f32; LANES]; MOST_ROWS]) -> usize {
    debug_assert!(left > 0);
    let Tile { layout, group, rounded, first_row } = tile;
    let affine = layout.affine;
    let (codes, mut scales) = group.split_at(layout.code_bytes);
    let part_bytes = PART * LANES * affine.bits / 8;
    let mut take = |count: usize| {
        let (taken, rest) = scales.split_at(count);
        scales = rest;
        taken
    };
    let total = &mut sums[0];
    *total = [0.0; LANES];
    let (mut block_scale, mut block_minimum) = ([0.0; LANES], [0.0; LANES]);
    for (part, codes) in codes.chunks_exact(part_bytes).enumerate() {
        let at = first_row * rounded.parts + part;
        let words = words_of(&rounded.digits[at * 64..][..64]);
        let of_row = rounded.scales[at];
        if (part * PART).is_multiple_of(affine.elements) {
            block_scale = halves_of(take(2 * LANES));
            if affine.offset.is_none() {
                block_minimum = halves_of(take(2 * LANES));
            }
        }
        let pieces = PART / affine.part;
        for piece in 0..pieces {
            let (mut scale, mut minimum) = (block_scale, block_minimum);
            if affine.elements > PART {
                for (scale, factor) in scale.iter_mut().zip(take(LANES)) {
                    *scale *= f32::from(*factor as i8);
                }
                if affine.offset.is_none() {
                    for (minimum, factor) in minimum.iter_mut().zip(take(LANES)) {
                        *minimum *= f32::from(*factor);
                    }
                }
            }
            if let Some(offset) = affine.offset {
                minimum = scale.map(|scale| scale * f32::from(offset));
            }
            let fours = 8 / pieces;
            let mut dots = [0i32; LANES];
            for four in piece * fours..(piece + 1) * fours {
                let words = &words[4 * four..][..4];
                let (bytes, shift) = match affine.bits {
                    4 => (&codes[four / 2 * 64..][..64], four % 2 * 4),
                    _ => (&codes[four * 64..][..64], 0),
                };
                let mask = if affine.bits == 4 { 15 } else { 255 };
                for (lane, dot) in dots.iter_mut().enumerate() {
                    for i in 0..4 {
                        *dot += i32::from(bytes[4 * lane + i] >> shift & mask) * i32::from(words[i]);
                    }
                }
            }
            let sum = if pieces == 1 { rounded.sums[at] } else { rounded.half_sums[2 * at + piece] };
            for lane in 0..LANES {
                let scaled = dots[lane] as f32 * of_row;
                total[lane] = if cfg!(target_arch = "aarch64") {
                    (-minimum[lane]).mul_add(sum, scaled.mul_add(scale[lane], total[lane]))
                } else {
                    total[lane] + scaled * scale[lane] - minimum[lane] * sum
                };
            }
        }
    }
    1
}

fn words_of(digits: &[u8]) -> [i16; PART] {
    std::array::from_fn(|i| i16::from_ne_bytes([digits[2 * i], digits[2 * i + 1]]))
}

fn halves_of(bytes: &[u8]) -> [f32; LANES] {
    std::array::from_fn(|lane| half::f16::from_le_bytes([bytes[2 * lane], bytes[2 * lane + 1]]).to_f32())
}
