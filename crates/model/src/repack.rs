//! Quantized weights repacked for generation: 16 outputs side by side, all in one memory, so that products of integers read
//! it from end to end. A model that was repacked is not trained, merged or saved.

use danlu_kernels::Buffer;
use danlu_kernels::int8::{pack, packed_bytes};

use crate::model::Stored;
use crate::{Model, names};

impl Model {
    /// Whether [`repack`](Self::repack) found something.
    pub fn is_repacked(&self) -> bool {
        !self.repacked.is_empty()
    }

    /// Repacks every matrix of evenly spaced blocks that is multiplied with; whether there was one. What stays
    /// keeps its products: NF4, GPTQ and weights that are not quantized.
    pub fn repack(&mut self) -> bool {
        let head = names::head(&self.config);
        let mut places = Vec::new();
        let mut total = 0;
        for (tensor, (spec, stored)) in self.specs.iter().zip(&self.stored).enumerate() {
            // An embedding that is no head is only looked up.
            let is_looked_up = tensor == names::EMBEDDING && tensor != head;
            let ([outputs, inputs], Stored::Blocks(kind, _), false) = (&spec.shape[..], stored, is_looked_up)
            else {
                continue;
            };
            if let Some(bytes) = packed_bytes(*kind, *outputs, *inputs) {
                places.push((tensor, *kind, [*outputs, *inputs], total..total + bytes));
                total += bytes;
            }
        }
        if places.is_empty() {
            return false;
        }
        self.repacked = Buffer::zeros(total);
        for (tensor, kind, shape, place) in places {
            if let Stored::Blocks(_, blocks) = &self.stored[tensor] {
                pack(kind, blocks.first(blocks.len()), shape, self.repacked.view_mut(place.clone()));
            }
            self.stored[tensor] = Stored::Repacked(kind, place);
        }
        true
    }
}
