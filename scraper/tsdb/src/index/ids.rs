//! Sets of series ids: small ones without a bitmap, and as bytes.

use std::borrow::Cow;

use roaring::RoaringBitmap;

use crate::codec::{CodecError, Cursor, put_varint};

use super::SeriesId;

/// Stored index entries that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("series ids: {0}")]
    Ids(#[source] CodecError),
    #[error("series ids: {0}")]
    Bitmap(#[source] std::io::Error),
    #[error("series ids of unknown form {0}")]
    Form(u8),
}

/// Sets up to this size are plain lists in memory: most label pairs belong to few series.
const FEW: usize = 16;

/// The series of one label pair, in memory. Never empty once something was inserted.
#[derive(Clone, Debug)]
pub enum IdSet {
    One(SeriesId),
    /// Ascending.
    Few(Vec<SeriesId>),
    Many(Box<RoaringBitmap>),
}

impl IdSet {
    pub(super) fn empty() -> IdSet {
        IdSet::Few(Vec::new())
    }

    /// Of ascending ids.
    pub(super) fn from_sorted(ids: &[SeriesId]) -> IdSet {
        match ids {
            [one] => IdSet::One(*one),
            few if few.len() <= FEW => IdSet::Few(few.to_vec()),
            many => IdSet::Many(Box::new(bitmap_of(many))),
        }
    }

    pub fn len(&self) -> u64 {
        self.ids().len_hint()
    }

    /// Whether it is empty, which only removing makes it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn ids(&self) -> Ids<'_> {
        match self {
            IdSet::One(id) => Ids::List(std::slice::from_ref(id)),
            IdSet::Few(ids) => Ids::List(ids),
            IdSet::Many(bitmap) => Ids::Bitmap(bitmap),
        }
    }

    pub(super) fn insert(&mut self, id: SeriesId) {
        match self {
            IdSet::One(one) if *one == id => {}
            IdSet::One(one) => *self = IdSet::Few(vec![(*one).min(id), (*one).max(id)]),
            IdSet::Few(ids) if ids.is_empty() => *self = IdSet::One(id),
            IdSet::Few(ids) => {
                if let Err(at) = ids.binary_search(&id) {
                    ids.insert(at, id);
                    if ids.len() > FEW {
                        *self = IdSet::Many(Box::new(ids.iter().copied().collect()));
                    }
                }
            }
            IdSet::Many(bitmap) => {
                bitmap.insert(id);
            }
        }
    }

    /// Takes ids out; returns whether some are left.
    pub(super) fn remove(&mut self, gone: &RoaringBitmap) -> bool {
        match self {
            IdSet::One(id) => return !gone.contains(*id),
            IdSet::Few(ids) => ids.retain(|id| !gone.contains(*id)),
            IdSet::Many(bitmap) => {
                **bitmap -= gone;
                // With room to grow again, lest a set at the limit changes its form each time.
                if bitmap.len() <= FEW as u64 / 2 {
                    *self = IdSet::Few(bitmap.iter().collect());
                }
            }
        }
        !self.is_empty()
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            IdSet::One(_) => 0,
            IdSet::Few(ids) => ids.capacity() * size_of::<SeriesId>(),
            IdSet::Many(bitmap) => {
                let stats = bitmap.statistics();
                let bytes =
                    stats.n_bytes_array_containers + stats.n_bytes_run_containers + stats.n_bytes_bitset_containers;
                size_of::<RoaringBitmap>() + stats.n_containers as usize * 40 + bytes as usize
            }
        }
    }
}

/// A set of ascending ids.
pub(super) fn bitmap_of(ids: &[SeriesId]) -> RoaringBitmap {
    RoaringBitmap::from_sorted_iter(ids.iter().copied()).unwrap_or_else(|_| ids.iter().copied().collect())
}

