//! The names that a pickle of tensors may use, and PyTorch's names of element types. Every other name is refused.

use crate::Dtype;
use crate::pickle::PickleError;

/// The names that a pickle may use, by what they mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildTensorV3,
    RebuildParameter,
    RebuildFromType,
    StorageType(Dtype),
    Dtype(Dtype),
    Size,
    TensorType,
    /// Its call gives something that nobody here asks for.
    Harmless,
}

/// PyTorch's name of an element type, and the storage class of the types that have one of their own.
const TORCH_TYPES: [(Dtype, &str, Option<&str>); 15] = [
    (Dtype::Bool, "bool", Some("BoolStorage")),
    (Dtype::U8, "uint8", Some("ByteStorage")),
    (Dtype::I8, "int8", Some("CharStorage")),
    (Dtype::F8E4M3, "float8_e4m3fn", None),
    (Dtype::F8E5M2, "float8_e5m2", None),
    (Dtype::U16, "uint16", None),
    (Dtype::I16, "int16", Some("ShortStorage")),
    (Dtype::F16, "float16", Some("HalfStorage")),
    (Dtype::Bf16, "bfloat16", Some("BFloat16Storage")),
    (Dtype::U32, "uint32", None),
    (Dtype::I32, "int32", Some("IntStorage")),
    (Dtype::F32, "float32", Some("FloatStorage")),
    (Dtype::U64, "uint64", None),
    (Dtype::I64, "int64", Some("LongStorage")),
    (Dtype::F64, "float64", Some("DoubleStorage")),
];

/// The names under which PyTorch pickles this type: `("float32", Some("FloatStorage"))`; `None` for block types.
pub(crate) fn torch_names(dtype: Dtype) -> Option<(&'static str, Option<&'static str>)> {
    TORCH_TYPES.iter().find(|row| row.0 == dtype).map(|row| (row.1, row.2))
}

/// The meaning of a name, or the refusal that says it.
pub(crate) fn global(module: &str, name: &str) -> Result<Global, PickleError> {
    let known = match (module, name) {
        ("collections", "OrderedDict") => Some(Global::OrderedDict),
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Some(Global::RebuildTensor),
        ("torch._utils", "_rebuild_tensor_v3") => Some(Global::RebuildTensorV3),
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            Some(Global::RebuildParameter)
        }
        ("torch._tensor", "_rebuild_from_type_v2") => Some(Global::RebuildFromType),
        ("torch", "Tensor") | ("torch.nn.parameter", "Parameter" | "Buffer") => Some(Global::TensorType),
        ("torch", "Size") => Some(Global::Size),
        // As `torch.storage.UntypedStorage` in the form that carries the type beside it.
        ("torch" | "torch.storage", "UntypedStorage") => Some(Global::StorageType(Dtype::U8)),
        ("torch", "device")
        | ("_codecs", "encode")
        | ("__builtin__" | "builtins", "set" | "frozenset" | "bytearray" | "complex") => {
            Some(Global::Harmless)
        }
        ("torch" | "torch.cuda", _) => TORCH_TYPES.iter().find_map(|row| match row {
            (dtype, _, Some(storage)) if *storage == name => Some(Global::StorageType(*dtype)),
            (dtype, plain, _) if module == "torch" && *plain == name => Some(Global::Dtype(*dtype)),
            _ => None,
        }),
        _ => None,
    };
    if let Some(known) = known {
        return Ok(known);
    }
    let module = if module == "__builtin__" { "builtins" } else { module };
    let prefixes = ["complex", "float", "uint", "int", "quint", "qint", "bits"];
    let is_type = (module == "torch" || module == "torch.cuda")
        && (name.ends_with("Storage") || prefixes.iter().any(|prefix| name.starts_with(prefix)));
    Err(PickleError::Unsupported(if is_type {
        format!("it holds tensors of type `{module}.{name}`, which danlu does not know; convert them first")
    } else {
        format!(
            "its pickle refers to `{module}.{name}`: loading it would run code from the file, and danlu runs none; \
             save the tensors alone, with `torch.save(model.state_dict(), path)` or as safetensors"
        )
    }))
}
