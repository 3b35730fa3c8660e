//! What a connection sends, gathered: many small frames are one call of the system.
//!
//! `h2` sends each frame of more than a few hundred bytes by a call of its own, and asks for a flush after each. Here they wait in a buffer
//! until the connection has nothing more to say, or the buffer is full.

use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::turns::Turns;

/// Bytes that are gathered: as many as a frame of HTTP/2 holds. What is larger is sent as it is, and not copied.
const GATHERED_BYTES_MAX: usize = 16 * 1024;

/// A connection's two directions as one.
#[derive(Debug)]
pub(crate) struct Gathering<R, W> {
    reader: R,
    outgoing: Outgoing<W>,
}

/// The sending direction, shared with whoever polls the connection.
#[derive(Debug)]
pub(crate) struct Outgoing<W>(Arc<Mutex<Buffered<W>>>);

#[derive(Debug)]
struct Buffered<W> {
    writer: W,
    buffer: BytesMut,
}

impl<R, W> Gathering<R, W> {
    /// Reads from `reader`, and gathers what is for `writer`.
    pub(crate) fn new(reader: R, writer: W) -> Self {
        Self { reader, outgoing: Outgoing(Arc::new(Mutex::new(Buffered { writer, buffer: BytesMut::new() }))) }
    }

    /// Its sending direction.
    pub(crate) fn outgoing(&self) -> Outgoing<W> {
        Outgoing(Arc::clone(&self.outgoing.0))
    }
}

impl<W> Outgoing<W> {
    fn lock(&self) -> MutexGuard<'_, Buffered<W>> {
        self.0.lock().expect("nothing panics while it holds the buffer")
    }
}

impl<W: AsyncWrite + Unpin> Buffered<W> {
    /// Sends what was gathered.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            match ready!(Pin::new(&mut self.writer).poll_write(context, &self.buffer))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.buffer.advance(sent),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Gathers `pieces`, or sends them where there is no room.
    fn poll_write(&mut self, context: &mut Context<'_>, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let bytes = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        if self.buffer.len() + bytes > GATHERED_BYTES_MAX {
            ready!(self.poll_send(context))?;
        }
        if bytes > GATHERED_BYTES_MAX {
            return Pin::new(&mut self.writer).poll_write_vectored(context, pieces);
        }
        pieces.iter().for_each(|piece| self.buffer.extend_from_slice(piece));
        Poll::Ready(Ok(bytes))
    }
}

impl<R: AsyncRead + Unpin, W: Unpin> AsyncRead for Gathering<R, W> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().reader).poll_read(context, out)
    }
}

impl<R: Unpin, W: AsyncWrite + Unpin> AsyncWrite for Gathering<R, W> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.outgoing.lock().poll_write(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.outgoing.lock().poll_write(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Sends nothing yet: [`served`] does once the connection has been polled.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut buffered = self.outgoing.lock();
        ready!(buffered.poll_send(context))?;
        Pin::new(&mut buffered.writer).poll_shutdown(context)
    }
}

/// Runs a connection, in its turn, and sends what it has to say each time. An error is the socket's.
pub(crate) async fn served<F: Future, W: AsyncWrite + Unpin>(
    connection: F,
    outgoing: Outgoing<W>,
    turns: Turns,
) -> io::Result<F::Output> {
    let mut connection = pin!(connection);
    std::future::poll_fn(|context| {
        if turns.lets_others_go(context.waker()) {
            return Poll::Pending;
        }
        let polled = connection.as_mut().poll(context);
        if let Poll::Ready(Err(error)) = outgoing.lock().poll_send(context) {
            return Poll::Ready(Err(error));
        }
        polled.map(Ok)
    })
    .await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Takes a part of what it is given, or makes its writer wait.
    #[derive(Debug)]
    struct Slow {
        got: Vec<u8>,
        calls: usize,
        rng: Option<fastrand::Rng>,
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.calls += 1;
            let mut taken = bytes.len();
            if let Some(rng) = &mut self.rng {
                if rng.bool() {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                taken = rng.usize(1..=taken);
            }
            self.got.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn gathering(rng: Option<fastrand::Rng>) -> Gathering<tokio::io::Empty, Slow> {
        Gathering::new(tokio::io::empty(), Slow { got: Vec::new(), calls: 0, rng })
    }

    #[tokio::test]
    async fn small_writes_are_sent_together_and_not_before_the_connection_was_polled() {
        let mut stream = gathering(None);
        let outgoing = stream.outgoing();
        let connection = async {
            for _ in 0..100 {
                stream.write_all(&[7; 100]).await.unwrap();
                stream.flush().await.unwrap();
            }
            let calls = stream.outgoing.lock().writer.calls;
            tokio::task::yield_now().await;
            calls
        };
        assert_eq!(served(connection, outgoing, Turns::default()).await.unwrap(), 0);
        let buffered = stream.outgoing.lock();
        assert_eq!((buffered.writer.got.len(), buffered.writer.calls), (10_000, 1));
    }

    #[tokio::test]
    async fn whatever_the_socket_takes_all_is_sent_in_order() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..50 {
            let (mut stream, mut sent) = (gathering(Some(rng.fork())), Vec::new());
            for _ in 0..rng.usize(0..40) {
                let largest = if rng.u8(..4) == 0 { 2 * GATHERED_BYTES_MAX } else { 1_000 };
                let bytes: Vec<u8> = (0..rng.usize(0..largest)).map(|_| rng.u8(..)).collect();
                sent.extend_from_slice(&bytes);
                stream.write_all(&bytes).await.unwrap();
                assert!(stream.outgoing.lock().buffer.len() <= GATHERED_BYTES_MAX);
            }
            stream.shutdown().await.unwrap();
            assert!(stream.outgoing.lock().writer.got == sent);
        }
    }

    /// A socket that is gone ends the connection, whatever that waits for.
    #[tokio::test]
    async fn an_error_of_the_socket_ends_the_connection() {
        struct Gone;
        impl AsyncWrite for Gone {
            fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
                Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }
        let mut stream = Gathering::new(tokio::io::empty(), Gone);
        let outgoing = stream.outgoing();
        let connection = async {
            stream.write_all(b"hello").await.unwrap();
            std::future::pending::<()>().await;
        };
        let ended = served(connection, outgoing, Turns::default()).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
