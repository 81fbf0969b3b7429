//! A trained head whose rows are used with length one (Baichuan 2): the copy with such rows.

use danlu_kernels::unit_rows::unit_rows;
use danlu_kernels::{Buffer, Precision, View, Weight, bf16};

use crate::derived::Derived;

#[derive(Default)]
pub(crate) struct UnitHead {
    rows: Derived<Rows>,
}

enum Rows {
    F32(Buffer<f32>),
    Bf16(Buffer<bf16>),
}

impl UnitHead {
    /// Bytes of the copy of a head of so many elements.
    pub(crate) fn bytes(precision: Precision, elements: usize) -> usize {
        match precision {
            Precision::F32 => elements * size_of::<f32>(),
            Precision::Bf16 => elements * size_of::<bf16>(),
        }
    }

    /// The rows of `weight` [V, D] with length one.
    pub(crate) fn get(&self, precision: Precision, weight: View<f32>, [v, d]: [usize; 2]) -> Weight<'_> {
        let rows = self.rows.get(|spare| {
            let mut rows = spare.unwrap_or_else(|| match precision {
                Precision::F32 => Rows::F32(Buffer::zeros(v * d)),
                Precision::Bf16 => Rows::Bf16(Buffer::zeros(v * d)),
            });
            match &mut rows {
                Rows::F32(rows) => unit_rows(weight, d, rows.first_mut(v * d)),
                Rows::Bf16(rows) => unit_rows(weight, d, rows.first_mut(v * d)),
            }
            rows
        });
        match rows {
            Rows::F32(rows) => Weight::new(rows.first(v * d), v, d),
            Rows::Bf16(rows) => Weight::new(rows.first(v * d), v, d),
        }
    }

    /// The weights change.
    pub(crate) fn forget(&mut self) {
        self.rows.forget();
    }
}
