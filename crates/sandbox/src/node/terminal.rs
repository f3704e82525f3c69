//! A terminal's end, read and written without blocking.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::unix::AsyncFd;

/// The sandbox's end of a terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    fd: AsyncFd<OwnedFd>,
}

impl Terminal {
    pub(crate) fn new(fd: OwnedFd) -> std::io::Result<Self> {
        let flags = fcntl_getfl(&fd)?;
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        // The replacement is an unsafe function; an owned descriptor is what it asks for.
        #[expect(deprecated)]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd })
    }

    /// Some bytes; none at the end.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let mut ready = self.fd.readable().await?;
            match rustix::io::read(self.fd.get_ref(), &mut *buffer) {
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                // The other side has been closed by its last process.
                Err(rustix::io::Errno::IO) => return Ok(0),
                result => return Ok(result?),
            }
        }
    }

    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.fd.writable().await?;
            match rustix::io::write(self.fd.get_ref(), bytes) {
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                result => bytes = &bytes[result?..],
            }
        }
        Ok(())
    }

    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let _ = rustix::termios::tcsetwinsize(self.fd.get_ref().as_fd(), size);
    }
}
