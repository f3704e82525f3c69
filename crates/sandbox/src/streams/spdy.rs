//! As much of SPDY/3.1 as port-forwarding needs: streams with headers and data, without flow control (kubectl has none
//! either).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress};

/// The dictionary that header compression begins with; part of the protocol.
const DICTIONARY: &[u8] = include_bytes!("../../data/spdy3-dictionary.bin");
/// Frames larger than this are refused.
const MAX_FRAME: usize = 1 << 20;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const FIN: u8 = 1;

/// What a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A stream begins.
    Open { stream: u32, headers: Vec<(String, String)>, fin: bool },
    /// Bytes of a stream.
    Data { stream: u32, data: Bytes, fin: bool },
    /// A stream ends at once.
    Reset { stream: u32 },
    /// To be sent back.
    Ping { id: u32 },
    /// The peer goes.
    GoAway,
    /// Nothing that matters here.
    Other,
}

/// Bytes that are not SPDY.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpdyError {
    #[error("frame of {0} bytes")]
    TooLarge(usize),
    #[error("headers: {0}")]
    Headers(String),
    #[error("frame is too short")]
    Short,
}

/// Takes frames out of a stream of bytes.
pub(super) struct Decoder {
    buffer: BytesMut,
    inflate: Decompress,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { buffer: BytesMut::new(), inflate: Decompress::new(true) }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it is there.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, SpdyError> {
        if self.buffer.len() < 8 {
            return Ok(None);
        }
        let first = u32::from_be_bytes([self.buffer[0], self.buffer[1], self.buffer[2], self.buffer[3]]);
        let second = u32::from_be_bytes([self.buffer[4], self.buffer[5], self.buffer[6], self.buffer[7]]);
        let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
        if length > MAX_FRAME {
            return Err(SpdyError::TooLarge(length));
        }
        if self.buffer.len() < 8 + length {
            return Ok(None);
        }
        self.buffer.advance(8);
        let mut body = self.buffer.split_to(length).freeze();
        if first & 0x8000_0000 == 0 {
            return Ok(Some(Frame::Data { stream: first, data: body, fin: flags & FIN != 0 }));
        }
        let number = |body: &mut Bytes| {
            if body.len() < 4 { Err(SpdyError::Short) } else { Ok(body.get_u32() & 0x7fff_ffff) }
        };
        Ok(Some(match (first & 0xffff) as u16 {
            SYN_STREAM => {
                let stream = number(&mut body)?;
                if body.len() < 6 {
                    return Err(SpdyError::Short);
                }
                body.advance(6);
                Frame::Open { stream, headers: self.headers(&body)?, fin: flags & FIN != 0 }
            }
            // The compression has one state for all headers: these are read too.
            HEADERS | SYN_REPLY => {
                number(&mut body)?;
                self.headers(&body)?;
                Frame::Other
            }
            RST_STREAM => Frame::Reset { stream: number(&mut body)? },
            PING => Frame::Ping { id: if body.len() < 4 { return Err(SpdyError::Short) } else { body.get_u32() } },
            GOAWAY => Frame::GoAway,
            _ => Frame::Other,
        }))
    }

    fn headers(&mut self, compressed: &[u8]) -> Result<Vec<(String, String)>, SpdyError> {
        let failed = |e: &dyn std::fmt::Display| SpdyError::Headers(e.to_string());
        let mut plain = Vec::with_capacity(1024);
        let mut rest = compressed;
        while !rest.is_empty() {
            plain.reserve(1024);
            let before = self.inflate.total_in();
            match self.inflate.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    let used = (self.inflate.total_in() - before) as usize;
                    rest = rest.get(used..).unwrap_or_default();
                    self.inflate.set_dictionary(DICTIONARY).map_err(|e| failed(&e))?;
                    continue;
                }
                Err(error) => return Err(failed(&error)),
            }
            let used = (self.inflate.total_in() - before) as usize;
            if used == 0 && plain.len() < plain.capacity() {
                break;
            }
            rest = rest.get(used..).unwrap_or_default();
            if plain.len() > MAX_FRAME {
                return Err(SpdyError::TooLarge(plain.len()));
            }
        }
        parse_headers(&plain)
    }
}

