//! The second copy of the small families ([`Family::Mirror`]): made complete at start, and used when files of one copy
//! are damaged.

use rocksdb::{DB, WriteBatch, WriteOptions};

use super::heal::{Handle, damaged_file, scan};
use super::{Db, Family, cf};
use crate::TsdbError;
use crate::blocks::STRETCH_PREFIX;

/// There once both copies are the same.
const COMPLETE: &[u8] = &[0xff];
const BATCH_BYTES: usize = 4 << 20;

/// What there are two copies of: the family, the range of its keys, and the byte before them in the mirror.
const PARTS: [(Family, &[u8], Option<&[u8]>, u8); 3] = [
    (Family::Series, &[], None, 1),
    (Family::Postings, &[STRETCH_PREFIX], Some(&[STRETCH_PREFIX + 1]), 2),
    (Family::Meta, &[], None, 4),
];

/// The byte before this key of a family in the mirror, if there is a copy of what is under it.
pub(super) fn mirrored(family: Family, key: &[u8]) -> Option<u8> {
    let part = PARTS.iter().find(|(f, from, to, _)| *f == family && key >= *from && to.is_none_or(|to| key < to));
    part.map(|(.., byte)| *byte)
}

/// Which copy is the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    First,
    Mirror,
    /// Each may lack something.
    Neither,
}

impl Right {
    /// After a file of this family was damaged.
    pub(super) fn without(family: Option<Family>) -> Option<Right> {
        match family {
            Some(Family::Mirror) => Some(Right::First),
            Some(Family::Series | Family::Postings | Family::Meta) => Some(Right::Mirror),
            Some(_) => None,
            None => Some(Right::Neither),
        }
    }
}

impl Db {
    /// Reads both copies through, and mends what is damaged or missing.
    pub(super) fn check_mirror(&self) -> Result<(), TsdbError> {
        if self.o.read_only || self.read_only().is_some() {
            return Ok(());
        }
        let mut damaged = Vec::new();
        let complete = self.with(|db| {
            let mut check = |family, from: &[u8], to: Option<&[u8]>| {
                let why = scan(db, &cf(db, family)?, from, to, true, &mut |_, _| true)?;
                damaged.extend(why.as_deref().and_then(damaged_file));
                Ok::<_, TsdbError>(())
            };
            for (family, from, to, _) in PARTS {
                check(family, from, to)?;
            }
            check(Family::Mirror, &[], None)?;
            let complete = db.get_cf(&cf(db, Family::Mirror)?, COMPLETE).ok().flatten();
            if complete.is_none() && damaged.is_empty() {
                reconcile(db, Right::First)?;
            }
            Ok(())
        });
        complete?;
        if damaged.is_empty() {
            return Ok(());
        }
        let mut handle = self.handle.write();
        *handle = Handle::Closed;
        damaged.iter().for_each(|file| self.remove_damaged(file));
        *handle = Handle::Open(self.open_writable()?);
        Ok(())
    }
}

/// Makes the copies the same.
pub(super) fn reconcile(db: &DB, right: Right) -> Result<(), TsdbError> {
    let mirror = cf(db, Family::Mirror)?;
    let mut batch = WriteBatch::default();
    let mut failed = None;
    let mut write = |batch: &mut WriteBatch, least: usize| {
        if batch.size_in_bytes() >= least {
            let written = db.write_opt(std::mem::take(batch), &WriteOptions::default());
            failed = failed.take().or(written.err());
        }
    };
    for (family, from, to, byte) in PARTS {
        let first = cf(db, family)?;
        let copy = |key: &[u8]| [&[byte][..], key].concat();
        // What the mirror has.
        if right != Right::First {
            let start = copy(from);
            let end = to.map_or_else(|| vec![byte + 1], copy);
            scan(db, &mirror, &start, Some(&end), true, &mut |key, value| {
                let key = &key[1..];
                if db.get_cf(&first, key).ok().flatten().is_none_or(|v| v != value) {
                    batch.put_cf(&first, key, value);
                    write(&mut batch, BATCH_BYTES);
                }
                true
            })?;
        }
        // What the first copy has.
        scan(db, &first, from, to, true, &mut |key, value| {
            let copied = db.get_cf(&mirror, copy(key)).ok().flatten();
            match (right, copied) {
                (_, Some(v)) if v == value => {}
                (Right::Mirror, None) => batch.delete_cf(&first, key),
                (Right::Mirror, _) | (Right::Neither, Some(_)) => {}
                _ => batch.put_cf(&mirror, copy(key), value),
            }
            write(&mut batch, BATCH_BYTES);
            true
        })?;
        if right == Right::First {
            let end = to.map_or_else(|| vec![byte + 1], copy);
            scan(db, &mirror, &copy(from), Some(&end), true, &mut |key, _| {
                if db.get_cf(&first, &key[1..]).is_ok_and(|v| v.is_none()) {
                    batch.delete_cf(&mirror, key);
                    write(&mut batch, BATCH_BYTES);
                }
                true
            })?;
        }
    }
    batch.put_cf(&mirror, COMPLETE, []);
    write(&mut batch, 0);
    failed.map_or(Ok(()), |e| Err(TsdbError::Write(e)))
}
