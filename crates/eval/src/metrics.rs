//! How near texts are to reference texts: BLEU, ROUGE, chrF, exact match and the similarity of strings.
//!
//! Each function gives what a package of Python gives that papers report, and says which; recorded cases compare them. Nothing is
//! generated here, and no score is changed to be more sensible than the one it is named after.

pub mod bleu;
pub mod chrf;
pub mod python;
pub mod rouge;
pub mod similarity;
pub mod words;

/// Whether two texts are the same but for whitespace around them.
#[must_use]
pub fn exact_match(reference: &str, hypothesis: &str) -> bool {
    python::trim(reference) == python::trim(hypothesis)
}
