//! Weights whose columns are quantized in groups, as GPTQ has them: value = (quant − zero) · scale, with a scale and a zero
//! for each output and group. Which group a column belongs to is free (act-order), so columns stay where they are
//! and activations need no other order; a group costs 3 bytes a row.
//!
//! It reads and holds them; finding good quants is done elsewhere.

use std::cell::RefCell;

use super::plain::half_to_f32;
use crate::buffer::Buffer;

/// Bits of one word of quants, the first column's the lowest.
const WORD: usize = 32;

/// A weight [outputs, inputs] of 4 or 8 bits at rest.
pub struct Grouped {
    bits: usize,
    shape: [usize; 2],
    groups: usize,
    columns: Columns,
    words: Buffer<u32>,
    scales: Buffer<u8>,
    zeros: Buffer<u8>,
}

/// The group of each column.
#[derive(Clone)]
enum Columns {
    /// The first so many are of group 0, as many behind them of group 1, and so on.
    Runs(usize),
    Any(Vec<u16>),
}

/// The memory of a [`Grouped`], to fill.
pub struct GroupedMut<'a> {
    /// [outputs, inputs · bits / 32]
    pub words: &'a mut [u32],
    /// [outputs, groups] of little-endian f16
    pub scales: &'a mut [u8],
    /// [outputs, groups]
    pub zeros: &'a mut [u8],
}

impl Grouped {
    /// A weight of zeros; `group_of` has the group of each input.
    ///
    /// # Panics
    /// If bits are neither 4 nor 8, a row is not whole words of 32 bits, `group_of` is not one number below `groups` for
    /// each input.
    pub fn zeros(bits: usize, [outputs, inputs]: [usize; 2], groups: usize, group_of: &[u16]) -> Self {
        assert!(matches!(bits, 4 | 8) && (inputs * bits).is_multiple_of(WORD) && group_of.len() == inputs);
        assert!(group_of.iter().all(|group| usize::from(*group) < groups));
        let run = group_of.iter().position(|group| *group != group_of[0]).unwrap_or(inputs).max(1);
        let is_run = |(column, group): (usize, &u16)| usize::from(*group) == column / run;
        let columns = match group_of.iter().enumerate().all(is_run) {
            true => Columns::Runs(run),
            false => Columns::Any(group_of.to_vec()),
        };
        Self {
            bits,
            shape: [outputs, inputs],
            groups,
            columns,
            words: Buffer::zeros(outputs * inputs * bits / WORD),
            scales: Buffer::zeros(2 * outputs * groups),
            zeros: Buffer::zeros(outputs * groups),
        }
    }

    /// Its memory, to fill.
    pub fn parts_mut(&mut self) -> GroupedMut<'_> {
        let Self { words, scales, zeros, .. } = self;
        GroupedMut { words: words.host_mut(), scales: scales.host_mut(), zeros: zeros.host_mut() }
    }

    /// Quants of row-major rows, 32 bits at a time.
    pub fn words(&self) -> &[u32] {
        self.words.host()
    }

    /// f16 [outputs, groups], little-endian.
    pub fn scales(&self) -> &[u8] {
        self.scales.host()
    }

    /// [outputs, groups]
    pub fn zero_points(&self) -> &[u8] {
        self.zeros.host()
    }

    /// 4 or 8.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// [outputs, inputs]
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Number of groups.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The group of an input.
    pub fn group_of(&self, column: usize) -> usize {
        match &self.columns {
            Columns::Runs(length) => column / length,
            Columns::Any(groups) => usize::from(groups[column]),
        }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let order = if let Columns::Any(groups) = &self.columns { 2 * groups.len() } else { 0 };
        4 * self.words.len() + self.scales.len() + self.zeros.len() + order
    }

    /// Another one of the same values.
    pub fn copy(&self) -> Self {
        Self {
            columns: self.columns.clone(),
            words: Buffer::from_host(self.words.host()),
            scales: Buffer::from_host(self.scales.host()),
            zeros: Buffer::from_host(self.zeros.host()),
            ..*self
        }
    }

    /// Columns that are read together: a line begins and ends at a multiple.
    pub(crate) fn unit(&self) -> usize {
        WORD / self.bits
    }

    /// Writes the values of `row` from column `first` on; `first` and the length of `out` are multiples of
    /// [`unit`](Self::unit).
    pub fn dequantize(&self, row: usize, first: usize, out: &mut [f32]) {
        let [outputs, inputs] = self.shape;
        assert!(row < outputs && first.is_multiple_of(self.unit()) && first + out.len() <= inputs);
        assert!(out.len().is_multiple_of(self.unit()));
        let start = (row * inputs + first) / self.unit();
        let words = &self.words.host()[start..start + out.len() / self.unit()];
        match self.bits {
            4 => widen_4(words, out),
            _ => widen_8(words, out),
        }
        let scales = &self.scales.host().as_chunks::<2>().0[row * self.groups..(row + 1) * self.groups];
        let zeros = &self.zeros.host()[row * self.groups..(row + 1) * self.groups];
        match &self.columns {
            Columns::Runs(length) => scale_runs(scales, zeros, *length, first, out),
            Columns::Any(groups) => TABLE.with_borrow_mut(|table| {
                table.clear();
                let pair = |(scale, zero): (&[u8; 2], &u8)| [half_to_f32(*scale), f32::from(*zero)];
                table.extend(scales.iter().zip(zeros).map(pair));
                scale_each(table, &groups[first..first + out.len()], out);
            }),
        }
    }
}

