//! What the tests of operations share: random inputs, comparison with an f64 twin, finite differences of the twin.

use crate::buffer::Element;
use crate::random::Random;

/// A copy that ends where readable memory ends, so that a read or write beyond it is a crash; never freed.
#[cfg(target_os = "linux")]
pub(crate) fn before_a_wall<T: Element>(values: &[T]) -> &'static mut [T] {
    const PAGE: usize = 4096;
    let bytes = size_of_val(values).next_multiple_of(PAGE);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a fresh mapping of its own, whose last page is closed; the values end where that page begins.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), bytes + PAGE, protection, flags, -1, 0);
        assert_ne!(start, libc::MAP_FAILED);
        let wall = start.cast::<u8>().add(bytes);
        assert_eq!(libc::mprotect(wall.cast(), PAGE, libc::PROT_NONE), 0);
        let copy = std::slice::from_raw_parts_mut(wall.cast::<T>().sub(values.len()), values.len());
        copy.copy_from_slice(values);
        copy
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn before_a_wall<T: Element>(values: &[T]) -> &'static mut [T] {
    values.to_vec().leak()
}

pub(crate) fn normals(key: u64, count: usize) -> Vec<f32> {
    let mut random = Random::new(&[key]);
    (0..count).map(|_| random.normal()).collect()
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// `fast` equals `twin(inputs)` within `bound`, relative to the twin's largest value.
pub(crate) fn close(fast: &[f32], twin: impl Fn(&[&[f64]]) -> Vec<f64>, inputs: &[&[f32]], bound: f64) {
    let wide: Vec<Vec<f64>> = inputs.iter().map(|input| widen(input)).collect();
    let exact = twin(&wide.iter().map(Vec::as_slice).collect::<Vec<_>>());
    assert_eq!(fast.len(), exact.len());
    let scale = exact.iter().fold(1e-30f64, |scale, value| scale.max(value.abs()));
    for (index, (&fast, exact)) in fast.iter().zip(&exact).enumerate() {
        assert!((f64::from(fast) - exact).abs() <= bound * scale, "element {index}: {fast} against {exact}");
    }
}

/// `gradients[i]` equals the central difference of Σ dy · twin(inputs) by `inputs[i]`, element by element,
/// within `bound` relative to the gradient's largest value.
pub(crate) fn finite_difference(
    twin: impl Fn(&[&[f64]]) -> Vec<f64>,
    inputs: &[&[f32]],
    dy: &[f32],
    gradients: &[&[f32]],
    bound: f64,
) {
    let mut wide: Vec<Vec<f64>> = inputs.iter().map(|input| widen(input)).collect();
    let loss = |wide: &[Vec<f64>]| -> f64 {
        let y = twin(&wide.iter().map(Vec::as_slice).collect::<Vec<_>>());
        y.iter().zip(dy).map(|(y, &dy)| y * f64::from(dy)).sum()
    };
    let step = 1e-5;
    for (input, gradient) in gradients.iter().enumerate() {
        assert_eq!(gradient.len(), wide[input].len());
        let mut exact = Vec::new();
        for index in 0..gradient.len() {
            let value = wide[input][index];
            wide[input][index] = value + step;
            let above = loss(&wide);
            wide[input][index] = value - step;
            let below = loss(&wide);
            wide[input][index] = value;
            exact.push((above - below) / (2.0 * step));
        }
        let scale = exact.iter().fold(1e-30f64, |scale, value| scale.max(value.abs()));
        for (index, (&fast, exact)) in gradient.iter().zip(&exact).enumerate() {
            let error = (f64::from(fast) - exact).abs();
            assert!(error <= bound * scale, "gradient {input} element {index}: {fast} against {exact}");
        }
    }
}
