//! Against recordings of the reference, by hand, and what must hold for any input.

use super::*;
use half::{bf16, f16};
use proptest::prelude::*;

fn values(kind: BlockType, bytes: &[u8], elements: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; elements];
    dequantize(kind, bytes, &mut out).unwrap();
    out
}

#[test]
fn plain_types_are_exact() {
    let f32_bytes: Vec<u8> =
        [1.5f32, -0.0, f32::INFINITY, 1e-45].iter().flat_map(|v| v.to_le_bytes()).collect();
    let exact = values(BlockType::F32, &f32_bytes, 4);
    assert_eq!(
        exact.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
        [0x3fc0_0000, 0x8000_0000, 0x7f80_0000, 1]
    );
    // 0x3c01 is 1 + 2^-10, 0x0001 the smallest subnormal 2^-24, 0xfbff the lowest finite half.
    assert_eq!(
        values(BlockType::F16, &[0x01, 0x3c, 0x01, 0x00, 0xff, 0xfb], 3),
        [1.000_976_6, 5.960_464_5e-8, -65504.0]
    );
    assert_eq!(values(BlockType::Bf16, &[0x80, 0x3f, 0x49, 0xc0], 2), [1.0, -3.140_625]);
}

#[test]
fn every_half_is_converted_as_the_half_crate_does_one_by_one() {
    let bits: Vec<u16> = (0..=u16::MAX).filter(|bits| !f16::from_bits(*bits).is_nan()).collect();
    let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    for (value, bits) in values(BlockType::F16, &bytes, bits.len()).iter().zip(&bits) {
        assert_eq!(value.to_bits(), f16::from_bits(*bits).to_f32().to_bits());
    }
    for (value, bits) in values(BlockType::Bf16, &bytes, bits.len()).iter().zip(&bits) {
        if !bf16::from_bits(*bits).is_nan() {
            assert_eq!(value.to_bits(), bf16::from_bits(*bits).to_f32().to_bits());
        }
    }
}

#[test]
fn q8_0_block_by_hand() {
    // Scale 0.25, quants -16..16.
    let mut block = vec![0x00, 0x34];
    block.extend((-16i8..16).map(|q| q as u8));
    let expected: Vec<f32> = (-16i8..16).map(|q| f32::from(q) * 0.25).collect();
    assert_eq!(values(BlockType::Q8_0, &block, 32), expected);
}

#[test]
fn q4_0_block_by_hand() {
    // Scale -0.5; byte j holds j in the low nibble (element j) and 15 - j in the high one (element j + 16).
    let mut block = vec![0x00, 0xb8];
    block.extend((0..16u8).map(|j| j | ((15 - j) << 4)));
    let expected: Vec<f32> = (0..16).chain((0..16).rev()).map(|q| (q as f32 - 8.0) * -0.5).collect();
    assert_eq!(values(BlockType::Q4_0, &block, 32), expected);
}

#[test]
fn q4_1_blocks_by_hand() {
    // Two blocks: scale 2, minimum -3; scale 0, minimum 1.
    let nibbles: Vec<u8> = (0..16u8).map(|j| j | ((15 - j) << 4)).collect();
    let mut bytes = vec![0x00, 0x40, 0x00, 0xc2];
    bytes.extend(&nibbles);
    bytes.extend([0x00, 0x00, 0x00, 0x3c]);
    bytes.extend(&nibbles);
    let first = (0..16).chain((0..16).rev()).map(|q| q as f32 * 2.0 - 3.0);
    let expected: Vec<f32> = first.chain(std::iter::repeat_n(1.0, 32)).collect();
    assert_eq!(values(BlockType::Q4_1, &bytes, 64), expected);
}

#[test]
fn errors_say_what_was_expected() {
    let partial = dequantize(BlockType::Q4_0, &[0; 18], &mut [0.0; 33]).unwrap_err();
    assert_eq!(partial.to_string(), "33 elements are not whole Q4_0 blocks of 32");
    let length = dequantize(BlockType::Q8_0, &[0; 18], &mut [0.0; 32]).unwrap_err();
    assert_eq!(length.to_string(), "32 elements of Q8_0 take 34 bytes, but 18 were given");
}

/// The values, importance and bytes of `tools/golden/blocks.py`.
pub(super) mod recorded {
    pub const ROWS: usize = 66;
    pub const ROW_LENGTH: usize = 1024;

    fn bits(index: usize, stream: u32) -> u32 {
        let mixed = (index as u32).wrapping_add(stream * 1_000_003).wrapping_mul(2_654_435_761);
        let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(2_246_822_519);
        mixed ^ (mixed >> 13)
    }

