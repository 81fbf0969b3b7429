//! `by_cpu_level!`: one plain Rust body, compiled once for each level of [`crate::cpu`] and chosen at run time.
//!
//! The compiler vectorises the same source for each instruction set; kernels that need intrinsics do not use it. The
//! function may be generic in types: `fn name<[T: Value]>(…)`. In the body `FUSED` says whether the level multiplies and
//! adds in one instruction; without it `mul_add` would be a call.

macro_rules! by_cpu_level {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident $(<[$($generic:ident: $bound:path),+]>)?
        ($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block
    ) => {
        $(#[$attribute])*
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name $(<$($generic: $bound),+>)? ($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, clippy::extra_unused_type_parameters)]
            fn portable<$($($generic: $bound,)+)? const FUSED: bool>($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx2 $(<$($generic: $bound),+>)? ($($argument: $type),*) $(-> $result)? {
                portable::<$($($generic,)+)? true>($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx512 $(<$($generic: $bound),+>)? ($($argument: $type),*) $(-> $result)? {
                portable::<$($($generic,)+)? true>($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            match $crate::cpu::level() {
                // SAFETY: `level` reports AVX-512 only where the features above were detected.
                $crate::cpu::Level::Avx512Bf16 | $crate::cpu::Level::Avx512 => return unsafe { avx512($($argument),*) },
                // SAFETY: `level` reports AVX2 only where the features above were detected.
                $crate::cpu::Level::Avx2 => return unsafe { avx2($($argument),*) },
                $crate::cpu::Level::Portable => {}
            }
            portable::<$($($generic,)+)? { cfg!(target_arch = "aarch64") }>($($argument),*)
        }
    };
}
