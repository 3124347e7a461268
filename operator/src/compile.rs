//! From what is known of the cluster to what a fleet scrapes: a pure function.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::core::DeserializeGuard;
use narthex_config::{
    Config, KubernetesAttachMetadata, KubernetesRole, RelabelConfig, ScrapeConfig, Target, TargetGroup,
};
use narthex_crds::fleet::MonitorProblem;
use narthex_crds::monitoring::Endpoint;
use narthex_crds::{Fleet, FleetSpec, PodMonitor, ServiceMonitor};
use narthex_model::relabel;
use narthex_plan::check::Checker;
use narthex_plan::jobs::{Generator, Job, KeyRef, Placeholders, references};
use narthex_plan::kubernetes::{Grouper, service_of};
use narthex_plan::select;
use serde_json::{Value, json};

use crate::index::{Key, World};

/// Jobs that were parsed, by their text. Those that were not asked for since the last [`JobCache::sweep`] go.
#[derive(Default)]
pub struct JobCache(HashMap<String, (Arc<ScrapeConfig>, bool)>);

impl JobCache {
    /// A job as it runs, defaults from `global` filled in.
    ///
    /// # Errors
    /// When it is not valid, in words.
    pub fn parse(&mut self, job: &Value, global: &Value) -> Result<Arc<ScrapeConfig>, String> {
        let text = json!({"global": global, "scrape_configs": [job]}).to_string();
        if let Some((parsed, used)) = self.0.get_mut(&text) {
            *used = true;
            return Ok(parsed.clone());
        }
        let config = Config::parse(&text, Path::new("monitor"), &|_| None).map_err(|e| e.to_string())?;
        let parsed = config.scrape_configs.into_iter().next().ok_or("it has no job")?;
        let parsed = Arc::new(parsed);
        self.0.insert(text, (parsed.clone(), true));
        Ok(parsed)
    }

    pub fn sweep(&mut self) {
        self.0.retain(|_, (_, used)| std::mem::take(used));
    }
}

/// What Secrets and ConfigMaps hold, or why it is not known.
pub type Secrets = BTreeMap<KeyRef, Result<String, String>>;

/// All that a fleet scrapes, before it is shared out.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    pub global: Value,
    /// By name.
    pub jobs: BTreeMap<String, Value>,
    /// By identity.
    pub targets: BTreeMap<u64, Arc<Target>>,
    /// Monitors that are served.
    pub monitors: usize,
    pub rejected: usize,
    pub problems: Vec<Problem>,
    /// Placeholder to value, for all keys that jobs refer to.
    pub secrets: BTreeMap<String, String>,
}

/// A monitor that gives nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub entry: MonitorProblem,
    pub uid: String,
}

/// Namespaces and objects that a pair of selectors selects; an absent selector selects all.
fn selected(world: &World, key: &Key, labels: &BTreeMap<String, String>, of: [&Option<LabelSelector>; 2]) -> bool {
    let none = BTreeMap::new();
    let [objects, namespaces] = of.map(Option::as_ref);
    objects.is_none_or(|s| select::matches(s, labels))
        && namespaces.is_none_or(|s| select::matches(s, world.namespace_labels(&key.0).unwrap_or(&none)))
}

/// All keys that monitors refer to, in whatever fleet.
pub fn wanted_keys(world: &World) -> BTreeSet<KeyRef> {
    let mut keys = BTreeSet::new();
    let mut note = |namespace: &str, endpoints: &[Endpoint]| {
        endpoints.iter().for_each(|ep| keys.extend(references(namespace, ep)));
    };
    for ((namespace, _), m) in world.service_monitors.iter() {
        m.0.iter().for_each(|m| note(namespace, &m.spec.endpoints));
    }
    for ((namespace, _), m) in world.pod_monitors.iter() {
        m.0.iter().for_each(|m| note(namespace, &m.spec.pod_metrics_endpoints));
    }
    for (_, fleet) in world.fleets.iter() {
        for class in fleet.0.iter().flat_map(|f| &f.spec.scraping.scrape_classes) {
            let ep = Endpoint {
                authorization: class.authorization.clone(),
                tls_config: class.tls_config.clone(),
                ..Endpoint::default()
            };
            // A class's keys are read from the namespace of each monitor that uses it.
            let namespaces =
                world.service_monitors.iter().map(|(k, _)| &k.0).chain(world.pod_monitors.iter().map(|(k, _)| &k.0));
            for namespace in namespaces.collect::<BTreeSet<_>>() {
                keys.extend(references(namespace, &ep));
            }
        }
    }
    keys
}

