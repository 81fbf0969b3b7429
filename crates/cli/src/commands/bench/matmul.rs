//! `danlu bench matmul`: forward and both backwards of linear layers, packing included, and the forward with a weight
//! that was packed before.

use anyhow::Result;
use danlu_kernels::linear::{linear, linear_backward_input, linear_backward_weight};
use danlu_kernels::matmul::{Operand, Output, Right};
use danlu_kernels::random::Random;
use danlu_kernels::{Buffer, Precision, Value, Weight, bf16, ceiling, cpu};
use serde_json::json;

use super::{Arithmetic, median_seconds};
use crate::failure::wrong_input;
use crate::printer::Printer;

/// Shapes of the linear layers of models of 30M to 1B.
const SHAPES: &str = "2048x512x512,2048x512x1536,2048x512x6400,1024x2048x2048,2048x2048x5632";

/// Which products.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tokens x inputs x outputs of a linear layer, separated by commas
    ///
    /// zh: 线性层的 词元数x输入x输出，以逗号分隔
    #[arg(long, value_name = "TxIxO", default_value = SHAPES, value_delimiter = ',')]
    shapes: Vec<String>,
    /// Arithmetic
    ///
    /// zh: 运算精度
    #[arg(long, value_enum, default_value = "bf16")]
    precision: Arithmetic,
    /// Seconds for each product
    ///
    /// zh: 每个乘积的测量秒数
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

/// Runs the command.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let precision = Precision::from(args.precision);
    let shapes = args.shapes.iter().map(|shape| parse(shape)).collect::<Result<Vec<_>>>()?;
    let limit = ceiling::flops_per_second(precision, 1.0) / 1e9;
    let mut rows = Vec::new();
    let mut results = Vec::new();
    for (shape, [tokens, inputs, outputs]) in args.shapes.iter().zip(shapes) {
        let flops = 2.0 * tokens as f64 * inputs as f64 * outputs as f64;
        let shape_of = [tokens, inputs, outputs];
        let seconds = match precision {
            Precision::F32 => measure::<f32>(precision, shape_of, args.seconds),
            Precision::Bf16 => measure::<bf16>(precision, shape_of, args.seconds),
        };
        let gflops = seconds.map(|seconds| flops / seconds / 1e9);
        let [forward, packed, input, weight] = gflops;
        let share = |gflops: f64| format!("{gflops:.0} ({:.0} %)", 100.0 * gflops / limit);
        rows.push(vec![shape.clone(), share(forward), share(packed), share(input), share(weight)]);
        results.push(json!({
            "shape": shape, "gflops": forward, "prepacked_gflops": packed,
            "backward_input_gflops": input, "backward_weight_gflops": weight,
        }));
    }
    printer.line(format_args!("{limit:.0} GFLOP/s at best ({})", cpu::level().name()))?;
    let header =
        ["shape", "forward GFLOP/s", "weight packed before", "gradient of input", "gradient of weight"];
    printer.table(&header, &rows)?;
    printer.json(&json!({ "ceiling_gflops": limit, "level": cpu::level().name(), "gflops": results }))?;
    Ok(())
}

fn parse(shape: &str) -> Result<[usize; 3]> {
    let numbers: Option<Vec<usize>> = shape.split('x').map(|number| number.parse().ok()).collect();
    let numbers = numbers.and_then(|numbers| <[usize; 3]>::try_from(numbers).ok());
    numbers
        .filter(|numbers| {
            numbers.iter().all(|number| (1..=1 << 17).contains(number))
                && numbers.iter().product::<usize>() <= 1 << 40
        })
        .ok_or_else(|| {
            wrong_input(format!(
                "`--shapes`: expected tokens x inputs x outputs such as `2048x512x1536`, found `{shape}`"
            ))
        })
}

/// Seconds of the forward, the forward with a weight packed before, the gradient of the input and that of the weight;
/// everything but the gradient of the weight rests in T, as in training.
fn measure<T: Value>(precision: Precision, [tokens, inputs, outputs]: [usize; 3], seconds: f64) -> [f64; 4] {
    let mut random = Random::new(&[1]);
    let mut normals = |count: usize| {
        Buffer::from_host(&(0..count).map(|_| T::from_f32(random.normal())).collect::<Vec<_>>())
    };
    let (x, weight, dy) = (normals(tokens * inputs), normals(outputs * inputs), normals(tokens * outputs));
    let matrix = Operand::new(weight.first(weight.len()), outputs, inputs);
    let packed = Right::new(precision, matrix.transposed());
    let weight = Weight::new(weight.first(weight.len()), outputs, inputs);
    let (mut y, mut dx) = (Buffer::<T>::zeros(dy.len()), Buffer::<T>::zeros(x.len()));
    let mut dw = Buffer::zeros(outputs * inputs);
    let (x, dy) = (x.first(x.len()), dy.first(dy.len()));
    let (y_len, dx_len, dw_len) = (y.len(), dx.len(), dw.len());
    [
        median_seconds(3, seconds, || linear(precision, x, weight, Output::Overwrite, y.first_mut(y_len))),
        median_seconds(3, seconds, || {
            packed.product(1.0, Operand::rows_of(x, inputs), Output::Overwrite, y.first_mut(y_len));
        }),
        median_seconds(3, seconds, || {
            linear_backward_input(precision, dy, weight, Output::Overwrite, dx.first_mut(dx_len))
        }),
        median_seconds(3, seconds, || {
            linear_backward_weight(precision, dy, x, [outputs, inputs], dw.first_mut(dw_len))
        }),
    ]
}
