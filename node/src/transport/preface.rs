//! A connection that tells when the client has said what HTTP/2 clients say first.
//!
//! Why it exists: hyper waits for a client's preface for as long as the connection
//! lives, and asks nobody whether it is still there before; a client that connects
//! and stays silent would hold its place.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// The magic and the head of the SETTINGS frame that follows at once (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24 + 9;

/// Passes everything through and counts the first bytes that are read.
pub(super) struct Preface<I> {
    io: I,
    missing: usize,
    read: Option<oneshot::Sender<()>>,
}

impl<I> Preface<I> {
    /// The connection, and what resolves as soon as a preface has been read.
    pub(super) fn new(io: I) -> (Self, oneshot::Receiver<()>) {
        let (read, was_read) = oneshot::channel();
        let preface = Self {
            io,
            missing: PREFACE_BYTES,
            read: Some(read),
        };
        (preface, was_read)
    }

    fn count(&mut self, bytes: usize) {
        self.missing = self.missing.saturating_sub(bytes);
        if self.missing == 0
            && let Some(read) = self.read.take()
        {
            // Nobody has to wait for it.
            let _ = read.send(());
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Preface<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
        this.count(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Preface<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
