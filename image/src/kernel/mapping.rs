//! Memory for buffers, in huge pages where there are any.

use std::{
    alloc::{Layout, handle_alloc_error},
    ffi::c_void,
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
    slice,
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Bytes of a huge page where the processor's ordinary pages have 4096 (x86-64, arm64): memory that the kernel sets up,
/// finds and pins for direct I/O as one instead of 512. Where huge pages have another size the advice is only less use.
const HUGE_PAGE: usize = 2 << 20;

/// Zeroed memory straight from the kernel, aligned to a page; in huge pages where it is as long as one and the kernel has
/// them to give ([Transparent Hugepage Support](https://docs.kernel.org/admin-guide/mm/transhuge.html)). None of it
/// is there before it is touched, and all of it goes back to the kernel when this is dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// What `mmap` gave, to be given back whole.
    mapped: NonNull<c_void>,
    mapped_length: usize,
    /// The part in use, inside of that.
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    /// Ends the process where there is no more memory to be had, as every other allocation does.
    pub(crate) fn new(length: usize) -> Self {
        // Room to begin at a huge page. What is left out at both ends is never touched, and costs addresses only.
        let slack = if length < HUGE_PAGE { 0 } else { HUGE_PAGE };
        // More than there are addresses is refused by the kernel.
        let mapped_length = length.max(1).saturating_add(slack);
        // SAFETY: new memory at an address of the kernel's choice: nothing that is in use is mapped over.
        let mapped = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                mapped_length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        let Some(mapped) = mapped.ok().and_then(NonNull::new) else {
            handle_alloc_error(Layout::array::<u8>(length).unwrap_or(Layout::new::<u8>()));
        };
        let start = mapped.cast::<u8>();
        let ahead = match slack {
            0 => 0,
            // Never more than the slack: an address is less than a huge page from the next huge page.
            _ => start.addr().get().next_multiple_of(HUGE_PAGE) - start.addr().get(),
        };
        // SAFETY: `ahead` is less than the slack, so that `length` bytes from there on are inside of the mapping.
        let start = unsafe { start.add(ahead) };
        if slack > 0 {
            // SAFETY: the range is inside of the mapping, and the advice changes none of its contents. A kernel without
            // huge pages refuses it, and the memory is as good as before.
            let _ = unsafe { madvise(start.as_ptr().cast(), length, Advice::LinuxHugepage) };
        }
        Self {
            mapped,
            mapped_length,
            start,
            length,
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the whole of what `mmap` gave to this value, which nothing borrows any more. Where the kernel has no
        // room left to split what it had joined to a neighbour, the memory stays mapped and unused.
        let _ = unsafe { munmap(self.mapped.as_ptr(), self.mapped_length) };
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `new` has made `length` bytes from `start` on readable, zeroed, and this value's alone until it is dropped.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Mapping {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and writable; the exclusive borrow of this value is that of its memory.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

// SAFETY: memory of the process that one value owns, like that of a `Vec`: any thread may use and return it.
unsafe impl Send for Mapping {}

// SAFETY: through a shared borrow it is only read.
unsafe impl Sync for Mapping {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::ALIGNMENT;

    #[test]
    fn a_mapping_is_zeroed_writable_and_aligned() {
        for length in [
            0,
            1,
            4096,
            HUGE_PAGE - 1,
            HUGE_PAGE,
            HUGE_PAGE + 1,
            2 * HUGE_PAGE,
        ] {
            let mut mapping = Mapping::new(length);
            assert_eq!(mapping.len(), length);
            let alignment = if length < HUGE_PAGE {
                ALIGNMENT
            } else {
                HUGE_PAGE
            };
            assert_eq!(mapping.as_ptr().addr() % alignment, 0, "{length}");
            assert!(mapping.iter().all(|byte| *byte == 0));
            mapping.fill(7);
            assert!(mapping.iter().all(|byte| *byte == 7));
        }
    }

    /// What the kernel says of the mapping that an address lies in (`VmFlags` of `proc_pid_smaps(5)`).
    fn flags_at(address: usize) -> Option<String> {
        let is_inside = |line: &str| {
            let (from, rest) = line.split_once('-')?;
            let (to, _) = rest.split_once(' ')?;
            let ends = |hex| usize::from_str_radix(hex, 16).ok();
            Some((ends(from)?..ends(to)?).contains(&address))
        };
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines();
        lines.find(|line| is_inside(line) == Some(true))?;
        lines
            .find_map(|line| line.strip_prefix("VmFlags: "))
            .map(str::to_owned)
    }

    #[test]
    fn a_mapping_asks_for_huge_pages_and_goes_back_to_the_kernel() {
        // So long that what other threads map meanwhile does not fill the gap down to its first byte.
        let mapping = Mapping::new(256 << 20);
        let address = mapping.as_ptr().addr();
        let flags = flags_at(address).unwrap();
        if std::fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap() {
            assert!(flags.split(' ').any(|flag| flag == "hg"), "{flags}");
        }
        drop(mapping);
        assert_eq!(flags_at(address), None, "it is still mapped");
    }
}
