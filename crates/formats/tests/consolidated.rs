//! Meta's checkpoints in several files: cut, written, opened and joined again.

use std::path::Path;

use danlu_formats::{
    ConsolidatedFolder, Dtype, Error, JoinedTensor, Tensor, TensorInfo, TensorPart, write_pth,
};
use fs_err as fs;
use proptest::prelude::*;

fn info(name: &str, dtype: Dtype, shape: &[usize]) -> TensorInfo {
    TensorInfo { name: name.to_string(), dtype, shape: shape.to_vec() }
}

fn bytes_of(info: &TensorInfo) -> Vec<u8> {
    (0..info.byte_length().unwrap()).map(|index| (index % 251) as u8).collect()
}

fn collected<E: std::fmt::Debug>(
    write: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E>,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })
    .unwrap();
    bytes
}

/// Even parts, of which the last takes the rest.
fn range_of(length: usize, index: usize, count: usize) -> std::ops::Range<usize> {
    let even = length / count;
    index * even..if index + 1 == count { length } else { (index + 1) * even }
}

fn model() -> Vec<(TensorInfo, Option<usize>)> {
    vec![
        (info("tok_embeddings.weight", Dtype::Bf16, &[19, 16]), Some(1)),
        (info("layers.0.attention.wq.weight", Dtype::Bf16, &[16, 16]), Some(0)),
        (info("layers.0.attention.wo.weight", Dtype::Bf16, &[16, 16]), Some(1)),
        (info("output.weight", Dtype::Bf16, &[19, 16]), Some(0)),
        (info("norm.weight", Dtype::Bf16, &[16]), None),
    ]
}

fn write_shards(folder: &Path, count: usize) {
    for index in 0..count {
        let model = model();
        let contents: Vec<Vec<u8>> = model.iter().map(|(info, _)| bytes_of(info)).collect();
        let parts: Vec<TensorPart> = model
            .iter()
            .zip(&contents)
            .map(|((info, dimension), bytes)| {
                let dimension = dimension.map_or((0, 0..info.shape[0]), |dimension| {
                    (dimension, range_of(info.shape[dimension], index, count))
                });
                TensorPart::new(Tensor { info, bytes }, dimension.0, dimension.1).unwrap()
            })
            .collect();
        let infos: Vec<TensorInfo> = parts.iter().map(|part| part.info().clone()).collect();
        let path = folder.join(format!("consolidated.{index:02}.pth"));
        let written: Result<(), Error> =
            write_pth(path, &infos, &[], |place, sink| parts[place].write(|piece| sink.write(piece)));
        written.unwrap();
    }
    fs::write(folder.join("params.json"), r#"{"dim": 16, "n_layers": 1, "vocab_size": -1}"#).unwrap();
}

#[test]
fn one_two_and_eight_files_join_to_the_same_tensors() {
    for count in [1, 2, 8] {
        let folder = tempfile::tempdir().unwrap();
        assert!(!ConsolidatedFolder::is_one(folder.path()));
        write_shards(folder.path(), count);
        assert!(ConsolidatedFolder::is_one(folder.path()));
        let files = ConsolidatedFolder::open(folder.path()).unwrap();
        assert_eq!(files.shards().len(), count);
        assert_eq!(files.parameters()["dim"], 16);
        for (info, dimension) in model() {
            let parts = files.parts(&info.name);
            assert_eq!(parts.len(), count);
            match dimension {
                None => assert!(parts.iter().all(|part| part.bytes == bytes_of(&info))),
                Some(dimension) => {
                    let joined = files.joined(&info.name, dimension).unwrap();
                    assert_eq!(*joined.info(), info);
                    assert_eq!(collected::<()>(|write| joined.write(write)), bytes_of(&info), "{count}");
                }
            }
            files.drop_pages(&info.name);
        }
    }
}

#[test]
fn incomplete_and_mixed_folders_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let message = || ConsolidatedFolder::open(folder.path()).unwrap_err().to_string();
    assert!(message().ends_with("holds no `consolidated.00.pth`"));
    write_shards(folder.path(), 2);
    let files = ConsolidatedFolder::open(folder.path()).unwrap();
    let error = files.joined("output.weight", 1).unwrap_err().to_string();
    assert!(
        error.contains("`output.weight` cannot be joined along dimension 1: [[9, 16], [10, 16]]"),
        "{error}"
    );
    fs::rename(folder.path().join("consolidated.01.pth"), folder.path().join("consolidated.02.pth")).unwrap();
    assert!(message().ends_with("holds no `consolidated.01.pth`"));
    let other = [info("tok_embeddings.weight", Dtype::F32, &[1])];
    let written: Result<(), Error> =
        write_pth(folder.path().join("consolidated.01.pth"), &other, &[], |_, sink| sink.write(&[0; 4]));
    written.unwrap();
    fs::remove_file(folder.path().join("consolidated.02.pth")).unwrap();
    assert!(message().contains("tensor `tok_embeddings.weight` does not go with that of the first file"));
    write_shards(folder.path(), 2);
    fs::remove_file(folder.path().join("params.json")).unwrap();
    assert!(message().ends_with("holds no `params.json`"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_cut_joins_again(
        shape in prop::collection::vec(1usize..9, 1..4),
        dimension in 0usize..3,
        count in 1usize..5,
        large: bool,
    ) {
        let mut shape = shape;
        let dimension = dimension % shape.len();
        if large {
            // Rows longer than the buffer.
            shape[dimension] += 300_000;
        }
        let info = info("w", Dtype::F32, &shape);
        prop_assume!(info.byte_length().unwrap() < 30_000_000);
        let bytes = bytes_of(&info);
        let whole = Tensor { info: &info, bytes: &bytes };
        let parts: Vec<TensorPart> = (0..count)
            .map(|index| TensorPart::new(whole, dimension, range_of(shape[dimension], index, count)).unwrap())
            .collect();
        let contents: Vec<Vec<u8>> = parts.iter().map(|part| collected::<()>(|write| part.write(write))).collect();
        let views = parts.iter().zip(&contents).map(|(part, bytes)| Tensor { info: part.info(), bytes }).collect();
        let joined = JoinedTensor::new(views, dimension).unwrap();
        prop_assert_eq!(joined.info(), &info);
        prop_assert!(collected::<()>(|write| joined.write(write)) == bytes);
        prop_assert!(TensorPart::new(whole, dimension, 0..shape[dimension] + 1).is_none());
        prop_assert!(TensorPart::new(whole, shape.len(), 0..0).is_none());
    }
}
