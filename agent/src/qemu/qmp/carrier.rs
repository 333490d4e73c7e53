//! The stream to QEMU, which can carry an open file beside its bytes.

use std::{
    io::{self, IoSlice},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, Interest},
    net::UnixStream,
};

pub(super) trait Carrier: AsyncRead + AsyncWrite + Unpin {
    /// Sends all of the bytes, the first of them with the file.
    fn send_with_file(&mut self, bytes: &[u8], file: BorrowedFd<'_>) -> impl Future<Output = io::Result<()>> + Send;
}

impl Carrier for UnixStream {
    async fn send_with_file(&mut self, bytes: &[u8], file: BorrowedFd<'_>) -> io::Result<()> {
        let socket = self.as_raw_fd();
        let sent = self
            .async_io(Interest::WRITABLE, || {
                let files = [file.as_raw_fd()];
                let rights = [ControlMessage::ScmRights(&files)];
                let sent = sendmsg::<UnixAddr>(socket, &[IoSlice::new(bytes)], &rights, MsgFlags::MSG_NOSIGNAL, None);
                Ok(sent?)
            })
            .await?;
        // The kernel took the file with the first bytes, however few they were.
        self.write_all(bytes.get(sent..).unwrap_or_default()).await
    }
}

#[cfg(test)]
impl Carrier for tokio::io::DuplexStream {
    async fn send_with_file(&mut self, _: &[u8], _: BorrowedFd<'_>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{IoSliceMut, Read as _, Seek as _, Write as _},
        os::fd::{AsFd as _, FromRawFd as _, OwnedFd},
    };

    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn a_file_arrives_with_the_bytes_even_when_they_do_not_go_at_once() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        file.rewind().unwrap();
        // More than a socket takes at once.
        let bytes = vec![b'x'; 1 << 20];
        let sent = bytes.clone();
        let sending = tokio::spawn(async move { ours.send_with_file(&sent, file.as_fd()).await });
        let mut theirs = theirs;
        theirs.readable().await.unwrap();
        let mut first = [0; 10];
        let received = theirs
            .try_io(Interest::READABLE, || {
                let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
                let mut slices = [IoSliceMut::new(&mut first)];
                let message = recvmsg::<()>(theirs.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty())?;
                let mut files = message.cmsgs()?.filter_map(|part| match part {
                    ControlMessageOwned::ScmRights(files) => files.first().copied(),
                    _ => None,
                });
                Ok(files.next())
            })
            .unwrap()
            .expect("no file came");
        // SAFETY: the kernel just made this descriptor for us, and nobody else knows of it.
        #[allow(unsafe_code)]
        let mut received = File::from(unsafe { OwnedFd::from_raw_fd(received) });
        let mut content = String::new();
        received.read_to_string(&mut content).unwrap();
        assert_eq!(content, "content");
        let mut rest = vec![0; bytes.len() - first.len()];
        theirs.read_exact(&mut rest).await.unwrap();
        assert!(rest.iter().all(|byte| *byte == b'x'));
        sending.await.unwrap().unwrap();
    }
}
