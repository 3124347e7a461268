//! What is in force, read again when a file behind it has changed; passwords, limited in what strangers can make them
//! cost.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use rustls::ServerConfig;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::{RateLimit, WebConfig, WebConfigError};

/// The configuration that is in force now.
pub struct Live {
    path: PathBuf,
    /// Whether connections begin with TLS: the file said so when the server started.
    pub with_tls: bool,
    state: Mutex<State>,
    passwords: Passwords,
}

struct State {
    stamps: Vec<(PathBuf, Option<SystemTime>)>,
    /// The file has become bad since; `config` is what it was before.
    bad: bool,
    config: Arc<WebConfig>,
    tls: Option<Arc<ServerConfig>>,
    bucket: Bucket,
}

fn stamp(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|m| m.modified()).ok()
}

/// What came of a name and a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    Right,
    Wrong,
    /// Too many passwords wait to be checked.
    Busy,
}

impl Live {
    /// # Errors
    /// See [`WebConfigError`].
    pub fn open(path: &Path) -> Result<Live, WebConfigError> {
        let state = State::load(path)?;
        let with_tls = state.tls.is_some();
        Ok(Live { path: path.to_owned(), with_tls, state: Mutex::new(state), passwords: Passwords::default() })
    }

    /// The configuration now; none while the file is bad. Certificates that became bad leave the old ones in force.
    pub fn current(&self) -> Option<(Arc<WebConfig>, Option<Arc<ServerConfig>>)> {
        let mut state = self.state.lock();
        if state.stamps.iter().any(|(path, at)| stamp(path) != *at) {
            match State::load(&self.path) {
                Ok(mut new) => {
                    if new.config.rate_limit == state.config.rate_limit {
                        std::mem::swap(&mut new.bucket, &mut state.bucket);
                    }
                    *state = new;
                }
                Err(e) => {
                    // A certificate may be there before its key.
                    state.bad = WebConfig::load(&self.path).is_err();
                    let what = if state.bad { "nothing is answered until it is mended" } else { "keeping the old one" };
                    tracing::error!(err = %e, what, "unable to parse the web configuration");
                    state.stamps.iter_mut().for_each(|(path, at)| *at = stamp(path));
                }
            }
        }
        (!state.bad).then(|| (state.config.clone(), state.tls.clone()))
    }

    /// Takes one request from the rate limit; false when there is none left.
    pub fn admit(&self, now: Instant) -> bool {
        self.state.lock().bucket.take(now)
    }

    /// Whether `user` has that password. Takes a while the first time, by bcrypt's nature.
    pub async fn check(&self, config: &WebConfig, user: &str, password: &str) -> Login {
        // Unknown users cost as much time as known ones.
        const NOBODY: &str = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";
        let known = config.basic_auth_users.get(user);
        let hash = known.map_or(NOBODY, String::as_str).to_owned();
        self.passwords.check(known.is_some(), user, hash, password).await
    }
}

impl State {
    fn load(path: &Path) -> Result<State, WebConfigError> {
        // Before reading: what changes in between is read again.
        let own = (path.to_owned(), stamp(path));
        let config = WebConfig::load(path)?;
        let t = &config.tls_server_config;
        let files = [&t.cert_file, &t.key_file, &t.client_ca_file];
        let files = files.into_iter().filter(|f| !f.is_empty()).map(PathBuf::from);
        let stamps = files.map(|f| (f.clone(), stamp(&f))).chain([own]).collect();
        let tls = config.tls()?.map(Arc::new);
        let bucket = Bucket::new(&config.rate_limit);
        Ok(State { stamps, bad: false, config: Arc::new(config), tls, bucket })
    }
}

/// A token bucket.
struct Bucket {
    interval: Duration,
    burst: f64,
    tokens: f64,
    filled: Option<Instant>,
}

impl Bucket {
    fn new(limit: &RateLimit) -> Bucket {
        let burst = limit.burst.max(0) as f64;
        Bucket { interval: limit.interval, burst, tokens: burst, filled: None }
    }

