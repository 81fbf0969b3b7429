//! f32 products Y = X · Wᵀ of linear layers by the `gemm` crate, packing included.
//!
//! usage: gemm-peer THREADS SECONDS TOKENSxINPUTSxOUTPUTS…
//! Prints one JSON object: GFLOP/s by shape, from the median time of a product.

use std::time::{Duration, Instant};

use gemm::Parallelism;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads: usize = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(2);
    let seconds: f64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let figures: Vec<String> = arguments
        .map(|shape| {
            let sizes: Vec<usize> = shape.split('x').filter_map(|size| size.parse().ok()).collect();
            let [tokens, inputs, outputs] = sizes[..] else { panic!("`{shape}` is no TOKENSxINPUTSxOUTPUTS") };
            format!("\"{shape}\": {:.1}", gflops(tokens, inputs, outputs, threads, seconds))
        })
        .collect();
    println!("{{{}}}", figures.join(", "));
}

fn gflops(tokens: usize, inputs: usize, outputs: usize, threads: usize, seconds: f64) -> f64 {
    let value = |index: usize| (index % 251) as f32 / 251.0 - 0.5;
    let x: Vec<f32> = (0..tokens * inputs).map(value).collect();
    let weight: Vec<f32> = (0..outputs * inputs).map(value).collect();
    let mut y = vec![0.0f32; tokens * outputs];
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs_f64(seconds) || times.len() < 5 {
        let before = Instant::now();
        // SAFETY: row-major X [tokens, inputs] and Y [tokens, outputs], and W [outputs, inputs] read as its transpose.
        unsafe {
            gemm::gemm(
                tokens, outputs, inputs, y.as_mut_ptr(), 1, outputs as isize, false, x.as_ptr(), 1, inputs as isize,
                weight.as_ptr(), inputs as isize, 1, 0.0f32, 1.0f32, false, false, false, Parallelism::Rayon(threads),
            );
        }
        times.push(before.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    2.0 * (tokens * inputs * outputs) as f64 / times[times.len() / 2] / 1e9
}
