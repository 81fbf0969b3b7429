//! Token embedding: rows of a table, and the gradient's sum back into them.

use crate::buffer::{View, ViewMut};
use crate::linear::Weight;
use crate::team::{SharedSlice, parallel_chunks, parallel_for};

/// Columns of one task of the gradient.
const COLUMNS: usize = 128;

/// x [T, D] = table [V, D] at `ids`.
pub fn embedding(ids: &[u32], table: Weight, x: ViewMut<f32>) {
    let _timer = crate::timing::Operation::Embedding.start();
    if ids.is_empty() {
        return;
    }
    assert_eq!(x.0.len(), table.inputs() * ids.len());
    parallel_chunks(x.0, table.inputs(), |token, row| table.row(ids[token] as usize, row));
}

/// Adds dx [T, D] to the rows of dtable that `row` says for `ids`, in token order; a token whose row is not trained has none.
pub fn embedding_backward(
    ids: &[u32],
    row: impl Fn(u32) -> Option<usize> + Sync,
    dx: View<f32>,
    dtable: ViewMut<f32>,
) {
    let _timer = crate::timing::Operation::Embedding.start();
    if ids.is_empty() {
        return;
    }
    let width = dx.0.len() / ids.len();
    let dtable = SharedSlice::new(dtable.0);
    parallel_for(width.div_ceil(COLUMNS), |task| {
        let (start, count) = (task * COLUMNS, COLUMNS.min(width - task * COLUMNS));
        for (token, &id) in ids.iter().enumerate() {
            let Some(row) = row(id) else { continue };
            // SAFETY: each block of columns belongs to one task.
            let row = unsafe { dtable.range(row * width + start, count) };
            for (sum, dx) in row.iter_mut().zip(&dx.0[token * width + start..]) {
                *sum += dx;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_ids_share_a_row_and_sum_their_gradients() {
        let table = [0.0, 1.0, 10.0, 11.0, 20.0, 21.0];
        let ids = [2, 0, 2];
        let mut x = [0.0; 6];
        embedding(&ids, Weight::new(View(&table), 3, 2), ViewMut(&mut x));
        assert_eq!(x, [20.0, 21.0, 0.0, 1.0, 20.0, 21.0]);
        let mut dtable = [1.0; 6];
        let dx = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        embedding_backward(&ids, |id| Some(id as usize), View(&dx), ViewMut(&mut dtable));
        assert_eq!(dtable, [4.0, 5.0, 1.0, 1.0, 7.0, 9.0]);
        let mut rows = [1.0; 4];
        embedding_backward(&ids, |id| (id == 2).then_some(1), View(&dx), ViewMut(&mut rows));
        assert_eq!(rows, [1.0, 1.0, 7.0, 9.0]);
    }
}
