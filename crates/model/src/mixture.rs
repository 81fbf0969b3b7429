//! Which type each tensor of a quantized GGUF file gets: llama.cpp's choices (`llama-quant.cpp`) for dense models.

use danlu_kernels::blocks::BlockType;

use crate::names::{Part, Role, TensorSpec};
use crate::{Config, Error, Result};

/// How the matrices of a GGUF file are stored, under the names that llama.cpp's quantizer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mixture {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point.
    F16,
    /// 16-bit floating point with the range of 32.
    Bf16,
    /// 8 bits.
    Q8_0,
    /// 4 bits.
    Q4_0,
    /// 4 bits and a minimum.
    Q4_1,
    /// 5 bits.
    Q5_0,
    /// 5 bits and a minimum.
    Q5_1,
    /// 3 bits; more for values, outputs and the ends of the feed-forward.
    Q3KM,
    /// 4 bits; 5 for the first layers' values and feed-forward.
    Q4KS,
    /// 4 bits; 6 for half of the values and of the feed-forward.
    Q4KM,
    /// 5 bits; 6 for half of the values and of the feed-forward.
    Q5KM,
    /// 6 bits.
    Q6K,
}

impl Mixture {
    /// All of them, with their names and numbers (`general.file_type`) and the type of most matrices.
    const TABLE: [(Self, &'static str, u32, BlockType); 13] = [
        (Self::F32, "f32", 0, BlockType::F32),
        (Self::F16, "f16", 1, BlockType::F16),
        (Self::Bf16, "bf16", 32, BlockType::Bf16),
        (Self::Q8_0, "q8_0", 7, BlockType::Q8_0),
        (Self::Q4_0, "q4_0", 2, BlockType::Q4_0),
        (Self::Q4_1, "q4_1", 3, BlockType::Q4_1),
        (Self::Q5_0, "q5_0", 8, BlockType::Q5_0),
        (Self::Q5_1, "q5_1", 9, BlockType::Q5_1),
        (Self::Q3KM, "q3_k_m", 12, BlockType::Q3K),
        (Self::Q4KS, "q4_k_s", 14, BlockType::Q4K),
        (Self::Q4KM, "q4_k_m", 15, BlockType::Q4K),
        (Self::Q5KM, "q5_k_m", 17, BlockType::Q5K),
        (Self::Q6K, "q6_k", 18, BlockType::Q6K),
    ];

    fn row(self) -> (&'static str, u32, BlockType) {
        let (_, name, number, kind) = Self::TABLE[self as usize];
        (name, number, kind)
    }

    /// The names of all.
    pub fn names() -> [&'static str; 13] {
        Self::TABLE.map(|row| row.1)
    }

    /// The one of this name, in capitals or not.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.1.eq_ignore_ascii_case(name)).map(|row| row.0)
    }

    /// `q4_k_m`.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// `general.file_type`.
    pub(crate) fn file_type(self) -> u32 {
        self.row().1
    }

    /// The type that most matrices have.
    pub(crate) fn base(self) -> BlockType {
        self.row().2
    }

