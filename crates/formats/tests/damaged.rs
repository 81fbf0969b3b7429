//! Damaged and hostile files of every container: an error or tensors, but no panic, no full stack, and no more memory
//! than a small multiple of the file.
//!
//! A long run, in minutes (it prints what it did):
//!
//! ```text
//! TMPDIR=/dev/shm DANLU_FUZZ_CASES=100000 cargo test -p danlu-formats --test all -- --nocapture damaged::mutated
//! ```
//!
//! `DANLU_FUZZ_SEED` starts it elsewhere. A failing file stays in the temporary folder and is named.

use crate::common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;

use common::small_gguf;
use danlu_formats::{
    Alias, Dtype, Error, Gguf, Importance, ImportanceMatrix, Llama2c, Llama2cConfig, Llama2cVersion,
    PytorchFolder, SafetensorsFolder, TensorInfo, WriteOptions, write_llama2c, write_pth, write_pytorch,
    write_safetensors,
};
use fs_err as fs;

/// Opens the file and reads every tensor.
type Open = fn(&Path) -> Result<(), Error>;

fn open_pytorch(path: &Path) -> Result<(), Error> {
    let folder = PytorchFolder::open(path)?;
    for info in folder.tensors() {
        assert_eq!(Some(folder.tensor(&info.name).unwrap().bytes.len()), info.byte_length());
        folder.alias_of(&info.name);
        folder.drop_pages(&info.name);
    }
    Ok(())
}

fn open_safetensors(path: &Path) -> Result<(), Error> {
    let folder = SafetensorsFolder::open(path)?;
    for info in folder.tensors() {
        assert_eq!(Some(folder.tensor(&info.name).unwrap().bytes.len()), info.byte_length());
    }
    Ok(())
}

fn open_gguf(path: &Path) -> Result<(), Error> {
    let file = Gguf::open(path)?;
    for info in file.tensors() {
        assert_eq!(Some(file.tensor(&info.name).unwrap().bytes.len()), info.byte_length());
    }
    Ok(())
}

fn open_llama2c(path: &Path) -> Result<(), Error> {
    let file = Llama2c::open(path)?;
    for info in file.tensors() {
        assert_eq!(Some(file.tensor(&info.name).unwrap().bytes.len()), info.byte_length());
        file.read_f32(&info.name, 0, &mut vec![0.0; info.elements().unwrap()])?;
    }
    Ok(())
}

fn open_importance(path: &Path) -> Result<(), Error> {
    let matrix = ImportanceMatrix::open(path)?;
    assert!(matrix.tensors.values().all(|own| own.means().len() == own.sums.len()));
    Ok(())
}

/// The index lies beside two shards that stay whole.
fn open_index(path: &Path) -> Result<(), Error> {
    let index = path.with_file_name("pytorch_model.bin.index.json");
    fs::copy(path, &index).unwrap();
    open_pytorch(&index)
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/pytorch")).join(name)).unwrap()
}

fn info(name: &str, dtype: Dtype, shape: &[usize]) -> TensorInfo {
    TensorInfo { name: name.to_string(), dtype, shape: shape.to_vec() }
}

fn small_model() -> [TensorInfo; 3] {
    [
        info("model.embed_tokens.weight", Dtype::Bf16, &[5, 4]),
        info("model.layers.0.weight", Dtype::F32, &[3, 3]),
        info("model.norm.weight", Dtype::F16, &[4]),
    ]
}

fn llama2c(folder: &Path, version: Llama2cVersion) -> Vec<u8> {
    let path = folder.join("model.bin");
    let config = Llama2cConfig {
        version,
        dim: 8,
        hidden_dim: 12,
        n_layers: 2,
        n_heads: 2,
        n_kv_heads: 1,
        vocab_size: 6,
        max_seq_len: 5,
        shared_classifier: false,
    };
    let written: Result<(), Error> =
        write_llama2c(&path, &config, |info, sink| sink.write(&vec![0.5; info.elements().unwrap()]));
    written.unwrap();
    fs::read(path).unwrap()
}