    fn unit(index: usize) -> f32 {
        (bits(index, 1) >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    }

    pub fn values() -> Vec<f32> {
        (0..ROWS * ROW_LENGTH)
            .map(|index| {
                let (drawn, unit, start) = (bits(index, 1), unit(index), index / 256 * 256);
                let cube = unit * unit * unit;
                match index / 256 % 11 {
                    1 if drawn % 64 == 0 => cube * 64.0,
                    2 => 0.0,
                    3 => self::unit(start),
                    4 => unit * f32::from_bits(1 << 9),
                    5 => -unit.abs(),
                    6 if drawn % 3 == 1 => 0.0,
                    6 if drawn % 3 == 2 => -0.0,
                    7 => (unit * 16.0).trunc() / 8.0,
                    8 => unit * 2f32.powi(-20),
                    9 if index > start => 0.0,
                    10 => unit * 1000.0,
                    _ => cube,
                }
            })
            .collect()
    }

    pub fn importance() -> Vec<f32> {
        let unit = |index| (bits(index, 2) >> 8) as f32 / (1u32 << 24) as f32;
        (0..ROW_LENGTH).map(|i| if i % 97 == 0 { 0.0 } else { unit(i) * unit(i) }).collect()
    }

    pub fn any_bytes(count: usize) -> Vec<u8> {
        (0..count).map(|index| (bits(index, 3) >> 24) as u8).collect()
    }

    pub fn hash(bytes: impl IntoIterator<Item = u8>) -> String {
        let hash = bytes.into_iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{hash:016x}")
    }

    pub fn hash_values(values: &[f32]) -> String {
        hash(values.iter().flat_map(|value| {
            if value.is_nan() { f32::from_bits(0x7fc0_0000) } else { *value }.to_le_bytes()
        }))
    }
}

#[test]
fn every_type_is_that_of_the_reference_to_the_last_bit() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/golden/blocks.json")).unwrap();
    let (row_length, floats, weights) = (recorded::ROW_LENGTH, recorded::values(), recorded::importance());
    assert_eq!((golden["rows"].as_u64(), golden["row_length"].as_u64()), (Some(66), Some(1024)));
    let others = [BlockType::F32, BlockType::Nf4];
    for kind in BlockType::ALL.into_iter().filter(|kind| !others.contains(kind)) {
        let golden = &golden["types"][kind.name()];
        for (name, importance) in [("plain", None), ("important", Some(weights.as_slice()))] {
            let golden = &golden[name];
            let mut blocks = vec![0; floats.len() / kind.block_elements() * kind.block_bytes()];
            quantize(kind, &floats, row_length, importance, &mut blocks).unwrap();
            let first_row = golden["first_row"].as_str().unwrap();
            let hex: String =
                blocks.iter().take(first_row.len() / 2).map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, first_row, "{} {name}", kind.name());
            assert_eq!(recorded::hash(blocks.iter().copied()), golden["blocks"], "{} {name}", kind.name());
            let read = values(kind, &blocks, floats.len());
            assert_eq!(recorded::hash_values(&read), golden["values"], "{} {name}", kind.name());
        }
        let bytes = recorded::any_bytes(4 * row_length / kind.block_elements() * kind.block_bytes());
        let read = values(kind, &bytes, 4 * row_length);
        assert_eq!(recorded::hash_values(&read), golden["any_bytes"], "{}", kind.name());
    }
}

#[test]
fn rows_and_threads_do_not_change_the_bytes() {
    let (floats, weights) = (recorded::values(), recorded::importance());
    let floats: Vec<f32> = floats.iter().copied().cycle().take(70 * recorded::ROW_LENGTH).collect();
    for kind in BlockType::ALL {
        for importance in [None, Some(weights.as_slice())] {
            let row_bytes = recorded::ROW_LENGTH / kind.block_elements() * kind.block_bytes();
            let mut together = vec![0; 70 * row_bytes];
            quantize(kind, &floats, recorded::ROW_LENGTH, importance, &mut together).unwrap();
            let mut apart = vec![0; 70 * row_bytes];
            for (row, out) in floats.chunks(recorded::ROW_LENGTH).zip(apart.chunks_mut(row_bytes)) {
                quantize(kind, row, recorded::ROW_LENGTH, importance, out).unwrap();
            }
            assert!(apart == together, "{}", kind.name());
            apart.fill(0);
            quantize_in_parallel(kind, &floats, recorded::ROW_LENGTH, importance, &mut apart).unwrap();
            assert!(apart == together, "{}", kind.name());
        }
    }
}

