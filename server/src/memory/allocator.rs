//! An allocator that wipes what it frees. Invariant: no byte of a block reaches the allocator below unwiped, when it
//! is freed and when it grows or shrinks.
//!
//! Absent on purpose: growing in place, which could move a block without wiping the old one; and wiping byte by byte
//! with volatile writes, which costs many times a memset.
#![expect(
    unsafe_code,
    reason = "a global allocator is an unsafe trait over raw blocks; the whole of it is this file"
)]

use std::alloc::{GlobalAlloc, Layout};

/// Wraps an allocator; every freed block is zeroed first.
#[derive(Debug)]
pub struct WipingAllocator<A>(A);

impl<A> WipingAllocator<A> {
    /// Over this one.
    pub const fn over(inner: A) -> Self {
        Self(inner)
    }
}

// SAFETY: allocation is the inner allocator's, with the same layouts; `dealloc` writes only inside the block that its
// caller gives up. `realloc` is the trait's own: allocate, copy, `dealloc`, so that the old block is wiped.
unsafe impl<A: GlobalAlloc> GlobalAlloc for WipingAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller owns `layout.size()` bytes at `block` and gives them up.
        unsafe {
            block.write_bytes(0, layout.size());
            keep_writes(block);
            self.0.dealloc(block, layout);
        }
    }
}

/// Without this, writes to a block that is freed next are dead stores to the compiler, and left out.
fn keep_writes(block: *mut u8) {
    // SAFETY: no instruction is emitted; the compiler must take it that the memory behind `block` is read here.
    unsafe { std::arch::asm!("/* {0} */", in(reg) block, options(nostack, preserves_flags)) }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts freed blocks and the bytes in them that were not wiped.
    #[derive(Default)]
    struct Watching {
        freed: AtomicUsize,
        dirty: AtomicUsize,
    }

    // SAFETY: System's, but for a look at the block before it is freed.
    unsafe impl GlobalAlloc for Watching {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: passed on.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the block is wiped, hence initialized, and still owned.
            let bytes = unsafe { std::slice::from_raw_parts(block, layout.size()) };
            self.freed.fetch_add(1, Ordering::Relaxed);
            self.dirty.fetch_add(bytes.iter().filter(|byte| **byte != 0).count(), Ordering::Relaxed);
            // SAFETY: passed on.
            unsafe { System.dealloc(block, layout) }
        }
    }

    #[test]
    fn freed_grown_and_shrunk_blocks_are_wiped() {
        let allocator = WipingAllocator(Watching::default());
        for size in [1, 7, 64, 4096, 1 << 20] {
            let layout = Layout::from_size_align(size, 8).unwrap();
            // SAFETY: layouts are those of the blocks, and every block is freed once.
            unsafe {
                let block = allocator.alloc(layout);
                assert!(!block.is_null());
                block.write_bytes(0xa5, size);
                let grown = allocator.realloc(block, layout, size * 2);
                assert_eq!(*grown, 0xa5);
                let larger = Layout::from_size_align(size * 2, 8).unwrap();
                grown.write_bytes(0x5a, size * 2);
                let shrunk = allocator.realloc(grown, larger, size);
                assert_eq!(*shrunk, 0x5a);
                allocator.dealloc(shrunk, layout);
            }
        }
        assert_eq!(allocator.0.freed.load(Ordering::Relaxed), 15);
        assert_eq!(allocator.0.dirty.load(Ordering::Relaxed), 0);
    }
}