/// Jobs and targets of one fleet.
pub fn compile(world: &World, fleet: &Fleet, secrets: &Secrets, cache: &mut JobCache) -> Compiled {
    let spec = &fleet.spec;
    let mut out = Compiled { global: global(spec), ..Compiled::default() };
    let lookup = |key: &KeyRef| match secrets.get(key) {
        Some(value) => value.clone(),
        None => Err(format!("{} has not been read yet", key.placeholder())),
    };
    let checker = Checker { settings: &spec.scraping, scrape_interval: &spec.scrape_interval, lookup: &lookup };
    let generator = Generator { settings: &spec.scraping, values: &Placeholders };
    let mut groups = Groups { world, jobs: cache, cache: BTreeMap::new() };

    let of = [&spec.service_monitor_selector, &spec.service_monitor_namespace_selector];
    for (key, guard) in world.service_monitors.iter() {
        out.monitor(
            world,
            key,
            guard,
            of,
            "ServiceMonitor",
            |m: &ServiceMonitor| checker.service_monitor(m).map(|()| generator.service_monitor(m)),
            &mut groups,
        );
    }
    let of = [&spec.pod_monitor_selector, &spec.pod_monitor_namespace_selector];
    for (key, guard) in world.pod_monitors.iter() {
        out.monitor(
            world,
            key,
            guard,
            of,
            "PodMonitor",
            |m: &PodMonitor| checker.pod_monitor(m).map(|()| generator.pod_monitor(m)),
            &mut groups,
        );
    }
    // Only what a job that has targets refers to leaves the operator.
    let text = serde_json::to_string(&out.jobs).unwrap_or_default();
    for (key, value) in secrets {
        let placeholder = key.placeholder();
        if let Ok(value) = value
            && text.contains(&placeholder)
        {
            out.secrets.insert(placeholder, value.clone());
        }
    }
    out.problems.sort();
    out
}

impl Compiled {
    #[allow(clippy::too_many_arguments)]
    fn monitor<K: kube::Resource>(
        &mut self,
        world: &World,
        key: &Key,
        guard: &DeserializeGuard<K>,
        of: [&Option<LabelSelector>; 2],
        kind: &str,
        jobs: impl FnOnce(&K) -> Result<Vec<Job>, String>,
        groups: &mut Groups<'_>,
    ) where
        DeserializeGuard<K>: ResourceExt,
    {
        let labels: BTreeMap<String, String> = guard.labels().clone();
        if !selected(world, key, &labels, of) {
            return;
        }
        let mut problem = |reason: &str, message: String| {
            let entry = MonitorProblem {
                kind: kind.to_owned(),
                namespace: key.0.clone(),
                name: key.1.clone(),
                reason: reason.to_owned(),
                message,
            };
            self.problems.push(Problem { entry, uid: guard.uid().unwrap_or_default() });
        };
        let jobs = match &guard.0 {
            Ok(monitor) => jobs(monitor),
            Err(invalid) => Err(format!("it does not decode: {}", invalid.error)),
        };
        let jobs = match jobs {
            Ok(jobs) => jobs,
            Err(why) => {
                problem("Rejected", why);
                self.rejected += 1;
                return;
            }
        };
        let (mut found, mut seen, mut wrong, mut wrong_target) = (0, 0, None, None);
        for job in &jobs {
            match groups.jobs.parse(&job.config, &self.global) {
                Ok(parsed) => {
                    let mut of_job = Vec::new();
                    groups.each(job, &parsed.relabel_configs, |group| {
                        seen += group.targets.len();
                        of_job.push(group.clone());
                    });
                    let outcome = narthex_plan::targets::build_all(&parsed, of_job.iter().map(|g| &**g));
                    if let Some(error) = outcome.errors.into_iter().next() {
                        wrong_target.get_or_insert(error);
                    }
                    let targets = outcome.targets;
                    found += targets.len();
                    if !targets.is_empty() {
                        self.jobs.insert(job.name.clone(), job.config.clone());
                    }
                    self.targets.extend(targets.into_iter().map(|t| (t.identity(), Arc::new(t))));
                }
                Err(why) => wrong = Some(why),
            }
        }
        if let Some(why) = wrong {
            problem("Rejected", why);
            self.rejected += 1;
            return;
        }
        self.monitors += 1;
        if found == 0 {
            let what = if kind == "PodMonitor" { "pods" } else { "Services" };
            let message = match seen {
                0 if jobs.is_empty() => "it has no endpoints".to_owned(),
                0 => format!("no {what} with addresses match its selectors"),
                n => match wrong_target {
                    Some(error) => format!("none of {n} addresses of matching {what} is a target: {error}"),
                    None => {
                        format!("none of {n} addresses of matching {what} is left after its port and relabelling rules")
                    }
                },
            };
            problem("NoTargets", message);
        }
    }
}