fn parse_headers(mut plain: &[u8]) -> Result<Vec<(String, String)>, SpdyError> {
    fn text(plain: &mut &[u8]) -> Result<String, SpdyError> {
        if plain.len() < 4 {
            return Err(SpdyError::Short);
        }
        let length = plain.get_u32() as usize;
        if plain.len() < length {
            return Err(SpdyError::Short);
        }
        let (text, rest) = plain.split_at(length);
        *plain = rest;
        Ok(String::from_utf8_lossy(text).into_owned())
    }
    if plain.len() < 4 {
        return Err(SpdyError::Short);
    }
    let count = plain.get_u32();
    (0..count).map(|_| Ok((text(&mut plain)?, text(&mut plain)?))).collect()
}

/// Makes frames. Headers are sent in stored (uncompressed) blocks, which every decompressor reads.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    begun: bool,
}

impl Encoder {
    /// Accepts a stream, with no headers of its own.
    pub(super) fn reply(&mut self, stream: u32) -> Bytes {
        let mut headers = BytesMut::new();
        if !self.begun {
            headers.put_slice(&[0x78, 0x01]);
            self.begun = true;
        }
        let plain = [0u8; 4];
        headers.put_u8(0);
        headers.put_u16_le(plain.len() as u16);
        headers.put_u16_le(!(plain.len() as u16));
        headers.put_slice(&plain);
        // An empty block: decompressors hand out what they have when they meet one.
        headers.put_slice(&[0, 0, 0, 0xff, 0xff]);
        let mut body = BytesMut::new();
        body.put_u32(stream);
        body.put_slice(&headers);
        control(SYN_REPLY, &body)
    }

    /// Bytes of a stream, or its end.
    pub(super) fn data(stream: u32, data: &[u8], fin: bool) -> Bytes {
        let mut frame = BytesMut::with_capacity(8 + data.len());
        frame.put_u32(stream);
        frame.put_u32(u32::from(if fin { FIN } else { 0 }) << 24 | data.len() as u32);
        frame.put_slice(data);
        frame.freeze()
    }

    /// Answers a ping.
    pub(super) fn ping(id: u32) -> Bytes {
        control(PING, &id.to_be_bytes())
    }
}

fn control(kind: u16, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + body.len());
    frame.put_u16(0x8003);
    frame.put_u16(kind);
    frame.put_u32(body.len() as u32);
    frame.put_slice(body);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    fn compressed(deflate: &mut Compress, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = BytesMut::new();
        plain.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(k, v)| [k, v]) {
            plain.put_u32(text.len() as u32);
            plain.put_slice(text.as_bytes());
        }
        let mut out = Vec::with_capacity(1024);
        deflate.compress_vec(&plain, &mut out, FlushCompress::Sync).expect("compress");
        out
    }

    #[test]
    fn headers_are_read_with_one_state_for_all() {
        let mut deflate = Compress::new(Compression::default(), true);
        deflate.set_dictionary(DICTIONARY).expect("dictionary");
        let mut decoder = Decoder::new();
        for (stream, kind) in [(1u32, "error"), (3, "data")] {
            let headers = [("streamtype", kind), ("port", "3306"), ("requestid", "0")];
            let mut body = BytesMut::new();
            body.put_u32(stream);
            body.put_slice(&[0; 6]);
            body.put_slice(&compressed(&mut deflate, &headers));
            let frame = control(SYN_STREAM, &body);
            decoder.push(&frame[..5]);
            assert_eq!(decoder.next().expect("partial"), None);
            decoder.push(&frame[5..]);
            let headers = headers.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
            assert_eq!(decoder.next().expect("frame"), Some(Frame::Open { stream, headers, fin: false }));
        }
    }

    #[test]
    fn replies_can_be_read() {
        let mut encoder = Encoder::default();
        let mut decoder = Decoder::new();
        for stream in [1, 3] {
            decoder.push(&encoder.reply(stream));
            assert_eq!(decoder.next().expect("frame"), Some(Frame::Other));
        }
        decoder.push(&Encoder::data(3, b"x", true));
        assert_eq!(
            decoder.next().expect("frame"),
            Some(Frame::Data { stream: 3, data: Bytes::from_static(b"x"), fin: true })
        );
    }
}
