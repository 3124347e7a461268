//! Targets of a job: from what was discovered to what is scraped.
