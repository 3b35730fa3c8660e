//! Lets in clients whose `:authority` is no authority.
//!
//! etcdctl 3.4, and other programs on its client library, put the endpoint as it was typed into the `:authority` of their HTTP/2
//! requests: `http://127.0.0.1:2379`. etcd takes it. `h2` answers with PROTOCOL_ERROR, and cannot be told not to. So the bytes of a
//! connection pass through here on their way to `h2`, and such a value is replaced, in place and at its own length, by one that
//! means nothing. Nothing else is touched, and nothing here looks at what an authority says.
//!
//! A value in Huffman's code becomes a plain one of the same bytes, so that the field is shorter once decoded: HPACK's table here never
//! evicts an entry that the sender still counts on. A value that might not fit a table at all is left alone.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What every HTTP/2 connection begins with.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_BYTES: usize = 9;
/// Frames above HTTP/2's default limit are `h2`'s to refuse.
const FRAME_BYTES_MAX: usize = 16 * 1024;
const TYPE_HEADERS: u8 = 1;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;
/// A longer one is no address of ours.
const AUTHORITY_BYTES_MAX: usize = 255;
/// `:authority` in HPACK's static table.
const NAME_AUTHORITY: usize = 1;
/// `http://` and `https://` in HPACK's Huffman code: whole bytes, then the bits that follow as a mask and their value.
const HUFFMAN: [(&[u8], u8, u8); 2] =
    [(&[0x9d, 0x29, 0xae, 0xe3, 0x0c], 0x80, 0x00), (&[0x9d, 0x29, 0xad, 0x17, 0x18], 0xfc, 0x60)];
const PLAIN: [&[u8]; 2] = [b"http://", b"https://"];

/// Where in the stream of frames the filter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So much of the preface was seen.
    Preface(usize),
    /// The next byte begins a frame.
    Frame,
    /// So many bytes of a frame that is of no interest are to come.
    Skip(usize),
    /// Not HTTP/2: nothing is of interest.
    Other,
}

impl State {
    /// Looks at the next bytes, and changes what must be changed. How many of them are done; the rest is to be shown again with
    /// what follows.
    fn pass(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &mut bytes[at..];
            match *self {
                Self::Other => return bytes.len(),
                Self::Preface(seen) => {
                    let now = rest.len().min(PREFACE.len() - seen);
                    if rest[..now] != PREFACE[seen..seen + now] {
                        *self = Self::Other;
                        continue;
                    }
                    at += now;
                    *self = if seen + now == PREFACE.len() { Self::Frame } else { Self::Preface(seen + now) };
                }
                Self::Skip(left) => {
                    let now = left.min(rest.len());
                    at += now;
                    *self = if now == left { Self::Frame } else { Self::Skip(left - now) };
                }
                Self::Frame => {
                    let Some((header, payload)) = rest.split_first_chunk_mut::<FRAME_HEADER_BYTES>() else {
                        return at;
                    };
                    let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
                    if header[3] == TYPE_HEADERS && length <= FRAME_BYTES_MAX {
                        let Some(payload) = payload.get_mut(..length) else {
                            return at;
                        };
                        if let Some(block) = header_block(payload, header[4]) {
                            // A block that cannot be walked is h2's to refuse.
                            let _ = mend(block);
                        }
                    }
                    at += FRAME_HEADER_BYTES;
                    *self = Self::Skip(length);
                }
            }
        }
        at
    }
}

/// The part of a HEADERS frame that is HPACK.
fn header_block(payload: &mut [u8], flags: u8) -> Option<&mut [u8]> {
    let padding = if flags & FLAG_PADDED == 0 { 0 } else { usize::from(*payload.first()?) };
    let before = usize::from(flags & FLAG_PADDED != 0) + if flags & FLAG_PRIORITY == 0 { 0 } else { 5 };
    let end = payload.len().checked_sub(padding)?;
    payload.get_mut(before..end)
}

/// Walks a header block, and replaces the value of each `:authority` that begins with a scheme. `None` where the block ends early.
fn mend(block: &mut [u8]) -> Option<()> {
    let mut at = 0;
    while at < block.len() {
        let prefix_bits = match block[at] {
            // An indexed field, a change of the table's size: no strings follow.
            0x80.. => {
                integer(block, &mut at, 7)?;
                continue;
            }
            0x20..0x40 => {
                integer(block, &mut at, 5)?;
                continue;
            }
            0x40..0x80 => 6,
            0..0x20 => 4,
        };
        let name = integer(block, &mut at, prefix_bits)?;
        if name == 0 {
            let length = integer(block, &mut at, 7)?;
            at = at.checked_add(length).filter(|at| *at <= block.len())?;
        }
        let length_at = at;
        let huffman = *block.get(at)? & 0x80 != 0;
        let length = integer(block, &mut at, 7)?;
        let value = block.get_mut(at..at.checked_add(length)?)?;
        if name == NAME_AUTHORITY && length <= AUTHORITY_BYTES_MAX && has_scheme(value, huffman) {
            value.fill(b'a');
            // The same length, and no longer in Huffman's code.
            block[length_at] &= 0x7f;
        }
        at += length;
    }
    Some(())
}