#[test]
fn what_no_block_can_hold_is_refused_with_its_place() {
    for kind in BlockType::ALL {
        let mut out = vec![0; 1024 / kind.block_elements() * kind.block_bytes()];
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut floats = vec![1.0; 1024];
            floats[700] = value;
            let error = quantize(kind, &floats, 256, None, &mut out).unwrap_err();
            let expected = format!("element 188 of row 2 is {value:?}, which {} cannot hold", kind.name());
            assert_eq!(error.to_string(), expected);
            let in_parallel = quantize_in_parallel(kind, &floats, 256, None, &mut out).unwrap_err();
            assert_eq!(in_parallel.to_string(), expected);
        }
        let mut floats = vec![1.0; 1024];
        let mut refused = |value: f32| {
            floats[700] = value;
            quantize(kind, &floats, 512, None, &mut out).map_err(|error| error.to_string())
        };
        let beyond = refused(f32::MIN);
        match kind {
            BlockType::F32 | BlockType::Nf4 => assert_eq!(beyond, Ok(())),
            _ => assert!(beyond.unwrap_err().starts_with("element 188 of row 1 is -3.4")),
        }
        if kind.block_elements() > 1 && ![BlockType::Q6K, BlockType::Nf4].contains(&kind) {
            let column = 188 / kind.block_elements() * kind.block_elements();
            let expected =
                format!("the values of row 1 from element {column} are too large for {}", kind.name());
            assert!(refused(1.5e8).unwrap_err().starts_with(&expected));
        }
    }
}

#[test]
fn the_first_refused_value_is_named_whichever_thread_finds_it() {
    let mut floats = vec![1.0; 1 << 20];
    for index in [900_000, 300_000, 700_000] {
        floats[index] = f32::NAN;
    }
    let mut out = vec![0; (1 << 20) / 32 * 34];
    for _ in 0..20 {
        let error = quantize_in_parallel(BlockType::Q8_0, &floats, 4096, None, &mut out).unwrap_err();
        assert!(matches!(error, QuantizeError::Value { row: 73, column: 992, .. }), "{error}");
    }
}

#[test]
fn quantizing_says_what_does_not_fit() {
    let error = |row_length, importance: Option<&[f32]>, room| {
        let mut out = vec![0; room];
        quantize(BlockType::Q4K, &[0.0; 512], row_length, importance, &mut out).unwrap_err().to_string()
    };
    assert_eq!(error(576, None, 288), "rows of 576 elements are not whole Q4_K blocks of 256");
    assert_eq!(error(1024, None, 288), "512 elements are not whole rows of 1024");
    assert_eq!(error(256, None, 287), "512 elements of Q4_K take 288 bytes, but there is room for 287");
    let few = error(256, Some(&[1.0; 255]), 288);
    assert_eq!(few, "the importance should have one number for each of the 256 columns, but has 255");
    let mut weights = [1.0; 256];
    weights[9] = -0.5;
    let negative = error(256, Some(&weights), 288);
    assert_eq!(negative, "the importance of column 9 is -0.5, which is not a finite number from 0");
}

proptest! {
    #[test]
    fn any_finite_values_are_quantized_or_refused(
        kind in 0..BlockType::ALL.len(),
        bits in prop::collection::vec(any::<u32>(), 512),
        important: bool,
    ) {
        let kind = BlockType::ALL[kind];
        let floats: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).map(|x| if x.is_finite() { x } else { 0.0 }).collect();
        let weights: Vec<f32> = bits[..256].iter().map(|bits| (bits >> 8) as f32).collect();
        let mut out = vec![0; 512 / kind.block_elements() * kind.block_bytes()];
        if quantize(kind, &floats, 256, important.then_some(&weights), &mut out).is_ok() {
            prop_assert!(values(kind, &out, 512).iter().all(|value| value.is_finite()));
        }
    }

    #[test]
    fn only_exact_sizes_are_accepted(kind in 0..BlockType::ALL.len(), elements in 0usize..600, extra in -3i64..4) {
        let kind = BlockType::ALL[kind];
        let exact = elements / kind.block_elements() * kind.block_bytes();
        let bytes = vec![1u8; (exact as i64 + extra).max(0) as usize];
        let mut out = vec![7.0f32; elements];
        let whole = elements % kind.block_elements() == 0 && bytes.len() == exact;
        prop_assert_eq!(dequantize(kind, &bytes, &mut out).is_ok(), whole);
        // Every element is written, or none.
        prop_assert!(out.iter().all(|value| (*value == 7.0) != whole));
    }

    #[test]
    fn blocks_do_not_depend_on_their_neighbours(kind in 0..BlockType::ALL.len(), seed: Vec<u8>) {
        let kind = BlockType::ALL[kind];
        let blocks = seed.len() / kind.block_bytes();
        let bytes = &seed[..blocks * kind.block_bytes()];
        let all = values(kind, bytes, blocks * kind.block_elements());
        for (block, expected) in bytes.chunks(kind.block_bytes()).zip(all.chunks(kind.block_elements())) {
            let alone = values(kind, block, kind.block_elements());
            prop_assert!(alone.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }
}
