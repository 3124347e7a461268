//! Leader election on a `coordination.k8s.io/v1` Lease, with the times that Kubernetes' own components use: the leader
//! renews every 2 s and gives up when it could not for 10 s; others take over when the lease was not renewed for 15 s,
//! as seen by their own clock from when they saw it change last (so clocks need not agree).

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tracing::{info, warn};

const DURATION: Duration = Duration::from_secs(15);
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
pub const RETRY: Duration = Duration::from_secs(2);

/// What a look at the lease tells a candidate to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is ours or free: write our name.
    Take,
    /// Another holds it.
    Wait,
}

/// Follows one lease, as one candidate.
#[derive(Debug)]
pub struct Candidate {
    pub identity: String,
    /// Holder, renewal time and version as last seen, and when that was first seen.
    seen: Option<(Option<String>, Instant)>,
}

impl Candidate {
    pub fn new(identity: &str) -> Candidate {
        Candidate { identity: identity.to_owned(), seen: None }
    }

    /// Looks at the lease as it is now.
    pub fn look(&mut self, lease: &Lease, now: Instant) -> Step {
        let version = lease.metadata.resource_version.clone();
        if self.seen.as_ref().is_none_or(|(v, _)| *v != version) {
            self.seen = Some((version, now));
        }
        let holder = lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()).unwrap_or_default();
        let duration = lease
            .spec
            .as_ref()
            .and_then(|s| s.lease_duration_seconds)
            .map_or(DURATION, |s| Duration::from_secs(u64::try_from(s).unwrap_or(DURATION.as_secs())));
        let expired = self.seen.as_ref().is_none_or(|(_, since)| now.duration_since(*since) > duration);
        if holder.is_empty() || holder == self.identity || expired { Step::Take } else { Step::Wait }
    }

    /// The lease as we write it.
    pub fn write(&self, lease: &mut Lease, time: jiff::Timestamp, release: bool) {
        let spec = lease.spec.get_or_insert_default();
        let ours = spec.holder_identity.as_deref() == Some(&self.identity);
        if !ours {
            spec.acquire_time = Some(MicroTime(time));
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.holder_identity = Some(if release { String::new() } else { self.identity.clone() });
        // A released lease is short, so that the next candidate need not wait.
        spec.lease_duration_seconds = Some(if release { 1 } else { DURATION.as_secs() as i32 });
        spec.renew_time = Some(MicroTime(time));
    }
}

/// Runs until `stop` is true, telling through `leads` whether this process leads. Releases the lease at the end.
pub async fn run(
    api: Api<Lease>,
    name: &str,
    identity: &str,
    leads: watch::Sender<bool>,
    mut stop: watch::Receiver<bool>,
) {
    let mut candidate = Candidate::new(identity);
    let mut renewed = Instant::now();
    loop {
        match attempt(&api, name, &mut candidate).await {
            Ok(true) => {
                renewed = Instant::now();
                if !leads.send_replace(true) {
                    info!(lease = name, identity, "this process leads");
                }
            }
            Ok(false) => {
                if leads.send_replace(false) {
                    warn!(lease = name, identity, "another process leads now");
                }
            }
            Err(error) => {
                warn!(lease = name, error = %error, "the lease can't be renewed");
                if renewed.elapsed() > RENEW_DEADLINE {
                    leads.send_replace(false);
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            _ = stop.wait_for(|s| *s) => break,
        }
    }
    if *leads.borrow()
        && let Ok(Some(mut lease)) = api.get_opt(name).await
    {
        leads.send_replace(false);
        candidate.write(&mut lease, jiff::Timestamp::now(), true);
        if let Err(error) = api.replace(name, &PostParams::default(), &lease).await {
            warn!(lease = name, error = %error, "the lease can't be released");
        }
    }
}

/// Whether we hold the lease after this. A conflict means that another was faster.
async fn attempt(api: &Api<Lease>, name: &str, candidate: &mut Candidate) -> Result<bool, kube::Error> {
    let time = jiff::Timestamp::now();
    let found = tokio::time::timeout(RENEW_DEADLINE / 2, api.get_opt(name)).await;
    let outcome = match found {
        Err(_) => return Err(kube::Error::Service("the API server does not answer".into())),
        Ok(found) => match found? {
            None => {
                let mut lease =
                    Lease { metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() }, spec: None };
                candidate.write(&mut lease, time, false);
                api.create(&PostParams::default(), &lease).await
            }
            Some(mut lease) => match candidate.look(&lease, Instant::now()) {
                Step::Wait => return Ok(false),
                Step::Take => {
                    candidate.write(&mut lease, time, false);
                    api.replace(name, &PostParams::default(), &lease).await
                }
            },
        },
    };
    match outcome {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "l", "resourceVersion": version},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15}}))
        .unwrap()
    }

    #[test]
    fn a_lease_is_taken_when_free_ours_or_long_unchanged() {
        let mut me = Candidate::new("me");
        let start = Instant::now();
        assert_eq!(me.look(&lease("", "1"), start), Step::Take);
        assert_eq!(me.look(&lease("me", "1"), start), Step::Take);
        assert_eq!(me.look(&lease("you", "2"), start), Step::Wait);
        assert_eq!(me.look(&lease("you", "2"), start + Duration::from_secs(14)), Step::Wait);
        assert_eq!(me.look(&lease("you", "3"), start + Duration::from_secs(15)), Step::Wait, "it was renewed");
        assert_eq!(me.look(&lease("you", "3"), start + Duration::from_secs(31)), Step::Take);
    }

    #[test]
    fn taking_counts_a_transition_and_renewing_does_not() {
        let me = Candidate::new("me");
        let mut l = lease("you", "1");
        me.write(&mut l, jiff::Timestamp::UNIX_EPOCH, false);
        me.write(&mut l, jiff::Timestamp::UNIX_EPOCH, false);
        let spec = l.spec.clone().unwrap();
        assert_eq!((spec.lease_transitions, spec.holder_identity.as_deref()), (Some(1), Some("me")));
        me.write(&mut l, jiff::Timestamp::UNIX_EPOCH, true);
        assert_eq!(l.spec.unwrap().holder_identity.as_deref(), Some(""));
    }
}
