//! Importance matrices count what `llama-imatrix` counts.

use crate::common;

use std::ops::ControlFlow;

use common::*;
use danlu_model::{Rest, measure_importance};

#[test]
fn each_piece_begins_with_bos_where_the_vocabulary_has_it() {
    let model = load("gqa-untied", Rest::Frozen);
    let size = model.config().context_length();
    let ids: Vec<u32> = (0..size as u32 + 5).map(|place| 3 + place % 7).collect();
    let measure = |ids: &[u32], bos| {
        measure_importance(&model, ids, bos, &mut |_, _| ControlFlow::Continue(())).unwrap()
    };
    let mut begun = ids.clone();
    begun[0] = 1;
    begun[size] = 1;
    assert_eq!(measure(&ids, Some(1)), measure(&begun, None));
    assert_ne!(measure(&ids, Some(1)), measure(&ids, None));
    // The rest behind the last whole piece counts too.
    assert!(measure(&ids, None).tensors.values().all(|own| own.count == ids.len() as f32));
}
