//! Scraping: exposition formats, the line cache, HTTP fetch, pools and loops.

pub mod exposition;
mod histogram;
pub mod session;
