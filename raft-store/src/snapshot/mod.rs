//! A whole state as one logical stream: versioned, checksummed, compressed.
//!
//! Layout: magic, then frames of (length, CRC-32, payload), each payload LZ4 with
//! its size in front. The first frame is the header, the last a trailer with the
//! number of rows and a SHA-256 over every frame before it. A file without a right
//! trailer is not a snapshot. Nothing is allocated on the word of a length that
//! exceeds the frame limit.

mod file;
mod survey;

use std::io::{self, Read, Write};

use prost::Message;

pub use file::{RowSink, SnapshotFile, Snapshots};
pub use survey::{Survey, inspect, verify};

use crate::store::StoreError;
use crate::view::Writes;

const MAGIC: &[u8; 8] = b"CHNCSN01";
/// Bytes of rows after which a frame is closed.
const FRAME_BYTES: usize = 256 << 10;
/// Bytes that a frame may have at most, compressed and plain: a row is smaller than a message.
const FRAME_BYTES_MAX: usize = 16 << 20;
/// Bytes of key and value of a row at most: behind rows that nearly close a frame it still
/// fits one, however badly it compresses.
pub const ROW_BYTES_MAX: usize = FRAME_BYTES_MAX - 4 * FRAME_BYTES;

/// What stands in front of the rows.
#[derive(Clone, PartialEq, Message)]
pub struct Header {
    /// Encoded log id of the last applied log entry; empty before the first.
    #[prost(bytes = "vec", tag = "1")]
    pub applied: Vec<u8>,
    /// Encoded membership.
    #[prost(bytes = "vec", tag = "2")]
    pub membership: Vec<u8>,
    /// Cluster that it is of.
    #[prost(string, tag = "3")]
    pub cluster_id: String,
    /// What a backup says of itself; a snapshot that nodes hand each other has none.
    #[prost(message, optional, tag = "4")]
    pub origin: Option<Origin>,
}

/// What only a backup says: who looks at the file has nothing else to go by.
#[derive(Clone, PartialEq, Message)]
pub struct Origin {
    /// Version of these fields and of what is done with them: [`Origin::FORMAT`]. A
    /// greater one is refused, so that nothing is restored by half.
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// Unix milliseconds by the clock of the node that made it.
    #[prost(int64, tag = "2")]
    pub created_at_ms: i64,
    /// Trust domain name.
    #[prost(string, tag = "3")]
    pub trust_domain: String,
    /// Node that made it.
    #[prost(uint64, tag = "4")]
    pub node_id: u64,
    /// Version of the program on that node.
    #[prost(string, tag = "5")]
    pub program_version: String,
    /// Rolling digest of the state at the applied log entry.
    #[prost(bytes = "vec", tag = "6")]
    pub state_digest: Vec<u8>,
    /// Only in a backup that no quorum confirmed: milliseconds that the state was old at
    /// most, -1 where nobody knows.
    #[prost(sint64, optional, tag = "7")]
    pub stale_ms: Option<i64>,
}

impl Origin {
    /// What this version writes, and the greatest that it reads.
    pub const FORMAT: u32 = 1;
}