/// Groups as jobs ask for them, each made once.
struct Groups<'a> {
    world: &'a World,
    jobs: &'a mut JobCache,
    cache: BTreeMap<(&'a Key, KubernetesRole, bool), Arc<TargetGroup>>,
}

impl<'a> Groups<'a> {
    /// The groups whose objects a job selects, without those that its rules on the object's labels drop.
    fn each(&mut self, job: &Job, rules: &[RelabelConfig], mut take: impl FnMut(&Arc<TargetGroup>)) {
        let world = self.world;
        let in_scope = |key: &Key| job.namespaces.as_ref().is_none_or(|n| n.contains(&key.0));
        let rules = rules.get(..job.group_rules).unwrap_or_default();
        let mut offer = |group: &Arc<TargetGroup>| {
            if !group.targets.is_empty() && relabel::process(rules, &mut group.labels.to_builder()) {
                take(group);
            }
        };
        let none = BTreeMap::new();
        let labels_fit =
            |labels: &BTreeMap<String, String>| job.selector.as_ref().is_none_or(|s| select::matches(s, labels));
        let attach = KubernetesAttachMetadata { node: job.attach_node, ..KubernetesAttachMetadata::default() };
        let grouper = Grouper { objects: world, attach: &attach };
        if job.role == KubernetesRole::Pod {
            for (key, pod) in world.pods.iter().filter(|(k, p)| in_scope(k) && labels_fit(&p.metadata.labels)) {
                let slot = self.cache.entry((key, job.role, attach.node));
                offer(slot.or_insert_with(|| Arc::new(grouper.pod_group(pod))));
            }
            return;
        }
        for (key, slice) in world.slices.iter().filter(|(k, _)| in_scope(k)) {
            // Slices carry their Service's labels, but not until the controller has come by.
            if labels_fit(service_of(slice, world).map_or(&none, |s| &s.metadata.labels)) {
                let slot = self.cache.entry((key, job.role, attach.node));
                let make = || match job.role {
                    KubernetesRole::EndpointSlice => grouper.slice_group(slice),
                    _ => grouper.endpoints_group_of(slice),
                };
                offer(slot.or_insert_with(|| Arc::new(make())));
            }
        }
    }
}

