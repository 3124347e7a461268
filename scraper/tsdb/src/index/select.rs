//! Matchers to series, over any postings.

use narthex_model::{MatchType, Matcher};
use roaring::RoaringBitmap;

use super::SeriesId;
use super::ids::{Ids, IndexError};

/// What is called with a label's value and its series; false ends the walk.
pub type Visit<'v, E> = dyn FnMut(&str, Ids<'_>) -> Result<bool, E> + 'v;

/// Label pairs with their series: the index in memory, or a partition of the one on disk.
pub trait Postings {
    /// What reading may fail with.
    type Error: From<IndexError>;

    /// All series.
    fn all(&self) -> Result<RoaringBitmap, Self::Error>;

    /// The series with this pair; `value` is not empty.
    fn ids(&self, name: &str, value: &str) -> Result<Option<Ids<'_>>, Self::Error>;

    /// Gives each value of the label that starts with `prefix`, in order, with its series, until `visit` returns false.
    fn each_value(&self, name: &str, prefix: &str, visit: &mut Visit<'_, Self::Error>) -> Result<(), Self::Error>;

    /// All label names, sorted.
    fn names(&self) -> Result<Vec<String>, Self::Error>;

    /// Roughly how many values a label has, where that is known at once.
    fn value_count(&self, _name: &str) -> Option<usize> {
        None
    }

    /// Gives each label pair of these series once, in no order. `false`: nothing was given, as that cannot be told at
    /// once.
    fn each_pair_of(&self, _ids: &RoaringBitmap, _visit: &mut dyn FnMut(&str, &str)) -> bool {
        false
    }

    /// The label's value of a series, empty where it has none; `None` where that cannot be told at once.
    fn value_of(&self, _id: SeriesId, _name: &str) -> Option<&str> {
        None
    }
}

/// The series that satisfy all of `matchers`; without matchers, all series.
///
/// # Errors
/// Those of the postings.
pub fn select<P: Postings>(postings: &P, matchers: &[Matcher]) -> Result<RoaringBitmap, P::Error> {
    let (listed, rest): (Vec<&Matcher>, Vec<&Matcher>) =
        matchers.iter().filter(|m| !matches_all(m)).partition(|m| !m.matches_empty() && m.set_matches().is_some());
    let (scanned, excluding): (Vec<&Matcher>, Vec<&Matcher>) = rest.into_iter().partition(|m| !m.matches_empty());

    // Those whose values can be listed first, the rarest at the head.
    let mut sets = Vec::new();
    for matcher in listed {
        let mut ids = Vec::new();
        for value in matcher.set_matches().unwrap_or_default() {
            ids.extend(postings.ids(&matcher.name, value)?);
        }
        sets.push((ids.iter().map(Ids::len_hint).sum::<u64>(), ids));
    }
    sets.sort_by_key(|(len, _)| *len);
    let mut found: Option<RoaringBitmap> = None;
    for (_, ids) in sets {
        found = Some(match (found, &*ids) {
            (Some(found), [one]) => found & &*one.bitmap()?,
            (None, [one]) => one.bitmap()?.into_owned(),
            (found, ids) => {
                let mut union = RoaringBitmap::new();
                ids.iter().try_for_each(|ids| ids.add_to(&mut union))?;
                found.map_or_else(|| union.clone(), |found| found & &union)
            }
        });
        if found.as_ref().is_some_and(RoaringBitmap::is_empty) {
            return Ok(RoaringBitmap::new());
        }
    }
    for matcher in scanned {
        if let Some(found) = &mut found
            && filter(postings, found, matcher)
        {
            continue;
        }
        let mut union = RoaringBitmap::new();
        postings.each_value(&matcher.name, prefix(matcher), &mut |value, ids| {
            if matcher.matches(value) {
                ids.add_to(&mut union)?;
            }
            Ok(true)
        })?;
        found = Some(found.map_or_else(|| union.clone(), |found| found & &union));
    }
    let mut found = match found {
        Some(found) => found,
        None => postings.all()?,
    };
    for matcher in excluding {
        if found.is_empty() {
            break;
        }
        if let Some(values) = matcher.excluded_values() {
            for value in values {
                if let Some(ids) = postings.ids(&matcher.name, value)? {
                    ids.take_from(&mut found)?;
                }
            }
        } else if !filter(postings, &mut found, matcher) {
            let prefix = if matcher.match_type == MatchType::NotRegexp { prefix(matcher) } else { "" };
            postings.each_value(&matcher.name, prefix, &mut |value, ids| {
                if !matcher.matches(value) {
                    ids.take_from(&mut found)?;
                }
                Ok(true)
            })?;
        }
    }
    Ok(found)
}

/// `=~".*"` holds for everything.
fn matches_all(matcher: &Matcher) -> bool {
    matcher.match_type == MatchType::Regexp && &*matcher.value == ".*"
}

/// What values must start with: to match a positive matcher, not to match a negative one.
fn prefix(matcher: &Matcher) -> &str {
    match matcher.match_type {
        MatchType::Regexp => matcher.prefix(),
        // Scanned for what does not match, when it matches the empty value; else for what matches.
        MatchType::NotRegexp if matcher.matches_empty() => matcher.prefix(),
        _ => "",
    }
}

/// Tests the series one by one when that is less work than testing all values of the label; returns whether it did.
fn filter<P: Postings>(postings: &P, found: &mut RoaringBitmap, matcher: &Matcher) -> bool {
    let values = postings.value_count(&matcher.name);
    // A look-up of a series' value costs about as much as testing a few values.
    if values.is_none_or(|values| found.len() * 4 > values as u64) {
        return false;
    }
    let mut kept = RoaringBitmap::new();
    for id in found.iter() {
        match postings.value_of(id, &matcher.name) {
            None => return false,
            Some(value) if matcher.matches(value) => {
                kept.insert(id);
            }
            Some(_) => {}
        }
    }
    *found = kept;
    true
}

/// Walking so many series costs about as much as intersecting one set with theirs.
const WALK: u64 = 4;

/// The values of a label, sorted: of all series, or of those in `among`. At most `limit` (0: all), and whether there
/// were more.
///
/// # Errors
/// Those of the postings.
pub fn label_values<P: Postings>(
    postings: &P,
    name: &str,
    among: Option<&RoaringBitmap>,
    limit: usize,
) -> Result<(Vec<String>, bool), P::Error> {
    let mut out = Vec::new();
    if let Some(among) = among
        && postings.value_count(name).is_some_and(|values| among.len() <= values as u64 * WALK)
    {
        let mut found = Vec::new();
        let mut visit = |n: &str, value: &str| {
            if n == name {
                found.push(value.to_owned());
            }
        };
        if postings.each_pair_of(among, &mut visit) {
            found.sort_unstable();
            let truncated = limit > 0 && found.len() > limit;
            found.truncate(if limit > 0 { limit } else { usize::MAX });
            return Ok((found, truncated));
        }
    }
    let mut truncated = false;
    postings.each_value(name, "", &mut |value, ids| {
        let there = match among {
            Some(among) => ids.intersects(among)?,
            None => true,
        };
        if there {
            truncated = limit > 0 && out.len() == limit;
            if truncated {
                return Ok(false);
            }
            out.push(value.to_owned());
        }
        Ok(true)
    })?;
    Ok((out, truncated))
}

/// The label names, sorted: of all series, or of those in `among`. At most `limit` (0: all), and whether there were
/// more.
///
/// # Errors
/// Those of the postings.
pub fn label_names<P: Postings>(
    postings: &P,
    among: Option<&RoaringBitmap>,
    limit: usize,
) -> Result<(Vec<String>, bool), P::Error> {
    let mut out = postings.names()?;
    let walk = |among: &RoaringBitmap| {
        let values: Option<usize> = out.iter().map(|name| postings.value_count(name)).sum();
        if values.is_none_or(|values| among.len() > values as u64 * WALK) {
            return None;
        }
        let mut found: Vec<String> = Vec::new();
        let mut visit = |name: &str, _: &str| {
            if !found.iter().any(|n| n == name) {
                found.push(name.to_owned());
            }
        };
        postings.each_pair_of(among, &mut visit).then_some(found)
    };
    if let Some(mut found) = among.and_then(walk) {
        found.sort_unstable();
        out = found;
    } else if let Some(among) = among {
        let mut kept = Vec::new();
        for name in out {
            let mut there = false;
            postings.each_value(&name, "", &mut |_, ids| {
                there = ids.intersects(among)?;
                Ok(!there)
            })?;
            if there {
                kept.push(name);
                if limit > 0 && kept.len() > limit {
                    break;
                }
            }
        }
        out = kept;
    }
    let truncated = limit > 0 && out.len() > limit;
    out.truncate(if limit > 0 { limit } else { usize::MAX });
    Ok((out, truncated))
}