fn has_scheme(value: &[u8], huffman: bool) -> bool {
    if !huffman {
        return PLAIN.iter().any(|scheme| value.starts_with(scheme));
    }
    HUFFMAN.iter().any(|(bytes, mask, bits)| {
        value.strip_prefix(*bytes).and_then(<[u8]>::first).is_some_and(|next| next & mask == *bits)
    })
}

/// Reads an HPACK integer with a prefix of `bits`, and moves `at` past it.
fn integer(block: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let most = (1 << bits) - 1;
    let mut value = usize::from(*block.get(*at)?) & most;
    *at += 1;
    if value < most {
        return Some(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = *block.get(*at)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A connection whose incoming bytes go through the filter.
#[derive(Debug)]
pub(crate) struct Mended<S> {
    inner: S,
    state: State,
    /// Bytes that wait for the rest of their frame.
    held: Vec<u8>,
    /// Bytes of `held` that are done and not handed over.
    done: usize,
}

impl<S> Mended<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, state: State::Preface(0), held: Vec::new(), done: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Mended<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.done > 0 {
                let now = this.done.min(out.remaining());
                out.put_slice(&this.held[..now]);
                this.held.drain(..now);
                this.done -= now;
                return Poll::Ready(Ok(()));
            }
            let before = out.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(context, out))?;
            let new = &mut out.filled_mut()[before..];
            if new.is_empty() {
                // The end: what is held can never be completed, and is h2's to refuse.
                this.done = this.held.len();
                if this.done == 0 {
                    return Poll::Ready(Ok(()));
                }
                this.state = State::Other;
                continue;
            }
            if this.held.is_empty() {
                let done = this.state.pass(new);
                this.held.extend_from_slice(&new[done..]);
                out.set_filled(before + done);
                if done > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                this.held.extend_from_slice(new);
                out.set_filled(before);
                this.done = this.state.pass(&mut this.held);
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Mended<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// `:method POST`, `:scheme http`, `:path /a`, then `:authority`, with incremental indexing.
    fn block(value: &[u8], huffman: bool) -> Vec<u8> {
        let mut block = vec![0x83, 0x86, 0x44, 2, b'/', b'a', 0x41];
        block.push(u8::try_from(value.len()).unwrap() | if huffman { 0x80 } else { 0 });
        block.extend_from_slice(value);
        block.extend_from_slice(&[0x40, 1, b't', 2, b'x', b'y']);
        block
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, 4, 0, 0, 0, 1]);
        frame.extend_from_slice(payload);
        frame
    }

    /// `http://127.0.0.1:2379` as a Go client writes it.
    const GO_AUTHORITY: &[u8] =
        &[0x9d, 0x29, 0xae, 0xe3, 0x0c, 0x10, 0x89, 0x70, 0xb8, 0x5c, 0x2e, 0x05, 0xc2, 0xb3, 0xbf];

    #[test]
    fn a_scheme_is_replaced_and_nothing_else() {
        for (value, huffman) in [(&b"http://h:1"[..], false), (b"https://h:1", false), (GO_AUTHORITY, true)] {
            let mut mended = block(value, huffman);
            mend(&mut mended).unwrap();
            assert_eq!(mended, block(&vec![b'a'; value.len()], false));
        }
        for (value, huffman) in
            [(&b"127.0.0.1:2379"[..], false), (b"", false), (b"http", false), (&GO_AUTHORITY[6..], true)]
        {
            let mut kept = block(value, huffman);
            mend(&mut kept).unwrap();
            assert_eq!(kept, block(value, huffman));
        }
    }

    /// However the bytes are cut on their way, the same comes out.
    #[tokio::test]
    async fn any_cut_of_the_stream_gives_the_same() {
        let stream = |value: &[u8]| {
            let data = frame(0, &frame(1, &block(b"http://in-data", false)));
            [PREFACE, &frame(4, &[]), &frame(1, &block(value, false)), &data, &frame(1, &block(value, false))].concat()
        };
        let (sent, expected) = (stream(b"http://h:1"), stream(b"aaaaaaaaaa"));
        for cut in 1..sent.len() {
            for room in [1, 7, 4096] {
                let (first, second) = sent.split_at(cut);
                let mut mended = Mended::new(first.chain(second));
                let mut got = Vec::new();
                let mut buffer = vec![0; room];
                loop {
                    match mended.read(&mut buffer).await.unwrap() {
                        0 => break,
                        read => got.extend_from_slice(&buffer[..read]),
                    }
                }
                assert_eq!(got, expected, "cut at {cut}, room for {room}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_http2_and_what_ends_early_passes_as_it_is() {
        let cut = [PREFACE, &frame(1, &block(b"http://h:1", false))[..20]].concat();
        let huge = [PREFACE, &[0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1, 0x41]].concat();
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/1", b"", &cut, &huge] {
            let mut got = Vec::new();
            Mended::new(bytes).read_to_end(&mut got).await.unwrap();
            assert_eq!(got, bytes);
        }
    }

    #[test]
    fn any_block_is_walked_without_a_panic() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..100_000 {
            let mut block: Vec<u8> = (0..rng.usize(0..40)).map(|_| rng.u8(..)).collect();
            let _ = mend(&mut block);
            let mut frames = [PREFACE, &block].concat();
            State::Preface(0).pass(&mut frames);
        }
    }
}