#[derive(Clone, PartialEq, Message)]
struct Row {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Frame {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    rows: Vec<Row>,
    #[prost(message, optional, tag = "3")]
    trailer: Option<Trailer>,
}

#[derive(Clone, PartialEq, Message)]
struct Trailer {
    #[prost(uint64, tag = "1")]
    rows: u64,
    #[prost(bytes = "vec", tag = "2")]
    sha256: Vec<u8>,
}

/// Writes a snapshot stream.
pub struct Encoder<W: Write> {
    out: W,
    frame: Frame,
    frame_bytes: usize,
    rows: u64,
    digest: aws_lc_rs::digest::Context,
}

impl<W: Write> Encoder<W> {
    /// Starts a stream.
    pub fn new(mut out: W, header: Header) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        let mut encoder = Self {
            out,
            frame: Frame {
                header: Some(header),
                ..Frame::default()
            },
            frame_bytes: 0,
            rows: 0,
            digest: aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256),
        };
        encoder.close_frame()?;
        Ok(encoder)
    }

    /// Adds a row.
    ///
    /// # Errors
    /// What the sink says; a row longer than [`ROW_BYTES_MAX`], which is named: nobody
    /// could read the snapshot.
    pub fn row(&mut self, key: Vec<u8>, value: Vec<u8>) -> io::Result<()> {
        check_length(&key, &value)?;
        self.rows += 1;
        self.frame_bytes += key.len() + value.len() + 8;
        self.frame.rows.push(Row { key, value });
        if self.frame_bytes >= FRAME_BYTES {
            self.close_frame()
        } else {
            Ok(())
        }
    }

    /// Ends the stream and gives the sink back.
    pub fn finish(mut self) -> io::Result<W> {
        if !self.frame.rows.is_empty() {
            self.close_frame()?;
        }
        let sha256 = self.digest.clone().finish().as_ref().to_vec();
        self.frame.trailer = Some(Trailer {
            rows: self.rows,
            sha256,
        });
        self.close_frame()?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn close_frame(&mut self) -> io::Result<()> {
        let payload =
            lz4_flex::compress_prepend_size(&std::mem::take(&mut self.frame).encode_to_vec());
        let length = u32::try_from(payload.len())
            .map_err(|_| io::Error::other("snapshot frame too long"))?;
        self.out.write_all(&length.to_be_bytes())?;
        self.out
            .write_all(&crc32fast::hash(&payload).to_be_bytes())?;
        self.out.write_all(&payload)?;
        self.digest.update(&payload);
        self.frame_bytes = 0;
        Ok(())
    }
}

fn check_length(key: &[u8], value: &[u8]) -> io::Result<()> {
    /// Enough of a key to find its row.
    const SHOWN: usize = 64;
    let bytes = key.len().saturating_add(value.len());
    if bytes <= ROW_BYTES_MAX {
        return Ok(());
    }
    let (table, rest) = key.split_first().unwrap_or((&0, &[]));
    let shown = hex::encode(&rest[..rest.len().min(SHOWN)]);
    Err(io::Error::other(format!(
        "a row of table {table} is too long for a snapshot: {bytes} bytes, at most \
         {ROW_BYTES_MAX}; its key is {shown}"
    )))
}

/// Reads a snapshot stream, checking everything. `rows` is given bounded groups
/// in the order of the stream; the header comes back when the trailer was right.
/// Until then what `rows` was given must not be used.
pub fn decode<R: Read>(
    mut input: R,
    mut rows: impl FnMut(&Header, Writes) -> Result<(), StoreError>,
) -> Result<Header, StoreError> {
    let bad = |what: &str| StoreError::corrupt(format!("snapshot: {what}"));
    let mut magic = [0; 8];
    input
        .read_exact(&mut magic)
        .map_err(|e| bad(&e.to_string()))?;
    if &magic != MAGIC {
        return Err(bad(
            "wrong magic number or a version that this node does not know",
        ));
    }
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut header: Option<Header> = None;
    let mut count = 0u64;
    loop {
        let payload = read_payload(&mut input)?;
        let before = digest.clone();
        digest.update(&payload);
        let (size, block) =
            lz4_flex::block::uncompressed_size(&payload).map_err(|_| bad("damaged frame"))?;
        if size > FRAME_BYTES_MAX {
            return Err(bad("frame too long"));
        }
        let plain = lz4_flex::decompress(block, size).map_err(|_| bad("damaged frame"))?;
        let frame = Frame::decode(plain.as_slice()).map_err(|_| bad("frame does not decode"))?;
        if let Some(trailer) = frame.trailer {
            if trailer.rows != count || trailer.sha256 != before.finish().as_ref() {
                return Err(bad("the trailer does not match"));
            }
            let mut end = [0; 1];
            if input.read(&mut end).map_err(|e| bad(&e.to_string()))? != 0 {
                return Err(bad("bytes behind the trailer"));
            }
            return header.ok_or_else(|| bad("no header"));
        }
        match (&header, frame.header) {
            (None, Some(first)) => {
                let format = first.origin.as_ref().map_or(0, |o| o.format);
                if format > Origin::FORMAT {
                    return Err(bad(&format!(
                        "a backup of format {format}, and this version reads up to {}: use the version that made it",
                        Origin::FORMAT
                    )));
                }
                header = Some(first);
            }
            (Some(_), None) => {}
            _ => return Err(bad("header missing or repeated")),
        }
        count += frame.rows.len() as u64;
        if let Some(header) = &header
            && !frame.rows.is_empty()
        {
            rows(
                header,
                frame
                    .rows
                    .into_iter()
                    .map(|r| (r.key, Some(r.value)))
                    .collect(),
            )?;
        }
    }
}