thread_local! {
    /// Scale and zero of each group of one row.
    static TABLE: RefCell<Vec<[f32; 2]>> = const { RefCell::new(Vec::new()) };
}

by_cpu_level! {
    /// The quants of words of eight.
    fn widen_4(words: &[u32], out: &mut [f32]) {
        for (values, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            for (place, value) in values.iter_mut().enumerate() {
                *value = (word >> (4 * place) & 15) as i32 as f32;
            }
        }
    }
}

by_cpu_level! {
    /// The quants of words of four.
    fn widen_8(words: &[u32], out: &mut [f32]) {
        for (values, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            for (place, value) in values.iter_mut().enumerate() {
                *value = (word >> (8 * place) & 255) as i32 as f32;
            }
        }
    }
}

by_cpu_level! {
    /// Quants to values, where groups are runs of columns; `first` is the first quant's column.
    fn scale_runs(scales: &[[u8; 2]], zeros: &[u8], run: usize, first: usize, quants: &mut [f32]) {
        let mut done = 0;
        while done < quants.len() {
            let column = first + done;
            let group = column / run;
            let end = ((group + 1) * run - first).min(quants.len());
            let (scale, zero) = (half_to_f32(scales[group]), f32::from(zeros[group]));
            for value in &mut quants[done..end] {
                *value = (*value - zero) * scale;
            }
            done = end;
        }
    }
}

by_cpu_level! {
    /// Quants to values, with the group of each column.
    fn scale_each(table: &[[f32; 2]], groups: &[u16], quants: &mut [f32]) {
        for (value, group) in quants.iter_mut().zip(groups) {
            let [scale, zero] = table[usize::from(*group)];
            *value = (*value - zero) * scale;
        }
    }
}

/// A weight with random quants whose columns are in these groups, and its values by the definition.
#[cfg(test)]
pub(crate) fn random(bits: usize, [outputs, inputs]: [usize; 2], groups: &[u16]) -> (Grouped, Vec<f32>) {
    let mut random = crate::random::Random::new(&[bits as u64, inputs as u64]);
    let count = 1 + usize::from(*groups.iter().max().unwrap());
    let mut grouped = Grouped::zeros(bits, [outputs, inputs], count, groups);
    let parts = grouped.parts_mut();
    parts.words.iter_mut().for_each(|word| *word = random.bits() as u32);
    parts.zeros.iter_mut().for_each(|zero| *zero = random.bits() as u8 & ((1 << bits) - 1) as u8);
    let scales: Vec<half::f16> = (0..outputs * count).map(|_| half::f16::from_f32(random.normal())).collect();
    for (bytes, scale) in parts.scales.as_chunks_mut().0.iter_mut().zip(&scales) {
        *bytes = scale.to_le_bytes();
    }
    let mut values = Vec::new();
    for row in 0..outputs {
        for (column, group) in groups.iter().enumerate() {
            let bit = (row * inputs + column) * bits;
            let quant = grouped.words()[bit / 32] >> (bit % 32) & ((1 << bits) - 1);
            let place = row * count + usize::from(*group);
            let zero = f32::from(grouped.zero_points()[place]);
            values.push((quant as f32 - zero) * scales[place].to_f32());
        }
    }
    (grouped, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_row_has_the_values_of_its_groups() {
        let inputs = 160;
        let orders: [Vec<u16>; 4] = [
            vec![0; inputs],
            (0..inputs).map(|column| column as u16 / 32).collect(),
            (0..inputs).map(|column| column as u16 / 48).collect(),
            (0..inputs).map(|column| column as u16 * 37 % 5).collect(),
        ];
        for bits in [4, 8] {
            for groups in &orders {
                let (grouped, values) = random(bits, [3, inputs], groups);
                assert!((0..inputs).all(|column| grouped.group_of(column) == usize::from(groups[column])));
                let copy = grouped.copy();
                for row in 0..3 {
                    for (first, end) in [(0, inputs), (8, 96), (32, 40), (152, 160), (40, 40)] {
                        let mut found = vec![7.0; end - first];
                        copy.dequantize(row, first, &mut found);
                        assert_eq!(found, values[row * inputs + first..row * inputs + end]);
                    }
                }
            }
        }
    }
}