/// The `global` section that shards get.
fn global(spec: &FleetSpec) -> Value {
    let mut global = json!({"scrape_interval": spec.scrape_interval});
    if let Some(timeout) = &spec.scrape_timeout {
        global["scrape_timeout"] = json!(timeout);
    } else if let Ok(interval) = narthex_model::duration::parse(&spec.scrape_interval)
        && interval < Duration::from_secs(10)
    {
        global["scrape_timeout"] = json!(spec.scrape_interval);
    }
    if !spec.external_labels.is_empty() {
        global["external_labels"] = json!(spec.external_labels);
    }
    let limits = [
        ("sample_limit", spec.scraping.enforced_sample_limit),
        ("target_limit", spec.scraping.enforced_target_limit),
        ("label_limit", spec.scraping.enforced_label_limit),
        ("label_name_length_limit", spec.scraping.enforced_label_name_length_limit),
        ("label_value_length_limit", spec.scraping.enforced_label_value_length_limit),
        ("keep_dropped_targets", spec.scraping.enforced_keep_dropped_targets),
        ("series_limit", spec.scraping.enforced_target_series_limit),
        ("job_series_limit", spec.scraping.enforced_series_limit),
    ];
    for (name, limit) in limits {
        if let Some(limit) = limit.filter(|l| *l > 0) {
            global[name] = json!(limit);
        }
    }
    global
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::index::Change;

    fn put<K: DeserializeOwned>(world: &mut World, wrap: fn(Event<K>) -> Change, object: Value) {
        world.take(wrap(Event::Apply(serde_json::from_value(object).unwrap())));
    }

    fn monitor(name: &str, spec: Value) -> Value {
        json!({"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor",
            "metadata": {"name": name, "namespace": "apps", "uid": name, "labels": {"team": "a"}}, "spec": spec})
    }

    fn fleet(spec: Value) -> Fleet {
        serde_json::from_value(json!({"apiVersion": "narthex.dev/v1alpha1", "kind": "Fleet",
            "metadata": {"name": "main", "namespace": "obs"}, "spec": spec}))
        .unwrap()
    }

    fn world() -> World {
        let mut world = World::default();
        put(&mut world, Change::Namespace, json!({"metadata": {"name": "apps", "labels": {"env": "prod"}}}));
        put(
            &mut world,
            Change::Service,
            json!({"metadata": {"name": "web", "namespace": "apps", "labels": {"app": "web"}}}),
        );
        put(
            &mut world,
            Change::Slice,
            json!({"metadata": {"name": "web-1", "namespace": "apps", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
                "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]}),
        );
        let good = json!({"selector": {"matchLabels": {"app": "web"}},
            "endpoints": [{"port": "http", "basicAuth": {"username": {"name": "s", "key": "u"}, "password": {"name": "s", "key": "p"}}}]});
        put(&mut world, Change::ServiceMonitor, monitor("good", good));
        put(&mut world, Change::ServiceMonitor, monitor("broken", json!({"endpoints": 7})));
        let port = json!({"selector": {"matchLabels": {"app": "web"}}, "endpoints": [{"port": "htpt"}]});
        put(&mut world, Change::ServiceMonitor, monitor("typo", port));
        world
    }

    fn secrets() -> Secrets {
        let key = |key: &str| KeyRef { config_map: false, namespace: "apps".into(), name: "s".into(), key: key.into() };
        BTreeMap::from([(key("u"), Ok("me".to_owned())), (key("p"), Ok("hush".to_owned()))])
    }

    #[test]
    fn monitors_become_targets_and_what_is_wrong_stays_alone() {
        let world = world();
        let compiled = compile(&world, &fleet(json!({})), &secrets(), &mut JobCache::default());
        let labels: Vec<String> = compiled.targets.values().map(|t| t.labels.to_string()).collect();
        assert_eq!(labels.len(), 2, "{labels:?}");
        let expected = r#"{endpoint="http", instance="10.0.0.1:8080", job="web", namespace="apps", service="web"}"#;
        assert!(labels.iter().any(|l| l == expected), "{labels:?}");
        let problems: Vec<_> =
            compiled.problems.iter().map(|p| (p.entry.name.as_str(), p.entry.reason.as_str())).collect();
        assert_eq!(problems, [("broken", "Rejected"), ("typo", "NoTargets")]);
        assert!(compiled.problems[1].entry.message.starts_with("none of 2 addresses"), "{:?}", compiled.problems[1]);
        assert_eq!((compiled.monitors, compiled.rejected), (2, 1));
        let jobs = serde_json::to_string(&compiled.jobs).unwrap();
        assert!(jobs.contains("$(secret:apps/s/p)") && !jobs.contains("hush"), "{jobs}");
        assert_eq!(compiled.secrets.get("$(secret:apps/s/p)").map(String::as_str), Some("hush"));
        assert_eq!(wanted_keys(&world).len(), 2);
    }

    #[test]
    fn a_monitor_s_budget_of_series_reaches_the_shards() {
        let mut world = world();
        let spec =
            json!({"selector": {"matchLabels": {"app": "web"}}, "endpoints": [{"port": "http"}, {"port": "http"}]});
        let mut monitor = monitor("good", spec);
        monitor["metadata"]["annotations"] =
            json!({"narthex.dev/series-limit": "1000", "narthex.dev/target-series-limit": "300"});
        put(&mut world, Change::ServiceMonitor, monitor.clone());
        for (scraping, expected) in [
            (json!({}), [300, 1000]),
            (json!({"enforcedSeriesLimit": 700, "enforcedTargetSeriesLimit": 500}), [300, 700]),
        ] {
            let fleet = fleet(json!({"scraping": scraping}));
            let compiled = compile(&world, &fleet, &secrets(), &mut JobCache::default());
            // As a shard reads it.
            let text = json!({"global": compiled.global, "scrape_configs": compiled.jobs.values().collect::<Vec<_>>()})
                .to_string();
            let config = narthex_config::Config::parse(&text, std::path::Path::new("test"), &|_| None).unwrap();
            let jobs: Vec<_> = config.scrape_configs.iter().filter(|j| j.job_name.contains("/good/")).collect();
            assert_eq!(jobs.len(), 2);
            for job in jobs {
                assert_eq!([job.series_limit, job.job_series_limit], expected);
                assert_eq!(job.series_owner(), "serviceMonitor/apps/good");
            }
        }
        monitor["metadata"]["annotations"] = json!({"narthex.dev/series-limit": "many"});
        put(&mut world, Change::ServiceMonitor, monitor);
        let compiled = compile(&world, &fleet(json!({})), &secrets(), &mut JobCache::default());
        let refused = compiled.problems.iter().find(|p| p.entry.name == "good").map(|p| p.entry.message.as_str());
        assert_eq!(refused, Some("annotation narthex.dev/series-limit: \"many\" is not a number of series"));
    }

    #[test]
    fn selectors_of_a_fleet_choose_monitors_and_namespaces() {
        let world = world();
        for (spec, expected) in [
            (json!({"serviceMonitorSelector": {"matchLabels": {"team": "a"}}}), 2),
            (json!({"serviceMonitorSelector": {"matchLabels": {"team": "b"}}}), 0),
            (json!({"serviceMonitorNamespaceSelector": {"matchLabels": {"env": "prod"}}}), 2),
            (json!({"serviceMonitorNamespaceSelector": {"matchLabels": {"env": "dev"}}}), 0),
        ] {
            let compiled = compile(&world, &fleet(spec.clone()), &secrets(), &mut JobCache::default());
            assert_eq!(compiled.targets.len(), expected, "{spec}");
        }
    }

    #[test]
    fn a_monitor_that_forges_a_reference_is_refused() {
        // Fields that users fill with text, each with a reference to the secret of another monitor: as it is, and in
        // forms that become it.
        for (forged, field) in [
            (json!({"params": {"x": ["$(secret:apps/s/p)"]}}), "params"),
            (json!({"metricRelabelings": [{"targetLabel": "x", "replacement": "$(secret:apps/s/p)"}]}), "replacement"),
            (json!({"scheme": "$(SECRET:apps/s/p)"}), "scheme"),
            (json!({"authorization": {"type": " $(secret:apps/s/p)"}}), "type"),
            (json!({"path": "$(configmap:apps/s/p)"}), "path"),
        ] {
            let mut world = world();
            let mut spec = json!({"selector": {"matchLabels": {"app": "web"}}, "endpoints": [{"port": "http"}]});
            spec["endpoints"][0].as_object_mut().unwrap().extend(forged.as_object().unwrap().clone());
            let mut thief = monitor("thief", spec);
            thief["metadata"]["namespace"] = json!("elsewhere");
            put(&mut world, Change::ServiceMonitor, thief);
            let compiled = compile(&world, &fleet(json!({})), &secrets(), &mut JobCache::default());
            let refused = compiled.problems.iter().find(|p| p.entry.name == "thief").map(|p| p.entry.message.as_str());
            assert!(refused.is_some_and(|m| m.contains("would be taken for a reference")), "{field}: {refused:?}");
            assert!(!compiled.jobs.keys().any(|j| j.contains("thief")), "{field}");
        }
    }

    #[test]
    fn a_monitor_whose_secret_is_missing_waits() {
        let compiled = compile(&world(), &fleet(json!({})), &Secrets::new(), &mut JobCache::default());
        assert!(compiled.targets.is_empty());
        assert!(compiled.problems.iter().any(|p| p.entry.name == "good" && p.entry.reason == "Rejected"));
    }
}