fn read_payload(input: &mut impl Read) -> Result<Vec<u8>, StoreError> {
    let bad = |what: &str| StoreError::corrupt(format!("snapshot: {what}"));
    let mut head = [0; 8];
    input
        .read_exact(&mut head)
        .map_err(|_| bad("ends before its trailer"))?;
    let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(bad("frame too long"));
    }
    let mut payload = vec![0; length];
    input
        .read_exact(&mut payload)
        .map_err(|_| bad("ends before its trailer"))?;
    if crc32fast::hash(&payload).to_be_bytes() != [c0, c1, c2, c3] {
        return Err(bad("wrong checksum"));
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rows: u32) -> Vec<u8> {
        let header = Header {
            applied: vec![1],
            membership: vec![2],
            cluster_id: "c".into(),
            origin: None,
        };
        let mut encoder = Encoder::new(Vec::new(), header).expect("a vector takes all");
        for i in 0..rows {
            encoder
                .row(i.to_be_bytes().to_vec(), vec![7; 3000])
                .expect("a vector takes all");
        }
        encoder.finish().expect("a vector takes all")
    }

    #[test]
    fn rows_come_back_as_they_went_in() {
        let bytes = sample(1000);
        assert!(bytes.len() < 1000 * 3000 / 10, "it is compressed");
        let mut seen = 0u32;
        let header = decode(bytes.as_slice(), |_, rows| {
            for (key, value) in rows {
                assert_eq!(
                    (key, value),
                    (seen.to_be_bytes().to_vec(), Some(vec![7; 3000]))
                );
                seen += 1;
            }
            Ok(())
        });
        assert_eq!(header.expect("it is whole").cluster_id, "c");
        assert_eq!(seen, 1000);
    }

    #[test]
    fn a_row_that_nobody_could_read_is_not_written() {
        let written = |bytes: usize| {
            let mut encoder = Encoder::new(Vec::new(), Header::default()).expect("room");
            // Behind rows that nearly close a frame, and not to be compressed.
            encoder.row(vec![1], vec![7; FRAME_BYTES - 64])?;
            let noise =
                (0u64..).flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes());
            encoder.row(vec![10, b'k', 0xff], noise.take(bytes).collect())?;
            encoder.finish()
        };
        let largest = written(ROW_BYTES_MAX - 3).expect("the largest row is written");
        decode(largest.as_slice(), |_, _| Ok(())).expect("the largest row is read");
        let error = written(ROW_BYTES_MAX - 2).expect_err("a longer row is refused");
        assert_eq!(
            error.to_string(),
            format!(
                "a row of table 10 is too long for a snapshot: {} bytes, at most {ROW_BYTES_MAX}; \
                 its key is 6bff",
                ROW_BYTES_MAX + 1
            )
        );
    }

    #[test]
    fn any_cut_or_flip_is_an_error() {
        let bytes = sample(20);
        for end in 0..bytes.len() {
            assert!(
                decode(&bytes[..end], |_, _| Ok(())).is_err(),
                "cut at {end}"
            );
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(
                decode(bad.as_slice(), |_, _| Ok(())).is_err(),
                "flipped {at}"
            );
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(
            decode(longer.as_slice(), |_, _| Ok(())).is_err(),
            "one byte more"
        );
    }
}
