//! Python pickles, as far as `torch.save` uses them for dictionaries of tensors.
//!
//! A pickle is a program for a small stack machine, which may import and call anything. Here nothing is imported and
//! nothing is called: a few names are known by what they mean for tensors, every other name is an error that says it.
//! Objects lie in one arena and refer to each other by number, so that neither depth nor repetition in a hostile file
//! costs more than the file's own opcodes. Opcodes: CPython's `Lib/pickletools.py`.

use std::collections::HashMap;
use std::path::Path;

use crate::pickle_globals::{Global, global};
use crate::{Dtype, Error};

/// More than the weights of any model have.
const MAX_DIMENSIONS: usize = 8;

/// One value; what has parts lies in the arena.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    /// Something harmless that nobody here asks for: bytes, sets, devices, huge integers.
    Opaque,
    Global(Global),
    Object(u32),
}

#[derive(Debug)]
pub(crate) enum Object<'a> {
    Tuple(Vec<Value<'a>>),
    List(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    Storage(Storage<'a>),
    Tensor(Box<TensorView<'a>>),
}

/// A block of elements that lies elsewhere in the file, under `key`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Storage<'a> {
    pub key: &'a str,
    pub dtype: Dtype,
    /// Number of elements of `dtype`.
    pub elements: usize,
    /// `elements` in bytes.
    pub bytes: usize,
}

/// A tensor: a part of a storage. Offset and strides count elements of `dtype`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TensorView<'a> {
    pub storage: Storage<'a>,
    pub dtype: Dtype,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// Why a pickle was not read.
#[derive(Debug)]
pub(crate) enum PickleError {
    Invalid(String),
    Unsupported(String),
}

impl PickleError {
    pub fn in_file(self, path: &Path) -> Error {
        let path = path.to_path_buf();
        match self {
            Self::Invalid(reason) => Error::Invalid { path, format: "PyTorch", reason },
            Self::Unsupported(reason) => Error::Unsupported { path, reason },
        }
    }
}

type Result<T, E = PickleError> = std::result::Result<T, E>;

/// A pickle that was read.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    pub root: Value<'a>,
    pub objects: Vec<Object<'a>>,
    /// Bytes from the first opcode to the last one.
    pub length: usize,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle at the start of `bytes`; what follows its last opcode is not looked at.
    ///
    /// Each opcode takes at most some 100 bytes of memory, so `max_opcodes` bounds what a hostile file can take.
    pub fn read(bytes: &'a [u8], max_opcodes: usize) -> Result<Self> {
        let mut machine = Machine {
            bytes,
            position: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            objects: Vec::new(),
            left: max_opcodes,
        };
        loop {
            machine.spend(1)?;
            let [opcode] = machine.take_array()?;
            if opcode == b'.' {
                let root = machine.pop()?;
                return Ok(Self { root, objects: machine.objects, length: machine.position });
            }
            machine.step(opcode)?;
        }
    }

    pub fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        match value {
            Value::Object(index) => self.objects.get(index as usize),
            _ => None,
        }
    }

    pub fn dict(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        match self.object(value) {
            Some(Object::Dict(entries)) => Some(entries),
            _ => None,
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    position: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack at its open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    objects: Vec<Object<'a>>,
    /// Opcodes that it may still have.
    left: usize,
}

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            // PROTO and FRAME: nothing to do with the version and the length of a chunk.
            0x80 => self.take(1).map(|_| ()),
            0x95 => self.take(8).map(|_| ()),
            // MARK.
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            // NONE, NEWTRUE, NEWFALSE.
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            // BININT, BININT1, BININT2, LONG1, LONG4, BINFLOAT.
            b'J' => {
                let value = i32::from_le_bytes(self.take_array()?);
                self.push(Value::Int(value.into()))
            }
            b'K' => {
                let [value] = self.take_array()?;
                self.push(Value::Int(value.into()))
            }
            b'M' => {
                let value = u16::from_le_bytes(self.take_array()?);
                self.push(Value::Int(value.into()))
            }
            0x8a => {
                let length = self.take_u8()?;
                self.long(length)
            }
            0x8b => {
                let length = self.take_u32()?;
                self.long(length)
            }
            b'G' => {
                let value = f64::from_be_bytes(self.take_array()?);
                self.push(Value::Float(value))
            }
            // SHORT_BINUNICODE, SHORT_BINSTRING, BINUNICODE, BINSTRING, BINUNICODE8.
            0x8c | b'U' => {
                let length = self.take_u8()?;
                self.text(length, opcode == 0x8c)
            }
            b'X' | b'T' => {
                let length = self.take_u32()?;
                self.text(length, opcode == b'X')
            }
            0x8d => {
                let length = self.take_u64()?;
                self.text(length, true)
            }
            // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8.
            b'C' => {
                let length = self.take_u8()?;
                self.skipped(length)
            }
            b'B' => {
                let length = self.take_u32()?;
                self.skipped(length)
            }
            0x8e | 0x96 => {
                let length = self.take_u64()?;
                self.skipped(length)
            }
            // EMPTY_TUPLE, TUPLE1 to TUPLE3, TUPLE.
            b')' => self.push_object(Object::Tuple(Vec::new())),
            0x85..=0x87 => {
                let start = self.floor_for(usize::from(opcode - 0x84))?;
                let items = self.stack.split_off(start);
                self.push_object(Object::Tuple(items))
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.push_object(Object::Tuple(items))
            }
            // EMPTY_LIST, APPEND, APPENDS.
            b']' => self.push_object(Object::List(Vec::new())),
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)
            }
            // EMPTY_DICT, SETITEM, SETITEMS.
            b'}' => self.push_object(Object::Dict(Vec::new())),
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(vec![key, value])
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(items)
            }
            // EMPTY_SET, ADDITEMS, FROZENSET.
            0x8f => self.push(Value::Opaque),
            0x90 => self.pop_to_mark().map(|_| ()),
            0x91 => {
                self.pop_to_mark()?;
                self.push(Value::Opaque)
            }
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET.
            b'q' => {
                let index = self.take_u8()?;
                self.memoize(index as u32)
            }
            b'r' => {
                let index = u32::from_le_bytes(self.take_array()?);
                self.memoize(index)
            }
            0x94 => self.memoize(self.memo.len() as u32),
            b'h' => {
                let index = self.take_u8()?;
                self.recall(index as u32)
            }
            b'j' => {
                let index = u32::from_le_bytes(self.take_array()?);
                self.recall(index)
            }
            // GLOBAL, STACK_GLOBAL, INST.
            b'c' => {
                let (module, name) = (self.take_line()?, self.take_line()?);
                self.push(Value::Global(global(module, name)?))
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.push(Value::Global(global(module, name)?)),
                _ => self.invalid("names a function by something else than two texts"),
            },
            b'i' => {
                let (module, name) = (self.take_line()?, self.take_line()?);
                global(module, name)?;
                self.unknown(opcode)
            }
            // REDUCE, NEWOBJ.
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let function = self.pop()?;
                self.call(function, arguments)
            }
            // BUILD sets attributes, such as the `_metadata` of a state dict.
            b'b' => {
                self.pop()?;
                match self.top_object()? {
                    Object::Dict(_) | Object::Tensor(_) => Ok(()),
                    _ => self.invalid("sets the attributes of something that has none"),
                }
            }
            // BINPERSID.
            b'Q' => {
                let identity = self.pop()?;
                let storage = self.storage(identity)?;
                self.push_object(Object::Storage(storage))
            }
            _ => self.unknown(opcode),
        }
    }

    fn spend(&mut self, opcodes: usize) -> Result<()> {
        match self.left.checked_sub(opcodes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(PickleError::Unsupported(format!(
                "the pickle of `torch.save` is still not at its end before byte {}, which is far more than names and \
                 shapes of tensors take; save them alone, with `torch.save(model.state_dict(), path)`",
                self.position
            ))),
        }
    }

    fn invalid<T>(&self, what: &str) -> Result<T> {
        Err(PickleError::Invalid(format!("its pickle {what} (before byte {})", self.position)))
    }

    fn unknown(&self, opcode: u8) -> Result<()> {
        let position = self.position - 1;
        Err(PickleError::Unsupported(format!(
            "byte {position} of its pickle is the opcode 0x{opcode:02x}, which files of tensors do not need"
        )))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        match self.bytes[self.position..].get(..length) {
            Some(taken) => {
                self.position += length;
                Ok(taken)
            }
            None => {
                let left = self.bytes.len() - self.position;
                self.invalid(&format!("needs {length} more bytes, but only {left} follow; it is cut short"))
            }
        }
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn take_u8(&mut self) -> Result<usize> {
        let [byte] = self.take_array()?;
        Ok(byte.into())
    }

    fn take_u32(&mut self) -> Result<usize> {
        Ok(u32::from_le_bytes(self.take_array()?) as usize)
    }

    fn take_u64(&mut self) -> Result<usize> {
        // What does not fit is longer than any file.
        Ok(usize::try_from(u64::from_le_bytes(self.take_array()?)).unwrap_or(usize::MAX))
    }

    fn take_line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.position..];
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            return self.invalid("ends within the name of a function");
        };
        self.position += length + 1;
        match std::str::from_utf8(&rest[..length]) {
            Ok(line) => Ok(line),
            Err(_) => self.invalid("names a function in something else than UTF-8"),
        }
    }

    /// A text; Python 2 wrote bytes too as one, which need not be UTF-8.
    fn text(&mut self, length: usize, must_be_utf8: bool) -> Result<()> {
        match std::str::from_utf8(self.take(length)?) {
            Ok(text) => self.push(Value::Text(text)),
            Err(_) if must_be_utf8 => self.invalid("has a text that is not UTF-8"),
            Err(_) => self.push(Value::Opaque),
        }
    }

    fn skipped(&mut self, length: usize) -> Result<()> {
        self.take(length)?;
        self.push(Value::Opaque)
    }

    /// A little-endian integer in two's complement.
    fn long(&mut self, length: usize) -> Result<()> {
        let bytes = self.take(length)?;
        if bytes.len() > 8 {
            return self.push(Value::Opaque);
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut extended = [if negative { 0xff } else { 0 }; 8];
        extended[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(extended)))
    }

    fn push(&mut self, value: Value<'a>) -> Result<()> {
        self.stack.push(value);
        Ok(())
    }

    fn push_object(&mut self, object: Object<'a>) -> Result<()> {
        let Ok(index) = u32::try_from(self.objects.len()) else {
            return self.invalid("has too many parts");
        };
        self.objects.push(object);
        self.push(Value::Object(index))
    }

    /// Height of the stack below its last `count` values, which must lie above the last mark.
    fn floor_for(&self, count: usize) -> Result<usize> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= floor => Ok(start),
            _ => self.invalid("takes more values than it has put down"),
        }
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        let index = self.floor_for(1)?;
        let value = self.stack[index];
        self.stack.truncate(index);
        Ok(value)
    }

    fn top(&self) -> Result<Value<'a>> {
        Ok(self.stack[self.floor_for(1)?])
    }

    fn top_object(&mut self) -> Result<&mut Object<'a>> {
        if let Value::Object(index) = self.top()?
            && (index as usize) < self.objects.len()
        {
            return Ok(&mut self.objects[index as usize]);
        }
        self.invalid("adds to a value that has no parts")
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => self.invalid("closes a mark that it did not open"),
        }
    }

    fn memoize(&mut self, index: u32) -> Result<()> {
        let value = self.top()?;
        self.memo.insert(index, value);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<()> {
        match self.memo.get(&index) {
            Some(value) => self.push(*value),
            None => self.invalid("recalls a value that it did not keep"),
        }
    }

    fn append(&mut self, items: Vec<Value<'a>>) -> Result<()> {
        if self.top()? == Value::Opaque {
            return Ok(());
        }
        match self.top_object()? {
            Object::List(list) => {
                list.extend(items);
                Ok(())
            }
            _ => self.invalid("appends to something else than a list"),
        }
    }

    fn set_items(&mut self, items: Vec<Value<'a>>) -> Result<()> {
        let (pairs, []) = items.as_chunks::<2>() else {
            return self.invalid("has a dictionary key without a value");
        };
        match self.top_object()? {
            Object::Dict(entries) => {
                entries.extend(pairs.iter().map(|[key, value]| (*key, *value)));
                Ok(())
            }
            _ => self.invalid("sets items of something else than a dictionary"),
        }
    }

    fn sequence(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match value {
            Value::Object(index) => match self.objects.get(index as usize) {
                Some(Object::Tuple(items) | Object::List(items)) => Some(items),
                _ => None,
            },
            _ => None,
        }
    }

    /// What the call of a known name gives, without calling anything.
    fn call(&mut self, function: Value<'a>, arguments: Value<'a>) -> Result<()> {
        let Some(arguments) = self.sequence(arguments) else {
            return self.invalid("calls a function without a list of arguments");
        };
        match (function, arguments) {
            (Value::Global(Global::Harmless), _) => self.push(Value::Opaque),
            (Value::Global(Global::OrderedDict), []) => self.push_object(Object::Dict(Vec::new())),
            // Python 2 gives the entries to the constructor.
            (Value::Global(Global::OrderedDict), &[entries]) => {
                let pairs = self.sequence(entries).and_then(|entries| {
                    let pair = |entry: &Value<'a>| match self.sequence(*entry) {
                        Some(&[key, value]) => Some((key, value)),
                        _ => None,
                    };
                    entries.iter().map(pair).collect::<Option<Vec<_>>>()
                });
                match pairs {
                    Some(pairs) => {
                        // The list could be given again and again.
                        self.spend(pairs.len())?;
                        self.push_object(Object::Dict(pairs))
                    }
                    None => self.invalid("makes a dictionary of something else than pairs"),
                }
            }
            (Value::Global(Global::Size), []) => self.push_object(Object::Tuple(Vec::new())),
            (Value::Global(Global::Size), &[size]) => self.push(size),
            (Value::Global(Global::RebuildTensor), &[storage, offset, shape, strides, ..]) => {
                let tensor = self.tensor(storage, offset, shape, strides, None)?;
                self.push_object(Object::Tensor(Box::new(tensor)))
            }
            (
                Value::Global(Global::RebuildTensorV3),
                &[storage, offset, shape, strides, _, _, Value::Global(Global::Dtype(dtype)), ..],
            ) => {
                let tensor = self.tensor(storage, offset, shape, strides, Some(dtype))?;
                self.push_object(Object::Tensor(Box::new(tensor)))
            }
            (Value::Global(Global::RebuildParameter), &[data, ..]) => self.push(data),
            // A tensor with attributes: the function that makes the tensor, its class, arguments, attributes.
            (
                Value::Global(Global::RebuildFromType),
                &[inner @ Value::Global(rebuild), Value::Global(Global::TensorType), inner_arguments, ..],
            ) if rebuild != Global::RebuildFromType => self.call(inner, inner_arguments),
            _ => self.invalid("calls a function with other arguments than PyTorch writes"),
        }
    }

    /// `("storage", type, key, device, elements)`, before PyTorch 1.6 with a sixth item.
    fn storage(&self, identity: Value<'a>) -> Result<Storage<'a>> {
        let (dtype, key, elements, view) = match self.sequence(identity) {
            Some(
                &[
                    Value::Text("storage"),
                    Value::Global(Global::StorageType(dtype)),
                    Value::Text(key),
                    _,
                    Value::Int(elements),
                    ref view @ ..,
                ],
            ) => (dtype, key, elements, view),
            _ => return self.invalid("refers to data in another form than PyTorch writes"),
        };
        if !matches!(view, [] | [Value::None]) {
            return Err(PickleError::Unsupported(format!(
                "storage `{key}` is a view of another one, as only PyTorch before 0.4 wrote; \
                 load it there or later and save it again"
            )));
        }
        let size = usize::try_from(elements).ok().and_then(|elements| {
            let bytes = dtype.bytes_for(elements)?;
            Some((elements, bytes))
        });
        match size {
            Some((elements, bytes)) => Ok(Storage { key, dtype, elements, bytes }),
            None => self.invalid(&format!("gives storage `{key}` an impossible length {elements}")),
        }
    }

    fn tensor(
        &self,
        storage: Value<'a>,
        offset: Value<'a>,
        shape: Value<'a>,
        strides: Value<'a>,
        dtype: Option<Dtype>,
    ) -> Result<TensorView<'a>> {
        let storage = match storage {
            Value::Object(index) => match self.objects.get(index as usize) {
                Some(Object::Storage(storage)) => *storage,
                _ => return self.invalid("makes a tensor of something else than a storage"),
            },
            _ => return self.invalid("makes a tensor of something else than a storage"),
        };
        let number = |value: &Value<'a>| match value {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        };
        let numbers = |value: Value<'a>| -> Option<Vec<usize>> {
            let items = self.sequence(value).filter(|items| items.len() <= MAX_DIMENSIONS)?;
            items.iter().map(number).collect()
        };
        match (number(&offset), numbers(shape), numbers(strides)) {
            (Some(offset), Some(shape), Some(strides)) if shape.len() == strides.len() => {
                let dtype = dtype.unwrap_or(storage.dtype);
                Ok(TensorView { storage, dtype, offset, shape, strides })
            }
            _ => self.invalid("gives a tensor a shape or strides that are no lists of counts"),
        }
    }
}
