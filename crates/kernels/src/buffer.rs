//! Memory that operations work on, and the views they take.
//!
//! Other rooms hold [`Buffer`]s and pass [`View`]s; they see values only through the explicit host calls
//! [`Buffer::host`] and [`Buffer::host_mut`], so that another kind of device can implement the same operations.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

/// From this size on a buffer is mapped on its own, aligned for 2 MiB pages.
#[cfg(target_os = "linux")]
const LARGE: usize = 1 << 20;
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;
const CACHE_LINE: usize = 64;

/// What a buffer can hold; all-zero bytes are the value zero.
pub trait Element: bytemuck::Pod + Send + Sync {}
impl Element for f32 {}
impl Element for half::bf16 {}
impl Element for u32 {}
impl Element for u8 {}

/// Owned, zero-initialised memory of `len` elements.
pub struct Buffer<T: Element> {
    memory: Memory,
    length: usize,
    element: PhantomData<T>,
}

/// A part of a buffer that an operation reads.
#[derive(Clone, Copy)]
pub struct View<'a, T>(pub(crate) &'a [T]);

/// A part of a buffer that an operation writes.
pub struct ViewMut<'a, T>(pub(crate) &'a mut [T]);

impl<T: Element> Buffer<T> {
    /// `length` zeros. Pages of large buffers are taken from the system at their first use.
    pub fn zeros(length: usize) -> Self {
        let Some(bytes) = length.checked_mul(size_of::<T>()) else {
            std::alloc::handle_alloc_error(std::alloc::Layout::new::<T>())
        };
        Self { memory: Memory::zeroed(bytes), length, element: PhantomData }
    }

    /// A copy of values from the host.
    pub fn from_host(values: &[T]) -> Self {
        let mut buffer = Self::zeros(values.len());
        buffer.host_mut().copy_from_slice(values);
        buffer
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The values, on the host.
    pub fn host(&self) -> &[T] {
        // SAFETY: the memory is aligned to a cache line, initialised (zeros are valid for `Element`) and `length` long.
        unsafe { std::slice::from_raw_parts(self.memory.start.as_ptr().cast::<T>(), self.length) }
    }

    /// The values, on the host, to change.
    pub fn host_mut(&mut self) -> &mut [T] {
        // SAFETY: as `host`, and `&mut self` makes it the only access.
        unsafe { std::slice::from_raw_parts_mut(self.memory.start.as_ptr().cast::<T>(), self.length) }
    }

    /// The elements of `range`, to read.
    pub fn view(&self, range: Range<usize>) -> View<'_, T> {
        View(&self.host()[range])
    }

    /// The first `length` elements, to read.
    pub fn first(&self, length: usize) -> View<'_, T> {
        self.view(0..length)
    }

    /// The elements of `range`, to write.
    pub fn view_mut(&mut self, range: Range<usize>) -> ViewMut<'_, T> {
        ViewMut(&mut self.host_mut()[range])
    }

    /// The first `length` elements, to write.
    pub fn first_mut(&mut self, length: usize) -> ViewMut<'_, T> {
        self.view_mut(0..length)
    }
}

impl<'a, T> View<'a, T> {
    /// Number of elements.
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The elements `range` of this view.
    pub fn part(self, range: Range<usize>) -> View<'a, T> {
        View(&self.0[range])
    }
}

impl<'a, T> ViewMut<'a, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first `middle` elements and the rest.
    pub fn split_at(self, middle: usize) -> (ViewMut<'a, T>, ViewMut<'a, T>) {
        let (first, rest) = self.0.split_at_mut(middle);
        (ViewMut(first), ViewMut(rest))
    }

    /// The same memory for a shorter time, so that a view can be passed on more than once.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut(self.0)
    }

    /// The same memory, to read.
    pub fn as_view(&self) -> View<'_, T> {
        View(self.0)
    }
}

struct Memory {
    start: NonNull<u8>,
    kind: Kind,
}

enum Kind {
    Heap(std::alloc::Layout),
    #[cfg(target_os = "linux")]
    Mapped {
        base: *mut libc::c_void,
        bytes: usize,
    },
}

// SAFETY: the memory is plain bytes; access is governed by the borrow of the buffer.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn zeroed(bytes: usize) -> Self {
        #[cfg(target_os = "linux")]
        if bytes >= LARGE
            && let Some(mapped) = Self::mapped(bytes)
        {
            return mapped;
        }
        let Ok(layout) = std::alloc::Layout::from_size_align(bytes.max(CACHE_LINE), CACHE_LINE) else {
            std::alloc::handle_alloc_error(std::alloc::Layout::new::<u8>())
        };
        // SAFETY: the layout's size is not zero.
        match NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }) {
            Some(start) => Self { start, kind: Kind::Heap(layout) },
            None => std::alloc::handle_alloc_error(layout),
        }
    }

    /// Anonymous pages, placed so that the system can use 2 MiB pages for them.
    #[cfg(target_os = "linux")]
    fn mapped(bytes: usize) -> Option<Self> {
        let total = bytes.checked_add(HUGE_PAGE)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping touches no existing memory.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), total, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return None;
        }
        let padding = base.cast::<u8>().align_offset(HUGE_PAGE);
        // SAFETY: `padding` is less than the 2 MiB added to the mapping.
        let start = unsafe { base.cast::<u8>().add(padding) };
        if bytes >= HUGE_PAGE {
            // SAFETY: the range lies in the mapping; the advice changes no contents.
            unsafe { libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        NonNull::new(start).map(|start| Self { start, kind: Kind::Mapped { base, bytes: total } })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match self.kind {
            // SAFETY: allocated in `zeroed` with this layout.
            Kind::Heap(layout) => unsafe { std::alloc::dealloc(self.start.as_ptr(), layout) },
            #[cfg(target_os = "linux")]
            Kind::Mapped { base, bytes } => {
                // SAFETY: mapped in `mapped` with this base and size.
                unsafe { libc::munmap(base, bytes) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_every_size_are_zero_aligned_and_writable() {
        for length in [0, 1, 15, 1 << 18, (1 << 20) + 3] {
            let mut buffer = Buffer::<f32>::zeros(length);
            assert_eq!(buffer.host().as_ptr().align_offset(CACHE_LINE), 0);
            assert!(buffer.host().iter().all(|&value| value == 0.0));
            buffer.host_mut().fill(1.5);
            assert_eq!(buffer.host().iter().filter(|&&value| value == 1.5).count(), length);
        }
    }
}
