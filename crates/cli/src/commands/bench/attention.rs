//! `danlu bench attention`: forward and backward by the lengths of the sequences that are packed together.

use anyhow::Result;
use danlu_kernels::attention::{Distance, Heads, Sequence, attention, attention_backward};
use danlu_kernels::random::Random;
use danlu_kernels::{Buffer, Precision, Value, bf16, ceiling, cpu};
use serde_json::json;

use super::{Arithmetic, median_seconds};
use crate::failure::wrong_input;
use crate::printer::Printer;

/// The same number of tokens in long and in short sequences, and a long context.
const PACKINGS: &str = "1x512,8x64,1x4096,8x512";

/// Which sequences.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Sequences x tokens of each, packed together, separated by commas
    ///
    /// zh: 打包在一起的 序列数x每条词元数，以逗号分隔
    #[arg(long, value_name = "NxT", default_value = PACKINGS, value_delimiter = ',')]
    packings: Vec<String>,
    /// Attention heads
    ///
    /// zh: 注意力头数
    #[arg(long, default_value_t = 8)]
    heads: usize,
    /// Key/value heads
    ///
    /// zh: 键值头数
    #[arg(long, default_value_t = 8)]
    kv_heads: usize,
    /// Width of a head
    ///
    /// zh: 每个头的宽度
    #[arg(long, default_value_t = 64)]
    head_dim: usize,
    /// Arithmetic
    ///
    /// zh: 运算精度
    #[arg(long, value_enum, default_value = "bf16")]
    precision: Arithmetic,
    /// Seconds for each direction
    ///
    /// zh: 每个方向的测量秒数
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
}

/// Runs the command.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let heads = args.heads()?;
    let packings = args.packings.iter().map(|packing| parse(packing)).collect::<Result<Vec<_>>>()?;
    let precision = Precision::from(args.precision);
    let limit = ceiling::flops_per_second(precision, 1.0) / 1e9;
    let (mut rows, mut results) = (Vec::new(), Vec::new());
    for (packing, [sequences, tokens]) in args.packings.iter().zip(packings) {
        // As activations rest in a model of this precision.
        let measure = match precision {
            Precision::F32 => measure::<f32>,
            Precision::Bf16 => measure::<bf16>,
        };
        let [forward, backward] = measure(precision, heads, [sequences, tokens], args.seconds);
        // A query sees itself and all before it.
        let pairs = (sequences * tokens * (tokens + 1) / 2) as f64;
        let product = 2.0 * pairs * (heads.query_heads * heads.head_dim) as f64;
        let gflops = |products: f64, seconds: f64| products * product / seconds / 1e9;
        let (forward_gflops, backward_gflops) = (gflops(2.0, forward), gflops(5.0, backward));
        let token_us = 1e6 * (forward + backward) / (sequences * tokens) as f64;
        let cell = |seconds: f64, gflops: f64| {
            [format!("{:.3}", 1e3 * seconds), format!("{gflops:.0} ({:.0} %)", 100.0 * gflops / limit)]
        };
        let directions = [cell(forward, forward_gflops), cell(backward, backward_gflops)].concat();
        rows.push([vec![packing.clone()], directions, vec![format!("{token_us:.2}")]].concat());
        results.push(json!({
            "packing": packing, "forward_ms": 1e3 * forward, "forward_gflops": forward_gflops,
            "forward_share": forward_gflops / limit, "backward_ms": 1e3 * backward,
            "backward_gflops": backward_gflops, "backward_share": backward_gflops / limit, "token_us": token_us,
        }));
    }
    printer.line(format_args!("{limit:.0} GFLOP/s at best ({})", cpu::level().name()))?;
    let header = ["sequences", "forward ms", "GFLOP/s", "backward ms", "GFLOP/s", "both, µs a token"];
    printer.table(&header, &rows)?;
    printer.json(&json!({ "ceiling_gflops": limit, "level": cpu::level().name(), "attention": results }))?;
    Ok(())
}

impl Args {
    fn heads(&self) -> Result<Heads> {
        let Self { heads, kv_heads, head_dim, .. } = *self;
        if kv_heads == 0
            || heads == 0
            || heads > 1024
            || heads % kv_heads != 0
            || !(1..=1024).contains(&head_dim)
        {
            return Err(wrong_input(format!(
                "expected up to 1024 heads that `--kv-heads` divides and a width of 1 to 1024, found {heads} heads, {kv_heads} \
                 key/value heads, {head_dim} wide"
            )));
        }
        Ok(Heads { query_heads: heads, key_value_heads: kv_heads, head_dim })
    }
}

fn parse(packing: &str) -> Result<[usize; 2]> {
    let numbers: Option<Vec<usize>> = packing.split('x').map(|number| number.parse().ok()).collect();
    let numbers = numbers.and_then(|numbers| <[usize; 2]>::try_from(numbers).ok());
    let fits = |[sequences, tokens]: &[usize; 2]| {
        *sequences > 0 && *tokens > 0 && sequences.saturating_mul(*tokens) <= 1 << 17
    };
    numbers.filter(fits).ok_or_else(|| {
        wrong_input(format!(
            "`--packings`: expected sequences x tokens such as `8x64`, at most 131072 in all, found `{packing}`"
        ))
    })
}

/// Seconds of the forward and of the backward.
fn measure<T: Value>(
    precision: Precision,
    heads: Heads,
    [count, length]: [usize; 2],
    seconds: f64,
) -> [f64; 2] {
    let tokens = count * length;
    let sequences: Vec<Sequence> = (0..count)
        .map(|index| index * length..(index + 1) * length)
        .map(|rows| Sequence { queries: rows.clone(), keys: rows })
        .collect();
    let (q_size, kv_size) =
        (tokens * heads.query_heads * heads.head_dim, tokens * heads.key_value_heads * heads.head_dim);
    let mut random = Random::new(&[1]);
    let mut normals =
        |size: usize| Buffer::from_host(&(0..size).map(|_| T::from_f32(random.normal())).collect::<Vec<_>>());
    let (q, k, v, doutput) = (normals(q_size), normals(kv_size), normals(kv_size), normals(q_size));
    let inputs = [q.first(q_size), k.first(kv_size), v.first(kv_size)];
    let mut output = Buffer::<T>::zeros(q_size);
    let kept = tokens * heads.query_heads;
    let mut log_sum_exp = Buffer::zeros(kept);
    let [mut dq, mut dk, mut dv] = [q_size, kv_size, kv_size].map(Buffer::<T>::zeros);
    let scratch_size = tokens * heads.backward_scratch();
    let mut scratch = Buffer::zeros(scratch_size);
    let forward = median_seconds(3, seconds, || {
        let ([q, k, v], output) = (inputs, output.first_mut(q_size));
        attention(
            precision,
            heads,
            Distance::default(),
            &sequences,
            q,
            k,
            v,
            output,
            log_sum_exp.first_mut(kept),
        );
    });
    let backward = median_seconds(3, seconds, || {
        attention_backward(
            precision,
            heads,
            Distance::default(),
            &sequences,
            inputs,
            output.first(q_size),
            log_sum_exp.first(kept),
            doutput.first(q_size),
            [dq.first_mut(q_size), dk.first_mut(kv_size), dv.first_mut(kv_size)],
            scratch.first_mut(scratch_size),
        );
    });
    [forward, backward]
}
