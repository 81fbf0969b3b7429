//! The memory that answers take while they grow: keys and values of every token, in each of the model's blocks.

use anyhow::Result;
use danlu_model::Model;
use danlu_train::machine;

use crate::failure::wrong_input;
use crate::printer::Printer;

/// How many of `prompts` are answered at once: as many as are wanted, or as have room in the machine's free memory. Says what
/// they take.
///
/// # Errors
/// No room for one.
pub fn at_once(
    model: &Model,
    prompts: &[Vec<u32>],
    max_new_tokens: usize,
    wanted: usize,
    printer: &Printer,
) -> Result<usize> {
    let Some(longest) = prompts.iter().map(Vec::len).max() else { return Ok(wanted) };
    let tokens = longest.saturating_add(max_new_tokens).min(model.config().context_length());
    let each = model.config().key_value_bytes(tokens);
    let wanted = wanted.min(prompts.len());
    let free = machine::available_memory();
    let number = free.map_or(wanted, |free| fitting(wanted, each, free));
    let megabytes = |bytes: u64| bytes.div_ceil(1 << 20);
    match (number, free) {
        (0, Some(free)) => Err(wrong_input(format!(
            "keys and values of {tokens} tokens take {} MB, and {} MB of memory are free: lower `--max-new-tokens`, or leave \
             out the longest prompts",
            megabytes(each),
            megabytes(free),
        ))),
        _ => {
            let fewer =
                if number < wanted { format!(" of {wanted}, for want of memory") } else { String::new() };
            printer.note(format_args!(
                "{number} at once{fewer} · keys and values of up to {tokens} tokens each take up to {} MB",
                megabytes(each.saturating_mul(number as u64)),
            ));
            Ok(number)
        }
    }
}

/// How many of `wanted` fit, each of so many bytes.
fn fitting(wanted: usize, each: u64, free: u64) -> usize {
    free.checked_div(each)
        .and_then(|fitting| usize::try_from(fitting).ok())
        .map_or(wanted, |fitting| fitting.min(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_answered_at_once_as_fit() {
        assert_eq!(fitting(8, 1000, 8000), 8);
        assert_eq!(fitting(8, 1000, 7999), 7);
        assert_eq!(fitting(8, 1000, 999), 0);
        assert_eq!(fitting(8, 0, 0), 8);
    }
}