/// A set of series, wherever it lies.
#[derive(Clone, Debug)]
pub enum Ids<'a> {
    /// Ascending.
    List(&'a [SeriesId]),
    Bitmap(&'a RoaringBitmap),
    /// As [`encode_ids`] wrote it; decoded only when it is used.
    Encoded(&'a [u8]),
    /// The same, owned.
    Bytes(Vec<u8>),
}

impl<'a> Ids<'a> {
    /// How many there are; of encoded ones, how many bytes, which grows with them.
    pub fn len_hint(&self) -> u64 {
        match self {
            Ids::List(ids) => ids.len() as u64,
            Ids::Bitmap(bitmap) => bitmap.len(),
            Ids::Encoded(bytes) => bytes.len() as u64,
            Ids::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// # Errors
    /// When encoded ids do not decode; so do all others here.
    pub fn bitmap(&self) -> Result<Cow<'a, RoaringBitmap>, IndexError> {
        Ok(match self {
            Ids::List(ids) => Cow::Owned(ids.iter().copied().collect()),
            Ids::Bitmap(bitmap) => Cow::Borrowed(bitmap),
            Ids::Encoded(bytes) => Cow::Owned(decode_ids(bytes)?),
            Ids::Bytes(bytes) => Cow::Owned(decode_ids(bytes)?),
        })
    }

    pub fn add_to(&self, out: &mut RoaringBitmap) -> Result<(), IndexError> {
        match self {
            Ids::List(ids) => out.extend(ids.iter().copied()),
            _ => *out |= &*self.bitmap()?,
        }
        Ok(())
    }

    pub fn take_from(&self, out: &mut RoaringBitmap) -> Result<(), IndexError> {
        match self {
            Ids::List(ids) => ids.iter().for_each(|id| {
                out.remove(*id);
            }),
            _ => *out -= &*self.bitmap()?,
        }
        Ok(())
    }

    pub fn intersects(&self, with: &RoaringBitmap) -> Result<bool, IndexError> {
        Ok(match self {
            Ids::List(ids) => ids.iter().any(|id| with.contains(*id)),
            _ => !self.bitmap()?.is_disjoint(with),
        })
    }
}

const FORM_GAPS: u8 = 1;
const FORM_ROARING: u8 = 2;

/// The ids as bytes: a list of gaps, or the portable form of roaring bitmaps, whichever is smaller.
pub fn encode_ids(ids: &RoaringBitmap) -> Vec<u8> {
    let mut ids = Cow::Borrowed(ids);
    let mut out = vec![FORM_GAPS];
    // A gap takes a byte at least; runs are where a bitmap can win with fewer ids.
    let mut next = 0u64;
    if ids.len() <= 4096 {
        put_varint(&mut out, ids.len());
        for id in ids.iter() {
            put_varint(&mut out, u64::from(id) - next);
            next = u64::from(id) + 1;
        }
        if ids.len() <= 8 {
            return out;
        }
    }
    ids.to_mut().optimize();
    let size = ids.serialized_size();
    if ids.len() > 4096 || size + 1 < out.len() {
        out.clear();
        out.reserve(size + 1);
        out.push(FORM_ROARING);
        // Writing to a vector cannot fail.
        let _ = ids.serialize_into(&mut out);
    }
    out
}

/// # Errors
/// When the bytes are not what [`encode_ids`] writes.
pub fn decode_ids(bytes: &[u8]) -> Result<RoaringBitmap, IndexError> {
    let mut cursor = Cursor::new(bytes);
    match cursor.byte().map_err(IndexError::Ids)? {
        FORM_GAPS => gaps(&mut cursor).map_err(IndexError::Ids),
        FORM_ROARING => RoaringBitmap::deserialize_from(cursor.rest()).map_err(IndexError::Bitmap),
        form => Err(IndexError::Form(form)),
    }
}

fn gaps(cursor: &mut Cursor<'_>) -> Result<RoaringBitmap, CodecError> {
    let count = cursor.bounded(cursor.rest().len(), "more ids than bytes")?;
    let mut out = RoaringBitmap::new();
    let mut next = 0u64;
    for _ in 0..count {
        let id = cursor.varint()?.checked_add(next).and_then(|id| SeriesId::try_from(id).ok());
        let id = id.ok_or(CodecError::Corrupt("series id out of range"))?;
        out.insert(id);
        next = u64::from(id) + 1;
    }
    if cursor.rest().is_empty() { Ok(out) } else { Err(CodecError::Corrupt("bytes after the ids")) }
}