/// An importance matrix as GGUF and in the older form.
fn importance_matrices(folder: &Path) -> [Vec<u8>; 2] {
    let path = folder.join("imatrix.gguf");
    let names = ["blk.0.attn_q.weight", "blk.0.ffn_down.weight"];
    let mut matrix = ImportanceMatrix { datasets: vec!["text".to_string()], ..Default::default() };
    let mut old = (names.len() as i32).to_le_bytes().to_vec();
    for name in names {
        let own = Importance { sums: vec![1.0, 0.0, 2.5], count: 3.0 };
        old.extend((name.len() as i32).to_le_bytes());
        old.extend(name.as_bytes());
        old.extend([3i32, 3].map(i32::to_le_bytes).concat());
        old.extend(own.sums.iter().flat_map(|sum| sum.to_le_bytes()));
        matrix.tensors.insert(name.to_string(), own);
    }
    old.extend([1i32, 4].map(i32::to_le_bytes).concat());
    old.extend(b"text");
    matrix.write(&path).unwrap();
    [fs::read(path).unwrap(), old]
}

/// Each container with a whole file of it.
fn containers(folder: &Path) -> Vec<(&'static str, Vec<u8>, Open)> {
    let model = small_model();
    let give = |place: usize| vec![1; model[place].byte_length().unwrap()];
    let options = WriteOptions { max_shard_bytes: 45, base_name: "pytorch_model".to_string() };
    let written: Result<(), Error> =
        write_pytorch(folder, &options, &model, &[], |place, sink| sink.write(&give(place)));
    written.unwrap();
    let written: Result<(), Error> =
        write_safetensors(folder, &WriteOptions::default(), &model, |place, sink| sink.write(&give(place)));
    written.unwrap();
    let pth = folder.join("written.pth");
    let tied = [Alias { name: "lm_head.weight".to_string(), of: 0 }];
    let written: Result<(), Error> = write_pth(&pth, &model, &tied, |place, sink| sink.write(&give(place)));
    written.unwrap();
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let [importance, old_importance] = importance_matrices(folder);
    vec![
        ("PyTorch, written here", read("written.pth"), open_pytorch),
        ("PyTorch, zip", golden("zip.pth"), open_pytorch),
        ("PyTorch, training script", golden("training.pth"), open_pytorch),
        ("PyTorch, protocol 4", golden("protocol4.pth"), open_pytorch),
        ("PyTorch, before 1.6", golden("legacy.pth"), open_pytorch),
        ("index of shards", read("pytorch_model.bin.index.json"), open_index),
        ("safetensors", read("model.safetensors"), open_safetensors),
        ("GGUF", small_gguf().build(), open_gguf),
        ("importance matrix", importance, open_importance),
        ("importance matrix, older", old_importance, open_importance),
        ("llama2.c v0", llama2c(folder, Llama2cVersion::V0), open_llama2c),
        ("llama2.c v1", llama2c(folder, Llama2cVersion::V1), open_llama2c),
        ("llama2.c v2", llama2c(folder, Llama2cVersion::V2 { group_size: 4 }), open_llama2c),
    ]
}

/// Numbers that look random and are the same in each run (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }
}

/// One to four changes: flipped bits, extreme numbers, opcodes, moved, doubled or removed pieces, a cut end.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.below(256) as u8,
            2 => {
                const OPCODES: &[u8] = b".(NJKMGXTUCB)tlaesu}]qrhjcRbQ\x80\x81\x85\x86\x87\x88\x8a\x8b\x8c\x8d\x8f\x90\x93\x94\x95";
                bytes[at] = OPCODES[random.below(OPCODES.len())];
            }
            3 => {
                let extremes = [
                    0,
                    1,
                    127,
                    255,
                    1 << 15,
                    1 << 31,
                    u32::MAX as u64,
                    1 << 62,
                    u64::MAX,
                    bytes.len() as u64,
                ];
                let value = extremes[random.below(extremes.len())]
                    .wrapping_add(random.below(3) as u64)
                    .wrapping_sub(1);
                let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            }
            4 => {
                let length = random.below(64).min(bytes.len() - at);
                let from = random.below(bytes.len() - length);
                bytes.copy_within(from..from + length, at);
            }
            5 => {
                let end = (at + random.below(64)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            6 => {
                let end = (at + random.below(64)).min(bytes.len() - 1);
                bytes.drain(at.min(end)..end);
            }
            _ if random.below(4) == 0 => bytes.truncate(at.max(1)),
            _ => {}
        }
    }
}