    /// The type of one tensor: vectors f32, rows that are no whole blocks of the wanted type another.
    pub(crate) fn kind(self, config: &Config, spec: &TensorSpec, has_importance: bool) -> BlockType {
        use BlockType::{F16, F32, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        if spec.kind.is_vector() {
            return F32;
        }
        let base = self.base();
        if base.block_elements() == 1 {
            return base;
        }
        let layers = config.num_hidden_layers;
        let is_output = match spec.role {
            Role::Head => true,
            Role::Embedding => config.tie_word_embeddings,
            _ => false,
        };
        let has_more =
            |layer: usize| layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
        let width = spec.width();
        let wanted = match spec.role {
            _ if is_output && !width.is_multiple_of(base.block_elements()) => Q8_0,
            _ if is_output && base != Q8_0 => Q6K,
            Role::Block(layer, Part::Value) => {
                let kind = match self {
                    Self::Q3KM if layer < 2 => Q5K,
                    Self::Q3KM => Q4K,
                    Self::Q4KM | Self::Q5KM if has_more(layer) => Q6K,
                    Self::Q4KS if layer < 4 => Q5K,
                    _ => base,
                };
                // A 70B model shares values among eight heads, so that more bits cost little.
                if layers == LAYERS_OF_70B && matches!(kind, Q3K | Q4K) { Q5K } else { kind }
            }
            Role::Block(layer, Part::Down) => match self {
                Self::Q3KM if layer < layers / 16 => Q5K,
                Self::Q3KM => Q4K,
                Self::Q4KM | Self::Q5KM if has_more(layer) => Q6K,
                Self::Q4KS if layer < layers / 8 => Q5K,
                Self::Q4_0 if has_importance && layer < layers / 8 => Q4_1,
                Self::Q5_0 if has_importance && layer < layers / 8 => Q5_1,
                _ => base,
            },
            Role::Block(_, Part::Output) if self == Self::Q3KM => Q4K,
            _ => base,
        };
        if width.is_multiple_of(wanted.block_elements()) {
            return wanted;
        }
        let fallback = match wanted {
            Q3K => Q4_0,
            Q4K => Q5_0,
            Q5K => Q5_1,
            Q6K => Q8_0,
            other => other,
        };
        if width.is_multiple_of(fallback.block_elements()) { fallback } else { F16 }
    }

    /// The one whose matrices are all of this plain type.
    pub(crate) fn plain(kind: BlockType) -> Option<Self> {
        [Self::F32, Self::F16, Self::Bf16].into_iter().find(|mixture| mixture.base() == kind)
    }

    /// One of the plain ones.
    ///
    /// # Errors
    /// A quantized one.
    pub(crate) fn as_plain(self) -> Result<BlockType> {
        let kind = self.base();
        if kind.block_elements() == 1 {
            return Ok(kind);
        }
        let name = self.name();
        Err(Error::Message(format!("`{name}` is for GGUF files; others hold f32, f16 or bf16")))
    }
}

const LAYERS_OF_70B: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names;

    fn mix(config: &Config, mixture: Mixture) -> Vec<(BlockType, usize)> {
        let mut counts: Vec<(BlockType, usize)> = Vec::new();
        for spec in names::tensors(config) {
            let kind = mixture.kind(config, &spec, false);
            match counts.iter_mut().find(|(other, _)| *other == kind) {
                Some((_, count)) => *count += 1,
                None => counts.push((kind, 1)),
            }
        }
        counts
    }

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (index, row) in Mixture::TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, index);
            assert_eq!(Mixture::of_name(&row.1.to_uppercase()), Some(row.0));
        }
    }

    /// As llama.cpp prints them for Llama-2-7B and Llama-3-8B.
    #[test]
    fn published_models_get_the_published_mixtures() {
        use BlockType::{F32, Q3K, Q4K, Q5K, Q6K};
        let count = |name: &str, mixture, kind| {
            let counts = mix(&Config::preset(name).unwrap_or_default(), mixture);
            counts.iter().find(|(other, _)| *other == kind).map_or(0, |(_, count)| *count)
        };
        for (mixture, expected) in [
            (Mixture::Q4KM, [(F32, 65), (Q4K, 193), (Q6K, 33)]),
            (Mixture::Q5KM, [(F32, 65), (Q5K, 193), (Q6K, 33)]),
            (Mixture::Q4KS, [(F32, 65), (Q5K, 8), (Q6K, 1)]),
            (Mixture::Q3KM, [(Q3K, 129), (Q4K, 92), (Q5K, 4)]),
        ] {
            for (kind, number) in expected {
                assert_eq!(count("llama2-7b", mixture, kind), number, "{mixture:?} {kind:?}");
                assert_eq!(count("llama3-8b", mixture, kind), number, "{mixture:?} {kind:?}");
            }
        }
    }

    #[test]
    fn rows_that_are_no_whole_blocks_fall_back() {
        use BlockType::{Q4_0, Q4K, Q5_0, Q6K, Q8_0};
        let config = Config::preset("smollm2-135m").unwrap_or_default();
        let kinds =
            |mixture| -> Vec<BlockType> { mix(&config, mixture).into_iter().map(|(kind, _)| kind).collect() };
        // Rows of 576 but those of the feed-forward's end, of 1536.
        assert!(kinds(Mixture::Q4KM).contains(&Q5_0) && kinds(Mixture::Q4KM).contains(&Q6K));
        assert!(kinds(Mixture::Q4KM).contains(&Q4K) && kinds(Mixture::Q4KM).contains(&Q8_0));
        assert!(kinds(Mixture::Q3KM).contains(&Q4_0));
    }
}
