//! A small file of the kernel that is read again and again through one open descriptor.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

/// An open file of `/proc` or of a control group.
///
/// Opening costs ten times as much as reading; the kernel makes the contents anew for every read
/// at offset zero.
#[derive(Debug)]
pub(crate) struct KernelFile {
    file: File,
    path: PathBuf,
}

impl KernelFile {
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        Ok(Self { file: File::open(&path)?, path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn number(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.file)
    }

    /// The beginning of the contents, as far as it fits into `buffer`. The kernel hands out these
    /// files in one piece, so that one call is enough.
    pub(crate) fn read<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        loop {
            match read_at_start(&self.file, buffer) {
                Ok(length) => return Ok(buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(unix)]
fn read_at_start(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, 0)
}

/// Only trees that were copied from a Linux machine are read this way.
#[cfg(not(unix))]
fn read_at_start(mut file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    use io::{Read, Seek};
    file.rewind()?;
    file.read(buffer)
}