const CASES: &str = "DANLU_TEST_CASES";

/// Kilobytes, from `/proc/self/status`.
fn status(key: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Runs only as the child of the test below, which limits its memory.
#[test]
fn child_that_opens_damaged_files() {
    let Ok(cases) = std::env::var(CASES) else { return };
    let cases: usize = cases.parse().unwrap();
    let seed = std::env::var("DANLU_FUZZ_SEED").map_or(1, |seed| seed.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    // A quarter of a megabyte: what is nested must not take the stack with it.
    let thread = std::thread::Builder::new().stack_size(1 << 18);
    let run = thread.spawn(move || {
        for (name, whole, open) in containers(folder.path()) {
            let path = folder.path().join("damaged");
            fs::write(&path, &whole).unwrap();
            open(&path).unwrap();
            let mut random = Random(seed);
            let (mut opened, mut refused) = (0, 0);
            for case in 0..cases {
                let mut bytes = whole.clone();
                mutate(&mut bytes, &mut random);
                fs::write(&path, &bytes).unwrap();
                match catch_unwind(AssertUnwindSafe(|| open(&path))) {
                    Ok(Ok(())) => opened += 1,
                    Ok(Err(error)) => {
                        assert!(error.to_string().len() < 10_000, "{error}");
                        refused += 1;
                    }
                    Err(_) => {
                        let kept = std::env::temp_dir().join(format!("damaged-{case}"));
                        fs::copy(&path, &kept).unwrap();
                        panic!("{name}: case {case} of seed {seed} panics, see `{}`", kept.display());
                    }
                }
            }
            println!("{name}: {cases} damaged files, {refused} refused, {opened} opened");
        }
        println!("at most {} kB of memory", status("VmHWM:"));
    });
    run.unwrap().join().unwrap();
}

/// Runs a test of this file in a process that gets 200 MB, program and all: a length that a file states would not fit.
fn run_in_little_memory(test: &str, cases: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", "ulimit -v 200000 && exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(CASES, cases)
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn mutated_files_give_an_error_or_tensors() {
    let cases = std::env::var("DANLU_FUZZ_CASES").unwrap_or("300".to_string());
    let output = run_in_little_memory("damaged::child_that_opens_damaged_files", &cases);
    assert!(output.contains("llama2.c v2"), "{output}");
    println!("{output}");
}

#[test]
fn hostile_pickles_take_little_memory() {
    assert!(run_in_little_memory("damaged::hostile_pickles_end_in_an_error", "0").contains("1 passed"));
}

/// A file of the form before PyTorch 1.6 with this object and no data.
fn legacy(object: &[u8]) -> Vec<u8> {
    let mut bytes =
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    bytes.extend(object);
    bytes.extend(b"\x80\x02].");
    bytes
}

fn message(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.pth");
    fs::write(&path, bytes).unwrap();
    // Each error must come on a small stack.
    let thread = std::thread::Builder::new().stack_size(1 << 18);
    thread.spawn(move || open_pytorch(&path).unwrap_err().to_string()).unwrap().join().unwrap()
}

#[test]
fn hostile_pickles_end_in_an_error() {
    let text = |text: &str| [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let often = "its dictionaries refer to each other more often than dictionaries of tensors do";

    // Lists within lists, a hundred thousand deep; and one that holds itself.
    let deep = [vec![b']'; 100_000], vec![b'a'; 99_999], b".".to_vec()].concat();
    assert!(message(&legacy(&deep)).contains(often));
    assert!(message(&legacy(b"]q\x00h\x00a.")).contains(often));
    // Twenty dictionaries, each with ten times the one before.
    let mut bomb = b"}q\x00".to_vec();
    for _ in 0..20 {
        bomb.push(b'}');
        for key in 0..10 {
            bomb.extend([b'K', key, b'h', 0, b's']);
        }
        bomb.extend(b"q\x00");
    }
    bomb.push(b'.');
    assert!(message(&legacy(&bomb)).contains(often));
    // A long text under many names.
    let long = "x".repeat(100_000);
    let mut texts = [text(&long), b"q\x00}".to_vec()].concat();
    for key in 0..200 {
        texts.extend([b'K', key, b'h', 0, b's']);
    }
    texts.push(b'.');
    assert!(message(&legacy(&texts)).contains(often));
    // A list of pairs that is made into a dictionary again and again.
    let mut pairs = b"](".to_vec();
    pairs.extend([b'N', b'N', 0x86].repeat(10_000));
    pairs.extend(b"e\x85q\x00ccollections\nOrderedDict\nq\x01");
    pairs.extend([b'h', 1, b'h', 0, b'R'].repeat(10_000));
    pairs.push(b'.');
    assert!(message(&legacy(&pairs)).contains("far more than names and shapes of tensors take"));
    // Millions of opcodes.
    for opcode in [b'N', b')', b'}', b'('] {
        assert!(message(&legacy(&vec![opcode; 2_000_000])).contains("far more than names and shapes"));
    }
    assert!(
        message(&legacy(&[b"N".as_slice(), &[0x94; 2_000_000]].concat())).contains("far more than names")
    );
    // Lengths that are not there.
    for opcode in [&b"X"[..], b"T", b"B", b"\x8b", b"\x8d", b"\x8e", b"\x95"] {
        let cut = [opcode, &[0xff; 8]].concat();
        assert!(message(&legacy(&cut)).contains("it is cut short"), "{opcode:?}");
    }
    assert!(message(&legacy(b"h\x00.")).contains("recalls a value that it did not keep"));
    assert!(message(&legacy(b"i\n\n.")).contains("would run code"));
    assert!(message(&legacy(b"\x82\x00.")).contains("byte 0 of its pickle is the opcode 0x82"));
    for wrong in [&b"."[..], b"t.", b"a.", b"}s.", b"(\x85.", b"}(Nu.", b"NNb.", b"NQ.", b"NNR.", b"NN\x93."]
    {
        let error = message(&legacy(wrong));
        assert!(error.contains("is not a valid PyTorch file: its pickle"), "{error}");
    }
}

/// A dictionary with one tensor in storage `0` of six floats.
fn one_tensor(offset: i32, shape: [i32; 2], strides: [i32; 2], elements: i32) -> Vec<u8> {
    named_tensors(0, offset, shape, strides, elements)
}

/// The same with `more` names for the tensor.
fn named_tensors(more: u8, offset: i32, shape: [i32; 2], strides: [i32; 2], elements: i32) -> Vec<u8> {
    let int = |value: i32| [b"J".as_slice(), &value.to_le_bytes()].concat();
    let two = |values: [i32; 2]| [int(values[0]), int(values[1]), b"\x86".to_vec()].concat();
    let mut object =
        b"}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage".to_vec();
    object.extend(b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu");
    object.extend([int(elements), b"NtQ".to_vec(), int(offset), two(shape), two(strides)].concat());
    object.extend(b"\x89NtRq\x00s");
    for key in 0..more {
        object.extend([b'K', key, b'h', 0, b's']);
    }
    object.push(b'.');
    let mut file = legacy(&object);
    file.truncate(file.len() - 4);
    file.extend(b"\x80\x02]X\x01\x00\x00\x000a.");
    file.extend((elements as u64).to_le_bytes());
    file.extend([0; 24]);
    file
}

#[test]
fn tensors_outside_their_storage_end_in_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.pth");
    for (offset, shape, strides) in
        [(0, [2, 3], [3, 1]), (5, [1, 1], [i32::MAX, 7]), (0, [0, 9], [1, 1]), (0, [2, 2], [1, 2])]
    {
        fs::write(&path, one_tensor(offset, shape, strides, 6)).unwrap();
        open_pytorch(&path).unwrap();
    }
    for (offset, shape, strides) in [
        (1, [2, 3], [3, 1]),
        (0, [2, 3], [4, 1]),
        (0, [2, 3], [i32::MAX, i32::MAX]),
        (0, [i32::MAX, i32::MAX], [1, 1]),
        (i32::MAX, [1, 1], [1, 1]),
    ] {
        let error = message(&one_tensor(offset, shape, strides, 6));
        assert!(
            error.contains("tensor `a` of shape") && error.contains("goes beyond its storage `0`"),
            "{error}"
        );
    }
    assert!(message(&one_tensor(0, [100, 100], [0, 0], 6)).contains("repeats its elements"));
    assert!(message(&one_tensor(0, [1, -1], [1, 1], 6)).contains("that are no lists of counts"));
    assert!(message(&one_tensor(0, [1, 1], [1, 1], -1)).contains("an impossible length -1"));
    assert!(message(&one_tensor(0, [1, 1], [1, 1], 7)).contains("it was not copied completely"));
    assert!(message(&one_tensor(0, [1, 1], [1, 1], 5)).contains("4 bytes follow its last storage"));
    // Each name would be a copy of its own.
    open_bytes(&named_tensors(10, 0, [2, 2], [1, 2], 6)).unwrap();
    assert!(message(&named_tensors(200, 0, [2, 2], [1, 2], 6)).contains("repeats its elements"));
}

fn open_bytes(bytes: &[u8]) -> Result<(), Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.pth");
    fs::write(&path, bytes).unwrap();
    open_pytorch(&path)
}

#[test]
fn hostile_archives_end_in_an_error() {
    let whole = golden("written.pth");
    let all = |needle: &[u8]| -> Vec<usize> {
        (0..whole.len() - needle.len()).filter(|at| whole[*at..].starts_with(needle)).collect()
    };
    let changed = |places: &[usize], bytes: &[u8]| {
        let mut file = whole.clone();
        places.iter().for_each(|place| file[*place..place + bytes.len()].copy_from_slice(bytes));
        message(&file)
    };
    open_bytes(&whole).unwrap();
    // The name stands before the data and in the directory.
    let names = all(b"archive/data/3");
    assert!(changed(&names, b"archive/data/4").contains("it has two entries `archive/data/4`"));
    assert!(changed(&names, b"archive/data/x").contains("lies in storage `3`, which is not there"));
    let entry = names[1] - 46;
    assert!(changed(&[entry + 10], &[8]).contains("entry `archive/data/3` is compressed or encrypted"));
    assert!(changed(&[entry], &[0]).contains("of its directory is damaged"));
    // Behind the name: four bytes of field, size, stored size, place of the header.
    let field = names[1] + 14 + 4;
    let size = u64::from_le_bytes(whole[field..field + 8].try_into().unwrap());
    assert!(
        changed(&[field, field + 8], &(size - 1).to_le_bytes()).contains("needs storage `3` of 16 bytes")
    );
    assert!(changed(&[field, field + 8], &(size + 600).to_le_bytes()).contains("two of its entries overlap"));
    assert!(changed(&[field, field + 8], &u64::MAX.to_le_bytes()).contains("does not lie within it"));
    assert!(changed(&[field + 16], &u64::MAX.to_le_bytes()).contains("does not lie within it"));
    let other = all(b"archive/data/4")[1] + 14 + 4 + 16;
    assert!(changed(&[field + 16], &whole[other..other + 8]).contains("two of its entries overlap"));
    assert!(changed(&all(b"PK\x06\x06"), b"PK\x06\x05").contains("64-bit record of its directory"));
    assert!(
        changed(&all(b"archive/data.pkl"), b"archive/data.pkx").contains("no or several entries `data.pkl`")
    );
    for length in [30, whole.len() / 2, whole.len() - 1] {
        assert!(message(&whole[..length]).contains("it was not written or copied completely"));
    }
}
