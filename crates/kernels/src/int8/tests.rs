use super::*;
use crate::blocks::{dequantize, quantize};
use crate::random::Random;

const KINDS: [BlockType; 10] = [
    BlockType::Q4_0,
    BlockType::Q4_1,
    BlockType::Q5_0,
    BlockType::Q5_1,
    BlockType::Q8_0,
    BlockType::Q2K,
    BlockType::Q3K,
    BlockType::Q4K,
    BlockType::Q5K,
    BlockType::Q6K,
];
const INPUTS: usize = 512;
const OUTPUTS: usize = 37;

fn weight(kind: BlockType) -> (Vec<u8>, Vec<u8>, Vec<f32>) {
    let mut random = Random::new(&[7, kind as u64]);
    let values: Vec<f32> = (0..OUTPUTS * INPUTS).map(|_| random.normal()).collect();
    let mut blocks = vec![0; kind.bytes_for(values.len()).unwrap()];
    quantize(kind, &values, INPUTS, None, &mut blocks).unwrap();
    let mut exact = vec![0.0; values.len()];
    dequantize(kind, &blocks, &mut exact).unwrap();
    let mut packed = vec![0; packed_bytes(kind, OUTPUTS, INPUTS).unwrap()];
    pack(kind, View(&blocks), [OUTPUTS, INPUTS], ViewMut(&mut packed));
    (blocks, packed, exact)
}

#[test]
fn repacked_rows_are_the_dequantized_ones() {
    for kind in KINDS {
        let (_, packed, exact) = weight(kind);
        let packed = Packed::new(kind, View(&packed), OUTPUTS, INPUTS).unwrap();
        for (index, exact) in exact.chunks_exact(INPUTS).enumerate() {
            let mut row = vec![0.0; INPUTS];
            packed.part_of_row(index, 0, &mut row);
            assert_eq!(row, exact, "{kind:?}, row {index}");
            packed.part_of_row(index, 250, &mut row[..20]);
            assert_eq!(row[..20], exact[250..270]);
        }
    }
}

#[test]
fn products_are_those_of_the_values_and_do_not_depend_on_the_number_of_rows() {
    const ROWS: usize = 27;
    let mut random = Random::new(&[8]);
    let x: Vec<f32> = (0..ROWS * INPUTS).map(|_| random.normal()).collect();
    for kind in KINDS {
        let (_, packed, exact) = weight(kind);
        let packed = Packed::new(kind, View(&packed), OUTPUTS, INPUTS).unwrap();
        let mut all = vec![1.0f32; ROWS * OUTPUTS];
        products(&Rounded::of(&x, INPUTS), &mut [(packed, &mut all[..])], Output::Add);
        for row in 0..ROWS {
            let x = &x[row * INPUTS..][..INPUTS];
            let mut alone = vec![1.0f32; OUTPUTS];
            products(&Rounded::of(x, INPUTS), &mut [(packed, &mut alone[..])], Output::Add);
            assert_eq!(alone, all[row * OUTPUTS..][..OUTPUTS], "{kind:?}");
            for (sum, exact) in alone.iter().zip(exact.chunks_exact(INPUTS)) {
                let twin: f64 = exact.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                let size: f64 = exact.iter().zip(x).map(|(w, x)| f64::from((w * x).abs())).sum();
                let error = (f64::from(*sum) - 1.0 - twin).abs();
                assert!(error < 2e-5 * size, "{kind:?}: {sum} against {twin}");
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn every_instruction_set_gives_the_sums_of_plain_rust() {
    const ROWS: usize = 7;
    if level() == Level::Portable {
        return;
    }
    let mut random = Random::new(&[10]);
    let x: Vec<f32> = (0..ROWS * INPUTS).map(|_| random.normal()).collect();
    let words = Rounded::digits_of(&x, INPUTS, false);
    for kind in KINDS {
        let (_, packed, _) = weight(kind);
        let packed = Packed::new(kind, View(&packed), OUTPUTS, INPUTS).unwrap();
        let all = |tile_of: fn(Tile, usize, &mut [[f32; LANES]; MOST_ROWS]) -> usize| {
            let mut all = Vec::new();
            let (mut sums, mut row) = ([[0.0; LANES]; MOST_ROWS], 0);
            while row < ROWS {
                let tile =
                    Tile { layout: packed.layout, group: packed.group(1), rounded: &words, first_row: row };
                let done = tile_of(tile, ROWS - row, &mut sums);
                all.extend(sums[..done].iter().flatten().copied());
                row += done;
            }
            all
        };
        let (fast, plain) = (all(avx2::tile), all(plain::tile));
        for (fast, plain) in fast.iter().zip(&plain) {
            assert!((fast - plain).abs() < 1e-4 * plain.abs().max(1.0), "{kind:?}: {fast} against {plain}");
        }
    }
    let mut wide = vec![0.0f32; ROWS * OUTPUTS];
    let (_, packed, _) = weight(BlockType::Q6K);
    let packed = Packed::new(BlockType::Q6K, View(&packed), OUTPUTS, INPUTS).unwrap();
    products(&words, &mut [(packed, &mut wide[..])], Output::Overwrite);
    let mut chosen = vec![0.0f32; ROWS * OUTPUTS];
    products(&Rounded::of(&x, INPUTS), &mut [(packed, &mut chosen[..])], Output::Overwrite);
    assert_eq!(wide, chosen, "the integers are the same, and so are the roundings behind them");
}

#[test]
fn layers_with_one_input_run_together_and_what_is_no_number_stays_none() {
    let (_, packed, _) = weight(BlockType::Q4_0);
    let packed = Packed::new(BlockType::Q4_0, View(&packed), OUTPUTS, INPUTS).unwrap();
    let mut random = Random::new(&[9]);
    let mut x: Vec<f32> = (0..3 * INPUTS).map(|_| random.normal()).collect();
    let (mut first, mut second) = (vec![0.0f32; 3 * OUTPUTS], vec![0.0f32; 3 * OUTPUTS]);
    let rounded = Rounded::of(&x, INPUTS);
    products(&rounded, &mut [(packed, &mut first[..]), (packed, &mut second[..])], Output::Overwrite);
    assert!(first == second && first.iter().all(|value| value.is_finite() && *value != 0.0));
    x[INPUTS + 5] = f32::NAN;
    products(&Rounded::of(&x, INPUTS), &mut [(packed, &mut second[..])], Output::Overwrite);
    assert!(second[OUTPUTS..2 * OUTPUTS].iter().all(|value| value.is_nan()));
    assert_eq!(second[..OUTPUTS], first[..OUTPUTS]);
}
