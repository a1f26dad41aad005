//! A system call that rustix has not, nor any other library without `unsafe`: decision 016.
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// The names of the attributes of `name` below `directory`, into `buffer`: their length. Follows no symlink. From Linux 6.13
/// on; before that, and where the number is not known to be this one, `NOSYS`.
pub(super) fn listxattrat(directory: BorrowedFd<'_>, name: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")) {
        return Err(Errno::NOSYS);
    }
    const NUMBER: libc::c_long = 465;
    // SAFETY: `name` ends with its NUL, the kernel writes no more than `buffer.len()` bytes into `buffer`, which is ours
    // alone for the time of the call, and keeps neither pointer.
    #[expect(unsafe_code, reason = "no library has it")]
    let told = unsafe {
        libc::syscall(
            NUMBER,
            directory.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    usize::try_from(told).map_err(|_| {
        Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    })
}
