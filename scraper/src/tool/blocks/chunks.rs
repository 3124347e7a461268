//! A block's chunk files.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::chunk::{self, Decoded, Encoding};
use super::{Cursor, Source, crc};

const MAGIC: [u8; 4] = 0x85bd_40dd_u32.to_be_bytes();
/// So many bytes are read at first: most chunks are shorter.
const FIRST: usize = 1024;
const MAX_CHUNK: u64 = 64 << 20;

pub struct Chunks {
    files: Vec<Source>,
}

/// A chunk whose checksum fits.
pub struct Chunk<'a> {
    file: &'a Source,
    offset: u64,
    pub encoding: Encoding,
    pub data: Vec<u8>,
}

impl Chunks {
    pub fn open(folder: &Path) -> Result<Chunks> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).with_context(|| format!("open {}", folder.display()))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.is_empty() && name.bytes().all(|c| c.is_ascii_digit()) {
                names.push((name.parse::<u64>().unwrap_or(u64::MAX), name));
            }
        }
        names.sort();
        let mut files = Vec::new();
        for (_, name) in names {
            let file = Source::open(&folder.join(name))?;
            let head = file.read(0, 8)?;
            ensure!(head[..4] == MAGIC, "{} is no file of chunks", file.path.display());
            ensure!(head[4] == 1, "{}: chunks of version {}, version 1 is read", file.path.display(), head[4]);
            files.push(file);
        }
        Ok(Chunks { files })
    }

    /// The chunk of an index's reference: the file in the upper half, the place in it in the lower.
    pub fn get(&self, reference: u64) -> Result<Chunk<'_>> {
        let (number, offset) = ((reference >> 32) as usize, reference & 0xffff_ffff);
        let file =
            self.files.get(number).with_context(|| format!("there is no file of chunks number {}", number + 1))?;
        let what = || file.at(offset);
        let mut bytes = Vec::new();
        file.read_some(offset, FIRST, &mut bytes)?;
        let mut cursor = Cursor(&bytes);
        let len = cursor.varint().with_context(what)?;
        ensure!(len <= MAX_CHUNK, "{}: a chunk of {len} bytes", what());
        let head = bytes.len() - cursor.0.len();
        // Encoding and checksum beside the data.
        let whole = head + len as usize + 5;
        if bytes.len() < whole {
            bytes = file.read(offset, whole)?;
        }
        bytes.truncate(whole);
        let sum = bytes.split_off(whole - 4);
        let content = &bytes[head..];
        ensure!(crc(content) == sum[..], "{}: the checksum does not fit", what());
        let encoding = Encoding::from_code(content[0]);
        let encoding = encoding.with_context(|| format!("{}: chunks of kind {} are not known", what(), content[0]))?;
        Ok(Chunk { file, offset, encoding, data: bytes.split_off(head + 1) })
    }
}

impl Chunk<'_> {
    /// Adds the chunk's samples.
    pub fn decode(&self, out: &mut Decoded) -> Result<()> {
        chunk::decode(self.encoding, &self.data, out).map_err(|e| anyhow::anyhow!("{}: {e}", self.file.at(self.offset)))
    }

    pub fn samples(&self) -> usize {
        chunk::samples(self.encoding, &self.data)
    }
}
