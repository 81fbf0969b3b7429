//! Which instructions this processor has, decided once at run time.
//!
//! `DANLU_ISA=portable|avx2|avx512|avx512bf16` forces a lower level; a level that the processor lacks is refused
//! by [`check_forced_level`], so that a run never silently differs from what was asked.

use std::sync::OnceLock;

/// A set of instructions that kernels are compiled for, from plain to fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Whatever the compiler's baseline has.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with bf16 dot products.
    Avx512Bf16,
}

impl Level {
    const ALL: [Level; 4] = [Level::Portable, Level::Avx2, Level::Avx512, Level::Avx512Bf16];

    /// The name that `DANLU_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Bf16 => "avx512bf16",
        }
    }
}

/// The level in use: the forced one where it is valid, else the best detected.
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| forced().ok().flatten().unwrap_or_else(detected))
}

/// Cores that this process may use, each counted once however many threads it runs: a second thread on a core has no
/// arithmetic of its own.
pub fn cores() -> usize {
    let available = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    num_cpus::get_physical().clamp(1, available)
}

/// What `DANLU_ISA` asks for cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// No level has this name.
    #[error("`DANLU_ISA={0}` is not a level: expected portable, avx2, avx512 or avx512bf16")]
    Unknown(String),
    /// This processor lacks the level.
    #[error("`DANLU_ISA={}` asks for more than this processor has: its best is `{}`", .asked.name(), .best.name())]
    Missing { asked: Level, best: Level },
}

/// Fails when `DANLU_ISA` names an unknown level or one this processor lacks.
pub fn check_forced_level() -> Result<(), LevelError> {
    forced().map(|_| ())
}

fn forced() -> Result<Option<Level>, LevelError> {
    std::env::var("DANLU_ISA").ok().map(|name| parse(&name, detected())).transpose()
}

fn parse(name: &str, best: Level) -> Result<Level, LevelError> {
    match Level::ALL.into_iter().find(|level| level.name() == name) {
        None => Err(LevelError::Unknown(name.to_owned())),
        Some(asked) if asked > best => Err(LevelError::Missing { asked, best }),
        Some(level) => Ok(level),
    }
}

#[cfg(target_arch = "x86_64")]
fn detected() -> Level {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx512, avx512 && is_x86_feature_detected!("avx512bf16")) {
        (_, _, true) => Level::Avx512Bf16,
        (_, true, _) => Level::Avx512,
        (true, _, _) => Level::Avx2,
        _ => Level::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detected() -> Level {
    Level::Portable
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs all tests of this room again at every lower level; they run at the highest anyway.
    #[test]
    fn every_level_passes_these_tests() {
        if std::env::var_os("DANLU_ISA").is_some() {
            return;
        }
        for level in Level::ALL.into_iter().filter(|&level| level < detected()) {
            let tests = std::env::current_exe().unwrap_or_default();
            let output = std::process::Command::new(tests).env("DANLU_ISA", level.name()).output();
            let output = output.unwrap_or_else(|error| panic!("{error}"));
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{}:\n{text}", level.name());
        }
    }

    #[test]
    fn more_than_the_processor_has_is_refused() {
        for level in Level::ALL {
            assert_eq!(parse(level.name(), detected()).is_ok(), level <= detected());
            assert!(parse(level.name(), Level::Avx512Bf16) == Ok(level));
        }
        assert!(parse("sse", detected()).is_err());
    }
}