    fn take(&mut self, now: Instant) -> bool {
        if self.interval.is_zero() {
            return true;
        }
        let since = self.filled.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.filled = Some(now);
        self.tokens = (self.tokens + since.as_secs_f64() / self.interval.as_secs_f64()).min(self.burst);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

type Key = [u8; 32];

/// Outcomes of comparing passwords. bcrypt is slow on purpose: one comparison runs at a time, so that strangers who
/// guess keep no more than one thread busy, and what they guess does not push out who is right.
struct Passwords {
    right: Mutex<HashSet<Key>>,
    wrong: Mutex<HashSet<Key>>,
    turn: Arc<Semaphore>,
    places: Semaphore,
}

/// Most outcomes of a kind that are remembered.
const MAX_REMEMBERED: usize = 100;

/// Most passwords that wait to be compared.
const MAX_WAITING: usize = 64;

impl Default for Passwords {
    fn default() -> Passwords {
        let (right, wrong) = Default::default();
        Passwords { right, wrong, turn: Arc::new(Semaphore::new(1)), places: Semaphore::new(MAX_WAITING) }
    }
}

/// What an outcome is remembered by. Nobody outside can work it out: it begins with random bytes.
fn key(user: &str, hash: &str, password: &str) -> Key {
    static SALT: OnceLock<[u64; 4]> = OnceLock::new();
    let salt = SALT.get_or_init(|| {
        use std::hash::BuildHasher;
        // Each state is seeded by the system's random numbers.
        std::array::from_fn(|i| std::collections::hash_map::RandomState::new().hash_one(i))
    });
    let mut digest = Sha256::new();
    salt.iter().for_each(|n| digest.update(n.to_le_bytes()));
    for part in [user, hash, password] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

fn remember(set: &Mutex<HashSet<Key>>, key: Key) {
    let mut set = set.lock();
    if set.len() >= MAX_REMEMBERED {
        set.clear();
    }
    set.insert(key);
}

impl Passwords {
    fn known(&self, key: &Key) -> Option<Login> {
        if self.right.lock().contains(key) {
            return Some(Login::Right);
        }
        self.wrong.lock().contains(key).then_some(Login::Wrong)
    }

    async fn check(&self, is_known: bool, user: &str, hash: String, password: &str) -> Login {
        let key = key(user, &hash, password);
        if let Some(login) = self.known(&key) {
            return login;
        }
        let Ok(_place) = self.places.try_acquire() else { return Login::Busy };
        let Ok(turn) = self.turn.clone().acquire_owned().await else { return Login::Busy };
        // Somebody before may have asked the same.
        if let Some(login) = self.known(&key) {
            return login;
        }
        let password = password.to_owned();
        let compare = move || {
            // Held by the thread: a client that goes away does not make room for a second comparison.
            let _turn = turn;
            is_known & bcrypt::verify(password, &hash).unwrap_or(false)
        };
        let right = tokio::task::spawn_blocking(compare).await.unwrap_or(false);
        remember(if right { &self.right } else { &self.wrong }, key);
        if right { Login::Right } else { Login::Wrong }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_fills_up_to_its_burst() {
        let mut b = Bucket::new(&RateLimit { burst: 2, interval: Duration::from_secs(1) });
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let taken: Vec<bool> = [0, 0, 0, 900, 1000, 5000, 5000, 5000].map(|ms| b.take(at(ms))).to_vec();
        assert_eq!(taken, [true, true, false, false, true, true, true, false]);
        assert!(Bucket::new(&RateLimit::default()).take(start));
    }

    #[tokio::test]
    async fn guesses_do_not_push_out_who_is_right() {
        let p = Passwords::default();
        let hash = bcrypt::hash("right", 4).unwrap();
        assert_eq!(p.check(true, "u", hash.clone(), "right").await, Login::Right);
        for i in 0..150 {
            assert_eq!(p.check(true, "u", hash.clone(), &format!("guess {i}")).await, Login::Wrong);
        }
        assert!(p.wrong.lock().len() <= MAX_REMEMBERED);
        assert_eq!(p.known(&key("u", &hash, "right")), Some(Login::Right));
        // The right password of nobody is wrong.
        assert_eq!(p.check(false, "v", hash.clone(), "right").await, Login::Wrong);
        // With all places taken nobody new is compared, but who was right stays so.
        let _all = p.places.acquire_many(MAX_WAITING as u32).await.unwrap();
        assert_eq!(p.check(true, "u", hash.clone(), "new").await, Login::Busy);
        assert_eq!(p.check(true, "u", hash, "right").await, Login::Right);
    }
}
