//! Fetching from real, and hostile, servers.
