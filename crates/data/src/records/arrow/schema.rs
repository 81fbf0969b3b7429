//! The schema of an Arrow file: names and types of its columns. Types that are not read are refused by name; it reads no
//! values.

use super::flatbuffer::{Checked, Table, damaged};

/// Schemas are trees, walked by recursion.
const DEEPEST: usize = 64;
/// A damaged schema may name the same fields again and again.
pub(super) const MOST_FIELDS: usize = 10_000;

/// A column, or what is nested in one.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) children: Vec<Field>,
    /// Number of the dictionary that its values stand in, and the kind of the index.
    pub(super) dictionary: Option<(i64, Kind)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Null,
    Truth,
    Integer {
        bytes: usize,
        is_signed: bool,
    },
    Float {
        bytes: usize,
    },
    /// Offsets of so many bytes.
    Bytes {
        offset: usize,
    },
    FixedBytes {
        bytes: usize,
    },
    Decimal {
        bytes: usize,
        scale: i32,
    },
    /// So many bytes, nanoseconds in a unit.
    Time {
        bytes: usize,
        nanoseconds: i128,
    },
    Days,
    List {
        offset: usize,
    },
    FixedList {
        items: usize,
    },
    Struct,
    Map,
}

impl Field {
    pub(super) fn new(field: &Table<'_>, depth: usize, left: &mut usize) -> Checked<Self> {
        let name = field.text(0)?;
        if depth == DEEPEST || *left == 0 {
            return Err("it has too many fields, or they are nested too deep".to_owned());
        }
        *left -= 1;
        let children = field.tables(5)?;
        let children: Vec<Self> =
            children.iter().map(|child| Self::new(child, depth + 1, left)).collect::<Checked<_>>()?;
        let kind = Kind::new(field, &name)?;
        let expected = match kind {
            Kind::List { .. } | Kind::FixedList { .. } | Kind::Map => Some(1),
            Kind::Struct => None,
            _ => Some(0),
        };
        let has_pairs = kind != Kind::Map || children.first().is_some_and(|pair| pair.children.len() == 2);
        if expected.is_some_and(|expected| children.len() != expected) || !has_pairs {
            return Err(damaged());
        }
        let dictionary = match field.table(4)? {
            None => None,
            Some(dictionary) => {
                let index = dictionary.table(1)?;
                let index = index
                    .map_or(Ok(Kind::Integer { bytes: 4, is_signed: true }), |index| Kind::integer(&index));
                Some((dictionary.long(0)?, index?))
            }
        };
        Ok(Self { name, kind, children, dictionary })
    }

    /// The field whose values stand in a dictionary.
    pub(super) fn of_dictionary(&self, id: i64) -> Option<Self> {
        match &self.dictionary {
            Some((own, _)) if *own == id => Some(self.clone()),
            _ => self.children.iter().find_map(|child| child.of_dictionary(id)),
        }
    }

    /// The field of the values in its dictionary.
    pub(super) fn values(&self) -> Self {
        Self { dictionary: None, ..self.clone() }
    }
}

impl Kind {
    pub(super) fn new(field: &Table<'_>, name: &str) -> Checked<Self> {
        let of = field.table(3)?.ok_or_else(damaged)?;
        Ok(match field.byte(2)? {
            1 => Self::Null,
            2 => Self::integer(&of)?,
            3 => Self::Float { bytes: 2 << of.short(0)?.clamp(0, 2) },
            4 | 5 => Self::Bytes { offset: 4 },
            19 | 20 => Self::Bytes { offset: 8 },
            6 => Self::Truth,
            7 => {
                let bits = of.place(2)?.map_or(Ok(128), |_| of.int(2))?;
                if bits != 128 {
                    return Err(format!("field `{name}` has decimals of {bits} bits, which are not read"));
                }
                Self::Decimal { bytes: 16, scale: of.int(1)? }
            }
            8 if of.place(0)?.is_some() && of.short(0)? == 0 => Self::Days,
            8 => Self::Time { bytes: 8, nanoseconds: 1_000_000 },
            10 => Self::Time {
                bytes: 8,
                nanoseconds: 1_000_000_000 / 1000_i128.pow(of.short(0)?.clamp(0, 3) as u32),
            },
            12 => Self::List { offset: 4 },
            21 => Self::List { offset: 8 },
            13 => Self::Struct,
            15 => Self::FixedBytes { bytes: usize::try_from(of.int(0)?).map_err(|_| damaged())? },
            16 => Self::FixedList { items: usize::try_from(of.int(0)?).map_err(|_| damaged())? },
            17 => Self::Map,
            kind => {
                return Err(format!(
                    "field `{name}` is of Arrow's type {kind}, which is not read; write Parquet"
                ));
            }
        })
    }

    pub(super) fn integer(of: &Table<'_>) -> Checked<Self> {
        match of.int(0)? {
            bits @ (8 | 16 | 32 | 64) => {
                Ok(Self::Integer { bytes: bits as usize / 8, is_signed: of.byte(1)? != 0 })
            }
            _ => Err(damaged()),
        }
    }
}
