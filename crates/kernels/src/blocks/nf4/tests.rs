//! Against what bitsandbytes makes of the values in [`recorded`], and every path through the processor.

use super::*;
use crate::blocks::tests::recorded;
use crate::blocks::{BlockType, dequantize, quantize};

fn golden() -> serde_json::Value {
    serde_json::from_str(include_str!("../../../tests/golden/nf4.json")).unwrap()
}

fn floats(value: &serde_json::Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

fn quantized() -> Vec<u8> {
    let values = recorded::values();
    let mut bytes = vec![0; BlockType::Nf4.bytes_for(values.len()).unwrap()];
    quantize(BlockType::Nf4, &values, recorded::ROW_LENGTH, None, &mut bytes).unwrap();
    bytes
}

#[test]
fn nf4_is_that_of_bitsandbytes_to_the_last_bit() {
    let golden = golden();
    assert_eq!(floats(&golden["codebook"]), CODEBOOK);
    assert_eq!(floats(&golden["dynamic_map"]), *DYNAMIC_MAP);
    let mut bytes = quantized();
    let blocks: &[Nf4] = bytemuck::cast_slice(&bytes);
    let packed = blocks.iter().flat_map(|block| block.nibbles);
    assert_eq!(recorded::hash(packed), golden["packed"]);
    let magnitudes: Vec<f32> = blocks.iter().map(|block| f32::from_le_bytes(block.absmax)).collect();
    assert_eq!(recorded::hash_values(&magnitudes), golden["magnitudes"]);

    let offset = golden["offset"].as_f64().unwrap() as f32;
    let nested = DoubleQuantized::with_offset(&magnitudes, offset);
    assert_eq!(recorded::hash(nested.codes.iter().copied()), golden["codes"]);
    assert_eq!(nested.absmax, floats(&golden["nested"]));
    // PyTorch sums in another order.
    assert!((DoubleQuantized::of(&magnitudes).offset - offset).abs() <= 2.0 * f32::EPSILON * offset);

    for (block, magnitude) in
        bytemuck::cast_slice_mut::<_, Nf4>(&mut bytes).iter_mut().zip(nested.magnitudes())
    {
        block.absmax = magnitude.to_le_bytes();
    }
    let mut values = vec![0.0; recorded::ROWS * recorded::ROW_LENGTH];
    dequantize(BlockType::Nf4, &bytes, &mut values).unwrap();
    assert_eq!(recorded::hash_values(&values), golden["values"]);
}

#[test]
fn every_byte_is_two_elements_whichever_instructions_read_it() {
    let bytes: Vec<u8> = (0..8u8)
        .flat_map(|block| {
            let magnitude = (0.1 + f32::from(block)).to_le_bytes();
            magnitude.into_iter().chain((0..32).map(move |i| block * 32 + i))
        })
        .collect();
    let blocks: &[Nf4] = bytemuck::cast_slice(&bytes);
    let expected: Vec<[f32; ELEMENTS]> = blocks
        .iter()
        .map(|block| {
            let nibble = |i: usize| {
                if i.is_multiple_of(2) { block.nibbles[i / 2] >> 4 } else { block.nibbles[i / 2] & 15 }
            };
            std::array::from_fn(|i| CODEBOOK[usize::from(nibble(i))] * f32::from_le_bytes(block.absmax))
        })
        .collect();
    let mut values = vec![0.0; 512];
    nf4_to_f32(blocks, &mut values);
    assert_eq!(values, expected.concat());
    #[cfg(target_arch = "x86_64")]
    if crate::cpu::level() != crate::cpu::Level::Portable {
        let mut values = vec![[0.0; ELEMENTS]; 8];
        // SAFETY: every other level has AVX2.
        unsafe { x86::avx2(blocks, &mut values) };
        assert_eq!(values, expected);
    }
    #[cfg(target_arch = "x86_64")]
    if crate::cpu::level() == crate::cpu::Level::Avx512Bf16 {
        let mut values = vec![half::bf16::ZERO; 512];
        // SAFETY: it is that level.
        unsafe { nf4_to_bf16(blocks, &mut values) };
        let rounded: Vec<half::bf16> = expected.concat().into_iter().map(half::bf16::from_f32).collect();
        assert_eq!(values, rounded);
    }
}

/// Half the widest gap of the codebook, between -1 and -0.696, for what lies within a block; the second quantization
/// moves the scale by at most half its own widest gap.
#[test]
fn seeds_001_four_bit_load_round_trip_is_bounded() {
    let values: Vec<f32> = recorded::values().chunks_exact(256).step_by(11).flatten().copied().collect();
    let mut bytes = vec![0; BlockType::Nf4.bytes_for(values.len()).unwrap()];
    quantize(BlockType::Nf4, &values, 256, None, &mut bytes).unwrap();
    let mut read = vec![0.0; values.len()];
    dequantize(BlockType::Nf4, &bytes, &mut read).unwrap();
    for (values, read) in values.chunks(ELEMENTS).zip(read.chunks(ELEMENTS)) {
        let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        let bound = largest * (1.0 - 0.696_192_8) / 2.0 * 1.000_001;
        assert!(values.iter().zip(read).all(|(value, read)| (value - read).abs() <= bound));
    }
    double_quantize(&mut bytes);
    let mut twice = vec![0.0; values.len()];
    dequantize(BlockType::Nf4, &bytes, &mut twice).unwrap();
    let error =
        |read: &[f32]| -> f64 { values.iter().zip(read).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() };
    assert!(error(&twice) < 1.02 * error(&read), "{} {}", error(&twice), error(&read));
}

#[test]
fn zeros_stay_zeros_through_both_quantizations() {
    let mut bytes = vec![0; 36 * 3];
    quantize(BlockType::Nf4, &[0.0; 192], 64, None, &mut bytes).unwrap();
    double_quantize(&mut bytes);
    let mut read = vec![1.0; 192];
    dequantize(BlockType::Nf4, &bytes, &mut read).unwrap();
    assert_eq!(read, [0.0; 192]);
}
