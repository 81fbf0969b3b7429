//! `danlu bench bandwidth`: how fast main memory is read, by one thread and by all.

use anyhow::Result;
use danlu_kernels::bandwidth::Bandwidth;
use danlu_kernels::team;
use serde_json::json;

use crate::failure::wrong_input;
use crate::printer::Printer;

/// How much and how long.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Megabytes to read, more than all caches hold
    ///
    /// zh: 读取的内存（MB），应大于全部缓存
    #[arg(long, default_value_t = 512)]
    megabytes: usize,
    /// Seconds for each measurement
    ///
    /// zh: 每项测量的秒数
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

/// Runs the command.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    if !(1..=1 << 16).contains(&args.megabytes) {
        return Err(wrong_input(format!("`--megabytes`: expected 1 to 65536, found {}", args.megabytes)));
    }
    let bandwidth = Bandwidth::new(args.megabytes);
    let one = bandwidth.one_thread(args.seconds) / 1e9;
    let all = bandwidth.all_threads(args.seconds) / 1e9;
    let threads = team::threads();
    let row = |threads: usize, speed: f64| vec![threads.to_string(), format!("{speed:.1}")];
    printer.table(&["threads", "GB/s read"], &[row(1, one), row(threads, all)])?;
    printer.json(&json!({
        "threads": threads, "megabytes": args.megabytes, "one_thread_gb_per_s": one, "all_threads_gb_per_s": all,
    }))?;
    Ok(())
}
